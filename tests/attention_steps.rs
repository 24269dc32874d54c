//! A call that is computed some tiles at a time has the bits of one call, and gives the processor back as often
//! as it says.
#![cfg(feature = "half")]

mod common;

use common::attend::{Lookup, Shape};
use common::buffer::Kind;
use common::heads::Heads;
use common::{Rng, expect, nan_scratch, same_bits, tiers};
use qkv::{Attention, Elem, Error, HeadsMut, HeadsRef, Keys, Tier, attention_scratch_len};

/// Steps of so many tiles until none are left; how many steps that were.
#[expect(clippy::too_many_arguments, reason = "the operands of attention")]
fn run<Q: Elem, O: Elem>(
    options: Attention<'_>,
    q: HeadsRef<'_, Q>,
    k: &dyn Keys,
    v: &dyn Keys,
    out: HeadsMut<'_, O>,
    lse: &mut [f32],
    scratch: &mut [f32],
    tiles: usize,
) -> usize {
    let mut steps = options.steps(q, k, v, out, Some(lse), scratch).expect("sizes agree");
    let mut taken = 1;
    while steps.step(tiles) {
        taken += 1;
    }
    assert!(!steps.step(0) && !steps.step(tiles), "nothing is left");
    taken
}

fn in_steps(lookup: &Lookup, tier: Tier, tiles: usize) -> (Heads, Vec<f32>, usize) {
    let (mut out, mut lse) = (lookup.out.clone(), nan_scratch(lookup.q.n_heads * lookup.q.len));
    let (placed, mut scratch) = (lookup.placed(), nan_scratch(lookup.scratch_len()));
    let [k, v] = lookup.sources(&placed);
    let (options, lse_to, scratch) = (lookup.options(tier), &mut lse, &mut scratch);
    let taken = with_type!(lookup.q.kind(), Q => with_type!(out.kind(), O => {
        let (q, out) = (lookup.q.view::<Q>(), out.view_mut::<O>());
        run(options, q, &*k, &*v, out, lse_to, scratch, tiles)
    }));
    (out, lse, taken)
}

#[test]
fn steps_have_the_bits_of_one_call() {
    let mut rng = Rng::new(7);
    let lens = [(1, 70), (3, 2100), (9, 70), (50, 130), (100, 65), (230, 1100), (2, 3000), (5, 0), (1, 1024)];
    let random =
        lens.into_iter().cycle().take(45).map(|(q_len, kv_len)| Shape::random(q_len, kv_len, rng.word()));
    // More heads than go together.
    let many = [(1, 1, 90), (1, 5, 20), (2, 10, 7)];
    let many =
        many.map(|(q_len, group, n_kv_heads)| Shape { group, n_kv_heads, ..Shape::plain(q_len, 150, 9, 3) });
    for shape in random.chain(many) {
        let lookup = shape.lookup();
        for tier in tiers() {
            let (whole, whole_lse) = lookup.run_with_lse(tier);
            for tiles in [1, 3, usize::MAX] {
                let (out, lse, taken) = in_steps(&lookup, tier, tiles);
                let bits = |lse: &[f32]| lse.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                let what = (tier, tiles, &shape);
                expect(same_bits(out.kind(), &out.bits(), &whole.bits()), what);
                expect(same_bits(Kind::F32, &bits(&lse), &bits(&whole_lse)), what);
                assert!(tiles < usize::MAX || taken == 1, "one step of all tiles");
            }
        }
    }
}

#[test]
fn a_tile_is_a_block_of_keys_for_rows_that_take_it_together() {
    // 9 rows go together on targets with vectors, by 4 on those without. 2,100 keys are 33 blocks.
    let lookup = Shape::plain(9, 2100, 8, 1).lookup();
    let panels = if tiers().iter().all(|&tier| tier == Tier::scalar()) { 3 } else { 1 };
    for tier in tiers() {
        for (tiles, blocks) in [(1, 33), (3, 33), (10, 33), (33, 33), (100, 33)] {
            let (_, _, taken) = in_steps(&lookup, tier, tiles);
            assert_eq!(taken, (panels * blocks as usize).div_ceil(tiles), "{tier}, {tiles} tiles");
        }
    }
    // Heads of a token, side by side, go together too.
    let lookup = Shape { n_kv_heads: 4, ..Shape::plain(1, 2100, 8, 1) }.lookup();
    for tier in tiers() {
        let heads = if tier == Tier::scalar() { 4 } else { 1 };
        assert_eq!(in_steps(&lookup, tier, 1).2, heads * 33, "{tier}");
    }
}

#[test]
fn a_row_is_written_by_its_last_tile_and_not_before() {
    // Two heads, one row each, that lie apart: 3 tiles each.
    let x = vec![0.5_f32; 2 * 190 * 4];
    for tier in tiers() {
        let mut out = [7.0_f32; 8];
        let mut scratch = nan_scratch(attention_scratch_len(1, 190, 4, 4));
        let kv = HeadsRef::head_major(&x, 190, 2, 4).expect("sizes");
        let q = HeadsRef::head_major(&x, 1, 2, 4).expect("sizes");
        for stop in 0..=6 {
            out.fill(7.0);
            let view = HeadsMut::head_major(&mut out, 1, 2, 4).expect("sizes");
            let mut steps =
                Attention::new().tier(tier).steps(q, kv, kv, view, None, &mut scratch).expect("sizes");
            let mut left = true;
            for _ in 0..stop {
                left = steps.step(1);
            }
            assert_eq!(left, stop < 6, "{tier}");
            let done = [stop >= 3, stop >= 6].map(|done| if done { 0.5 } else { 7.0 });
            assert_eq!((&out[..4], &out[4..]), (&[done[0]; 4][..], &[done[1]; 4][..]), "{tier}, {stop}");
        }
    }
}

#[test]
fn sequences_without_queries_take_no_tile_and_those_without_keys_take_one() {
    let x = [0.5_f32; 6];
    let (mut out, mut scratch) = ([7.0_f32; 3], nan_scratch(attention_scratch_len(2, 6, 1, 1)));
    let q = HeadsRef::token_major(&x[..3], 3, 1, 1).expect("sizes");
    let kv = HeadsRef::token_major(&x, 6, 1, 1).expect("sizes");
    let options = Attention::new().q_offsets(&[0, 0, 1, 1, 3, 3]).kv_offsets(&[0, 0, 0, 0, 6, 6]);
    let view = HeadsMut::token_major(&mut out, 3, 1, 1).expect("sizes");
    let mut steps = options.steps(q, kv, kv, view, None, &mut scratch).expect("sizes");
    assert!(steps.step(0));
    assert!(steps.step(1));
    assert!(!steps.step(1));
    assert_eq!(out, [0.0, 0.5, 0.5]);
}

#[test]
fn steps_are_refused_as_a_call_is() {
    let x = [0.5_f32; 12];
    let (mut out, mut lse) = ([7.0_f32; 12], [7.0_f32; 3]);
    let view = HeadsRef::token_major(&x, 3, 1, 4).expect("sizes");
    let needed = attention_scratch_len(3, 3, 4, 4);
    let mut scratch = nan_scratch(needed);
    let mut refused = |lse: Option<&mut [f32]>, scratch: &mut [f32]| {
        let out = HeadsMut::token_major(&mut out, 3, 1, 4).expect("sizes");
        Attention::new().steps(view, view, view, out, lse, scratch).err()
    };
    let short = Some(Error::ScratchTooShort { needed, got: needed - 1 });
    assert_eq!(refused(None, &mut scratch[1..]), short);
    let dim = "batch * n_heads * q_len (length of lse)";
    assert_eq!(
        refused(Some(&mut lse[..2]), &mut scratch),
        Some(Error::DimMismatch { dim, expected: 3, got: 2 })
    );
    assert_eq!((out, lse), ([7.0; 12], [7.0; 3]));
}
