//! MatMul, Gemm, Einsum and the generated products, as calls of `qkv::Matmul` on views of matrices.

use crate::attention::{expect_shape, on};
use crate::case::{Case, Dtype, Stop};
use crate::common::buffer::{Buffer, Typed};
use crate::common::{nan_scratch, tiers};
use crate::judge::{self, judge};
use crate::with_type;
use qkv::{MatMut, MatRef, Matmul, Tier, matmul_scratch_len};

/// A matrix inside a buffer.
#[derive(Clone, Copy)]
pub struct Mat<'a> {
    buffer: &'a Buffer,
    /// Its first element.
    from: usize,
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Mat<'a> {
    /// Row by row, without gaps.
    pub fn plain(buffer: &'a Buffer, from: usize, rows: usize, cols: usize) -> Mat<'a> {
        Mat { buffer, from, rows, cols, row_stride: cols, col_stride: 1 }
    }

    fn t(self) -> Mat<'a> {
        let Mat { rows, cols, row_stride, col_stride, .. } = self;
        Mat { rows: cols, cols: rows, row_stride: col_stride, col_stride: row_stride, ..self }
    }

    fn view<T: Typed>(&self) -> Result<MatRef<'_, T>, qkv::Error> {
        let elements = T::slice(self.buffer).get(self.from..).unwrap_or_default();
        MatRef::with_strides(elements, self.rows, self.cols, self.row_stride, self.col_stride)
    }
}

/// `C = alpha A B + beta C + bias`, where C lies from `from` on in `c` with `row_stride` from row to row.
pub fn product(
    tier: Tier,
    (alpha, beta, bias): (f32, f32, Option<&[f32]>),
    a: Mat<'_>,
    b: Mat<'_>,
    c: &mut Buffer,
    from: usize,
    row_stride: usize,
) -> Result<(), Stop> {
    let mut options = Matmul::new().tier(tier).alpha(alpha).beta(beta);
    if let Some(bias) = bias {
        options = options.bias(bias);
    }
    let scratch = &mut nan_scratch(matmul_scratch_len(a.rows, a.cols, b.cols));
    with_type!(a.buffer.kind(), A => with_type!(b.buffer.kind(), B => with_type!(c.kind(), C => {
        let elements = C::slice_mut(c).get_mut(from..).unwrap_or_default();
        let c = MatMut::with_strides(elements, a.rows, b.cols, row_stride, 1)?;
        options.run(a.view::<A>()?, b.view::<B>()?, c, scratch)?;
    })));
    Ok(())
}

/// MatMul: products of the last two dimensions, for each index of those before, which are broadcast.
pub fn matmul(case: &Case) -> Result<(), Stop> {
    let (a, b, truth) = (case.needed(0, "A")?, case.needed(1, "B")?, case.wanted(0)?);
    let (a_buffer, b_buffer, kind) = (a.buffer()?, b.buffer()?, truth.dtype.kind()?);
    let (mut a_shape, mut b_shape) = (a.shape.clone(), b.shape.clone());
    // A vector is a row on the left and a column on the right.
    if a.shape.len() == 1 {
        a_shape.insert(0, 1);
    }
    if b.shape.len() == 1 {
        b_shape.push(1);
    }
    let ([a_batch @ .., m, k], [b_batch @ .., b_k, n]) = (&a_shape[..], &b_shape[..]) else {
        return Err("a scalar operand".into());
    };
    let batch = broadcast(a_batch, b_batch)?;
    let mut shape = batch.clone();
    shape.extend((a.shape.len() > 1).then_some(*m).into_iter().chain((b.shape.len() > 1).then_some(*n)));
    expect_shape(&truth.shape, &shape)?;
    let bounds = judge::of_operator(kind, &truth);
    for tier in tiers() {
        let mut out = Buffer::new(kind, truth.values.len());
        for i in 0..batch.iter().product() {
            let a = Mat::plain(&a_buffer, place(i, &batch, a_batch) * m * k, *m, *k);
            let b = Mat::plain(&b_buffer, place(i, &batch, b_batch) * b_k * n, *b_k, *n);
            product(tier, (1.0, 0.0, None), a, b, &mut out, i * m * n, *n)?;
        }
        judge(&on(&truth.name, tier), &out, &truth.values, &bounds)?;
    }
    case.finish()
}

/// Gemm: `alpha A' B' + beta C`, where C is broadcast; as what the output held and, if it is a row, as bias.
pub fn gemm(case: &Case) -> Result<(), Stop> {
    let (a, b, c) = (case.needed(0, "A")?, case.needed(1, "B")?, case.input(2)?);
    let (alpha, beta) = (case.float("alpha", 1.0)?, case.float("beta", 1.0)?);
    let truth = case.wanted(0)?;
    let (a_buffer, b_buffer, kind) = (a.buffer()?, b.buffer()?, truth.dtype.kind()?);
    let ([a_rows, a_cols], [b_rows, b_cols]) = (&a.shape[..], &b.shape[..]) else {
        return Err("operands that are no matrices".into());
    };
    let (mut a, mut b) =
        (Mat::plain(&a_buffer, 0, *a_rows, *a_cols), Mat::plain(&b_buffer, 0, *b_rows, *b_cols));
    if case.flag("transA")? {
        a = a.t();
    }
    if case.flag("transB")? {
        b = b.t();
    }
    let shape = [a.rows, b.cols];
    expect_shape(&truth.shape, &shape)?;
    let bounds = judge::of_operator(kind, &truth);
    let check = |out: &Buffer, tier| judge(&on(&truth.name, tier), out, &truth.values, &bounds);
    for tier in tiers() {
        let mut out = Buffer::new(kind, truth.values.len());
        let Some(c) = &c else {
            product(tier, (alpha, 0.0, None), a, b, &mut out, 0, b.cols)?;
            check(&out, tier)?;
            continue;
        };
        let held = c.buffer()?;
        if c.shape.len() > 2 || broadcast(&c.shape, &shape)? != shape {
            return Err(format!("C of shape {:?} for a product of shape {shape:?}", c.shape).into());
        }
        for i in 0..out.len() {
            out.set_bits(i, kind.bits(held.value(place(i, &shape, &c.shape))));
        }
        product(tier, (alpha, beta, None), a, b, &mut out, 0, b.cols)?;
        check(&out, tier)?;
        if a.rows > 0 && (c.shape.len() < 2 || c.shape[0] == 1) {
            let row: Vec<f32> = (0..b.cols).map(|j| beta * held.value(place(j, &shape, &c.shape))).collect();
            let mut out = Buffer::new(kind, truth.values.len());
            product(tier, (alpha, 0.0, Some(&row)), a, b, &mut out, 0, b.cols)?;
            check(&out, tier)?;
        }
    }
    case.finish()
}

/// The generated products: BLAS's `C = alpha op(A) op(B) + beta C` with leading dimensions. What lies behind
/// a row of C must stay.
pub fn generated(case: &Case) -> Result<(), Stop> {
    let (a, b, c) = (case.needed(0, "A")?, case.needed(1, "B")?, case.needed(2, "C")?);
    let size = |name| {
        let size = case.whole(name)?.and_then(|size| usize::try_from(size).ok());
        size.ok_or_else(|| Stop::from(format!("no size {name}")))
    };
    let (m, n, k) = (size("m")?, size("n")?, size("k")?);
    let (lda, ldb, ldc) = (size("lda")?, size("ldb")?, size("ldc")?);
    let (alpha, beta) = (case.float("alpha", 1.0)?, case.float("beta", 0.0)?);
    // Prose.
    case.text("note")?;
    let kind = match case.text("out_dtype")? {
        Some(name) => Dtype::parse(name)?.kind()?,
        None => c.dtype.kind()?,
    };
    let (a, b, held) = (a.buffer()?, b.buffer()?, c.buffer()?);
    let mat = |buffer, rows, cols, transposed, stride| {
        let (rows, cols) = if transposed { (cols, rows) } else { (rows, cols) };
        let mat = Mat { buffer, from: 0, rows, cols, row_stride: stride, col_stride: 1 };
        if transposed { mat.t() } else { mat }
    };
    let a = mat(&a, m, k, case.flag("trans_a")?, lda);
    let b = mat(&b, k, n, case.flag("trans_b")?, ldb);
    let (truth, sizes) = (case.wanted(0)?, case.wanted(1)?);
    expect_shape(&truth.shape, &[m, n])?;
    expect_shape(&sizes.shape, &[m, n])?;
    // What is not finite is met exactly.
    let size = |i: usize| if truth.values[i].is_finite() { sizes.values[i] } else { 0.0 };
    let error = |i: usize| (k + 3) as f64 * 2.0_f64.powi(-24) * size(i);
    let bounds = judge::stored(kind, &truth.values, error);
    let inside: Vec<usize> = (0..m).flat_map(|i| (0..n).map(move |j| i * ldc + j)).collect();
    let mut before = held.clone();
    if kind != held.kind() {
        before = Buffer::new(kind, held.len());
        (0..held.len()).for_each(|i| before.set_bits(i, kind.bits(held.value(i))));
    }
    for tier in tiers() {
        let mut out = before.clone();
        product(tier, (alpha, beta, None), a, b, &mut out, 0, ldc)?;
        out.check_untouched(&before, inside.iter().copied())?;
        let mut got = Buffer::new(kind, inside.len());
        inside.iter().enumerate().for_each(|(to, &from)| got.set_bits(to, out.bits(from)));
        judge(&on(&truth.name, tier), &got, &truth.values, &bounds)?;
    }
    case.finish()
}

/// The shape of two that are broadcast against each other.
fn broadcast(a: &[usize], b: &[usize]) -> Result<Vec<usize>, Stop> {
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], i: usize| (i + shape.len()).checked_sub(rank).map_or(1, |i| shape[i]);
    let both = |i| match (size(a, i), size(b, i)) {
        (x, y) if x == y || y == 1 => Ok(x),
        (1, y) => Ok(y),
        _ => Err(format!("{a:?} and {b:?} are not broadcast").into()),
    };
    (0..rank).map(both).collect()
}

/// Where element `i` of `shape` is read in `from`, which is broadcast to it.
fn place(i: usize, shape: &[usize], from: &[usize]) -> usize {
    let (mut rest, mut place, mut stride) = (i, 0, 1);
    for (d, size) in shape.iter().enumerate().rev() {
        let index = rest % size;
        rest /= size;
        if let Some(d) = (d + from.len()).checked_sub(shape.len()) {
            place += if from[d] == 1 { 0 } else { index * stride };
            stride *= from[d];
        }
    }
    place
}
