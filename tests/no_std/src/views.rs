//! Views: every constructor and part, with sizes and strides that may be anything.

use qkv::{Error, HeadsMut, HeadsRef, MatMut, MatRef, Tier};

use crate::data::{numbers, unknown};
use crate::{Check, ensure};

pub fn run() -> Check {
    let mut data = numbers::<f32, 240>(1);
    matrices(unknown(data.as_mut_slice()), unknown([4, 6, 7, 1]))?;
    heads(unknown(data.as_mut_slice()), unknown([5, 4, 6, 48, 8, 2]))?;
    tiers()
}

fn matrices(data: &mut [f32], [rows, cols, row_stride, col_stride]: [usize; 4]) -> Check {
    let a = MatRef::with_strides(data, rows, cols, row_stride, col_stride)?.t();
    ensure((a.rows(), a.cols()) == (cols, rows), "transposed sizes")?;
    let huge = MatRef::with_strides(data, unknown(usize::MAX), cols, unknown(usize::MAX), 1);
    ensure(huge.err() == Some(Error::ShapeOverflow), "overflow is an error")?;
    let overlapping = MatMut::with_strides(data, rows, cols, unknown(1), unknown(1));
    ensure(matches!(overlapping, Err(Error::OverlappingStrides { .. })), "overlap is an error")?;
    ensure(MatMut::new(data, unknown(100), unknown(100)).is_err(), "a short slice is an error")?;
    let mut c = MatMut::with_strides(data, rows, cols, row_stride, col_stride)?;
    ensure(c.reborrow().t().rows() == cols, "reborrowed sizes")?;
    let (top, bottom) = c.split_at_row(unknown(1))?;
    ensure((top.rows(), bottom.rows()) == (1, rows - 1), "parts of a matrix")
}

fn heads(data: &mut [f32], sizes: [usize; 6]) -> Check {
    let [len, n_heads, head_dim, token_stride, head_stride, part] = sizes;
    let k = HeadsRef::with_strides(data, len, n_heads, head_dim, token_stride, head_stride)?;
    let (left, right) = k.split_at_head(part)?;
    ensure((left.n_heads(), right.n_heads()) == (part, n_heads - part), "parts of heads")?;
    let (early, late) = k.first_rows(unknown(4))?.split_at_row(part)?;
    ensure((early.len(), late.len(), late.head_dim()) == (part, 4 - part, head_dim), "parts of tokens")?;
    ensure(HeadsRef::head_major(data, len, n_heads, head_dim)?.len() == len, "head-major")?;
    ensure(HeadsRef::token_major(data, unknown(usize::MAX), n_heads, head_dim).is_err(), "too many tokens")?;
    ensure(k.head_chunks(unknown(3)).count() > 0, "chunks to read")?;

    let mut out = HeadsMut::token_major(data, len, n_heads, head_dim)?;
    ensure(out.reborrow().first_rows(unknown(9)).is_err(), "more rows than there are")?;
    ensure(out.reborrow().split_at_row(part)?.1.len() == len - part, "later tokens")?;
    ensure(out.reborrow().split_at_head(part)?.0.n_heads() == part, "first heads")?;
    ensure(out.head_chunks(unknown(3)).map(|chunk| chunk.n_heads()).sum::<usize>() == n_heads, "chunks")?;
    ensure(HeadsMut::head_major(data, len, n_heads, head_dim)?.n_heads() == n_heads, "head-major output")?;
    let overlapping = HeadsMut::with_strides(data, len, n_heads, head_dim, unknown(1), unknown(1));
    ensure(overlapping.is_err(), "overlapping heads are an error")
}

fn tiers() -> Check {
    ensure(Tier::all().any(|tier| tier == Tier::detect()), "the tier is one of all")?;
    ensure(!Tier::scalar().is_fused() && !Tier::detect().name().is_empty(), "a tier's facts")?;
    ensure(Tier::all().any(|tier| tier == Tier::portable()), "the portable tier runs everywhere")
}
