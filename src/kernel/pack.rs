//! Moving blocks between the caller's memory and scratch: widen, transpose, scale, pad; and back.

use crate::elem::sealed::Lanes;
use crate::elem::{Elem, by_kind, load_up_to, store_up_to};
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
        || by_kind!(src.kind, E => unsafe {
            if src.col_stride == 1 {
                copy::<S, E>(s, src, scale, dst, dst_stride, width);
            } else if src.row_stride == 1 {
                transpose::<S, E>(s, src, scale, dst, dst_stride, width);
            } else {
                gather::<E>(src, scale, dst, dst_stride, width);
            }
        }),
    );
}

/// Columns lie together: vectors move as they are.
#[inline(always)]
unsafe fn copy<S: Simd, E: Elem>(s: S, src: RawMat, scale: f32, dst: *mut f32, dst_stride: usize, width: usize) {
    let scale = s.splat(scale);
    for i in 0..src.rows {
        let row = dst.wrapping_add(i * dst_stride);
        let mut j = 0;
        while j < width {
            let n = src.cols.saturating_sub(j).min(S::LANES);
            // SAFETY: `n` columns from `j` on are inside `src`, `width - j` inside `dst`.
            unsafe {
                let v = if n == S::LANES { E::load(s, src.at(i, j)) } else { E::load_partial(s, src.at(i, j), n) };
                store_up_to(s, row.add(j), width - j, s.mul(v, scale));
            }
            j += S::LANES;
        }
    }
}

/// Rows lie together: squares of `LANES` vectors are turned in registers.
#[inline(always)]
unsafe fn transpose<S: Simd, E: Elem>(
    s: S,
    src: RawMat,
    scale: f32,
    dst: *mut f32,
    dst_stride: usize,
    width: usize,
) {
    let column = |j: usize| src.at::<E>(0, j).cast_const();
    // SAFETY: as the caller promises.
    unsafe { transpose_columns(s, (src.rows, src.cols), column, scale, dst, dst_stride, width) };
}

/// `dst[i * dst_stride + j] = scale * column(j)[i]` for `sizes` = (rows, columns), zeros in columns up
/// to `width`.
///
/// # Safety
/// - `column(j)` is valid for reading `rows` elements for every existing column.
/// - `dst` is valid for writing `width` elements at each of the rows.
#[inline(always)]
pub unsafe fn transpose_columns<S: Simd, E: Elem>(
    s: S,
    sizes: (usize, usize),
    column: impl Fn(usize) -> *const E,
    scale: f32,
    dst: *mut f32,
    dst_stride: usize,
    width: usize,
) {
    let scale = s.splat(scale);
    let mut j = 0;
    while j < width {
        let cols = sizes.1.saturating_sub(j).min(S::LANES);
        let mut i = 0;
        while i < sizes.0 {
            let rows = sizes.0 - i;
            let mut square = [s.splat(0.0); MAX_LANES];
            for (c, v) in square.iter_mut().enumerate().take(S::LANES) {
                if c < cols {
                    // SAFETY: rows from `i` on of an existing column.
                    *v = unsafe { load_up_to(s, column(j + c).wrapping_add(i), rows) };
                }
            }
            let square = s.transpose(square);
            for (r, &v) in square.iter().enumerate().take(S::LANES) {
                if r < rows {
                    // SAFETY: `width - j` elements from there on are inside `dst`.
                    unsafe {
                        store_up_to(s, dst.add((i + r) * dst_stride + j), width - j, s.mul(v, scale));
                    }
                }
            }
            i += S::LANES;
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
