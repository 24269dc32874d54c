//! Which keys of a block each row sees, where that is not an interval: masks, biases of minus infinity and
//! the user's rule, as 64 bits a row.

use super::mask::bits;
use super::panel::Panel;
use super::rule::{MaskRule, Tile};
use super::scratch::{HOLES, Scratch};
use crate::elem::{Elem, Kind, by_kind, load_up_to};
use crate::simd::Simd;
use crate::view::RawTensor;

/// What decides beside a key's place.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// A bool for each query and key.
    pub mask: Option<RawTensor>,
    /// A bit for each query and key, lowest first, in whole bytes.
    pub mask_bits: Option<RawTensor>,
    /// Minus infinity: not seen.
    pub bias: Option<(RawTensor, Kind)>,
    pub rule: Option<&'a dyn MaskRule>,
}

impl Sources<'_> {
    pub fn any(&self) -> bool {
        self.mask.is_some() || self.mask_bits.is_some() || self.bias.is_some() || self.rule.is_some()
    }

    /// Whether all heads see the same.
    fn same_for_heads(&self) -> bool {
        let tensors = [self.mask, self.mask_bits, self.bias.map(|(bias, _)| bias)];
        tensors.iter().flatten().all(RawTensor::same_for_heads)
    }
}

/// Of the block's `keys`, those that some row sees and those that every row sees. What each row sees goes to
/// the scratch, unless no row sees any.
///
/// # Safety
/// - `x` has room for the panel; the keys exist.
#[inline(never)]
pub unsafe fn look<S: Simd>(s: S, panel: &Panel, x: &Scratch, start: usize, keys: u64) -> (u64, u64) {
    let (p, sources) = (panel.p, panel.p.sources);
    let n = p.k.len.saturating_sub(start).min(64);
    let (first, last) = (panel.first / p.group, (panel.first + panel.rows - 1) / p.group);
    let tile = |rule: &dyn MaskRule| rule.tile(first..last + 1, start..start + n);
    let rule = match sources.rule.map(tile) {
        Some(Tile::Skip) => return (0, 0),
        Some(Tile::Full) | None => None,
        Some(Tile::Partial) => sources.rule,
    };
    let of = |query: usize, head: usize| {
        let mut word = keys;
        // SAFETY: the tensors have `n` keys of this row from `start` on.
        unsafe {
            if let Some(mask) = sources.mask {
                word &= of_bools(core::slice::from_raw_parts(mask.at(p.b, head, query, start), n));
            }
            if let Some(mask) = sources.mask_bits {
                let bytes = mask.at::<u8>(p.b, head, query, start / 8);
                word &= of_bits(core::slice::from_raw_parts(bytes, n.div_ceil(8)));
            }
            if let Some((bias, kind)) = sources.bias {
                by_kind!(kind, E => {
                    let at = bias.at::<E>(p.b, head, query, start);
                    word &= above_minus_infinity(s, core::slice::from_raw_parts(at, n));
                });
            }
        }
        match rule {
            Some(rule) if word != 0 => word & rule.seen(query, start..start + n),
            _ => word,
        }
    };
    let (mut some, mut all, mut before) = (0, keys, None);
    let same = sources.same_for_heads();
    for (lane, (query, head)) in panel.all_rows::<S>().enumerate() {
        let word = match before {
            Some((last, word)) if last == query && same => word,
            _ => of(query, head),
        };
        before = Some((query, word));
        // SAFETY: a lane of the panel.
        unsafe { x.holes.add(lane * HOLES).cast::<[f32; HOLES]>().write(to_floats(word)) };
        let seen = p.mask.seen(query);
        some |= word & bits(seen.start.saturating_sub(start).min(64), seen.end.saturating_sub(start).min(64));
        all &= word;
    }
    (some, all)
}

/// A row's bits as four floats of 16, the first key highest, so that vectors of rows can test them.
#[inline(always)]
fn to_floats(word: u64) -> [f32; HOLES] {
    let reversed = word.reverse_bits();
    [48, 32, 16, 0].map(|shift| (reversed >> shift & 0xffff) as f32)
}

/// What [`look`] has found for a row.
///
/// # Safety
/// - `x` has it for row `r`.
pub unsafe fn of_row(x: &Scratch, r: usize) -> u64 {
    // SAFETY: as the caller promises.
    let floats = unsafe { x.holes.add(r * HOLES).cast::<[f32; HOLES]>().read() };
    floats.iter().fold(0_u64, |bits, &part| bits << 16 | part as u64).reverse_bits()
}

/// Up to 64 bools as bits.
fn of_bools(bools: &[bool]) -> u64 {
    let (eights, rest) = bools.as_chunks::<8>();
    let mut word = rest.iter().rev().fold(0, |bits, &seen| bits << 1 | u64::from(seen));
    for eight in eights.iter().rev() {
        // Each byte is 0 or 1: the product has byte i's bit at 56 + i, and nothing else there.
        let bytes = u64::from_le_bytes(eight.map(u8::from));
        word = word << 8 | bytes.wrapping_mul(0x0102_0408_1020_4080) >> 56;
    }
    word
}

/// Up to 8 bytes as bits.
fn of_bits(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |bits, &byte| bits << 8 | u64::from(byte))
}

/// Which of up to 64 numbers are not minus infinity.
#[inline(always)]
fn above_minus_infinity<S: Simd, E: Elem>(s: S, numbers: &[E]) -> u64 {
    let all = bits(0, numbers.len());
    let some = s.vectorize(
        #[inline(always)]
        || {
            let mut low = s.splat(f32::MAX);
            for (i, _) in numbers.iter().enumerate().step_by(S::LANES) {
                // SAFETY: at most as many numbers as there are from `i` on.
                let v = unsafe { load_up_to::<S, E>(s, numbers.as_ptr().add(i), numbers.len() - i) };
                low = s.select_gt(low, v, v, low);
            }
            s.any_gt(s.splat(f32::MIN), low)
        },
    );
    if !some {
        return all;
    }
    let seen = |x: &E| u64::from(x.widen() != f32::NEG_INFINITY);
    numbers.iter().rev().fold(0, |bits, x| bits << 1 | seen(x))
}
