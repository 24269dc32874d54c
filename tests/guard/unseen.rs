//! Keys that no query sees are never read: they lie in pages that end the process.

use crate::common::attend::{Causal, Lookup, Shape};
use crate::common::buffer::{Buffer, Kind, Typed};
use crate::common::heads::{Heads, Order};
use crate::common::options::{Given, Layout, Mask, Options, Table};
use crate::common::{expect, nan_scratch, same_bits, tiers};
use crate::fence::{self, Doing, Side};
use crate::{float_bits, with_type};
use qkv::{Attention, HeadsMut, HeadsRef, Paged, Scores, TensorRef, attention_scratch_len};

const Q_DIM: usize = 24;

/// What hides keys from all queries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hidden {
    Causal,
    Window,
    LensAndStarts,
    Mask(Given),
    /// A bias of minus infinity.
    Bias(Kind),
    All,
}

const HIDDEN: [Hidden; 10] = [
    Hidden::Causal,
    Hidden::Window,
    Hidden::LensAndStarts,
    Hidden::Mask(Given::Bools),
    Hidden::Mask(Given::Bits),
    Hidden::Mask(Given::Rule),
    Hidden::Bias(Kind::F32),
    Hidden::Bias(Kind::F16),
    Hidden::Bias(Kind::Bf16),
    Hidden::All,
];

/// Whether query `i` sees key `t`: blocks that nobody sees, single keys that nobody sees, and keys that some
/// queries see.
fn sees(i: usize, t: usize) -> bool {
    let nobody = (64..128).contains(&t) || (192..256).contains(&t) || t % 7 == 3 || (40..45).contains(&t);
    !nobody && !(i + t).is_multiple_of(3)
}

impl Hidden {
    fn set(self, lookup: &mut Lookup) {
        let (q_len, kv_len) = (lookup.q.len, lookup.k.len);
        let all = self == Hidden::All;
        if self == Hidden::Causal || all {
            lookup.causal = Causal::Offset(kv_len as isize - 20 - q_len as isize);
        }
        if self == Hidden::Window || all {
            lookup.window = (kv_len / 2, 3);
        }
        if self == Hidden::Window {
            lookup.causal = Causal::Free(kv_len as isize - 70 - q_len as isize);
        }
        if self == Hidden::LensAndStarts || all {
            (lookup.options.start, lookup.options.end) = (Some(kv_len / 4), Some(kv_len - 9));
        }
        let table = |values| Table { heads: 1, rows: q_len, keys: kv_len, values };
        let pairs = || (0..q_len).flat_map(|i| (0..kv_len).map(move |t| (i, t)));
        if let Hidden::Mask(given) = self {
            let bools = pairs().map(|(i, t)| sees(i, t)).collect();
            let Table { heads, rows, keys, .. } = table(());
            lookup.options.masks = vec![Mask::new(Table { heads, rows, keys, values: bools }, given)];
        }
        if let Hidden::Bias(kind) = self {
            let mut values = Buffer::new(kind, q_len * kv_len);
            for (at, (i, t)) in pairs().enumerate() {
                let bias = if sees(i, t) { 0.25 * (t % 4) as f32 } else { f32::NEG_INFINITY };
                values.set_bits(at, kind.bits(bias));
            }
            let Table { heads, rows, keys, .. } = table(());
            lookup.options.bias = Some(Table { heads, rows, keys, values });
        }
    }
}

/// Operands of which each key of a head begins a page.
fn paged_lookup(q_len: usize, kv_len: usize, kind: Kind, order: Order, full: bool) -> Lookup {
    let page = fence::page() / if kind == Kind::F32 { 4 } else { 2 };
    // Either a key fills its page, and keys lie side by side, or the page has room behind it.
    let (heads, dim) = if full { (1, page) } else { (2, Q_DIM) };
    let order = match order {
        Order::TokenMajor if !full => Order::TokensApart(page - dim, 0),
        Order::HeadMajor if !full => Order::HeadsApart(page - dim, 0),
        order => order,
    };
    let kinds = [Kind::F32, kind, kind, Kind::F32];
    let orders = [Order::TokenMajor, order, order, Order::TokenMajor];
    let plain = Shape::plain(q_len, kv_len, dim, 3);
    Shape { n_kv_heads: heads, group: 2, kinds, orders, ..plain }.lookup()
}

/// Whether some query of some head sees key `t`.
fn is_seen(lookup: &Lookup, t: usize) -> bool {
    let mut rows = (0..lookup.q.n_heads).flat_map(|h| (0..lookup.q.len).map(move |i| (h, i)));
    rows.any(|(h, i)| lookup.seen(i).contains(&t) && lookup.options.sees(h, i, t))
}

/// Hides the pages of all slots but those in `seen`.
fn hide(slots: &Heads, seen: &[usize]) {
    let page = fence::page() / if slots.kind() == Kind::F32 { 4 } else { 2 };
    let mut hidden = vec![true; slots.buffer.len().div_ceil(page)];
    for (&slot, h) in seen.iter().flat_map(|slot| (0..slots.n_heads).map(move |h| (slot, h))) {
        hidden[slots.index(slot, h, 0) / page] = false;
    }
    let mut first = 0;
    for run in hidden.chunk_by(|a, b| a == b) {
        if run[0] {
            let elements = first * page..((first + run.len()) * page).min(slots.buffer.len());
            with_type!(slots.kind(), T => fence::hide(&T::slice(&slots.buffer)[elements]));
        }
        first += run.len();
    }
}

fn check(lookup: &Lookup, what: &dyn core::fmt::Debug) -> Result<(), String> {
    let seen: Vec<usize> = (0..lookup.k.len).filter(|&t| is_seen(lookup, t)).collect();
    assert!(!seen.is_empty() && seen.len() < lookup.k.len, "nothing is hidden: {what:?}");
    let near = |heads: &Heads| heads.reordered(Order::TokenMajor);
    let options = Options { layouts: [Layout::Plain; 2], ..lookup.options.clone() };
    let near = Lookup { k: near(&lookup.k), v: near(&lookup.v), options, ..lookup.clone() };
    // The keys and values that are read begin with a page, wherever they are.
    let bare = fence::at(Side::Start, || lookup.bare());
    let placed = fence::at(Side::Start, || bare.placed());
    for (heads, placed) in [&bare.k, &bare.v].into_iter().zip(&placed) {
        match placed {
            None => hide(heads, &seen),
            Some(placed) => {
                hide(heads, &[]);
                hide(&placed.slots, &seen.iter().map(|&t| placed.slot(t)).collect::<Vec<_>>());
            }
        };
    }
    for tier in tiers() {
        let _doing = Doing::new(format!("{tier}, {what:?}"));
        let (expected, expected_lse) = near.run_with_lse(tier);
        let (mut out, mut lse) = (lookup.out.clone(), nan_scratch(expected_lse.len()));
        let mut scratch = nan_scratch(lookup.scratch_len());
        bare.run_placed(&placed, tier, &mut out, Some(&mut lse), &mut scratch).expect("sizes agree");
        same_bits(Kind::F32, &out.bits(), &expected.bits()).map_err(|m| format!("{tier}: {m}"))?;
        same_bits(Kind::F32, &float_bits(&lse), &float_bits(&expected_lse))
            .map_err(|m| format!("{tier}, lse: {m}"))?;
        if lookup.options.layouts == [Layout::Plain; 2] {
            let weights = bare.scores(tier, Scores::Weights);
            same_bits(Kind::F32, &float_bits(&weights), &float_bits(&near.scores(tier, Scores::Weights)))
                .map_err(|m| format!("{tier}, weights: {m}"))?;
        }
    }
    Ok(())
}

#[test]
fn keys_that_no_query_sees_are_never_read() {
    let layouts = [Layout::Plain, Layout::Ring(5, 200), Layout::Pages(16, 1), Layout::Pages(100, 2)];
    for (n, q_len) in [1, 2, 9, 50].into_iter().enumerate() {
        for (m, hidden) in HIDDEN.into_iter().enumerate() {
            for (l, layout) in layouts.into_iter().enumerate() {
                let kind = [Kind::F32, Kind::F16][(n + m + l) % 2];
                let order = [Order::TokenMajor, Order::HeadMajor][(n / 2 + m + l / 2) % 2];
                let mut lookup = paged_lookup(q_len, 210, kind, order, false);
                hidden.set(&mut lookup);
                lookup.options.layouts = [layout; 2];
                let what = (q_len, kind, order, hidden, layout);
                expect(check(&lookup, &what), what);
            }
        }
    }
}

#[test]
fn keys_side_by_side_that_no_query_sees_are_never_read() {
    // These are read where they lie, not copied.
    for (n, q_len) in [1, 5, 12].into_iter().enumerate() {
        for (m, hidden) in HIDDEN.into_iter().enumerate() {
            let kind = if n + m == 1 { Kind::Bf16 } else { Kind::F32 };
            let mut lookup = paged_lookup(q_len, 140, kind, Order::TokenMajor, true);
            hidden.set(&mut lookup);
            expect(check(&lookup, &(q_len, kind, hidden)), (q_len, kind, hidden));
        }
    }
}

#[test]
fn nothing_is_read_behind_a_table_of_pages() {
    let (q, pool) = ([1.0_f32; 4], [1.0_f32; 64]);
    let table = fence::at(Side::End, || (0..4_u32).collect::<Vec<_>>());
    let mut scratch = nan_scratch(attention_scratch_len(4, 64, 1, 1));
    let mask = [[true; 64], [false; 64], [true; 64], [false; 64]];
    // The last queries see no key: by their place, or by a mask.
    let masked = Attention::new().mask(TensorRef::new(mask.as_flattened(), [1, 1, 4, 64]).expect("sizes"));
    for options in [Attention::new().window(0, 0).offset(62), masked] {
        for tier in tiers() {
            let mut out = [f32::NAN; 4];
            let pages = || Paged::new(HeadsRef::batch_token_major(&pool, 4, 16, 1, 1)?, &table, 1, 64);
            let (k, v) = (pages().expect("whole pages"), pages().expect("whole pages"));
            let q = HeadsRef::token_major(&q, 4, 1, 1).expect("sizes");
            let place = HeadsMut::token_major(&mut out, 4, 1, 1).expect("sizes");
            let _doing = Doing::new(format!("{tier}, {options:?}"));
            options.tier(tier).run(q, k, v, place, &mut scratch).expect("sizes agree");
            assert!(out.iter().all(|&x| x == 0.0 || x == 1.0), "{tier}: {out:?}");
        }
    }
}
