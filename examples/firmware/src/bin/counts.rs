//! Prints for products and attention of some shapes: instructions, multiply-adds, bytes of stack and of
//! scratch. Fails if instructions depend on values, or if a call does not keep its caller's registers.

#![no_std]
#![no_main]

#[path = "../gauge.rs"]
mod gauge;

use core::hint::black_box;

use cortex_m::Peripherals;
use gauge::Gauge;
use qkv::{
    Attention, Error, HeadsMut, HeadsRef, MatMut, MatRef, attention_scratch_len, matmul, matmul_scratch_len,
};
use semihosting::println;
use semihosting::process::ExitCode;

/// Floats of the largest operand.
const LARGEST: usize = 64 * 64;
/// Floats of scratch.
const SCRATCH: usize = max(attention_scratch_len(32, 64, 32, 32), attention_scratch_len(1, 64, 64, 64));

const fn max(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

#[derive(Clone, Copy)]
enum Call {
    /// A square product of this size.
    Matmul(usize),
    /// Queries, keys and features of one head.
    Attention(usize, usize, usize),
    /// The same where a query sees no later keys, and not all earlier ones.
    Causal(usize, usize, usize),
}

const CALLS: [(&str, Call); 6] = [
    ("matmul-16", Call::Matmul(16)),
    ("matmul-32", Call::Matmul(32)),
    ("matmul-64", Call::Matmul(64)),
    ("attention-32-64-32", Call::Attention(32, 64, 32)),
    ("causal-32-64-32", Call::Causal(32, 64, 32)),
    ("decode-1-64-64", Call::Attention(1, 64, 64)),
];
/// Keys before a query's own that it sees.
const WINDOW: usize = 40;

struct Operands {
    a: [f32; LARGEST],
    b: [f32; LARGEST],
    c: [f32; LARGEST],
    out: [f32; LARGEST],
    scratch: [f32; SCRATCH],
}

impl Call {
    #[inline(always)]
    fn run(self, x: &mut Operands) -> Result<(), Error> {
        match self {
            Call::Matmul(n) => product(x, n),
            Call::Attention(t, s, d) => attend(Attention::new(), x, (t, s, d)),
            Call::Causal(t, s, d) => attend(Attention::new().causal().window(WINDOW, 0), x, (t, s, d)),
        }
    }

    fn multiply_adds(self) -> usize {
        match self {
            Call::Matmul(n) => n * n * n,
            Call::Attention(t, s, d) => 2 * t * s * d,
            Call::Causal(t, s, d) => {
                let seen = |query: usize| (query + s - t + 1).min(WINDOW + 1);
                2 * d * (0..t).map(seen).sum::<usize>()
            }
        }
    }

    /// Bytes.
    fn scratch(self) -> usize {
        let floats = match self {
            Call::Matmul(n) => matmul_scratch_len(n, n, n),
            Call::Attention(t, s, d) | Call::Causal(t, s, d) => attention_scratch_len(t, s, d, d),
        };
        floats * size_of::<f32>()
    }
}

/// Not inlined, so that its stack is that of a caller.
#[inline(never)]
fn product(x: &mut Operands, n: usize) -> Result<(), Error> {
    let (a, b) = (MatRef::new(&x.a, n, n)?, MatRef::new(&x.b, n, n)?);
    matmul(a, b, MatMut::new(&mut x.out, n, n)?, &mut x.scratch)
}

/// As [`product`].
#[inline(never)]
fn attend(attention: Attention, x: &mut Operands, (t, s, d): (usize, usize, usize)) -> Result<(), Error> {
    let q = HeadsRef::token_major(&x.a, t, 1, d)?;
    let (k, v) = (HeadsRef::token_major(&x.b, s, 1, d)?, HeadsRef::token_major(&x.c, s, 1, d)?);
    attention.run(q, k, v, HeadsMut::token_major(&mut x.out, t, 1, d)?, &mut x.scratch)
}

/// What operands may hold, and whether results are finite then.
const VALUES: [(&str, fn(f32) -> f32, bool); 5] = [
    ("about 1", |x| x, true),
    ("large", |x| x * 1e15, true),
    ("subnormal", |x| x * 1e-40, true),
    ("so large that scores overflow", |x| x * 1e38, false),
    ("NaN and infinity", |x| if x > 0.5 { f32::NAN } else { f32::INFINITY }, false),
];

/// Fills the operands with numbers from -1 to 1, changed.
fn fill(x: &mut Operands, change: fn(f32) -> f32) {
    let mut state = 1_u32;
    for x in x.a.iter_mut().chain(&mut x.b).chain(&mut x.c) {
        // Numerical Recipes' generator.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *x = change((state >> 8) as f32 * (2.0 / (1 << 24) as f32) - 1.0);
    }
}

/// Prints all lines; returns whether instructions depended on shapes only, and registers were kept.
fn count(gauge: &mut Gauge, x: &mut Operands) -> Result<bool, Error> {
    let mut right = true;
    for (name, call) in CALLS {
        let mut first = None;
        for (values, change, finite) in VALUES {
            // Values of keys that a query does not see must not reach it. Those that are not finite would by
            // their product with a weight of 0, and so take another way.
            if !finite && matches!(call, Call::Causal(..)) {
                continue;
            }
            fill(x, change);
            let mut done = Ok(());
            let Some(instructions) = gauge.instructions(|| done = black_box(call).run(x)) else {
                println!("FAILED: {name} takes longer than the timer counts");
                return Ok(false);
            };
            done?;
            let first = *first.get_or_insert(instructions);
            if instructions != first {
                println!(
                    "FAILED: {name} takes {first} instructions, and {instructions} where operands are {values}"
                );
                right = false;
            }
        }
        fill(x, VALUES[0].1);
        let mut done = Ok(());
        let stack = gauge::stack(|| done = black_box(call).run(x));
        done?;
        if !gauge::keeps_registers(|| done = black_box(call).run(x)) {
            println!("FAILED: {name} changes registers of its caller");
            right = false;
        }
        done?;
        let (instructions, multiply_adds) = (first.unwrap_or(0), call.multiply_adds());
        println!("{name} {instructions} {multiply_adds} {stack} {}", call.scratch());
    }
    Ok(right)
}

#[cortex_m_rt::entry]
fn main() -> ! {
    let code = match Peripherals::take() {
        None => ExitCode::FAILURE,
        Some(peripherals) => {
            let none = [0.0; LARGEST];
            let mut x = Operands { a: none, b: none, c: none, out: none, scratch: [0.0; SCRATCH] };
            match count(&mut Gauge::new(peripherals.SYST), &mut x) {
                Ok(true) => ExitCode::SUCCESS,
                Ok(false) => ExitCode::FAILURE,
                Err(error) => {
                    println!("FAILED: {error}");
                    ExitCode::FAILURE
                }
            }
        }
    };
    code.exit_process()
}
