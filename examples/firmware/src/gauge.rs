//! How many instructions a call takes, and how much stack, on a Cortex-M.

use core::arch::asm;

use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;
use cortex_m::register::msp;

/// The timer counts down from here: 24 bits.
const RELOAD: u32 = 0xff_ffff;
/// Thousands of instructions of the loop that the timer is compared with.
const KNOWN: u32 = 64;
/// Bytes below the stack pointer that are looked at.
const DEPTH: usize = 64 << 10;
const PAINT: u32 = 0xc5c5_c5c5;

/// Counts instructions by the system timer, which the emulator advances by a fixed time an instruction if it
/// is told to (`-icount`). With three ticks an instruction or more the count is exact.
pub struct Gauge {
    timer: SYST,
    /// Ticks of a thousand instructions, which are a whole number.
    ticks: u32,
    /// Instructions of a call that does nothing.
    empty: u32,
}

impl Gauge {
    pub fn new(mut timer: SYST) -> Gauge {
        timer.set_clock_source(SystClkSource::Core);
        timer.set_reload(RELOAD);
        timer.clear_current();
        timer.enable_counter();
        let mut gauge = Gauge { timer, ticks: 1000, empty: 0 };
        let mut ticks = |turns| gauge.instructions(|| spin(turns)).unwrap_or(0);
        gauge.ticks = (ticks(KNOWN * 500 + 1) - ticks(1) + KNOWN / 2) / KNOWN;
        gauge.empty = gauge.instructions(|| ()).unwrap_or(0);
        gauge
    }

    /// Instructions that `call` executes; `None` if the timer ran out, after a few millions.
    #[inline(never)]
    pub fn instructions(&mut self, call: impl FnOnce()) -> Option<u32> {
        self.timer.clear_current();
        let start = SYST::get_current();
        call();
        let end = SYST::get_current();
        if self.timer.has_wrapped() {
            return None;
        }
        let ticks = u64::from(start.wrapping_sub(end) & RELOAD);
        let instructions = (ticks * 1000 + u64::from(self.ticks) / 2) / u64::from(self.ticks);
        Some(instructions as u32 - self.empty)
    }
}

/// Two instructions a turn.
#[inline(never)]
fn spin(turns: u32) {
    // SAFETY: counts a register down.
    unsafe { asm!("2: subs {0}, {0}, #1", "bne 2b", inout(reg) turns => _, options(nomem, nostack)) };
}

/// Bytes of stack that `call` uses.
#[inline(never)]
pub fn stack(call: impl FnOnce()) -> usize {
    let top = msp::read() as usize & !7;
    let bottom = top - DEPTH;
    // SAFETY: memory below the stack pointer that nothing else uses; interrupts are off.
    unsafe {
        for address in (bottom..top).step_by(4) {
            (address as *mut u32).write_volatile(PAINT);
        }
        call();
        let used = |&address: &usize| (address as *const u32).read_volatile() != PAINT;
        top - (bottom..top).step_by(4).find(used).unwrap_or(top)
    }
}
