//! How many instructions a call takes, how much stack, and what it does to its caller's registers, on a Cortex-M with a
//! floating-point unit.

use core::arch::{asm, naked_asm};

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

/// Whether `call` leaves the registers that are its caller's as they were.
pub fn keeps_registers<F: FnMut()>(mut call: F) -> bool {
    unsafe extern "C" fn run<F: FnMut()>(call: *mut F) {
        // SAFETY: what `changed_registers` was given.
        unsafe { (*call)() };
    }
    // SAFETY: the function takes this pointer.
    unsafe { changed_registers(run::<F>, &raw mut call) == 0 }
}

/// Calls a function with one number in all registers that it has to keep; returns the bits that it changed.
///
/// # Safety
/// - The function may be called with the pointer.
#[unsafe(naked)]
unsafe extern "C" fn changed_registers<T>(_: unsafe extern "C" fn(*mut T), _: *mut T) -> u32 {
    naked_asm!(
        "push {{r3-r11, lr}}",
        "vpush {{d8-d15}}",
        "mov r2, r0",
        "mov r0, r1",
        "ldr r4, 2f",
        "mov r5, r4",
        "mov r6, r4",
        "mov r7, r4",
        "mov r8, r4",
        "mov r9, r4",
        "mov r10, r4",
        "mov r11, r4",
        "vmov d8, r4, r4",
        "vmov d9, r4, r4",
        "vmov d10, r4, r4",
        "vmov d11, r4, r4",
        "vmov d12, r4, r4",
        "vmov d13, r4, r4",
        "vmov d14, r4, r4",
        "vmov d15, r4, r4",
        "blx r2",
        "ldr r0, 2f",
        "vmov r1, r2, d8",
        "push {{r1, r2, r4-r11}}",
        "vpush {{d9-d15}}",
        // 24 numbers.
        "mov r1, #24",
        "mov r3, #0",
        "1:",
        "pop {{r2}}",
        "eor r2, r2, r0",
        "orr r3, r3, r2",
        "subs r1, r1, #1",
        "bne 1b",
        "mov r0, r3",
        "vpop {{d8-d15}}",
        "pop {{r3-r11, pc}}",
        ".p2align 2",
        "2:",
        ".word 0x3f9e0652",
    )
}
