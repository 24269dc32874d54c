//! A matrix product as a value: random or fuzzed, run on any tier, checked against both twins.

use super::buffer::Kind;
use super::mat::{Layout, Mat};
use super::{GUARD, Rng, bits, nan_scratch, reference, same_bits};
use crate::with_type;
use qkv::{Error, Matmul, Tier, matmul_scratch_len};

/// Sizes, types, strides and options.
#[derive(Clone, Debug)]
pub struct Shape {
    pub m: usize,
    pub k: usize,
    pub n: usize,
    /// Of A, B and C.
    pub kinds: [Kind; 3],
    pub layouts: [Layout; 3],
    pub alpha: f32,
    pub beta: f32,
    pub bias: bool,
    pub seed: u64,
}

impl Shape {
    /// A plain `f32` product.
    pub fn plain(m: usize, k: usize, n: usize, seed: u64) -> Shape {
        let (kinds, layouts) = ([Kind::F32; 3], [Layout::ROWS; 3]);
        Shape { m, k, n, kinds, layouts, alpha: 1.0, beta: 0.0, bias: false, seed }
    }

    /// Everything but the sizes at random.
    pub fn random((m, k, n): (usize, usize, usize), seed: u64) -> Shape {
        let mut rng = Rng::new(seed);
        let kinds = [(); 3].map(|()| rng.pick(&Kind::ALL));
        let layouts = [(); 3].map(|()| Layout::random(&mut rng));
        let alpha = rng.pick(&[1.0, 1.0, -0.5, 1.7, 0.0]);
        let beta = rng.pick(&[0.0, 0.0, 1.0, -0.3]);
        Shape { m, k, n, kinds, layouts, alpha, beta, bias: rng.below(3) == 0, seed }
    }

    /// Operands with random numbers in -1..1.
    pub fn product(&self) -> Product {
        let mut rng = Rng::new(self.seed ^ 0x5eed);
        self.product_of(GUARD, &mut |kind| kind.bits(rng.unit()))
    }

    /// Operands whose bits come from `bits`. A and B end with their slice's allocation if `guard` is 0.
    pub fn product_of(&self, guard: usize, bits: &mut dyn FnMut(Kind) -> u32) -> Product {
        let &Shape { m, k, n, kinds, layouts, alpha, beta, .. } = self;
        let a = Mat::with_guard(kinds[0], m, k, layouts[0], guard).fill_bits(bits);
        let b = Mat::with_guard(kinds[1], k, n, layouts[1], guard).fill_bits(bits);
        // A C that is not read starts as NaN.
        let mut c = Mat::new(kinds[2], m, n, layouts[2]);
        if beta != 0.0 {
            c = c.fill_bits(bits);
        }
        let bias = self.bias.then(|| (0..n).map(|_| f32::from_bits(bits(Kind::F32))).collect());
        Product { a, b, c, bias, alpha, beta }
    }
}

/// `C = alpha A B + beta C + bias` with its operands.
#[derive(Clone, Debug)]
pub struct Product {
    pub a: Mat,
    pub b: Mat,
    pub c: Mat,
    pub bias: Option<Vec<f32>>,
    pub alpha: f32,
    pub beta: f32,
}

impl Product {
    pub fn options(&self, tier: Tier) -> Matmul<'_> {
        let options = Matmul::new().alpha(self.alpha).beta(self.beta).tier(tier);
        match &self.bias {
            Some(bias) => options.bias(bias),
            None => options,
        }
    }

    pub fn scratch_len(&self) -> usize {
        matmul_scratch_len(self.a.rows, self.a.cols, self.b.cols)
    }

    /// C after the call, from scratch of the exact length that is full of NaN.
    pub fn run(&self, tier: Tier) -> Mat {
        let mut c = self.c.clone();
        self.run_into(tier, &mut c, &mut nan_scratch(self.scratch_len())).expect("sizes agree");
        c
    }

    pub fn run_into(&self, tier: Tier, c: &mut Mat, scratch: &mut [f32]) -> Result<(), Error> {
        let options = self.options(tier);
        with_type!(self.a.kind(), A => with_type!(self.b.kind(), B => with_type!(c.kind(), C => {
            options.run(self.a.view::<A>(), self.b.view::<B>(), c.view_mut::<C>(), scratch)
        })))
    }

    /// Guards, the `f64` bound and the bit model.
    pub fn check(&self, tier: Tier) -> Result<(), String> {
        self.check_result(tier, &self.run(tier)).map_err(|message| format!("{tier}: {message}"))
    }

    pub fn check_result(&self, tier: Tier, c: &Mat) -> Result<(), String> {
        c.check_guards(&self.c)?;
        self.check_bound(c)?;
        same_bits(c.kind(), &c.bits(), &self.model(tier.is_fused()))
            .map_err(|m| format!("against the model, {m}"))
    }

    pub fn check_bound(&self, c: &Mat) -> Result<(), String> {
        let Product { a, b, bias, .. } = self;
        let expected = reference::matmul(a, b, &self.c, bias.as_deref(), self.alpha, self.beta);
        for (at, (expected, got)) in expected.iter().zip(c.values()).enumerate() {
            let place = (at / c.cols, at % c.cols);
            expected.check(c.kind(), got).map_err(|message| format!("C{place:?}: {message}"))?;
        }
        Ok(())
    }

    pub fn model(&self, fused: bool) -> Vec<u32> {
        bits::matmul(fused, &self.a, &self.b, &self.c, self.bias.as_deref(), self.alpha, self.beta)
    }
}
