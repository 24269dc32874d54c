//! Moving blocks between the caller's memory and scratch: widen, transpose, pad; and back.

use crate::elem::sealed::Lanes;
use crate::elem::{Elem, by_kind, load_some_columns, load_up_to, store_up_to};
use crate::simd::{MAX_LANES, Simd};
use crate::view::RawMat;

/// Columns so many bytes apart, or a multiple, are far from each other and share a set of the L1.
const CROWDED: usize = 8192;

/// Where a block goes: rows of `width` floats, `stride` apart.
#[derive(Clone, Copy)]
pub struct Grid {
    pub dst: *mut f32,
    pub stride: usize,
    pub width: usize,
}

impl Grid {
    #[inline(always)]
    fn at(self, i: usize, j: usize) -> *mut f32 {
        self.dst.wrapping_add(i * self.stride + j)
    }
}

/// Writes `src` as `f32` to `to`, zeros in columns `src.cols..to.width`.
///
/// # Safety
/// - `src` is a valid view.
/// - `to` is valid for writing `src.rows` rows; `src.cols <= to.width`.
#[inline(never)]
pub unsafe fn pack<S: Simd>(s: S, src: RawMat, to: Grid) {
    debug_assert!(src.cols <= to.width);
    s.vectorize(
        #[inline(always)]
        || {
            // SAFETY: as the caller promises.
            by_kind!(src.kind, E => unsafe {
                if src.col_stride == 1 {
                    copy::<S, E>(s, src, to);
                } else if src.row_stride == 1 && S::LANES > 1 {
                    turn::<S, E>(s, Columns::of(src), (0..src.cols).map(|j| src.at::<E>(0, j).cast_const()), |v, _| v, to);
                } else {
                    gather::<E>(src, to);
                }
            });
        },
    );
}

/// [`pack`] of columns that lie together, within the caller's region: vectors move as they are.
///
/// # Safety
/// - As [`pack`]; `src` has elements `E` and a column stride of 1.
#[inline(always)]
pub unsafe fn copy<S: Simd, E: Elem>(s: S, src: RawMat, to: Grid) {
    for i in 0..src.rows {
        let mut j = 0;
        // SAFETY: the columns from `j` on that exist are inside `src`, `width - j` inside `to`.
        unsafe {
            while j + 4 * S::LANES <= src.cols {
                for j in [j, j + S::LANES, j + 2 * S::LANES, j + 3 * S::LANES] {
                    s.store(to.at(i, j), E::load(s, src.at(i, j)));
                }
                j += 4 * S::LANES;
            }
            while j + S::LANES <= src.cols {
                s.store(to.at(i, j), E::load(s, src.at(i, j)));
                j += S::LANES;
            }
            while j < to.width {
                let n = src.cols.saturating_sub(j);
                let v = E::load_partial(s, src.at(i, j), n);
                store_up_to(s, to.at(i, j), to.width - j, v);
                j += S::LANES;
            }
        }
    }
}

/// The sizes of what [`turn`] transposes.
#[derive(Clone, Copy)]
pub struct Columns {
    /// Elements of a column, and columns.
    pub len: usize,
    pub count: usize,
    /// From one column to the next, if that is always the same.
    pub apart: Option<usize>,
}

impl Columns {
    fn of(src: RawMat) -> Columns {
        Columns { len: src.rows, count: src.cols, apart: Some(src.col_stride) }
    }
}

/// Columns become rows of vectors, four of `LANES` columns at a time, turned in registers:
/// `to[i][j] = map(columns[j][i], address of to[i][j])`, with zeros beyond the last column.
///
/// # Safety
/// - `columns` gives at least `size.count` addresses, each valid for reading `size.len` elements.
/// - `to` is valid for writing `size.len` rows.
#[inline(always)]
pub unsafe fn turn<S: Simd, E: Elem>(
    s: S,
    size: Columns,
    mut columns: impl Iterator<Item = *const E>,
    map: impl Fn(S::V, *mut f32) -> S::V,
    to: Grid,
) {
    let first = size.apart.and_then(|apart| Some((columns.next()?, apart)));
    let mut j = 0;
    while j < to.width {
        let cols = size.count.saturating_sub(j).min(S::LANES);
        let mut column = [core::ptr::null(); MAX_LANES];
        match first {
            // Nobody asks for the others.
            Some((first, apart)) if cols == S::LANES && size.len.is_multiple_of(4) => {
                column[0] = first.wrapping_add(j * apart);
            }
            Some((first, apart)) => {
                for (c, column) in column.iter_mut().enumerate().take(cols) {
                    *column = first.wrapping_add((j + c) * apart);
                }
            }
            None => {
                for (column, p) in column.iter_mut().take(cols).zip(&mut columns) {
                    *column = p;
                }
            }
        }
        let mut i = 0;
        if let Some((_, apart)) = first
            && cols == S::LANES
        {
            // Sixteen columns that share a set of the L1, and come from memory, are quicker four rows at a time.
            let crowded = (apart * size_of::<E>()).is_multiple_of(CROWDED);
            while i + 8 <= size.len && !crowded {
                // SAFETY: eight rows of `LANES` columns that exist, and their places in `to`.
                unsafe {
                    let eight = E::load_eight_columns(s, column[0].wrapping_add(i), apart);
                    put_whole(s, &eight, to, (i, j), &map);
                }
                i += 8;
            }
            while i + 4 <= size.len {
                // SAFETY: four rows of `LANES` columns that exist, and their places in `to`.
                unsafe {
                    let four = E::load_columns(s, column[0].wrapping_add(i), apart);
                    put_whole(s, &four, to, (i, j), &map);
                }
                i += 4;
            }
        }
        while i < size.len {
            let rows = (size.len - i).min(4);
            // SAFETY: rows from `i` on of columns that exist; `width - j` elements inside `to`.
            unsafe {
                let quad = load_some_columns(s, rows, |c| (c < cols).then(|| column[c].wrapping_add(i)));
                for (r, &v) in quad.iter().enumerate().take(rows) {
                    let at = to.at(i + r, j);
                    store_up_to(s, at, to.width - j, map(v, at));
                }
            }
            i += 4;
        }
        j += S::LANES;
    }
}

/// Whole vectors of neighbouring rows from `(i, j)` on.
#[inline(always)]
unsafe fn put_whole<S: Simd>(
    s: S,
    rows: &[S::V],
    to: Grid,
    (i, j): (usize, usize),
    map: &impl Fn(S::V, *mut f32) -> S::V,
) {
    for (r, &v) in rows.iter().enumerate() {
        let at = to.at(i + r, j);
        // SAFETY: as the caller promises.
        unsafe { s.store(at, map(v, at)) };
    }
}

/// Neither rows nor columns lie together: element by element.
#[inline(always)]
unsafe fn gather<E: Elem>(src: RawMat, to: Grid) {
    for i in 0..src.rows {
        for j in 0..to.width {
            // SAFETY: `(i, j)` is inside `src` where it is read, and inside `to`.
            unsafe {
                let x = if j < src.cols { (*src.at::<E>(i, j)).widen() } else { 0.0 };
                *to.at(i, j) = x;
            }
        }
    }
}

/// Writes row `i` of `dst` from `dst.cols` floats at `src`, rounded once to the view's type.
///
/// # Safety
/// - `src` is valid for reading `dst.cols` floats, `dst` is a valid view with a row `i`.
#[inline(always)]
pub unsafe fn unpack_row<S: Simd>(s: S, src: *const f32, dst: RawMat, i: usize) {
    by_kind!(dst.kind, E => {
        if dst.col_stride == 1 {
            let mut j = 0;
            while j < dst.cols {
                let n = dst.cols - j;
                // SAFETY: `n` elements from `j` on are inside both.
                unsafe { store_up_to::<S, E>(s, dst.at(i, j), n, load_up_to(s, src.add(j), n)) };
                j += S::LANES;
            }
        } else {
            for j in 0..dst.cols {
                // SAFETY: `(i, j)` is inside both.
                unsafe { *dst.at::<E>(i, j) = E::narrow(*src.add(j)) };
            }
        }
    });
}
