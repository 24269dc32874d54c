//! Calls whose instructions `tests/targets/count.c` counts, each between two marks. Prints for each the
//! number of its multiply-adds and its name, in the form of the benches: `<op>/<type>/<shape>/<tier>`.

#[path = "../../../../benches/common/mod.rs"]
mod common;

use std::hint::black_box;

use common::{Number, Shape, numbers};
use qkv::{
    Attention, Error, HeadsMut, HeadsRef, MatMut, MatRef, Matmul, Tier, attention_scratch_len, bf16,
    matmul_scratch_len,
};

/// The counter starts after this function. Its body differs from the other's: equal functions become one.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn count_start() {
    black_box(1_u8);
}

/// The counter stops where this function begins.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn count_stop() {
    black_box(2_u16);
}

/// One call to warm up, which may find the CPU's features, and the one that is counted.
fn count(name: &str, multiply_adds: usize, mut call: impl FnMut() -> Result<(), Error>) -> Result<(), Error> {
    call()?;
    count_start();
    let done = call();
    count_stop();
    println!("{multiply_adds} {name}");
    done
}

fn product<T: Number>(tier: Tier, n: usize) -> Result<(), Error> {
    let (a, b) = (numbers::<T>(n * n, 1), numbers::<T>(n * n, 2));
    let (mut c, mut scratch) = (vec![0.0_f32; n * n], vec![0.0; matmul_scratch_len(n, n, n)]);
    let (a, b) = (MatRef::new(&a, n, n)?, MatRef::new(&b, n, n)?);
    let matmul = Matmul::new().tier(tier);
    count(&format!("matmul/{}/{n}/{tier}", T::NAME), n * n * n, || {
        matmul.run(a, b, MatMut::new(&mut c, n, n)?, &mut scratch)
    })
}

fn attention<T: Number>(tier: Tier, op: &str, shape: Shape) -> Result<(), Error> {
    let Shape { q_len, kv_len, n_heads, n_kv_heads, head_dim, causal, .. } = shape;
    let q = numbers::<f32>(q_len * n_heads * head_dim, 1);
    let (k, v) = (numbers::<T>(shape.kv_elements(), 2), numbers::<T>(shape.kv_elements(), 3));
    let q = HeadsRef::token_major(&q, q_len, n_heads, head_dim)?;
    let k = HeadsRef::token_major(&k, kv_len, n_kv_heads, head_dim)?;
    let v = HeadsRef::token_major(&v, kv_len, n_kv_heads, head_dim)?;
    let mut out = vec![0.0_f32; q_len * n_heads * head_dim];
    let mut scratch = vec![0.0; attention_scratch_len(q_len, kv_len, head_dim, head_dim)];
    let plain = Attention::new().tier(tier);
    let attention = if causal { plain.causal() } else { plain };
    let name = format!("{op}/{}/{n_heads}x{kv_len}x{head_dim}/{tier}", T::NAME);
    // Of a causal call half as many count, though a tile on the diagonal computes all of its own.
    count(&name, shape.flops() as usize / 2, || {
        attention.run(q, k, v, HeadsMut::token_major(&mut out, q_len, n_heads, head_dim)?, &mut scratch)
    })
}

fn all<T: Number>(tier: Tier) -> Result<(), Error> {
    for n in [8, 64, 256] {
        product::<T>(tier, n)?;
    }
    // Of small calls most is what they begin and end with.
    attention::<T>(tier, "prefill", Shape::prefill(4, 1, 16))?;
    attention::<T>(tier, "prefill", Shape::prefill(128, 8, 64))?;
    attention::<T>(tier, "causal", Shape::prefill(128, 8, 64).causal())?;
    attention::<T>(tier, "decode", Shape::decode(512, 32, 8, 128))
}

fn main() -> Result<(), Error> {
    for tier in Tier::all().filter(|tier| ["portable", "avx2"].contains(&tier.name())) {
        all::<f32>(tier)?;
        all::<bf16>(tier)?;
    }
    Ok(())
}
