//! Sequences in a batch, or packed, have the bits that each has alone: with any options, lengths, and places of keys.
#![cfg(feature = "half")]

mod common;

use common::attend::{Lookup, Shape};
use common::batch::Batch;
use common::buffer::{Buffer, Kind, Typed};
use common::heads::Heads;
use common::options::{Given, Layout, Mask, Options, Table};
use common::{GUARD, Rng, expect, nan_scratch, same_bits, tiers};
use qkv::{HeadsMut, HeadsRef, Keys, Paged, Ring, TensorRef, Tier, attention_scratch_len};

/// Some sequences whose options differ in their numbers alone.
struct Sequences {
    alone: Vec<Lookup>,
    /// Masks and biases of all, `[sequences][n_heads][q_len][kv_len]` or 1 for heads and queries.
    masks: Vec<Mask>,
    bias: Option<Table<Buffer>>,
    packed_queries: bool,
    packed_keys: bool,
    layouts: [Layout; 2],
}

/// `0` and the end of each sequence.
fn offsets(lens: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut end = 0;
    let ends = lens.map(|len| {
        end += len;
        end
    });
    core::iter::once(0).chain(ends).collect()
}

impl Sequences {
    fn random(rng: &mut Rng) -> Sequences {
        let (q_most, kv_most) =
            (rng.pick(&[1, 1, 2, 5, 9, 17, 50, 100]), rng.pick(&[1, 5, 64, 70, 130, 200, 1100]));
        let shape = Shape::random(q_most, kv_most, rng.word());
        let (head_dim, v_head_dim) = (shape.head_dim.min(17), shape.v_head_dim.min(40));
        let kinds = [Kind::F32, shape.kinds[1], shape.kinds[2], Kind::F32];
        let shape = Shape { head_dim, v_head_dim, kinds, options: Some(rng.word()), ..shape };
        let packed_queries = rng.below(2) == 0;
        let mut alone: Vec<Lookup> = (0..1 + rng.below(8))
            .map(|_| {
                let q_len = if packed_queries { rng.below(q_most + 1) } else { q_most };
                let kv_len = rng.below(kv_most + 1);
                Shape { q_len, kv_len, ..shape.clone() }
                    .lookup_of(GUARD, &mut |kind| kind.bits(2.0 * rng.unit()))
            })
            .collect();
        for Lookup { k, v, options, .. } in &mut alone {
            let counts = options.start.unwrap_or(0)..options.end.unwrap_or(k.len);
            for t in (0..k.len).filter(|t| !counts.contains(t)) {
                (0..k.n_heads).for_each(|h| k.set_token(t, h, f32::NAN));
                (0..v.n_heads).for_each(|h| v.set_token(t, h, f32::NAN));
            }
        }
        let [q_len, kv_len] = longest(&alone);
        let n_heads = shape.n_heads();
        let all = Options::random(&mut Rng::new(shape.options.unwrap_or(0)), n_heads, q_len, kv_len);
        let masks = (0..all.masks.len()).map(|m| {
            let mask = &all.masks[m];
            if mask.given == Given::Rule {
                // A rule is not told which sequence it is.
                alone.iter_mut().for_each(|lookup| lookup.options.masks[m] = mask.clone());
                return mask.clone();
            }
            let mut values = Vec::new();
            let bools = |lookup: &Lookup| lookup.options.masks[m].bools.clone();
            let table = together(&alone, &mask.bools, bools, |table, at| {
                values.push(at.is_none_or(|at| table.values[at]));
            });
            Mask::new(Table { heads: table.heads, rows: table.rows, keys: table.keys, values }, mask.given)
        });
        let masks = masks.collect();
        let bias = all.bias.as_ref().map(|bias| {
            let mut bits = Vec::new();
            let of = |lookup: &Lookup| lookup.options.bias.clone().expect("as all");
            let Table { heads, rows, keys, .. } =
                together(&alone, bias, of, |table, at| bits.push(at.map_or(0, |at| table.values.bits(at))));
            let mut values = Buffer::new(bias.values.kind(), bits.len());
            bits.iter().enumerate().for_each(|(i, &bits)| values.set_bits(i, bits));
            Table { heads, rows, keys, values }
        });
        alone.iter_mut().for_each(|lookup| lookup.options.layouts = [Layout::Plain; 2]);
        let (packed_keys, layouts) = (rng.below(2) == 0, all.layouts);
        Sequences { alone, masks, bias, packed_queries, packed_keys, layouts }
    }

    /// Output and log-sum-exps, each by sequence, head and query; of one call, or of its items.
    fn run(&self, tier: Tier, in_items: bool) -> (Vec<u32>, Vec<u32>) {
        let one = &self.alone[0];
        let ([q_len, kv_len], n_heads) = (longest(&self.alone), one.q.n_heads);
        let [q_offsets, kv_offsets] = [|lookup: &Lookup| lookup.q.len, |lookup: &Lookup| lookup.k.len]
            .map(|of| offsets(self.alone.iter().map(of)));
        let starts: Vec<usize> = self.alone.iter().filter_map(|lookup| lookup.options.start).collect();
        let end = |lookup: &Lookup| lookup.options.end.unwrap_or(lookup.k.len);
        let ends: Vec<usize> = self.alone.iter().map(end).collect();

        let rest = Options { start: None, end: None, masks: vec![], bias: None, ..one.options.clone() };
        let call = Lookup { options: rest, ..one.clone() };
        let mut options = call.options(tier);
        if one.options.start.is_some() {
            options = options.kv_starts(&starts);
        }
        if one.options.end.is_some() || !self.packed_keys {
            options = options.kv_lens(&ends);
        }
        if self.packed_queries {
            options = options.q_offsets(&q_offsets);
        }
        if self.packed_keys {
            options = options.kv_offsets(&kv_offsets);
        }
        for mask in &self.masks {
            options = mask.set(options, self.sizes(&mask.bools));
        }
        if let Some(bias) = &self.bias {
            options = with_type!(bias.values.kind(), T => {
                options.bias(TensorRef::new(T::slice(&bias.values), self.sizes(bias)).expect("a bias"))
            });
        }

        let (batch, tokens) =
            if self.packed_queries { (1, q_offsets[self.alone.len()]) } else { (self.alone.len(), q_len) };
        let q: Vec<f32> = self
            .alone
            .iter()
            .flat_map(|lookup| {
                (0..lookup.q.len).flat_map(move |i| (0..n_heads).flat_map(move |h| lookup.q.token(i, h)))
            })
            .collect();
        let (head_dim, v_head_dim) = (one.q.head_dim, one.v.head_dim);
        let mut out = vec![f32::NAN; batch * tokens * n_heads * v_head_dim];
        let mut lse = nan_scratch(batch * tokens * n_heads);
        let mut scratch = nan_scratch(attention_scratch_len(q_len, kv_len, head_dim, v_head_dim));
        let [k, v] = [(0, self.layouts[0]), (1, self.layouts[1])].map(|(which, layout)| {
            let heads = |lookup: &'_ Lookup| if which == 0 { lookup.k.clone() } else { lookup.v.clone() };
            let heads: Vec<Heads> = self.alone.iter().map(heads).collect();
            Cache::new(&heads, self.packed_keys, layout)
        });
        let q = HeadsRef::batch_token_major(&q, batch, tokens, n_heads, head_dim).expect("queries");
        let to = HeadsMut::batch_token_major(&mut out, batch, tokens, n_heads, v_head_dim).expect("output");
        let (k, v) = (k.keys(), v.keys());
        if in_items {
            let mut work = options.split(q, &*k, &*v, to, Some(&mut lse)).expect("sizes agree");
            work.items().for_each(|item| item.run(&mut scratch).expect("enough scratch"));
        } else {
            options.run_with_lse(q, &*k, &*v, to, &mut lse, &mut scratch).expect("sizes agree");
        }

        let mut rows = (Vec::new(), Vec::new());
        for (b, lookup) in self.alone.iter().enumerate() {
            let (row, from) = if self.packed_queries { (0, q_offsets[b]) } else { (b, 0) };
            for (h, i) in (0..n_heads).flat_map(|h| (from..from + lookup.q.len).map(move |i| (h, i))) {
                let out = &out[((row * tokens + i) * n_heads + h) * v_head_dim..][..v_head_dim];
                rows.0.extend(out.iter().map(|x| x.to_bits()));
                rows.1.push(lse[(row * n_heads + h) * tokens + i].to_bits());
            }
        }
        rows
    }

    fn sizes<T>(&self, table: &Table<T>) -> [usize; 4] {
        let sequences = self.alone.len();
        [sequences, table.heads / sequences, table.rows, table.keys]
    }

    /// The same of each sequence by itself.
    fn run_alone(&self, tier: Tier) -> (Vec<u32>, Vec<u32>) {
        let mut rows = (Vec::new(), Vec::new());
        for lookup in &self.alone {
            let (out, lse) = lookup.run_with_lse(tier);
            for (h, i) in (0..lookup.q.n_heads).flat_map(|h| (0..lookup.q.len).map(move |i| (h, i))) {
                rows.0.extend(out.token_bits(i, h));
            }
            rows.1.extend(lse.iter().map(|x| x.to_bits()));
        }
        rows
    }
}

/// The most queries and keys of a sequence.
fn longest(sequences: &[Lookup]) -> [usize; 2] {
    let most = |len: fn(&Lookup) -> usize| sequences.iter().map(len).max().unwrap_or(0);
    [most(|lookup| lookup.q.len), most(|lookup| lookup.k.len)]
}

/// Gives `push` the places of one table for all sequences in theirs, or `None` behind their ends.
fn together<T>(
    alone: &[Lookup],
    all: &Table<T>,
    table: impl Fn(&Lookup) -> Table<T>,
    mut push: impl FnMut(&Table<T>, Option<usize>),
) -> Table<()> {
    let (rows, keys) = (all.rows, all.keys);
    for lookup in alone {
        let table = table(lookup);
        for (h, i) in (0..all.heads).flat_map(|h| (0..rows).map(move |i| (h, i))) {
            for t in 0..keys {
                let there = t < table.keys && (table.rows == 1 || i < table.rows);
                push(&table, there.then(|| table.index(h, i, t)));
            }
        }
    }
    Table { heads: alone.len() * all.heads, rows, keys, values: () }
}

/// Keys of all sequences, NaN where none is.
struct Cache {
    slots: Batch,
    layout: Layout,
    /// Pages of each sequence.
    table: Vec<u32>,
    sequences: usize,
    len: usize,
}

impl Cache {
    fn new(heads: &[Heads], packed: bool, layout: Layout) -> Cache {
        let mut rng = Rng::new(heads.len() as u64);
        let lens = heads.iter().map(|heads| heads.len);
        let from = offsets(lens.clone());
        let (sequences, len) =
            if packed { (1, from[heads.len()]) } else { (heads.len(), lens.max().unwrap_or(0)) };
        let (mut table, mut slots) = (Vec::new(), (sequences, len));
        match layout {
            Layout::Plain => {}
            Layout::Ring(more, _) => slots.1 += more,
            Layout::Pages(size, _) => {
                table = (0..(sequences * len.div_ceil(size)) as u32).collect();
                (1..table.len()).rev().for_each(|i| table.swap(i, rng.below(i + 1)));
                slots = (table.len(), size);
            }
        }
        let one = &heads[0];
        let slots = Batch::random(&mut rng, one.kind(), [slots.0, slots.1, one.n_heads, one.head_dim]);
        let mut cache = Cache { slots, layout, table, sequences, len };
        for (b, t, h) in cache.slots.rows() {
            cache.slots.set_row(b, t, h, &vec![f32::NAN; one.head_dim]);
        }
        for (b, heads) in heads.iter().enumerate() {
            for (t, h) in (0..heads.len).flat_map(|t| (0..heads.n_heads).map(move |h| (t, h))) {
                let (row, slot) = if packed { cache.slot(0, from[b] + t) } else { cache.slot(b, t) };
                cache.slots.set_row(row, slot, h, &heads.token(t, h));
            }
        }
        cache
    }

    fn slot(&self, b: usize, t: usize) -> (usize, usize) {
        let len = self.slots.sizes[1];
        match self.layout {
            Layout::Plain => (b, t),
            Layout::Ring(_, first) => (b, (first % len + t) % len),
            Layout::Pages(size, _) => {
                (self.table[b * self.table.len() / self.sequences + t / size] as usize, t % size)
            }
        }
    }

    fn keys(&self) -> Box<dyn Keys + '_> {
        with_type!(self.slots.kind(), T => self.typed::<T>())
    }

    fn typed<T: Typed>(&self) -> Box<dyn Keys + '_> {
        let slots = self.slots.view::<T>();
        match self.layout {
            Layout::Plain => Box::new(slots),
            Layout::Ring(_, first) => {
                Box::new(Ring::new(slots, first % slots.len().max(1), self.len).expect("a ring"))
            }
            Layout::Pages(..) => {
                Box::new(Paged::new(slots, &self.table, self.sequences, self.len).expect("pages"))
            }
        }
    }
}

#[test]
fn prop_sequences_together_have_the_bits_of_each_alone() {
    let mut rng = Rng::new(31);
    for n in 0..120 {
        let sequences = Sequences::random(&mut rng);
        for tier in tiers() {
            let (expected, expected_lse) = sequences.run_alone(tier);
            for in_items in [false, true] {
                let (out, lse) = sequences.run(tier, in_items);
                let Sequences { packed_queries, packed_keys, layouts, .. } = sequences;
                let what =
                    (tier, n, in_items, packed_queries, packed_keys, layouts, &sequences.alone[0].options);
                expect(same_bits(Kind::F32, &out, &expected), what);
                expect(same_bits(Kind::F32, &lse, &expected_lse).map_err(|m| format!("lse: {m}")), what);
            }
        }
    }
}
