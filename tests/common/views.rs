//! What a view must be: inside its slice, and, to write, without elements that meet; and marking its
//! elements through the crate.

use qkv::{Attention, HeadsMut, HeadsRef, MatMut, MatRef, Matmul, attention_scratch_len};

/// Whether the last element of a view lies inside `len`, in numbers that cannot overflow.
pub fn fits(dims: &[(usize, usize)], len: usize) -> bool {
    let step = |&(size, stride): &(usize, usize)| (size as u128 - 1).saturating_mul(stride as u128);
    dims.iter().any(|&(size, _)| size == 0)
        || dims.iter().map(step).fold(0, u128::saturating_add) < len as u128
}

/// Whether no two elements of a view inside `len` places coincide.
pub fn is_disjoint(dims: [(usize, usize); 3], len: usize) -> bool {
    let [(rows, row_stride), (cols, col_stride), (width, _)] = dims;
    let mut taken = vec![false; len];
    for (i, j) in (0..rows).flat_map(|i| (0..cols).map(move |j| (i, j))) {
        for w in 0..width {
            let at =
                if rows > 1 { i * row_stride } else { 0 } + if cols > 1 { j * col_stride } else { 0 } + w;
            if core::mem::replace(&mut taken[at], true) {
                return false;
            }
        }
    }
    true
}

/// Writes `value` to every element of a matrix through the crate.
pub fn mark(c: MatMut<'_, f32>, value: f32) {
    let bias = vec![value; c.cols()];
    let (a, b) = ([0.0_f32; 0], [0.0_f32; 0]);
    let (a, b) =
        (MatRef::new(&a, c.rows(), 0).expect("no elements"), MatRef::new(&b, 0, c.cols()).expect("none"));
    Matmul::new().bias(&bias).run(a, b, c, &mut []).expect("sizes agree");
}

/// Writes `value` to every element of some heads: the attention to one key with that value.
pub fn mark_heads(out: HeadsMut<'_, f32>, value: f32) {
    let (len, heads, dim) = (out.len(), out.n_heads(), out.head_dim());
    let v = vec![value; dim];
    let q = HeadsRef::token_major(&[] as &[f32], len, heads, 0).expect("no elements");
    let k = HeadsRef::token_major(&[] as &[f32], 1, 1, 0).expect("no elements");
    let mut scratch = vec![f32::NAN; attention_scratch_len(len, 1, 0, dim)];
    let v = HeadsRef::token_major(&v, 1, 1, dim).expect("one value");
    Attention::new().run(q, k, v, out, &mut scratch).expect("sizes agree");
}
