//! Moving blocks between the caller's memory and scratch: widen, transpose, scale, pad; and back.

use crate::elem::sealed::Lanes;
use crate::elem::{Elem, by_kind, load_some_columns, load_up_to, store_up_to};
use crate::simd::{MAX_LANES, Simd};
use crate::view::RawMat;

/// Writes `scale * src` as `f32` to `dst[i * dst_stride + j]`, zeros in columns `src.cols..width`.
///
/// # Safety
/// - `src` is a valid view.
/// - `dst` is valid for writing `width` elements at each of `src.rows` rows; `src.cols <= width`.
#[inline(never)]
pub unsafe fn pack<S: Simd>(s: S, src: RawMat, scale: f32, dst: *mut f32, dst_stride: usize, width: usize) {
    debug_assert!(src.cols <= width);
    // SAFETY: as the caller promises.
    s.vectorize(
        #[inline(always)]
        || {
            by_kind!(src.kind, E => unsafe {
                if src.col_stride == 1 {
                    copy::<S, E>(s, src, scale, dst, dst_stride, width);
                } else if src.row_stride == 1 {
                    transpose::<S, E>(s, src, scale, dst, dst_stride, width);
                } else {
                    gather::<E>(src, scale, dst, dst_stride, width);
                }
            })
        },
    );
}

/// Columns lie together: vectors move as they are.
#[inline(always)]
unsafe fn copy<S: Simd, E: Elem>(
    s: S,
    src: RawMat,
    scale: f32,
    dst: *mut f32,
    dst_stride: usize,
    width: usize,
) {
    let scale = s.splat(scale);
    for i in 0..src.rows {
        let row = dst.wrapping_add(i * dst_stride);
        let mut j = 0;
        while j < width {
            let n = src.cols.saturating_sub(j).min(S::LANES);
            // SAFETY: `n` columns from `j` on are inside `src`, `width - j` inside `dst`.
            unsafe {
                let v = if n == S::LANES {
                    E::load(s, src.at(i, j))
                } else {
                    E::load_partial(s, src.at(i, j), n)
                };
                store_up_to(s, row.add(j), width - j, s.mul(v, scale));
            }
            j += S::LANES;
        }
    }
}

/// Rows lie together: four rows of `LANES` columns at a time are turned in registers.
#[inline(always)]
unsafe fn transpose<S: Simd, E: Elem>(
    s: S,
    src: RawMat,
    scale: f32,
    dst: *mut f32,
    dst_stride: usize,
    width: usize,
) {
    let columns = (0..src.cols).map(|j| src.at::<E>(0, j).cast_const());
    // SAFETY: as the caller promises.
    unsafe {
        transpose_columns(
            s,
            (src.rows, src.cols),
            columns,
            Some(src.col_stride),
            scale,
            dst,
            dst_stride,
            width,
        )
    };
}

/// `dst[i * dst_stride + j] = scale * columns[j][i]` for `sizes` = (rows, columns), zeros in columns
/// up to `width`. `apart` is the distance between the columns, if it is always the same.
///
/// # Safety
/// - `columns` gives at least as many addresses as there are columns, each valid for reading `rows`
///   elements.
/// - `dst` is valid for writing `width` elements at each of the rows.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "a copy has two ends")]
pub unsafe fn transpose_columns<S: Simd, E: Elem>(
    s: S,
    sizes: (usize, usize),
    mut columns: impl Iterator<Item = *const E>,
    apart: Option<usize>,
    scale: f32,
    dst: *mut f32,
    dst_stride: usize,
    width: usize,
) {
    let scale = s.splat(scale);
    let mut j = 0;
    while j < width {
        let cols = sizes.1.saturating_sub(j).min(S::LANES);
        let mut column = [core::ptr::null(); MAX_LANES];
        for (column, p) in column.iter_mut().take(cols).zip(&mut columns) {
            *column = p;
        }
        let mut i = 0;
        if let Some(apart) = apart
            && cols == S::LANES
        {
            while i + 4 <= sizes.0 {
                // SAFETY: four rows of `LANES` columns that exist, and their places in `dst`.
                unsafe {
                    let quad = E::load_columns(s, column[0].wrapping_add(i), apart);
                    for (r, &v) in quad.iter().enumerate() {
                        s.store(dst.add((i + r) * dst_stride + j), s.mul(v, scale));
                    }
                }
                i += 4;
            }
        }
        while i < sizes.0 {
            let rows = (sizes.0 - i).min(4);
            // SAFETY: rows from `i` on of columns that exist; `width - j` elements inside `dst`.
            unsafe {
                let quad = load_some_columns(s, rows, |c| (c < cols).then(|| column[c].wrapping_add(i)));
                for (r, &v) in quad.iter().enumerate() {
                    if r < rows {
                        store_up_to(s, dst.add((i + r) * dst_stride + j), width - j, s.mul(v, scale));
                    }
                }
            }
            i += 4;
        }
        j += S::LANES;
    }
}

/// Neither: element by element.
#[inline(always)]
unsafe fn gather<E: Elem>(src: RawMat, scale: f32, dst: *mut f32, dst_stride: usize, width: usize) {
    for i in 0..src.rows {
        for j in 0..width {
            // SAFETY: `(i, j)` is inside `src` where it is read, and inside `dst`.
            unsafe {
                let x = if j < src.cols { (*src.at::<E>(i, j)).widen() } else { 0.0 };
                *dst.add(i * dst_stride + j) = x * scale;
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
