//! Any sizes and strides: a view exactly if its elements lie inside the slice and, to write, apart;
//! writing through it changes those elements and no others.
#![cfg_attr(fuzzing, no_main)]

#[path = "../../tests/common/mod.rs"]
mod common;
mod target;

use arbitrary::{Arbitrary, Unstructured};
use common::views::{fits, is_disjoint, mark, mark_heads};
use qkv::{
    HeadsMut, HeadsRef, MatMut, MatRef, PackedMat, attention_scratch_len, matmul_scratch_len, softmax,
};

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Size {
    Small(u8),
    Any(usize),
    NearMax(u8),
}

impl Size {
    fn value(self) -> usize {
        match self {
            Size::Small(n) => usize::from(n % 32),
            Size::Any(n) => n,
            Size::NearMax(n) => usize::MAX - usize::from(n),
        }
    }
}

#[derive(Arbitrary, Debug)]
struct Input {
    len: u8,
    sizes: [Size; 3],
    strides: [Size; 2],
    /// Where views are split.
    at: Size,
    turned: bool,
}

/// No view of fewer elements takes long.
const MOST: usize = 4096;

fn one(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok(input) = Input::arbitrary(&mut u) else { return };
    matrices(&input);
    heads(&input);
    lengths(&input);
}
target::target!(one);

fn matrices(input: &Input) {
    let (len, [rows, cols, _]) = (usize::from(input.len), input.sizes.map(Size::value));
    let ([row_stride, col_stride], at) = (input.strides.map(Size::value), input.at.value());
    let mut data = vec![0.0_f32; len];
    let dims = [(rows, row_stride), (cols, col_stride), (1, 1)];
    let many = rows.checked_mul(cols).is_none_or(|n| n > MOST);

    let read = MatRef::with_strides(&data, rows, cols, row_stride, col_stride);
    assert_eq!(read.is_ok(), fits(&dims, len), "to read: {input:?}");
    if let Ok(view) = read
        && !many
        && rows <= MOST
        && cols <= MOST
    {
        // Every element is read.
        let view = if input.turned { view.t() } else { view };
        let mut out = vec![f32::NAN; rows * cols];
        let out_view = MatMut::new(&mut out, view.rows(), view.cols()).expect("as long as the view");
        softmax(view, out_view).expect("sizes agree");
        assert!(out.iter().all(|&p| p == out[0] && p > 0.0), "{input:?}: {out:?}");
    }

    let Ok(view) = MatMut::with_strides(&mut data, rows, cols, row_stride, col_stride) else { return };
    if rows == 0 || cols == 0 {
        return;
    }
    assert!(rows.checked_mul(cols).is_some_and(|n| n <= len), "elements meet: {input:?}");
    assert!(is_disjoint(dims, len), "elements meet: {input:?}");
    let view = if input.turned { view.t() } else { view };
    let first = at.min(view.rows());
    let (above, below) = view.split_at_row(first).expect("a row");
    mark(above, 1.0);
    mark(below, 2.0);
    for (i, j) in (0..rows).flat_map(|i| (0..cols).map(move |j| (i, j))) {
        let place = if rows > 1 { i * row_stride } else { 0 } + if cols > 1 { j * col_stride } else { 0 };
        let part = if (if input.turned { j } else { i }) < first { 1.0 } else { 2.0 };
        assert_eq!(core::mem::take(&mut data[place]), part, "({i}, {j}): {input:?}");
    }
    assert!(data.iter().all(|&x| x == 0.0), "written outside: {input:?}");
}

fn heads(input: &Input) {
    let (len, [tokens, heads, dim]) = (usize::from(input.len), input.sizes.map(Size::value));
    let ([token_stride, head_stride], at) = (input.strides.map(Size::value), input.at.value());
    let mut data = vec![0.0_f32; len];
    let dims = [(tokens, token_stride), (heads, head_stride), (dim, 1)];
    let read = HeadsRef::with_strides(&data, tokens, heads, dim, token_stride, head_stride);
    assert_eq!(read.is_ok(), fits(&dims, len), "to read: {input:?}");
    if let Ok(view) = read {
        assert_eq!(view.first_rows(at).is_ok(), at <= tokens, "{input:?}");
    }
    let _ =
        (HeadsRef::token_major(&data, tokens, heads, dim), HeadsRef::head_major(&data, tokens, heads, dim));

    let write = HeadsMut::with_strides(&mut data, tokens, heads, dim, token_stride, head_stride);
    let Ok(view) = write else { return };
    if tokens == 0 || heads == 0 || dim == 0 {
        return;
    }
    let count = tokens.checked_mul(heads).and_then(|n| n.checked_mul(dim));
    assert!(count.is_some_and(|n| n <= len), "elements meet: {input:?}");
    assert!(is_disjoint(dims, len), "elements meet: {input:?}");
    let size = if at == 0 { 1 } else { at };
    view.head_chunks(size).enumerate().for_each(|(n, part)| {
        let token = (n + 1) % (tokens + 1);
        let (first, second) = part.split_at_row(token).expect("a token");
        mark_heads(first, (2 * n + 1) as f32);
        mark_heads(second, (2 * n + 2) as f32);
    });
    for (t, h) in (0..tokens).flat_map(|t| (0..heads).map(move |h| (t, h))) {
        let chunk = h / size;
        let part = 2 * chunk + if t < (chunk + 1) % (tokens + 1) { 1 } else { 2 };
        let place =
            if tokens > 1 { t * token_stride } else { 0 } + if heads > 1 { h * head_stride } else { 0 };
        for d in 0..dim {
            assert_eq!(core::mem::take(&mut data[place + d]), part as f32, "({t}, {h}, {d}): {input:?}");
        }
    }
    assert!(data.iter().all(|&x| x == 0.0), "written outside: {input:?}");
}

fn lengths(input: &Input) {
    let [m, k, n] = input.sizes.map(Size::value);
    let _ = (matmul_scratch_len(m, k, n), attention_scratch_len(m, k, n, input.at.value()));
    let (b, mut storage) = (vec![0.5_f32; usize::from(input.len)], vec![f32::NAN; 512]);
    if let Ok(b) = MatRef::new(&b, k, n) {
        let packed = PackedMat::<f32>::pack(b, &mut storage);
        assert_eq!(packed.is_ok(), PackedMat::<f32>::len(k, n) <= 512, "{input:?}");
    }
}
