//! Products of all element types, small and blocked, packed, strided, with options and with errors.

use qkv::{Error, MatMut, MatRef, Matmul, PackedMat, Tier, bf16, f16};

use crate::data::{Number, at, numbers, unknown};
use crate::{Check, ensure};

/// Rows, inner size and columns: straight from the operands, one row, blocked in `k`, `m` and `n`.
const SIZES: [(usize, usize, usize); 5] = [(5, 7, 9), (1, 64, 64), (74, 40, 35), (7, 600, 67), (3, 0, 4)];
const MAX_A: usize = 74 * 64;
const MAX_B: usize = 600 * 67;
const MAX_C: usize = 80 * 80;
const MAX_SCRATCH: usize = 160 * 1024;

pub fn run() -> Check {
    mixes::<f32>()?;
    mixes::<f16>()?;
    mixes::<bf16>()?;
    options()?;
    fixed()
}

fn mixes<A: Number>() -> Check {
    all_sizes::<A, f32, f32>()?;
    all_sizes::<A, f32, f16>()?;
    all_sizes::<A, f16, f32>()?;
    all_sizes::<A, f16, bf16>()?;
    all_sizes::<A, bf16, f32>()?;
    all_sizes::<A, bf16, bf16>()
}

/// Sums of multiples of 1/64 are exact in `f32`: results must agree bit for bit on every tier.
fn all_sizes<A: Number, B: Number, C: Number>() -> Check {
    let a = numbers::<A, MAX_A>(2);
    let b = numbers::<B, MAX_B>(3);
    let mut packed = [B::of(f32::NAN); MAX_B + 600 * 16];
    let mut c = [C::of(f32::NAN); MAX_C];
    let mut scratch = [f32::NAN; MAX_SCRATCH];
    for tier in Tier::all() {
        for sizes in SIZES {
            let (m, k, n) = unknown(sizes);
            let (a, b, scratch) =
                (unknown(a.as_slice()), unknown(b.as_slice()), unknown(scratch.as_mut_slice()));
            let product = Matmul::new().tier(unknown(tier));
            let (a_view, b_view) = (MatRef::new(a, m, k)?, MatRef::new(b, k, n)?);
            let (b_turned, c) = (MatRef::new(b, n, k)?.t(), unknown(c.as_mut_slice()));
            let right = |c: &[C], b_at: &dyn Fn(usize, usize) -> f32| {
                let sum = |i: usize, j: usize| (0..k).map(|t| at(a, i * k + t) * b_at(t, j)).sum::<f32>();
                (0..m).all(|i| (0..n).all(|j| at(c, i * n + j) == C::of(sum(i, j)).to()))
            };
            product.run(a_view, b_view, MatMut::new(c, m, n)?, scratch)?;
            ensure(right(c, &|t, j| at(b, t * n + j)), "product")?;
            product.run(a_view, b_turned, MatMut::new(c, m, n)?, scratch)?;
            ensure(right(c, &|t, j| at(b, j * k + t)), "product with B transposed")?;

            let storage = unknown(packed.as_mut_slice()).get_mut(..PackedMat::<B>::len(k, n));
            let Some(storage) = storage else { return ensure(false, "storage") };
            PackedMat::pack(b_view, unknown(&mut *storage))?;
            let packed = PackedMat::from_packed(unknown(&*storage), k, n)?;
            ensure((packed.rows(), packed.cols()) == (k, n), "packed sizes")?;
            product.run_packed(a_view, packed, MatMut::new(c, m, n)?, scratch)?;
            ensure(right(c, &|t, j| at(b, t * n + j)), "product with B packed")?;

            // Every second element of A, and C by columns.
            let (m2, k2) = (m / 2, k / 2);
            let every_second = MatRef::with_strides(a, m2, k2, unknown(2 * k), unknown(2))?;
            product.run(every_second, MatRef::new(b, k2, n)?, MatMut::new(c, n, m2)?.t(), scratch)?;
            let sum = |i: usize, j: usize| {
                (0..k2).map(|t| at(a, 2 * i * k + 2 * t) * at(b, t * n + j)).sum::<f32>()
            };
            let right = (0..m2).all(|i| (0..n).all(|j| at(c, j * m2 + i) == C::of(sum(i, j)).to()));
            ensure(right, "product of strided views")?;
        }
    }
    Ok(())
}

fn options() -> Check {
    let (a, b, bias) = (numbers::<f32, 900>(4), numbers::<f32, 900>(5), numbers::<f32, 30>(6));
    let (mut c, mut scratch) = ([1.0_f32; 900], [f32::NAN; MAX_SCRATCH]);
    for tier in Tier::all() {
        let (m, k, n) = unknown((30, 30, 30));
        let (a, b, c) = (unknown(a.as_slice()), unknown(b.as_slice()), unknown(c.as_mut_slice()));
        c.fill(1.0);
        let all = Matmul::new()
            .alpha(unknown(0.5))
            .beta(unknown(2.0))
            .bias(unknown(bias.as_slice()))
            .tier(unknown(tier));
        let (a_view, b_view) = (MatRef::new(a, m, k)?, MatRef::new(b, k, n)?);
        all.run(a_view, b_view, MatMut::new(c, m, n)?, unknown(scratch.as_mut_slice()))?;
        let want = |i: usize, j: usize| {
            (0..k).map(|t| at(a, i * k + t) * at(b, t * n + j)).sum::<f32>() * 0.5 + 2.0 + at(&bias, j)
        };
        ensure((0..m).all(|i| (0..n).all(|j| at(c, i * n + j) == want(i, j))), "alpha, beta and bias")?;
        let short = qkv::matmul(a_view, b_view, MatMut::new(c, m, unknown(29))?, &mut []);
        ensure(matches!(short, Err(Error::DimMismatch { .. })), "a wrong shape is an error")?;
    }
    let (m, k, n) = unknown((65, 3, 3));
    let (a, b) = (unknown(a.as_slice()), unknown(b.as_slice()));
    let refused =
        qkv::matmul_add(MatRef::new(a, m, k)?, MatRef::new(b, k, n)?, MatMut::new(&mut c, m, n)?, &mut []);
    ensure(matches!(refused, Err(Error::ScratchTooShort { got: 0, .. })), "too little scratch is an error")
}

fn fixed() -> Check {
    let mut c = unknown([[0.0_f32; 2]; 1]);
    qkv::matmul_fixed(
        &unknown([[1.0_f32, 2.0]]),
        &unknown([[3.0_f32, 4.0], [5.0, 6.0]]),
        &mut c,
        &mut [0.0; 0],
    );
    ensure(c == [[13.0, 16.0]], "sizes in the types")?;

    let packed: [bf16; PackedMat::<bf16>::len(2, 20)] =
        PackedMat::<bf16>::pack_const_f32(&unknown([[1.0; 20], [2.0; 20]]));
    let mut c = [0.0_f32; 20];
    let (a, b) = ([1.0_f32, 10.0], PackedMat::from_array::<2, 20, _>(unknown(&packed)));
    Matmul::new().run_packed(MatRef::new(&a, 1, 2)?, b, MatMut::new(&mut c, 1, 20)?, &mut [])?;
    ensure(c == [21.0; 20], "packed arrays")
}
