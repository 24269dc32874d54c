//! All tiles of a block.

use super::lone;
use super::store::Store;
use crate::apart::apart;
use crate::elem::Elem;
use crate::kernel::tile::{Panels, Rows, max_rows, share, tile, with_rows, with_vectors, zero};
use crate::simd::Simd;

/// `sizes` = (rows, k, columns) of one block, which lies at `at` in C: all its tiles. This is the hot
/// loop, compiled once for each tier and type of B, and once more for a C that is `FAR`, so that small products need not
/// ask.
#[inline(never)]
pub unsafe fn tiles<S: Simd, E: Elem, const FAR: bool>(
    s: S,
    sizes: (usize, usize, usize),
    a: Rows,
    b: Panels<E>,
    at: (usize, usize),
    store: &Store,
) {
    if const { S::LANES == 1 } {
        // SAFETY: as the caller promises.
        return unsafe { lone::tiles(sizes, &a, &b, at, store) };
    }
    s.vectorize(
        #[inline(always)]
        || {
            let (m, k, n) = sizes;
            let mut jr = 0;
            while jr < n {
                // Not a vector of which half would be empty.
                let left = n - jr;
                let few = const { <S::Few as Simd>::LANES < S::LANES }
                    && (1..=<S::Few as Simd>::LANES).contains(&(left % S::LANES));
                let vectors = if few { left / S::LANES } else { left.div_ceil(S::LANES) };
                let vectors = vectors.min(S::NV);
                let cols = left.min(if few && vectors == 0 { left } else { vectors * S::LANES });
                let (sizes, from) = ((m, k, cols), (&a, &b, jr));
                // SAFETY: as the caller promises.
                unsafe {
                    if const { <S::Few as Simd>::LANES < S::LANES } && vectors == 0 {
                        column::<S::Few, E, 1, FAR>(s.few(), sizes, from, at, store);
                    } else {
                        with_vectors!(S, vectors, NV => column::<S, E, NV, FAR>(s, sizes, from, at, store));
                    }
                }
                jr += cols;
            }
        },
    );
}

/// The tiles of the columns of `b` from `jr` on: `cols` of them, in up to `NV` vectors.
#[inline(always)]
unsafe fn column<S: Simd, E: Elem, const NV: usize, const FAR: bool>(
    s: S,
    (m, k, cols): (usize, usize, usize),
    (a, b, jr): (&Rows, &Panels<E>, usize),
    at: (usize, usize),
    store: &Store,
) {
    let mut ir = 0;
    while ir < m {
        let rows = share(m - ir, max_rows::<S>(NV));
        with_rows!(S, max_rows::<S>(NV), rows, MR => {
            // SAFETY: the tile is inside the block; columns beyond `cols` are padding of the panel.
            unsafe {
                let at = (at.0 + ir, at.1 + jr);
                if const { FAR && S::PREFETCHES } {
                    store.ask(s, (MR, at.0), (cols, at.1));
                }
                apart!(s => {
                    let acc = tile::<S, E, MR, NV>(s, k, a.at(ir, 0), b.at(0, jr), zero(s));
                    store.put(s, acc, at.0, at.1, cols);
                });
            }
        });
        ir += rows;
    }
}
