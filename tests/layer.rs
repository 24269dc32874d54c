//! `SelfAttention` against its composition: in `f64` with a propagated bound, and bit for bit.
#![cfg(feature = "half")]

mod common;

use common::buffer::Kind;
use common::mat::{Layout, Mat};
use common::reference::U;
use common::{Rng, expect, mismatch, nan_scratch, same_bits, tiers};
use qkv::{
    Attention, Error, HeadsMut, HeadsRef, MatMut, MatRef, Matmul, PackedMat, Rotary, SelfAttention, Tier,
};
use qkv::{Elem, attention_scratch_len, matmul_scratch_len};

/// Sizes and types of a layer.
#[derive(Clone, Copy, Debug)]
struct Shape {
    len: usize,
    d_model: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    v_head_dim: usize,
    /// Columns of W_O, if there is one.
    columns: Option<usize>,
    causal: bool,
    /// Of X, the weights and the output.
    kinds: [Kind; 3],
}

#[derive(Debug)]
struct Layer {
    shape: Shape,
    x: Mat,
    w_q: Mat,
    w_k: Mat,
    w_v: Mat,
    w_o: Option<Mat>,
    out: Mat,
    more: Option<More>,
}

/// What a layer has beside its weights.
#[derive(Debug)]
struct More {
    /// Of Q, K, V and the output.
    biases: [Vec<f32>; 4],
    /// As many features are rotated, by these angles.
    dim: usize,
    angles: Vec<f32>,
}

impl Shape {
    fn layer(self, seed: u64) -> Layer {
        let mut rng = Rng::new(seed);
        let Shape { len, d_model, n_heads, n_kv_heads, head_dim, v_head_dim, columns, kinds, .. } = self;
        let mut mat = |kind, rows, cols| Mat::new(kind, rows, cols, Layout::random(&mut rng));
        let x = mat(kinds[0], len, d_model);
        let w_q = mat(kinds[1], d_model, n_heads * head_dim);
        let w_k = mat(kinds[1], d_model, n_kv_heads * head_dim);
        let w_v = mat(kinds[1], d_model, n_kv_heads * v_head_dim);
        let w_o = columns.map(|columns| mat(kinds[1], n_heads * v_head_dim, columns));
        let out = mat(kinds[2], len, columns.unwrap_or(n_heads * v_head_dim));
        let size = 2.0 / (d_model.max(1) as f32).sqrt();
        let mut weight = |kind: Kind| kind.bits(size * rng.unit());
        let [w_q, w_k, w_v] = [w_q, w_k, w_v].map(|w| w.fill_bits(&mut weight));
        let w_o = w_o.map(|w| w.fill_bits(&mut weight));
        Layer { shape: self, x: x.random(&mut rng), w_q, w_k, w_v, w_o, out, more: None }
    }
}

impl Layer {
    fn with_more(self) -> Layer {
        let dim = self.shape.head_dim & !1;
        let mut angles = vec![0.0; Rotary::table_len(self.shape.len, dim)];
        Rotary::fill_table(dim, 100.0, &mut angles).expect("whole positions");
        let bias = |w: &Mat| (0..w.cols).map(|j| (j % 7) as f32 * 0.25 - 0.75).collect::<Vec<f32>>();
        let none = Vec::new();
        let biases =
            [bias(&self.w_q), bias(&self.w_k), bias(&self.w_v), self.w_o.as_ref().map_or(none, bias)];
        Layer { more: Some(More { biases, dim, angles }), ..self }
    }

    fn rotary(&self) -> Option<Rotary<'_>> {
        self.more.as_ref().map(|more| Rotary::new(&more.angles, more.dim).expect("whole positions"))
    }

    fn bias(&self, i: usize) -> Option<&[f32]> {
        self.more.as_ref().map(|more| &*more.biases[i])
    }

    /// The layer with its options.
    fn set<'a, W: Elem>(&'a self, layer: SelfAttention<'a, W>, tier: Tier) -> SelfAttention<'a, W> {
        let layer = layer.kv_heads(self.shape.n_kv_heads).attention(self.options(tier));
        match (&self.more, self.rotary()) {
            (Some(More { biases: [q, k, v, o], .. }), Some(rotary)) => {
                layer.output_bias(o).biases(q, k, v).rotary(rotary)
            }
            _ => layer,
        }
    }

    fn options(&self, tier: Tier) -> Attention<'static> {
        if self.shape.causal { Attention::new().causal().tier(tier) } else { Attention::new().tier(tier) }
    }

    fn run(&self, tier: Tier) -> Mat {
        let mut out = self.out.clone();
        with_type!(self.w_q.kind(), W => {
            let layer = SelfAttention::new(self.w_q.view::<W>(), self.w_k.view(), self.w_v.view(), self.shape.n_heads);
            let layer = self.set(layer, tier);
            let layer = match &self.w_o {
                Some(w_o) => layer.output(w_o.view()),
                None => layer,
            };
            let mut scratch = nan_scratch(layer.scratch_len(self.x.rows));
            with_type!(self.x.kind(), X => with_type!(out.kind(), O => {
                layer.run(self.x.view::<X>(), out.view_mut::<O>(), &mut scratch).expect("sizes agree");
            }));
        });
        out
    }

    /// The same with packed weights.
    fn run_packed(&self, tier: Tier) -> Mat {
        let mut out = self.out.clone();
        with_type!(self.w_q.kind(), W => {
            let storage = |w: &Mat| vec![W::default(); PackedMat::<W>::len(w.rows, w.cols)];
            let [mut q, mut k, mut v] = [&self.w_q, &self.w_k, &self.w_v].map(storage);
            let mut o = self.w_o.as_ref().map(storage).unwrap_or_default();
            let pack = |w: &Mat, to| PackedMat::pack(w.view::<W>(), to).expect("as long");
            let (q, k, v) = (pack(&self.w_q, &mut q), pack(&self.w_k, &mut k), pack(&self.w_v, &mut v));
            let layer = self.set(SelfAttention::packed(q, k, v, self.shape.n_heads), tier);
            let layer = match &self.w_o {
                Some(w_o) => layer.packed_output(pack(w_o, &mut o)),
                None => layer,
            };
            let mut scratch = nan_scratch(layer.scratch_len(self.x.rows));
            with_type!(self.x.kind(), X => with_type!(out.kind(), O => {
                layer.run(self.x.view::<X>(), out.view_mut::<O>(), &mut scratch).expect("sizes agree");
            }));
        });
        out
    }

    /// The same by the calls it stands for.
    fn compose(&self, tier: Tier) -> Vec<u32> {
        let Shape { len, n_heads, n_kv_heads, head_dim, v_head_dim, .. } = self.shape;
        let [mut q, mut k, v] = [(&self.w_q, 0), (&self.w_k, 1), (&self.w_v, 2)]
            .map(|(w, i)| product(tier, &self.x, w, self.bias(i)).values());
        if let Some(rotary) = self.rotary() {
            for (x, n_heads) in [(&mut q, n_heads), (&mut k, n_kv_heads)] {
                let heads = HeadsMut::token_major(x, len, n_heads, head_dim).expect("len rows");
                rotary.rotate(heads, &[0]).expect("sizes agree");
            }
        }
        let mut heads = Mat::new(Kind::F32, len, n_heads * v_head_dim, Layout::ROWS);
        let mut scratch = nan_scratch(attention_scratch_len(len, len, head_dim, v_head_dim));
        let (start, end) = (heads.start, heads.end);
        let common::buffer::Buffer::F32(data) = &mut heads.buffer else { unreachable!("f32 heads") };
        self.options(tier)
            .run(
                HeadsRef::token_major(&q, len, n_heads, head_dim).expect("len rows"),
                HeadsRef::token_major(&k, len, n_kv_heads, head_dim).expect("len rows"),
                HeadsRef::token_major(&v, len, n_kv_heads, v_head_dim).expect("len rows"),
                HeadsMut::token_major(&mut data[start..end], len, n_heads, v_head_dim).expect("len rows"),
                &mut scratch,
            )
            .expect("sizes agree");
        let last = self.w_o.as_ref().map(|w_o| product(tier, &heads, w_o, self.bias(3)));
        last.unwrap_or(heads).values().iter().map(|&x| self.out.kind().bits(x)).collect()
    }
}

/// `A B + bias` in `f32`.
fn product(tier: Tier, a: &Mat, b: &Mat, bias: Option<&[f32]>) -> Mat {
    let mut c = Mat::new(Kind::F32, a.rows, b.cols, Layout::ROWS);
    let mut scratch = nan_scratch(matmul_scratch_len(a.rows, a.cols, b.cols));
    with_type!(a.kind(), A => with_type!(b.kind(), B => {
        let product = bias.map_or(Matmul::new(), |bias| Matmul::new().bias(bias)).tier(tier);
        product.run(a.view::<A>(), b.view::<B>(), c.view_mut::<f32>(), &mut scratch).expect("sizes agree");
    }));
    c
}

/// Numbers in `f64`, each with what `f32` may be off by.
type Bounded = Vec<Vec<(f64, f64)>>;

/// `A B`, with the errors of A carried over.
fn multiply(a: &Bounded, b: &Mat) -> Bounded {
    let element = |row: &[(f64, f64)], j| {
        let (mut sum, mut error) = (0.0, 0.0);
        for (t, &(x, off)) in row.iter().enumerate() {
            let y = f64::from(b.get(t, j));
            sum += x * y;
            error += off * y.abs() + (row.len() + 3) as f64 * U * (x.abs() + off) * y.abs();
        }
        (sum, error)
    };
    a.iter().map(|row| (0..b.cols).map(|j| element(row, j)).collect()).collect()
}

/// The attention of all heads, side by side. A score is off by what its factors are; a weight by twice
/// the worst score, its distance from the largest and an ULP for each of the few steps.
fn attend(shape: &Shape, q: &Bounded, k: &Bounded, v: &Bounded) -> Bounded {
    let Shape { len, n_heads, n_kv_heads, head_dim, v_head_dim, causal, .. } = *shape;
    let scale = 1.0 / (head_dim as f64).sqrt();
    let mut out = vec![Vec::new(); len];
    for (i, row) in out.iter_mut().enumerate() {
        for h in 0..n_heads {
            let g = h / (n_heads / n_kv_heads);
            let seen = if causal { i + 1 } else { len };
            let scores: Vec<(f64, f64)> = (0..seen)
                .map(|t| {
                    (0..head_dim).fold((0.0, 0.0), |(sum, error), d| {
                        let ((x, dx), (y, dy)) = (q[i][h * head_dim + d], k[t][g * head_dim + d]);
                        let rounding = (head_dim + 4) as f64 * U * (x.abs() + dx) * (y.abs() + dy);
                        (
                            sum + scale * x * y,
                            error + scale * (dx * y.abs() + x.abs() * dy + dx * dy + rounding),
                        )
                    })
                })
                .collect();
            let top = scores.iter().map(|s| s.0).fold(f64::MIN, f64::max);
            let sum: f64 = scores.iter().map(|s| (s.0 - top).exp()).sum();
            let worst = scores.iter().map(|s| s.1 + U * (top - s.0)).fold(0.0, f64::max);
            let steps = (80 + 4 * seen.div_ceil(64)) as f64 * 2.0 * U;
            let off = (2.0 * worst + steps).exp_m1();
            for d in 0..v_head_dim {
                let (mut value, mut size, mut moved) = (0.0, 0.0, 0.0);
                for (t, s) in scores.iter().enumerate() {
                    let (p, (y, dy)) = ((s.0 - top).exp() / sum, v[t][g * v_head_dim + d]);
                    value += p * y;
                    size += p * (y.abs() + dy);
                    moved += p * dy;
                }
                row.push((value, moved + 2.0 * off * size / (1.0 - off)));
            }
        }
    }
    out
}

const ONE: Shape = Shape {
    len: 1,
    d_model: 1,
    n_heads: 1,
    n_kv_heads: 1,
    head_dim: 1,
    v_head_dim: 1,
    columns: None,
    causal: false,
    kinds: [Kind::F32; 3],
};

fn shapes() -> Vec<Shape> {
    let base = ONE;
    let mut shapes = vec![
        base,
        Shape { len: 5, d_model: 7, n_heads: 2, n_kv_heads: 2, head_dim: 3, v_head_dim: 3, ..base },
        Shape {
            len: 9,
            d_model: 16,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 4,
            v_head_dim: 5,
            columns: Some(6),
            ..base
        },
        Shape {
            len: 70,
            d_model: 48,
            n_heads: 6,
            n_kv_heads: 1,
            head_dim: 8,
            v_head_dim: 8,
            columns: Some(48),
            ..base
        },
        Shape { len: 20, d_model: 100, n_heads: 3, n_kv_heads: 3, head_dim: 16, v_head_dim: 17, ..base },
        Shape {
            len: 3,
            d_model: 520,
            n_heads: 2,
            n_kv_heads: 1,
            head_dim: 8,
            v_head_dim: 8,
            columns: Some(520),
            ..base
        },
    ];
    let causal: Vec<Shape> = shapes.iter().map(|&shape| Shape { causal: true, ..shape }).collect();
    shapes.extend(causal);
    let half = |(n, &shape): (usize, &Shape)| {
        let kinds = [Kind::ALL[n % 3], Kind::ALL[(n + 1) % 3], Kind::ALL[(n + 2) % 3]];
        Shape { kinds, ..shape }
    };
    let halves: Vec<Shape> = shapes.iter().enumerate().map(half).collect();
    shapes.extend(halves);
    shapes
}

#[test]
fn layer_has_the_bits_of_its_calls() {
    let plain = || shapes().into_iter().enumerate().map(|(seed, shape)| (shape, shape.layer(seed as u64)));
    for (shape, layer) in plain().chain(plain().map(|(shape, layer)| (shape, layer.with_more()))) {
        for tier in tiers() {
            let out = layer.run(tier);
            expect(out.check_guards(&layer.out), (tier, shape));
            let composed = layer.compose(tier);
            expect(same_bits(out.kind(), &out.bits(), &composed), (tier, shape));
            expect(same_bits(out.kind(), &layer.run_packed(tier).bits(), &composed), (tier, shape, "packed"));
        }
    }
}

#[test]
fn layer_agrees_with_the_reference() {
    for (seed, shape) in shapes().into_iter().enumerate() {
        let layer = shape.layer(seed as u64);
        let x: Bounded = (0..shape.len)
            .map(|i| (0..shape.d_model).map(|j| (f64::from(layer.x.get(i, j)), 0.0)).collect())
            .collect();
        let heads =
            attend(&shape, &multiply(&x, &layer.w_q), &multiply(&x, &layer.w_k), &multiply(&x, &layer.w_v));
        let expected = layer.w_o.as_ref().map_or(heads.clone(), |w_o| multiply(&heads, w_o));
        let (relative, absolute) = layer.out.kind().rounding();
        for tier in tiers() {
            let out = layer.run(tier);
            for (i, row) in expected.iter().enumerate() {
                for (j, &(value, error)) in row.iter().enumerate() {
                    let (got, bound) =
                        (f64::from(out.get(i, j)), error + relative * (value.abs() + error) + absolute);
                    assert!(
                        (got - value).abs() <= bound,
                        "{tier} {shape:?} ({i}, {j}): {got}, not {value} +- {bound}"
                    );
                    assert!(error < 0.01, "a bound of {error} says nothing");
                }
            }
        }
    }
}

#[test]
fn empty_layers_are_ok() {
    for tier in tiers() {
        for (len, d_model, columns) in [(0, 4, None), (3, 0, None), (0, 0, Some(2)), (2, 4, Some(0))] {
            let heads = Shape { n_heads: 2, head_dim: 2, v_head_dim: 2, causal: true, ..ONE };
            let shape = Shape { len, d_model, columns, ..heads };
            let out = shape.layer(1).run(tier);
            assert!(out.bits().iter().all(|&bits| bits == 0), "{tier} {shape:?}");
        }
    }
}

/// A layer of 3 tokens, `d_model` 4, 2 heads of 2, with one number changed; and whether the output is
/// as it was.
fn refused(change: &dyn Fn(&mut [usize; 12])) -> (Option<Error>, bool) {
    let data = [0.5_f32; 100];
    let mut out = [7.0_f32; 100];
    // X, W_Q, W_K, W_V, W_O, output, heads, key heads... as rows and columns.
    let mut sizes = [3, 4, 4, 4, 4, 4, 4, 4, 5, 3, 5, 0];
    change(&mut sizes);
    let [x_rows, x_cols, q_rows, q_cols, k_cols, v_rows, v_cols, o_rows, o_cols, out_rows, out_cols, less] =
        sizes;
    let mat = |rows, cols| MatRef::new(&data, rows, cols).expect("100 are enough");
    let layer = SelfAttention::new(mat(q_rows, q_cols), mat(4, k_cols), mat(v_rows, v_cols), 2)
        .output(mat(o_rows, o_cols));
    let mut scratch = nan_scratch(layer.scratch_len(x_rows) - less);
    let view = MatMut::new(&mut out, out_rows, out_cols).expect("100 are enough");
    let error = layer.run(mat(x_rows, x_cols), view, &mut scratch).err();
    (error, out.iter().all(|&x| x == 7.0))
}

#[test]
fn layer_refuses_each_size_that_disagrees_by_name() {
    assert_eq!(refused(&|_| {}), (None, false));
    let mismatch = |dim, expected, got| (mismatch::<()>(dim, expected, got).err(), true);
    assert_eq!(refused(&|sizes| sizes[1] = 5), mismatch("columns of X (d_model)", 4, 5));
    assert_eq!(refused(&|sizes| sizes[2] = 5), mismatch("rows of W_K (d_model)", 5, 4));
    assert_eq!(refused(&|sizes| sizes[3] = 5), mismatch("columns of W_Q (n_heads * head_dim)", 4, 5));
    assert_eq!(refused(&|sizes| sizes[4] = 6), mismatch("columns of W_K (n_kv_heads * head_dim)", 4, 6));
    assert_eq!(refused(&|sizes| sizes[5] = 5), mismatch("rows of W_V (d_model)", 4, 5));
    assert_eq!(refused(&|sizes| sizes[6] = 5), mismatch("columns of W_V (n_kv_heads * v_head_dim)", 4, 5));
    assert_eq!(refused(&|sizes| sizes[7] = 5), mismatch("rows of W_O (n_heads * v_head_dim)", 4, 5));
    assert_eq!(refused(&|sizes| sizes[9] = 2), mismatch("rows of the output", 3, 2));
    assert_eq!(refused(&|sizes| sizes[10] = 6), mismatch("columns of the output", 5, 6));
    let (error, untouched) = refused(&|sizes| sizes[11] = 1);
    assert!(
        untouched && matches!(error, Some(Error::ScratchTooShort { needed, got }) if got + 1 == needed),
        "{error:?}"
    );
}

#[test]
fn layer_refuses_biases_and_angles_that_do_not_fit() {
    let (data, bias) = ([0.5_f32; 60], [0.0_f32; 6]);
    let w = MatRef::new(&data, 4, 4).expect("60 are enough");
    let plain = SelfAttention::new(w, w, w, 2);
    let (good, short) = (&bias[..4], &bias[..3]);
    let rotary = Rotary::new(&bias, 2).expect("three positions");
    let wide = Rotary::new(&data[..16], 4).expect("four positions");
    let too_large = |what, most, got| Err(Error::TooLarge { what, most, got });
    for (layer, expected) in [
        (plain.biases(short, good, good), mismatch("columns of W_Q (length of its bias)", 4, 3)),
        (plain.biases(good, short, good), mismatch("columns of W_K (length of its bias)", 4, 3)),
        (plain.biases(good, good, short), mismatch("columns of W_V (length of its bias)", 4, 3)),
        (plain.output_bias(good), mismatch("columns of W_O (length of its bias)", 0, 4)),
        (plain.output(w).output_bias(short), mismatch("columns of W_O (length of its bias)", 4, 3)),
        (plain.rotary(rotary), too_large("positions, for the rotary table,", 3, 4)),
        (plain.rotary(wide), too_large("rotary dim", 2, 4)),
        (plain.rotary(rotary.offsets(&[0, 4])), too_large("positions, for the rotary table,", 3, 4)),
    ] {
        let (mut out, mut scratch) = ([7.0_f32; 16], nan_scratch(layer.scratch_len(4)));
        let result = layer.run(w, MatMut::new(&mut out, 4, 4).expect("16 numbers"), &mut scratch);
        assert_eq!((result, out), (expected, [7.0; 16]));
    }
}

#[test]
fn layer_refuses_heads_that_do_not_divide() {
    let data = [0.5_f32; 60];
    let w = MatRef::new(&data, 4, 6).expect("60 are enough");
    let narrow = MatRef::new(&data, 4, 4).expect("60 are enough");
    let mut out = [7.0_f32; 18];
    let layer = SelfAttention::new(w, narrow, narrow, 3).kv_heads(2);
    let mut scratch = nan_scratch(layer.scratch_len(3));
    let view = MatMut::new(&mut out, 3, 6).expect("18 numbers");
    let result = layer.run(MatRef::new(&data, 3, 4).expect("60 are enough"), view, &mut scratch);
    assert_eq!(result, Err(Error::HeadsDoNotDivide { n_heads: 3, n_kv_heads: 2 }));
    assert_eq!(out, [7.0; 18]);
}

#[test]
fn layer_without_room_for_any_slice_asks_for_all_of_it() {
    let none = [0.0_f32; 0];
    let w = MatRef::new(&none, 0, usize::MAX).expect("no elements");
    let layer = SelfAttention::new(w, w, w, 1);
    assert_eq!(layer.scratch_len(usize::MAX), usize::MAX);
    let x = MatRef::new(&none, usize::MAX, 0).expect("no elements");
    let result =
        layer.run(x, MatMut::new(&mut [] as &mut [f32], usize::MAX, 0).expect("no elements"), &mut []);
    assert!(result.is_err(), "{result:?}");
}
