//! Views: what they refuse, with the numbers, and how they split. No argument makes them panic.
#![cfg(feature = "half")]

mod common;

use common::views::{fits, is_disjoint, mark, mark_heads};
use common::{Rng, tiers};
use qkv::{Error, HeadsMut, HeadsRef, MatMut, MatRef, PackedMat, attention_scratch_len, matmul_scratch_len};
use quickcheck::{Arbitrary, Gen, QuickCheck};

const MAX: usize = usize::MAX;
const HALF: usize = usize::MAX / 2;

#[test]
fn slice_that_ends_early_is_refused_with_the_numbers() {
    let mut data = [0.0_f32; 11];
    let short = |needed| Some(Error::SliceTooShort { needed, got: 11 });
    assert_eq!(MatRef::new(&data, 3, 4).err(), short(12));
    assert_eq!(MatRef::with_strides(&data, 3, 2, 5, 1).err(), short(12));
    assert_eq!(MatRef::with_strides(&data, 2, 3, 1, 5).err(), short(12));
    assert_eq!(MatRef::with_strides(&data, 1, 12, 0, 1).err(), short(12));
    assert_eq!(HeadsRef::token_major(&data, 2, 2, 3).err(), short(12));
    assert_eq!(HeadsRef::head_major(&data, 2, 2, 3).err(), short(12));
    assert_eq!(HeadsRef::with_strides(&data, 2, 2, 2, 7, 3).err(), short(12));
    assert_eq!(MatMut::new(&mut data, 3, 4).err(), short(12));
    assert_eq!(MatMut::with_strides(&mut data, 3, 2, 5, 1).err(), short(12));
    assert_eq!(HeadsMut::token_major(&mut data, 2, 2, 3).err(), short(12));
    assert_eq!(HeadsMut::head_major(&mut data, 2, 2, 3).err(), short(12));
    assert_eq!(HeadsMut::with_strides(&mut data, 2, 2, 2, 7, 3).err(), short(12));
}

#[test]
fn slice_may_end_at_the_last_element() {
    let mut data = [0.0_f32; 12];
    assert!(MatRef::new(&data, 3, 4).is_ok());
    assert!(MatRef::with_strides(&data, 3, 2, 5, 1).is_ok());
    assert!(HeadsRef::with_strides(&data, 2, 2, 2, 7, 3).is_ok());
    assert!(MatMut::with_strides(&mut data, 3, 2, 5, 1).is_ok());
    assert!(HeadsMut::with_strides(&mut data, 2, 2, 2, 7, 3).is_ok());
}

#[test]
fn products_beyond_usize_are_refused() {
    let mut data = [0.0_f32; 4];
    let overflow = Some(Error::ShapeOverflow);
    assert_eq!(MatRef::new(&data, MAX, MAX).err(), overflow);
    assert_eq!(MatRef::new(&data, HALF, 3).err(), overflow);
    assert_eq!(MatRef::with_strides(&data, 3, 1, MAX, 1).err(), overflow);
    assert_eq!(MatRef::with_strides(&data, 2, 2, MAX, 1).err(), overflow);
    assert_eq!(MatRef::with_strides(&data, 2, 1, MAX, 1).err(), overflow);
    assert_eq!(HeadsRef::token_major(&data, 2, MAX, 2).err(), overflow);
    assert_eq!(HeadsRef::head_major(&data, MAX, 2, 2).err(), overflow);
    assert_eq!(HeadsRef::with_strides(&data, 3, 1, 1, MAX, 0).err(), overflow);
    assert_eq!(HeadsRef::with_strides(&data, 2, 2, 2, MAX, 1).err(), overflow);
    assert_eq!(MatMut::new(&mut data, MAX, 2).err(), overflow);
    assert_eq!(MatMut::with_strides(&mut data, 2, 2, MAX, 1).err(), overflow);
    assert_eq!(HeadsMut::token_major(&mut data, 2, 2, MAX).err(), overflow);
    assert_eq!(HeadsMut::head_major(&mut data, 2, 2, MAX).err(), overflow);
    // Not beyond, but no slice is that long.
    assert_eq!(MatRef::new(&data, MAX, 1).err(), Some(Error::SliceTooShort { needed: MAX, got: 4 }));
}

#[test]
fn stride_of_a_dimension_of_one_is_free() {
    let mut data = [0.0_f32; 3];
    assert!(MatRef::with_strides(&data, 1, 3, MAX, 1).is_ok());
    assert!(MatMut::with_strides(&mut data, 1, 3, MAX, 1).is_ok());
    assert!(MatMut::with_strides(&mut data, 3, 1, 1, 0).is_ok());
    assert!(HeadsRef::with_strides(&data, 1, 1, 3, MAX, MAX).is_ok());
    assert!(HeadsMut::with_strides(&mut data, 1, 1, 3, 0, MAX).is_ok());
}

#[test]
fn empty_shapes_are_ok_whatever_the_strides() {
    let mut none = [0.0_f32; 0];
    for (rows, cols) in [(0, 0), (0, 5), (5, 0), (0, MAX), (MAX, 0)] {
        assert!(MatRef::new(&none, rows, cols).is_ok(), "{rows} x {cols}");
        assert!(MatRef::with_strides(&none, rows, cols, MAX, MAX).is_ok(), "{rows} x {cols}");
        assert!(MatMut::new(&mut none, rows, cols).is_ok(), "{rows} x {cols}");
        assert!(MatMut::with_strides(&mut none, rows, cols, 0, 0).is_ok(), "{rows} x {cols}");
    }
    for (len, heads, dim) in [(0, 5, 5), (5, 0, 5), (5, 5, 0), (0, MAX, 1), (MAX, 0, 0), (MAX, 1, 0)] {
        assert!(HeadsRef::token_major(&none, len, heads, dim).is_ok(), "{len} {heads} {dim}");
        assert!(HeadsMut::head_major(&mut none, len, heads, dim).is_ok(), "{len} {heads} {dim}");
        assert!(HeadsMut::with_strides(&mut none, len, heads, dim, 0, MAX).is_ok(), "{len} {heads} {dim}");
    }
}

#[test]
fn mutable_view_whose_elements_meet_is_refused() {
    let mut data = [0.0_f32; 100];
    let overlap = |stride, needed| Some(Error::OverlappingStrides { stride, needed });
    assert_eq!(MatMut::with_strides(&mut data, 3, 4, 3, 1).err(), overlap(3, 4));
    assert_eq!(MatMut::with_strides(&mut data, 3, 4, 0, 1).err(), overlap(0, 4));
    assert_eq!(MatMut::with_strides(&mut data, 3, 4, 6, 2).err(), overlap(6, 7));
    assert_eq!(MatMut::with_strides(&mut data, 2, 2, 0, 0).err(), overlap(0, 1));
    assert_eq!(HeadsMut::with_strides(&mut data, 3, 2, 5, 9, 5).err(), overlap(9, 10));
    assert_eq!(HeadsMut::with_strides(&mut data, 3, 2, 5, 10, 4).err(), overlap(4, 5));
    assert!(MatMut::with_strides(&mut data, 3, 4, 7, 2).is_ok());
    assert!(MatMut::with_strides(&mut data, 3, 4, 2, 6).is_ok(), "columns outside");
    assert!(HeadsMut::with_strides(&mut data, 3, 2, 5, 10, 5).is_ok());
    assert!(HeadsMut::with_strides(&mut data, 3, 2, 5, 5, 15).is_ok(), "heads outside");
    // To read, they may meet.
    assert!(MatRef::with_strides(&data, 3, 4, 0, 1).is_ok());
    assert!(HeadsRef::with_strides(&data, 3, 2, 5, 0, 0).is_ok());
}

/// Sizes, mostly small, sometimes extreme.
#[derive(Clone, Copy, Debug)]
struct Size(usize);

impl Arbitrary for Size {
    fn arbitrary(g: &mut Gen) -> Size {
        let mut rng = Rng::new(u64::arbitrary(g));
        // Two of the square root multiply to 2^64, or 2^32 where pointers have 32 bits.
        let root = 1 << (usize::BITS / 2);
        let extreme =
            [MAX, MAX - 1, HALF, HALF + 1, root, root - 1, MAX / 4 + 1, MAX / 3, rng.word() as usize];
        Size(if rng.below(3) == 0 { rng.pick(&extreme) } else { rng.below(9) })
    }
}

fn check(seed: u64, property: fn([Size; 3], [Size; 2]) -> Result<(), String>) {
    struct Five(fn([Size; 3], [Size; 2]) -> Result<(), String>);
    impl quickcheck::Testable for Five {
        fn result(&self, g: &mut Gen) -> quickcheck::TestResult {
            let mut size = || Size::arbitrary(g);
            let (sizes, strides) = ([size(), size(), size()], [size(), size()]);
            match (self.0)(sizes, strides) {
                Ok(()) => quickcheck::TestResult::passed(),
                Err(message) => quickcheck::TestResult::error(format!("{sizes:?} {strides:?}: {message}")),
            }
        }
    }
    if let Err(result) =
        QuickCheck::new().rng(Gen::from_size_and_seed(10, seed)).tests(10_000).quicktest(Five(property))
    {
        panic!("{result:?}");
    }
}

#[test]
fn prop_matrix_views_are_sound_for_any_arguments() {
    check(1, |[Size(rows), Size(cols), _], [Size(row_stride), Size(col_stride)]| {
        let mut data = [0.0_f32; 60];
        let dims = [(rows, row_stride), (cols, col_stride), (1, 1)];
        let read = MatRef::with_strides(&data, rows, cols, row_stride, col_stride);
        if read.is_ok() != fits(&dims, 60) {
            return Err(format!("to read: {:?}", read.err()));
        }
        let write = MatMut::with_strides(&mut data, rows, cols, row_stride, col_stride);
        // A view of more than 60 elements has some that coincide.
        let many = rows.checked_mul(cols).is_none_or(|n| n > 60);
        if write.is_ok() && rows > 0 && cols > 0 && (many || !is_disjoint(dims, 60)) {
            return Err("a mutable view whose elements meet".to_owned());
        }
        if MatRef::new(&data, rows, cols).is_ok() != fits(&[(rows, cols), (cols, 1)], 60) {
            return Err("row-major".to_owned());
        }
        let _ = MatMut::new(&mut data, rows, cols).map(MatMut::t);
        Ok(())
    });
}

#[test]
fn prop_head_views_are_sound_for_any_arguments() {
    check(2, |[Size(len), Size(heads), Size(dim)], [Size(token_stride), Size(head_stride)]| {
        let mut data = [0.0_f32; 60];
        let dims = [(len, token_stride), (heads, head_stride), (dim, 1)];
        let read = HeadsRef::with_strides(&data, len, heads, dim, token_stride, head_stride);
        if read.is_ok() != fits(&dims, 60) {
            return Err(format!("to read: {:?}", read.err()));
        }
        let empty = len == 0 || heads == 0 || dim == 0;
        let write = HeadsMut::with_strides(&mut data, len, heads, dim, token_stride, head_stride);
        let many = len.checked_mul(heads).and_then(|n| n.checked_mul(dim)).is_none_or(|n| n > 60);
        if write.is_ok() && !empty && (many || !is_disjoint(dims, 60)) {
            return Err("a mutable view whose elements meet".to_owned());
        }
        let _ = (HeadsRef::token_major(&data, len, heads, dim), HeadsRef::head_major(&data, len, heads, dim));
        let _ = HeadsMut::token_major(&mut data, len, heads, dim).map(|view| view.split_at_row(token_stride));
        let _ = HeadsMut::head_major(&mut data, len, heads, dim)
            .map(|view| view.head_chunks(dim).next().is_some());
        Ok(())
    });
}

/// So that the scratch of the largest call is enough for all of them.
#[test]
fn scratch_of_a_product_never_falls_when_a_size_grows() {
    let sizes = [0, 1, 2, 3, 7, 16, 63, 64, 65, 71, 72, 73, 200, 288, 289, 512, 513, 1100, 2048, 8192, 9000];
    let next = |i: usize| sizes.get(i + 1).copied().unwrap_or(20_000);
    for (i, &m) in sizes.iter().enumerate() {
        for (j, &k) in sizes.iter().enumerate() {
            for (l, &n) in sizes.iter().enumerate() {
                let len = matmul_scratch_len(m, k, n);
                for (m, k, n) in [(next(i), k, n), (m, next(j), n), (m, k, next(l)), (m + 1, k, n)] {
                    assert!(matmul_scratch_len(m, k, n) >= len, "{m} x {k} x {n}: less than {len}");
                }
            }
        }
    }
}

#[test]
fn prop_lengths_never_panic_and_grow_with_the_sizes() {
    check(3, |[Size(m), Size(k), Size(n)], [Size(d), _]| {
        let more = |n: usize| n.saturating_add(1);
        if matmul_scratch_len(m, k, n) > 16 << 20 {
            return Err("scratch of a product beyond 64 MiB".to_owned());
        }
        let attention = attention_scratch_len(m, k, n, d);
        if m > 0 && attention_scratch_len(more(m), more(k), more(n), more(d)) < attention {
            return Err(format!("{attention} floats shrink"));
        }
        let packed = PackedMat::<f32>::len(k, n);
        if (packed as u128) < k as u128 * n as u128 && packed != MAX {
            return Err(format!("{packed} elements are too few"));
        }
        let mut storage = [0.0_f32; 64];
        let _ = MatRef::new(&[0.0_f32; 9], k, n).map(|b| PackedMat::pack(b, &mut storage).is_ok());
        let _ = PackedMat::from_packed(&storage, k, n).is_ok();
        Ok(())
    });
}

#[test]
fn rows_of_a_matrix_split_into_two_that_cover_it_once() {
    for row in 0..=5 {
        let mut data = [0.0_f32; 3 * 5];
        let view = MatMut::new(&mut data, 3, 5).expect("15 elements").t();
        let (above, below) = view.split_at_row(row).expect("a row");
        assert_eq!((above.rows(), below.rows(), above.cols(), below.cols()), (row, 5 - row, 3, 3));
        mark(above, 1.0);
        mark(below, 2.0);
        for (at, x) in data.iter().enumerate() {
            assert_eq!(*x, if at % 5 < row { 1.0 } else { 2.0 }, "row {row}, element {at}");
        }
    }
    let mut data = [0.0_f32; 15];
    let refused = MatMut::new(&mut data, 3, 5).expect("15 elements").split_at_row(4).err();
    assert_eq!(refused, Some(Error::TooLarge { what: "rows of a part", most: 3, got: 4 }));
}

#[test]
fn columns_of_a_matrix_split_into_two_that_cover_it_once() {
    for col in 0..=5 {
        let mut data = [0.0_f32; 3 * 5];
        let view = MatMut::new(&mut data, 3, 5).expect("15 elements");
        let (left, right) = view.as_ref().split_at_col(col).expect("a column");
        assert_eq!((left.cols(), right.cols(), left.rows(), right.rows()), (col, 5 - col, 3, 3));
        let (left, right) = view.split_at_col(col).expect("a column");
        mark(left, 1.0);
        mark(right, 2.0);
        for (at, x) in data.iter().enumerate() {
            assert_eq!(*x, if at % 5 < col { 1.0 } else { 2.0 }, "column {col}, element {at}");
        }
    }
    let data = [0.0_f32; 15];
    let view = MatRef::new(&data, 3, 5).expect("15 elements");
    let refused = view.split_at_col(6).expect_err("there are five");
    assert_eq!(refused, Error::TooLarge { what: "columns of a part", most: 5, got: 6 });
    assert_eq!(format!("{:?}", view.t()), "MatRef { sizes: [5, 3], strides: [1, 5] }");
}

fn sixty(
    data: &mut [f32; 60],
    (len, heads, dim): (usize, usize, usize),
    head_major: bool,
) -> HeadsMut<'_, f32> {
    match head_major {
        true => HeadsMut::head_major(data, len, heads, dim),
        false => HeadsMut::token_major(data, len, heads, dim),
    }
    .expect("60 elements")
}

#[test]
fn heads_split_into_parts_that_cover_them_once() {
    const SIZES: (usize, usize, usize) = (4, 5, 3);
    let (len, heads, dim) = SIZES;
    for head_major in [false, true] {
        let place = |t, h, d| if head_major { (h * len + t) * dim + d } else { (t * heads + h) * dim + d };
        let check = |data: &[f32; 60], part: &dyn Fn(usize, usize) -> usize| {
            for (t, h) in (0..len).flat_map(|t| (0..heads).map(move |h| (t, h))) {
                let found: Vec<f32> = (0..dim).map(|d| data[place(t, h, d)]).collect();
                assert_eq!(found, [part(t, h) as f32; 3], "token {t}, head {h}, head-major {head_major}");
            }
        };
        for at in 0..=len {
            let mut data = [-1.0_f32; 60];
            let (first, second) = sixty(&mut data, SIZES, head_major).split_at_row(at).expect("a token");
            assert_eq!((first.len(), second.len()), (at, len - at));
            mark_heads(first, 0.0);
            mark_heads(second, 1.0);
            check(&data, &|t, _| usize::from(t >= at));
        }
        for at in 0..=heads {
            let mut data = [-1.0_f32; 60];
            let (first, second) = sixty(&mut data, SIZES, head_major).split_at_head(at).expect("a head");
            assert_eq!((first.n_heads(), second.n_heads()), (at, heads - at));
            mark_heads(first, 0.0);
            mark_heads(second, 1.0);
            check(&data, &|_, h| usize::from(h >= at));
        }
        for size in [0, 1, 2, 3, 5, 6, MAX] {
            let mut data = [-1.0_f32; 60];
            sixty(&mut data, SIZES, head_major)
                .head_chunks(size)
                .enumerate()
                .for_each(|(n, part)| mark_heads(part, n as f32));
            check(&data, &|_, h| h / size.max(1));
        }
        let mut data = [-1.0_f32; 60];
        let refused = |what, most, got| Some(Error::TooLarge { what, most, got });
        let (rows, heads_of_it) = (refused("rows of a part", 4, 5), refused("heads of a part", 5, 6));
        assert_eq!(sixty(&mut data, SIZES, head_major).split_at_row(5).err(), rows);
        assert_eq!(sixty(&mut data, SIZES, head_major).split_at_head(6).err(), heads_of_it);
        assert_eq!(sixty(&mut data, SIZES, head_major).first_rows(5).err(), rows);
        mark_heads(sixty(&mut data, SIZES, head_major).first_rows(2).expect("two tokens"), 3.0);
        assert_eq!(data.iter().filter(|&&x| x == 3.0).count(), 2 * heads * dim);
    }
}

#[test]
fn parts_may_go_to_threads() {
    let mut data = [0.0_f32; 60];
    std::thread::scope(|scope| {
        for (n, part) in
            HeadsMut::token_major(&mut data, 4, 5, 3).expect("60 elements").head_chunks(2).enumerate()
        {
            scope.spawn(move || mark_heads(part, n as f32));
        }
    });
    assert!(data.iter().enumerate().all(|(at, &x)| x == (at / 3 % 5 / 2) as f32), "{data:?}");
    fn send<T: Send>() {}
    fn sync<T: Sync>() {}
    send::<(MatRef<'_, f32>, MatMut<'_, f32>, HeadsRef<'_, f32>, HeadsMut<'_, f32>, PackedMat<'_, f32>)>();
    sync::<(MatRef<'_, f32>, MatMut<'_, f32>, HeadsRef<'_, f32>, HeadsMut<'_, f32>, PackedMat<'_, f32>)>();
}

#[test]
fn reborrowed_view_writes_the_same_memory() {
    let mut data = [0.0_f32; 6];
    let mut view = MatMut::new(&mut data, 2, 3).expect("six elements");
    mark(view.reborrow(), 1.0);
    mark(view.reborrow().split_at_row(1).expect("a row").1, 2.0);
    assert_eq!(data, [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]);
    let mut heads = HeadsMut::token_major(&mut data, 2, 1, 3).expect("six elements");
    mark_heads(heads.reborrow(), 5.0);
    assert_eq!(data, [5.0; 6]);
}

#[test]
fn tier_detected_is_one_of_all_and_names_differ() {
    let names: Vec<&str> = tiers().iter().map(|tier| tier.name()).collect();
    assert!(tiers().contains(&qkv::Tier::detect()) && tiers().contains(&qkv::Tier::portable()));
    assert!(tiers().contains(&qkv::Tier::scalar()));
    let mut sorted = names.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted.len(), names.len(), "{names:?}");
    assert!(tiers().iter().all(|tier| tier.to_string() == tier.name()));
}

#[test]
fn empty_matrix_of_extreme_size_splits_when_turned() {
    for (rows, cols) in [(0, usize::MAX), (usize::MAX, 0)] {
        let mut none = [0.0_f32; 0];
        let turned = MatMut::new(&mut none, rows, cols).expect("no elements").t();
        let half = turned.rows() / 2;
        let (first, second) = turned.split_at_row(half).expect("that many rows");
        assert_eq!((first.rows(), second.rows()), (half, cols - half), "{rows} x {cols}");
    }
}
