//! What becomes of a score between the product and the softmax.

use super::panel::{Block, Panel};
use super::scratch::Scratch;
use crate::simd::Simd;

/// Notes what each row's scores lose for a key of distance, and its place, if they depend on them.
///
/// # Safety
/// - `x` has room for the panel of one head.
pub unsafe fn start(panel: &Panel, x: &Scratch) {
    let p = panel.p;
    if p.alibi.is_null() {
        return;
    }
    for (r, (query, head)) in p.rows(panel.kv_head, panel.first).enumerate().take(panel.rows) {
        // SAFETY: rows of the panel; a slope for each query head.
        unsafe {
            *x.slope.add(r) = -*p.alibi.add(head);
            *x.place.add(r) = p.mask.place(query);
        }
    }
}

/// Changes the block's scores in place.
///
/// # Safety
/// - `x` holds the block's scores, rows in `lanes` lanes.
#[inline(never)]
pub unsafe fn scores<S: Simd>(s: S, panel: &Panel, x: &Scratch, block: Block, lanes: usize) {
    if panel.p.alibi.is_null() {
        return;
    }
    s.vectorize(
        #[inline(always)]
        || {
            for lane in (0..lanes).step_by(S::LANES) {
                // SAFETY: as the caller promises. Lanes without a row hold anything.
                unsafe {
                    let (slope, place) = (s.load(x.slope.add(lane)), s.load(x.place.add(lane)));
                    for t in block.from..block.to {
                        let at = x.scores.add(t * S::PANEL + lane);
                        let key = s.splat((block.start + t) as f32);
                        let distance = s.max(s.sub(key, place), s.sub(place, key));
                        s.store(at, s.fma(slope, distance, s.load(at)));
                    }
                }
            }
        },
    );
}
