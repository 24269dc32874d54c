//! Prints for products and attention of some shapes, in `f32` or with the feature `half` in 16 bits: instructions,
//! multiply-adds, bytes of stack and of scratch. Fails if instructions depend on values, or if a call does not keep its
//! caller's registers.

#![no_std]
#![no_main]

#[path = "../gauge.rs"]
mod gauge;

use core::hint::black_box;

use cortex_m::Peripherals;
use gauge::Gauge;
use qkv::{
    Attention, Elem, Error, HeadsMut, HeadsRef, MatMut, MatRef, Matmul, PackedMat, attention_scratch_len,
    matmul, matmul_scratch_len,
};
#[cfg(feature = "half")]
use qkv::{bf16, f16};
use semihosting::println;
use semihosting::process::ExitCode;

/// Floats of the largest operand.
const LARGEST: usize = 64 * 64;
/// Floats of scratch.
const SCRATCH: usize = max(attention_scratch_len(32, 64, 32, 32), attention_scratch_len(1, 64, 64, 64));

const fn max(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

/// The type of weights, keys and values.
#[derive(Clone, Copy)]
enum Kind {
    #[cfg(not(feature = "half"))]
    F32,
    #[cfg(feature = "half")]
    F16,
    #[cfg(feature = "half")]
    Bf16,
}

#[cfg_attr(feature = "half", expect(dead_code, reason = "counted with `f32` alone"))]
#[derive(Clone, Copy)]
enum Call {
    /// A square product of this size.
    Matmul(usize),
    /// Rows, steps and columns of a product with packed weights.
    Packed(usize, usize, usize),
    /// Queries, keys and features of one head.
    Attention(usize, usize, usize),
    /// The same where a query sees no later keys, and not all earlier ones.
    Causal(usize, usize, usize),
}

#[cfg(not(feature = "half"))]
const CALLS: [(&str, Kind, Call); 7] = [
    ("matmul-16", Kind::F32, Call::Matmul(16)),
    ("matmul-32", Kind::F32, Call::Matmul(32)),
    ("matmul-64", Kind::F32, Call::Matmul(64)),
    ("packed-1-64-64", Kind::F32, Call::Packed(1, 64, 64)),
    ("attention-32-64-32", Kind::F32, Call::Attention(32, 64, 32)),
    ("causal-32-64-32", Kind::F32, Call::Causal(32, 64, 32)),
    ("decode-1-64-64", Kind::F32, Call::Attention(1, 64, 64)),
];
#[cfg(feature = "half")]
const CALLS: [(&str, Kind, Call); 9] = [
    ("f16-packed-1-64-64", Kind::F16, Call::Packed(1, 64, 64)),
    ("bf16-packed-1-64-64", Kind::Bf16, Call::Packed(1, 64, 64)),
    ("f16-packed-16-64-64", Kind::F16, Call::Packed(16, 64, 64)),
    ("bf16-packed-16-64-64", Kind::Bf16, Call::Packed(16, 64, 64)),
    ("bf16-packed-5-63-61", Kind::Bf16, Call::Packed(5, 63, 61)),
    ("f16-attention-32-64-32", Kind::F16, Call::Attention(32, 64, 32)),
    ("bf16-attention-32-64-32", Kind::Bf16, Call::Attention(32, 64, 32)),
    ("f16-decode-1-64-64", Kind::F16, Call::Attention(1, 64, 64)),
    ("bf16-decode-1-64-64", Kind::Bf16, Call::Attention(1, 64, 64)),
];

/// Keys before a query's own that it sees.
const WINDOW: usize = 40;

struct Operands {
    from: Inputs,
    out: [f32; LARGEST],
    scratch: [f32; SCRATCH],
}

struct Inputs {
    a: [f32; LARGEST],
    /// Weights, or keys and values.
    b: [[f32; LARGEST]; 2],
    /// The same in 16 bits.
    #[cfg(feature = "half")]
    b_f16: [[f16; LARGEST]; 2],
    #[cfg(feature = "half")]
    b_bf16: [[bf16; LARGEST]; 2],
}

trait Second: Elem {
    fn of(from: &Inputs) -> &[[Self; LARGEST]; 2];
}
#[cfg(not(feature = "half"))]
impl Second for f32 {
    fn of(from: &Inputs) -> &[[f32; LARGEST]; 2] {
        &from.b
    }
}
#[cfg(feature = "half")]
impl Second for f16 {
    fn of(from: &Inputs) -> &[[f16; LARGEST]; 2] {
        &from.b_f16
    }
}
#[cfg(feature = "half")]
impl Second for bf16 {
    fn of(from: &Inputs) -> &[[bf16; LARGEST]; 2] {
        &from.b_bf16
    }
}

#[inline(always)]
fn run((kind, call): (Kind, Call), x: &mut Operands) -> Result<(), Error> {
    match kind {
        #[cfg(not(feature = "half"))]
        Kind::F32 => run_with::<f32>(call, x),
        #[cfg(feature = "half")]
        Kind::F16 => run_with::<f16>(call, x),
        #[cfg(feature = "half")]
        Kind::Bf16 => run_with::<bf16>(call, x),
    }
}

#[inline(always)]
fn run_with<T: Second>(call: Call, x: &mut Operands) -> Result<(), Error> {
    match call {
        Call::Matmul(n) => product(x, n),
        Call::Packed(m, k, n) => packed::<T>(x, (m, k, n)),
        Call::Attention(t, s, d) => attend::<T>(Attention::new(), x, (t, s, d)),
        Call::Causal(t, s, d) => attend::<T>(Attention::new().causal().window(WINDOW, 0), x, (t, s, d)),
    }
}

impl Call {
    fn multiply_adds(self) -> usize {
        match self {
            Call::Matmul(n) => n * n * n,
            Call::Packed(m, k, n) => m * k * n,
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
            Call::Packed(m, k, n) => matmul_scratch_len(m, k, n),
            Call::Attention(t, s, d) | Call::Causal(t, s, d) => attention_scratch_len(t, s, d, d),
        };
        floats * size_of::<f32>()
    }
}

/// Not inlined, so that its stack is that of a caller.
#[inline(never)]
fn product(x: &mut Operands, n: usize) -> Result<(), Error> {
    let (a, b) = (MatRef::new(&x.from.a, n, n)?, MatRef::new(&x.from.b[0], n, n)?);
    matmul(a, b, MatMut::new(&mut x.out, n, n)?, &mut x.scratch)
}

/// As [`product`].
#[inline(never)]
fn packed<B: Second>(x: &mut Operands, (m, k, n): (usize, usize, usize)) -> Result<(), Error> {
    let [b, _] = B::of(&x.from);
    let b = PackedMat::from_packed(&b[..PackedMat::<B>::len(k, n)], k, n)?;
    Matmul::new().run_packed(MatRef::new(&x.from.a, m, k)?, b, MatMut::new(&mut x.out, m, n)?, &mut x.scratch)
}

/// As [`product`].
#[inline(never)]
fn attend<T: Second>(
    attention: Attention,
    x: &mut Operands,
    (t, s, d): (usize, usize, usize),
) -> Result<(), Error> {
    let q = HeadsRef::token_major(&x.from.a, t, 1, d)?;
    let [k, v] = T::of(&x.from);
    let (k, v) = (HeadsRef::token_major(k, s, 1, d)?, HeadsRef::token_major(v, s, 1, d)?);
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
    let from = &mut x.from;
    for x in from.a.iter_mut().chain(from.b.as_flattened_mut()) {
        // Numerical Recipes' generator.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *x = change((state >> 8) as f32 * (2.0 / (1 << 24) as f32) - 1.0);
    }
    narrow(from);
}

/// Writes the weights, or keys and values, in 16 bits too.
#[cfg(feature = "half")]
fn narrow(from: &mut Inputs) {
    for (i, &x) in from.b.as_flattened().iter().enumerate() {
        from.b_f16.as_flattened_mut()[i] = f16::from_f32(x);
        from.b_bf16.as_flattened_mut()[i] = bf16::from_f32(x);
    }
}
#[cfg(not(feature = "half"))]
fn narrow(_: &mut Inputs) {}

/// Whether a NaN among the keys reaches the result, though the values are finite.
fn nan_arrives(x: &mut Operands) -> Result<bool, Error> {
    let (_, kind, _) = CALLS[0];
    fill(x, |_| 1.0);
    x.from.b[0][0] = f32::NAN;
    narrow(&mut x.from);
    run(black_box((kind, Call::Attention(1, 4, 1))), x)?;
    Ok(x.out[0].is_nan())
}

/// Prints all lines; returns whether instructions depended on shapes only, registers were kept, and a NaN was.
fn count(gauge: &mut Gauge, x: &mut Operands) -> Result<bool, Error> {
    let mut right = nan_arrives(x)?;
    if !right {
        println!("FAILED: a NaN among the keys is lost");
    }
    for (name, kind, call) in CALLS {
        let mut first = None;
        for (values, change, finite) in VALUES {
            // Values of keys that a query does not see must not reach it. Those that are not finite would by
            // their product with a weight of 0, and so take another way.
            if !finite && matches!(call, Call::Causal(..)) {
                continue;
            }
            fill(x, change);
            let mut done = Ok(());
            let Some(instructions) = gauge.instructions(|| done = run(black_box((kind, call)), x)) else {
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
        let stack = gauge::stack(|| done = run(black_box((kind, call)), x));
        done?;
        if !gauge::keeps_registers(|| done = run(black_box((kind, call)), x)) {
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
            let from = Inputs {
                a: [0.0; LARGEST],
                b: [[0.0; LARGEST]; 2],
                #[cfg(feature = "half")]
                b_f16: [[f16::ZERO; LARGEST]; 2],
                #[cfg(feature = "half")]
                b_bf16: [[bf16::ZERO; LARGEST]; 2],
            };
            let mut x = Operands { from, out: [0.0; LARGEST], scratch: [0.0; SCRATCH] };
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
