//! Self-attention in one call: `Q = X W_Q, K = X W_K, V = X W_V, out = softmax(scale·Q Kᵀ) V W_O`.

use crate::attention::{Attention, Rotary, attention_scratch_len, group};
use crate::elem::Elem;
use crate::error::{Error, expect_dim, expect_scratch};
use crate::kernel::pack::unpack_row;
use crate::matmul::{Matmul, PackedMat, matmul_scratch_len};
use crate::view::{HeadsMut, HeadsRef, MatMut, MatRef};

/// Self-attention of a sequence: three projections of the same input, and the soft lookup between them.
///
/// X is `len` x `d_model`. W_Q is `d_model` x (`n_heads` · `head_dim`), W_K and W_V are `d_model` x
/// (`n_kv_heads` · `head_dim`) and (`n_kv_heads` · `v_head_dim`), each head's columns side by side. The
/// output is `len` x (`n_heads` · `v_head_dim`), or `len` x the columns of W_O if there is one. Weights are matrices, or
/// packed: the same bits. Projections may have biases, and queries and keys be rotated.
///
/// ```
/// use qkv::{MatMut, MatRef, SelfAttention};
/// let (x, w) = ([1.0_f32, 0.0, 0.0, 1.0], [4.0_f32, 0.0, 0.0, 4.0]);
/// let w = MatRef::new(&w, 2, 2)?;
/// let layer = SelfAttention::new(w, w, w, 1);
/// let (mut out, mut scratch) = ([0.0_f32; 4], vec![0.0; layer.scratch_len(2)]);
/// layer.run(MatRef::new(&x, 2, 2)?, MatMut::new(&mut out, 2, 2)?, &mut scratch)?;
/// assert!(out[0] > 3.9 && out[3] > 3.9); // each token finds itself
/// # Ok::<(), qkv::Error>(())
/// ```
///
/// In firmware all of it may be known when it is compiled, the length of the scratch too:
/// ```
/// use qkv::{MatMut, MatRef, PackedMat, SelfAttention};
/// const LEN: usize = 2;
/// static W: [f32; PackedMat::<f32>::len(2, 2)] = PackedMat::pack_const(&[[4.0, 0.0], [0.0, 4.0]]);
/// const PACKED: PackedMat<f32> = PackedMat::from_array::<2, 2, _>(&W);
/// const LAYER: SelfAttention<f32> = SelfAttention::packed(PACKED, PACKED, PACKED, 1);
/// let (x, mut out, mut scratch) = ([1.0_f32, 0.0, 0.0, 1.0], [0.0_f32; 4], [0.0; LAYER.scratch_len(LEN)]);
/// LAYER.run(MatRef::new(&x, LEN, 2)?, MatMut::new(&mut out, LEN, 2)?, &mut scratch)?;
/// assert!(out[0] > 3.9 && out[3] > 3.9);
/// # Ok::<(), qkv::Error>(())
/// ```
#[derive(Clone, Copy)]
#[must_use = "options do nothing until `run`"]
pub struct SelfAttention<'w, W: Elem> {
    q: Projection<'w, W>,
    k: Projection<'w, W>,
    v: Projection<'w, W>,
    o: Option<Weights<'w, W>>,
    o_bias: Option<&'w [f32]>,
    n_heads: usize,
    n_kv_heads: usize,
    rotary: Option<Rotary<'w>>,
    attention: Attention<'w>,
}

/// Weights as they lie, or packed.
#[derive(Clone, Copy)]
enum Weights<'w, W: Elem> {
    Rows(MatRef<'w, W>),
    Packed(PackedMat<'w, W>),
}

impl<W: Elem> Weights<'_, W> {
    const fn rows(&self) -> usize {
        match self {
            Weights::Rows(w) => w.raw.rows,
            Weights::Packed(w) => w.rows(),
        }
    }

    const fn cols(&self) -> usize {
        match self {
            Weights::Rows(w) => w.raw.cols,
            Weights::Packed(w) => w.cols(),
        }
    }
}

/// `X W + bias`.
#[derive(Clone, Copy)]
struct Projection<'w, W: Elem> {
    weights: Weights<'w, W>,
    bias: Option<&'w [f32]>,
}

impl<'w, W: Elem> Projection<'w, W> {
    const fn of(weights: Weights<'w, W>) -> Self {
        Projection { weights, bias: None }
    }

    const fn with(self, bias: &'w [f32]) -> Self {
        Projection { bias: Some(bias), ..self }
    }

    fn check(&self, dim: &'static str, rows: usize, bias: &'static str) -> Result<(), Error> {
        expect_dim(dim, rows, self.weights.rows())?;
        self.bias.map_or(Ok(()), |values| expect_dim(bias, self.weights.cols(), values.len()))
    }

    fn run<X: Elem, O: Elem>(
        self,
        product: Matmul<'w>,
        x: MatRef<'_, X>,
        out: MatMut<'_, O>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        let product = self.bias.map_or(product, |bias| product.bias(bias));
        match self.weights {
            Weights::Rows(w) => product.run(x, w, out, scratch),
            Weights::Packed(w) => product.run_packed(x, w, out, scratch),
        }
    }
}

/// The sizes that a layer's weights and head counts imply.
struct Sizes {
    head_dim: usize,
    v_head_dim: usize,
    /// Columns of Q, K, V and of the heads' outputs side by side.
    q: usize,
    k: usize,
    v: usize,
    heads: usize,
}

impl<'w, W: Elem> SelfAttention<'w, W> {
    /// A layer with as many key heads as query heads and no output projection.
    pub const fn new(w_q: MatRef<'w, W>, w_k: MatRef<'w, W>, w_v: MatRef<'w, W>, n_heads: usize) -> Self {
        Self::of(Weights::Rows(w_q), Weights::Rows(w_k), Weights::Rows(w_v), n_heads)
    }

    /// As [`new`](Self::new), with packed weights.
    pub const fn packed(
        w_q: PackedMat<'w, W>,
        w_k: PackedMat<'w, W>,
        w_v: PackedMat<'w, W>,
        n_heads: usize,
    ) -> Self {
        Self::of(Weights::Packed(w_q), Weights::Packed(w_k), Weights::Packed(w_v), n_heads)
    }

    const fn of(w_q: Weights<'w, W>, w_k: Weights<'w, W>, w_v: Weights<'w, W>, n_heads: usize) -> Self {
        let (q, k, v) = (Projection::of(w_q), Projection::of(w_k), Projection::of(w_v));
        SelfAttention {
            q,
            k,
            v,
            o: None,
            o_bias: None,
            n_heads,
            n_kv_heads: n_heads,
            rotary: None,
            attention: Attention::new(),
        }
    }

    /// Fewer key heads than query heads (grouped or multi-query attention).
    pub const fn kv_heads(self, n_kv_heads: usize) -> Self {
        SelfAttention { n_kv_heads, ..self }
    }

    /// An output projection W_O of (`n_heads` · `v_head_dim`) rows.
    pub const fn output(self, w_o: MatRef<'w, W>) -> Self {
        SelfAttention { o: Some(Weights::Rows(w_o)), ..self }
    }

    /// As [`output`](Self::output), with packed weights.
    pub const fn packed_output(self, w_o: PackedMat<'w, W>) -> Self {
        SelfAttention { o: Some(Weights::Packed(w_o)), ..self }
    }

    /// Rows that are added to Q, K and V, as long as they are wide.
    ///
    /// ```
    /// use qkv::{MatMut, MatRef, SelfAttention};
    /// let (x, w, zero) = ([1.0_f32, 2.0], MatRef::new(&[1.0_f32], 1, 1)?, [0.0]);
    /// let layer = SelfAttention::new(w, w, w, 1).biases(&zero, &zero, &[10.0]);
    /// let (mut out, mut scratch) = ([0.0_f32; 2], vec![0.0; layer.scratch_len(2)]);
    /// layer.run(MatRef::new(&x, 2, 1)?, MatMut::new(&mut out, 2, 1)?, &mut scratch)?;
    /// assert!(out.iter().all(|&x| x > 11.0 && x < 12.0));
    /// # Ok::<(), qkv::Error>(())
    /// ```
    pub const fn biases(self, q: &'w [f32], k: &'w [f32], v: &'w [f32]) -> Self {
        SelfAttention { q: self.q.with(q), k: self.k.with(k), v: self.v.with(v), ..self }
    }

    /// A row that is added to what W_O gives, as long as that is wide.
    pub const fn output_bias(self, bias: &'w [f32]) -> Self {
        SelfAttention { o_bias: Some(bias), ..self }
    }

    /// Queries and keys are rotated: row `i` of X is at position `i`.
    pub const fn rotary(self, rotary: Rotary<'w>) -> Self {
        SelfAttention { rotary: Some(rotary), ..self }
    }

    /// Options of the attention: all but the projections and the heads.
    pub const fn attention(self, attention: Attention<'w>) -> Self {
        SelfAttention { attention, ..self }
    }

    /// Sizes by rounding down; [`checked`](Self::checked) finds what does not divide.
    const fn sizes(&self) -> Sizes {
        let (q, k, v) = (self.q.weights.cols(), self.k.weights.cols(), self.v.weights.cols());
        const fn divided(n: usize, by: usize) -> usize {
            match n.checked_div(by) {
                Some(each) => each,
                None => 0,
            }
        }
        let (head_dim, v_head_dim) = (divided(q, self.n_heads), divided(v, self.n_kv_heads));
        Sizes { head_dim, v_head_dim, q, k, v, heads: v_head_dim.saturating_mul(self.n_heads) }
    }

    fn output_projection(&self) -> Option<Projection<'w, W>> {
        self.o.map(|weights| Projection { weights, bias: self.o_bias })
    }

    fn checked(&self) -> Result<Sizes, Error> {
        let sizes = self.sizes();
        let rows = self.q.weights.rows();
        self.q.check("rows of W_Q (d_model)", rows, "columns of W_Q (length of its bias)")?;
        self.k.check("rows of W_K (d_model)", rows, "columns of W_K (length of its bias)")?;
        self.v.check("rows of W_V (d_model)", rows, "columns of W_V (length of its bias)")?;
        let product = |heads: usize, dim: usize| heads.checked_mul(dim).ok_or(Error::ShapeOverflow);
        expect_dim("columns of W_Q (n_heads * head_dim)", product(self.n_heads, sizes.head_dim)?, sizes.q)?;
        expect_dim(
            "columns of W_K (n_kv_heads * head_dim)",
            product(self.n_kv_heads, sizes.head_dim)?,
            sizes.k,
        )?;
        expect_dim(
            "columns of W_V (n_kv_heads * v_head_dim)",
            product(self.n_kv_heads, sizes.v_head_dim)?,
            sizes.v,
        )?;
        group(self.n_heads, self.n_kv_heads)?;
        const O_BIAS: &str = "columns of W_O (length of its bias)";
        match self.output_projection() {
            Some(o) => o.check("rows of W_O (n_heads * v_head_dim)", sizes.heads, O_BIAS)?,
            None => self.o_bias.map_or(Ok(()), |bias| expect_dim(O_BIAS, 0, bias.len()))?,
        }
        Ok(sizes)
    }

    /// `f32`s of scratch for a sequence of `len` tokens; `usize::MAX` if that is more than fits.
    pub const fn scratch_len(&self, len: usize) -> usize {
        const fn max(a: usize, b: usize) -> usize {
            if a > b { a } else { b }
        }
        let Sizes { head_dim, v_head_dim, q, k, v, heads } = self.sizes();
        let columns = q.saturating_add(k).saturating_add(v).saturating_add(heads);
        // It never falls when a size grows.
        let projections = matmul_scratch_len(len, self.q.weights.rows(), max(q, max(k, v)));
        let output = match &self.o {
            Some(o) => matmul_scratch_len(len, heads, o.cols()),
            None => 0,
        };
        let inner = max(attention_scratch_len(len, len, head_dim, v_head_dim), max(projections, output));
        columns.saturating_mul(len).saturating_add(inner)
    }

    /// Computes the layer: `out = softmax(scale·(X W_Q)(X W_K)ᵀ)(X W_V)`, times W_O if there is one.
    ///
    /// # Errors
    /// [`Error::DimMismatch`] by the name of the matrix or bias that does not fit, [`Error::ShapeOverflow`], whatever
    /// [`Attention::run`] and [`Rotary::rotate`] refuse of the options, or [`Error::ScratchTooShort`] with less than [`scratch_len`](Self::scratch_len) `f32`s. The output
    /// is untouched then.
    pub fn run<X: Elem, O: Elem>(
        &self,
        x: MatRef<'_, X>,
        out: MatMut<'_, O>,
        scratch: &mut [f32],
    ) -> Result<(), Error> {
        let sizes = self.checked()?;
        let len = x.rows();
        expect_dim("columns of X (d_model)", self.q.weights.rows(), x.cols())?;
        expect_dim("rows of the output", len, out.rows())?;
        expect_dim("columns of the output", self.o.map_or(sizes.heads, |o| o.cols()), out.cols())?;
        let needed = self.scratch_len(len);
        expect_scratch(needed, scratch.len())?;
        let short = Error::ScratchTooShort { needed, got: scratch.len() };

        // Every length below is part of `scratch_len`, so these succeed.
        let mut rest = scratch;
        let mut take = |columns: usize| {
            let (part, left) = core::mem::take(&mut rest).split_at_mut_checked(columns * len).ok_or(short)?;
            rest = left;
            Ok(part)
        };
        let (q, k, v, heads) = (take(sizes.q)?, take(sizes.k)?, take(sizes.v)?, take(sizes.heads)?);

        let product = match self.attention.chosen_tier() {
            None => Matmul::new(),
            Some(tier) => Matmul::new().tier(tier),
        };
        self.q.run(product, x, MatMut::new(q, len, sizes.q)?, rest)?;
        self.k.run(product, x, MatMut::new(k, len, sizes.k)?, rest)?;
        self.v.run(product, x, MatMut::new(v, len, sizes.v)?, rest)?;
        if let Some(rotary) = self.rotary {
            rotary.rotate(HeadsMut::token_major(q, len, self.n_heads, sizes.head_dim)?, &[0])?;
            rotary.rotate(HeadsMut::token_major(k, len, self.n_kv_heads, sizes.head_dim)?, &[0])?;
        }
        self.attention.run(
            HeadsRef::token_major(q, len, self.n_heads, sizes.head_dim)?,
            HeadsRef::token_major(k, len, self.n_kv_heads, sizes.head_dim)?,
            HeadsRef::token_major(v, len, self.n_kv_heads, sizes.v_head_dim)?,
            HeadsMut::token_major(heads, len, self.n_heads, sizes.v_head_dim)?,
            rest,
        )?;
        match self.output_projection() {
            Some(o) => o.run(product, MatRef::new(heads, len, sizes.heads)?, out, rest),
            None => {
                for (i, row) in heads.chunks_exact(sizes.heads.max(1)).enumerate() {
                    // SAFETY: as many rows, each as long as the output's, which is a valid view.
                    unsafe { unpack_row(crate::arch::scalar::Scalar, row.as_ptr(), out.raw, i) };
                }
                Ok(())
            }
        }
    }
}
