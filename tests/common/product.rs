//! A matrix product as a value: random or fuzzed, run on any tier, checked against both twins.

use super::buffer::Kind;
use super::mat::{Layout, Mat};
use super::reference::{self, Expected};
use super::{GUARD, Rng, bits, nan_scratch, same_bits, tiers};
use crate::with_type;
use qkv::{Error, Matmul, PackedMat, Tier, matmul_scratch_len};

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

    /// The same without anything round the operands.
    pub fn bare(&self) -> Product {
        Product { a: self.a.bare(), b: self.b.bare(), c: self.c.bare(), ..self.clone() }
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

    /// The product with B packed into storage of another type.
    pub fn run_packed(&self, storage: Kind, tier: Tier) -> Mat {
        let mut c = self.c.clone();
        let mut scratch = nan_scratch(self.scratch_len());
        let options = self.options(tier);
        with_type!(storage, S => with_type!(self.b.kind(), B => {
            let mut memory = vec![S::default(); PackedMat::<S>::len(self.b.rows, self.b.cols)];
            let packed = PackedMat::pack(self.b.view::<B>(), &mut memory).expect("the right length");
            with_type!(self.a.kind(), A => with_type!(c.kind(), C => {
                options.run_packed(self.a.view::<A>(), packed, c.view_mut::<C>(), &mut scratch).expect("sizes agree");
            }));
        }));
        c
    }

    /// Every tier: guards, the `f64` bound and the bit model; B as it lies and packed.
    pub fn check(&self) -> Result<(), String> {
        let expected = self.expected();
        let models = [false, true].map(|fused| self.model(fused));
        for tier in tiers() {
            let model = &models[usize::from(tier.is_fused())];
            for (c, how) in [(self.run(tier), "strided"), (self.run_packed(self.b.kind(), tier), "packed")] {
                self.check_result(&c, &expected, model)
                    .map_err(|message| format!("{tier}, {how}: {message}"))?;
            }
        }
        Ok(())
    }

    pub fn check_result(&self, c: &Mat, expected: &[Expected], model: &[u32]) -> Result<(), String> {
        c.check_guards(&self.c)?;
        for (at, (expected, got)) in expected.iter().zip(c.values()).enumerate() {
            let place = (at / c.cols, at % c.cols);
            expected.check(c.kind(), got).map_err(|message| format!("C{place:?}: {message}"))?;
        }
        same_bits(c.kind(), &c.bits(), model).map_err(|m| format!("against the model, {m}"))
    }

    pub fn expected(&self) -> Vec<Expected> {
        reference::matmul(&self.a, &self.b, &self.c, self.bias.as_deref(), self.alpha, self.beta)
    }

    pub fn model(&self, fused: bool) -> Vec<u32> {
        bits::matmul(fused, &self.a, &self.b, &self.c, self.bias.as_deref(), self.alpha, self.beta)
    }
}
