//! Tokens appended to rows, a ring and pages, rotated on the way, and the attention over each.

use qkv::{
    Append, Attention, Error, HeadsMut, HeadsRef, Keys, Paged, Ring, Rotary, Tier, attention_scratch_len,
    bf16, f16,
};

use crate::data::{Number, at, close, numbers, unknown};
use crate::{Check, ensure};

/// Tokens, heads, features, of which some are rotated; tokens of a page and pages.
const SIZES: [usize; 6] = [40, 2, 10, 6, 16, 4];
const MAX: usize = 64 * 2 * 10;

pub fn run() -> Check {
    all::<f32, f32>()?;
    all::<f32, f16>()?;
    all::<f16, bf16>()?;
    all::<bf16, bf16>()?;
    refused()
}

fn all<T: Number, C: Number>() -> Check {
    let (x, q) = (numbers::<T, MAX>(18), numbers::<f32, 20>(19));
    let (mut table, mut again) = ([f32::NAN; 64 * 6], [0.0_f32; 20]);
    for tier in Tier::all() {
        let [len, heads, dim, turned, size, pages] = unknown(SIZES);
        let tier = unknown(tier);
        let rotary = Rotary::fill_table(turned, unknown(10_000.0), unknown(table.as_mut_slice()))?.tier(tier);
        for (rotary, second) in [(rotary, turned / 2), (rotary.interleaved(), 1)] {
            let [mut rows, mut ring, mut pool] = [[C::of(f32::NAN); MAX]; 3];
            let entries = unknown([3, 0, 2, 1]);
            let tokens = HeadsRef::head_major(unknown(x.as_slice()), len, heads, dim)?;
            let (before, after) = tokens.split_at_row(unknown(7))?;
            for (there, new) in [(0, before), (7, after)] {
                // One packed sequence, whose positions are its numbers.
                let (there, offsets) = (unknown([there]), unknown([0, new.len()]));
                let append =
                    Append::new(&there).positions(&there).offsets(&offsets).rotary(rotary).tier(tier);
                append.to(new, HeadsMut::token_major(unknown(rows.as_mut_slice()), len, heads, dim)?)?;
                append.to_ring(new, HeadsMut::token_major(unknown(ring.as_mut_slice()), len, heads, dim)?)?;
                let pool = unknown(pool.as_mut_slice());
                let pool = HeadsMut::batch_token_major(pool, pages, size, heads, dim)?;
                append.to_pages(new, pool, unknown(entries.as_slice()))?;
            }
            // Token 1, whose first pair has an angle of 1 radian, and a feature that is not turned.
            let source = |d: usize| at(&x, dim + d);
            let row = |d: usize| rows.get(heads * dim + d).copied().unwrap_or(C::of(f32::NAN));
            let (sin, cos) = (0.841_471, 0.540_302_3);
            let right = close(row(0), source(0) * cos - source(second) * sin, 8.0)
                && close(row(second), source(second) * cos + source(0) * sin, 8.0)
                && close(row(turned), source(turned), 0.0);
            ensure(right, "the first pair")?;

            let q = unknown(q.as_slice());
            let mut turned_q = [0.0_f32; 20];
            let to = HeadsMut::token_major(unknown(turned_q.as_mut_slice()), 1, heads, dim)?;
            rotary.rotate_to(HeadsRef::token_major(q, 1, heads, dim)?, &unknown([39]), to)?;
            again.iter_mut().zip(q).for_each(|(to, &x)| *to = x);
            let to = HeadsMut::token_major(unknown(again.as_mut_slice()), 1, heads, dim)?;
            rotary.offsets(&unknown([0, 1])).rotate(to, &unknown([39]))?;
            ensure(again == turned_q, "rotated in place")?;

            let view = HeadsRef::token_major(rows.as_slice(), len, heads, dim)?;
            let slots = Ring::last(HeadsRef::token_major(ring.as_slice(), len, heads, dim)?, len);
            let pool = HeadsRef::batch_token_major(pool.as_slice(), pages, size, heads, dim)?;
            let paged = Paged::new(pool, unknown(entries.as_slice()), 1, len)?;
            let want = attend(&turned_q, view, tier)?;
            ensure(attend(&turned_q, slots, tier)? == want, "attention over a ring")?;
            ensure(attend(&turned_q, paged, tier)? == want, "attention over pages")?;
        }
    }
    Ok(())
}

/// Attention of one query, with the keys as values.
fn attend<K: Keys + Copy>(q: &[f32], keys: K, tier: Tier) -> Result<[f32; 20], Error> {
    let [_, heads, dim, ..] = unknown(SIZES);
    let (mut out, mut scratch) =
        ([f32::NAN; 20], [f32::NAN; attention_scratch_len(1, SIZES[0], SIZES[2], SIZES[2])]);
    let to = HeadsMut::token_major(unknown(out.as_mut_slice()), 1, heads, dim)?;
    let q = HeadsRef::token_major(q, 1, heads, dim)?;
    Attention::new().tier(tier).run(q, keys, keys, to, unknown(scratch.as_mut_slice()))?;
    Ok(out)
}

fn refused() -> Check {
    let x = numbers::<f32, 64>(20);
    let (x, mut out) = (unknown(x.as_slice()), [7.0_f32; 64]);
    let mut table = [0.0_f32; 8];
    let odd = Rotary::fill_table(unknown(3), 2.0, unknown(table.as_mut_slice()));
    ensure(matches!(odd, Err(Error::DimMismatch { .. })), "an odd dimension is an error")?;
    let rotary = Rotary::fill_table(unknown(4), 2.0, unknown(table.as_mut_slice()))?;
    let tokens = HeadsRef::token_major(x, unknown(3), 2, 4)?;
    let there = unknown([0]);
    let append = Append::new(&there);
    let short = append.rotary(rotary).to(tokens, HeadsMut::token_major(&mut out, 8, 2, 4)?);
    ensure(matches!(short, Err(Error::TooLarge { got: 3, .. })), "a position too far is an error")?;
    let full = append.to(tokens, HeadsMut::token_major(&mut out, unknown(2), 2, 4)?);
    ensure(matches!(full, Err(Error::TooLarge { got: 3, .. })), "a full cache is an error")?;
    let pool = HeadsMut::batch_token_major(&mut out, 4, 2, 2, 4)?;
    let lost = append.to_pages(tokens, pool, unknown([0, 4].as_slice()));
    ensure(matches!(lost, Err(Error::TooLarge { got: 4, .. })), "a page that is not there is an error")?;
    ensure(out == [7.0; 64], "what was refused is untouched")
}
