//! Options of attention beside its sizes and types: masks, biases, rules, softcap, lengths, and where keys
//! lie. Each as the crate takes it and as plain loops ask for it.

use core::ops::Range;

use super::Rng;
use super::buffer::{Buffer, Kind, Typed};
use super::heads::Heads;
use crate::with_type;
use qkv::{Attention, HeadsRef, Keys, MaskRule, Paged, Ring, ScoreAt, ScoreRule, TensorRef, Tile};

/// A value for each head, query and key; one head or one query may stand for all.
#[derive(Clone, Debug)]
pub struct Table<T> {
    pub heads: usize,
    pub rows: usize,
    pub keys: usize,
    pub values: T,
}

impl<T> Table<T> {
    pub fn index(&self, h: usize, i: usize, t: usize) -> usize {
        let (h, i) = (if self.heads == 1 { 0 } else { h }, if self.rows == 1 { 0 } else { i });
        (h * self.rows + i) * self.keys + t
    }

    /// The same values for some heads and rows: `get(h, i, t)` of the whole, one after the other.
    fn part<U>(
        &self,
        heads: Range<usize>,
        rows: Range<usize>,
        get: impl Fn(usize) -> U,
    ) -> (Table<()>, Vec<U>) {
        let some = |n: usize, part: Range<usize>| if n == 1 { 0..1 } else { part };
        let (heads, rows) = (some(self.heads, heads), some(self.rows, rows));
        let mut values = Vec::new();
        for h in heads.clone() {
            for i in rows.clone() {
                values.extend((0..self.keys).map(|t| get(self.index(h, i, t))));
            }
        }
        (Table { heads: heads.len(), rows: rows.len(), keys: self.keys, values: () }, values)
    }

    fn with<U>(self, values: U) -> Table<U> {
        Table { heads: self.heads, rows: self.rows, keys: self.keys, values }
    }

    fn sizes(&self) -> [usize; 4] {
        [1, self.heads, self.rows, self.keys]
    }
}

/// How a mask is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    Bools,
    Bits,
    Rule,
}

impl Given {
    pub const ALL: [Given; 3] = [Given::Bools, Given::Bits, Given::Rule];
}

/// A mask in all its forms.
#[derive(Clone, Debug)]
pub struct Mask {
    pub bools: Table<Vec<bool>>,
    bits: Vec<u8>,
    pub given: Given,
}

impl Mask {
    pub fn new(bools: Table<Vec<bool>>, given: Given) -> Mask {
        let rows = bools.values.chunks(bools.keys.max(1));
        let eight = |bools: &[bool]| (0..bools.len()).fold(0, |byte, i| byte | u8::from(bools[i]) << i);
        let bits: Vec<u8> = rows.flat_map(|row| row.chunks(8).map(eight)).collect();
        Mask { bools, bits, given }
    }
}

impl Mask {
    /// Set on `attention`, as a tensor of these sizes: batch, heads, rows and keys.
    pub fn set<'a>(&'a self, attention: Attention<'a>, sizes: [usize; 4]) -> Attention<'a> {
        let [batch, heads, rows, keys] = sizes;
        let bytes = [batch, heads, rows, keys.div_ceil(8)];
        match self.given {
            Given::Bools => attention.mask(TensorRef::new(&self.bools.values, sizes).expect("sizes")),
            Given::Bits => attention.mask_bits(TensorRef::new(&self.bits, bytes).expect("sizes")),
            Given::Rule => attention.mask_rule(self),
        }
    }
}

impl MaskRule for Mask {
    fn sees(&self, query: usize, key: usize) -> bool {
        self.bools.values[self.bools.index(0, query, key)]
    }
    fn tile(&self, queries: Range<usize>, keys: Range<usize>) -> Tile {
        let mut all = queries.flat_map(|i| keys.clone().map(move |t| (i, t)));
        if all.clone().all(|(i, t)| self.sees(i, t)) {
            Tile::Full
        } else if all.any(|(i, t)| self.sees(i, t)) {
            Tile::Partial
        } else {
            Tile::Skip
        }
    }
}

/// A user's rule on scores, counted from some query and head.
#[derive(Clone, Copy, Debug)]
pub enum Rule {
    /// `score / 2 + (query - key) / 8`.
    Relative,
    /// `2 score` for keys of the same parity as the query and head.
    Parity,
}

#[derive(Clone, Copy, Debug)]
pub struct ScoreFrom {
    pub rule: Rule,
    pub query: i32,
    pub head: i32,
}

impl ScoreRule for ScoreFrom {
    #[inline]
    fn score(&self, score: f32, at: ScoreAt) -> f32 {
        let (query, head) = (at.query + self.query, at.head + self.head);
        match self.rule {
            Rule::Relative => score * 0.5 + (query - at.key) as f32 * 0.125,
            Rule::Parity => score * if (query + head + at.key) % 2 == 0 { 2.0 } else { 1.0 },
        }
    }
}

/// Where keys lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    Plain,
    /// So many slots more than keys, and the slot of the first key.
    Ring(usize, usize),
    /// Keys in a page; pages in the order of a seed.
    Pages(usize, u64),
}

/// All of them.
#[derive(Clone, Debug)]
pub struct Options {
    /// The first key that counts, and the end of them.
    pub start: Option<usize>,
    pub end: Option<usize>,
    /// At most one of each form.
    pub masks: Vec<Mask>,
    pub softcap: Option<f32>,
    pub bias: Option<Table<Buffer>>,
    pub rule: Option<ScoreFrom>,
    /// Of keys and of values.
    pub layouts: [Layout; 2],
}

impl Options {
    pub const NONE: Options = Options {
        start: None,
        end: None,
        masks: Vec::new(),
        softcap: None,
        bias: None,
        rule: None,
        layouts: [Layout::Plain; 2],
    };

    /// Each with some probability. Which there are, and of which form, does not depend on the lengths.
    pub fn random(rng: &mut Rng, n_heads: usize, q_len: usize, kv_len: usize) -> Options {
        let mut options = Options::NONE;
        let mut numbers = Rng::new(rng.word());
        let mut some = |n: usize| rng.below(n) == 0;
        let masks = Given::ALL.map(|given| (given, some(6)));
        let [softcap, bias, rule, start, end] = [some(4), some(4), some(4), some(5), some(5)];
        let table = |rng: &mut Rng, heads: usize| Table {
            heads: rng.pick(&[1, heads]),
            rows: rng.pick(&[1, q_len, q_len]),
            keys: kv_len,
            values: (),
        };
        for (given, _) in masks.into_iter().filter(|(_, given)| *given) {
            let table = table(rng, if given == Given::Rule { 1 } else { n_heads });
            let density = rng.pick(&[1, 2, 5, 40]);
            // Runs of keys, so that whole blocks are seen or not.
            let (mut left, mut seen) = (0, false);
            let mut next = || {
                if left == 0 {
                    let most = numbers.pick(&[2, 20, 200]);
                    (left, seen) = (1 + numbers.below(most), numbers.below(density) > 0);
                }
                left -= 1;
                seen || density == 1
            };
            let values = (0..table.heads * table.rows * table.keys).map(|_| next()).collect();
            options.masks.push(Mask::new(table.with(values), given));
        }
        if bias {
            let table = table(rng, n_heads);
            let kind = rng.pick(&Kind::ALL);
            let mut values = Buffer::new(kind, table.heads * table.rows * table.keys);
            let rare = rng.pick(&[1000, 3]);
            for i in 0..values.len() {
                let hole = numbers.below(rare) == 0;
                values.set_bits(i, kind.bits(if hole { f32::NEG_INFINITY } else { 3.0 * numbers.unit() }));
            }
            options.bias = Some(table.with(values));
        }
        options.softcap = softcap.then(|| rng.pick(&[0.7, 3.0, 50.0]));
        let (query, head) = (0, 0);
        options.rule =
            rule.then(|| ScoreFrom { rule: rng.pick(&[Rule::Relative, Rule::Parity]), query, head });
        options.start = start.then(|| rng.below(kv_len + 2));
        options.end = end.then(|| rng.below(kv_len + 1));
        let mut layout = || {
            let page = rng.pick(&[1, 2, 7, 16, 64, 100, 256]);
            let ring = Layout::Ring(rng.below(9), rng.below(kv_len + 1));
            let pages = Layout::Pages(page, rng.word());
            rng.pick(&[Layout::Plain, Layout::Plain, ring, pages])
        };
        let [k, v] = [layout(), layout()];
        options.layouts = [k, if rng.below(2) == 0 { k } else { v }];
        options
    }

    /// Set on `attention`; lengths are borrowed from here.
    pub fn set<'a>(&'a self, mut attention: Attention<'a>) -> Attention<'a> {
        if let Some(start) = &self.start {
            attention = attention.kv_starts(core::slice::from_ref(start));
        }
        if let Some(end) = &self.end {
            attention = attention.kv_lens(core::slice::from_ref(end));
        }
        for mask in &self.masks {
            attention = mask.set(attention, mask.bools.sizes());
        }
        if let Some(cap) = self.softcap {
            attention = attention.softcap(cap);
        }
        if let Some(bias) = &self.bias {
            attention = with_type!(bias.values.kind(), T => {
                attention.bias(TensorRef::new(T::slice(&bias.values), bias.sizes()).expect("sizes"))
            });
        }
        if let Some(rule) = &self.rule {
            attention = attention.score_rule(rule);
        }
        attention
    }

    /// Whether query `i` of head `h` sees key `t`, as far as these options decide.
    pub fn sees(&self, h: usize, i: usize, t: usize) -> bool {
        self.start.is_none_or(|start| t >= start)
            && self.end.is_none_or(|end| t < end)
            && self.masks.iter().all(|mask| mask.bools.values[mask.bools.index(h, i, t)])
            && self.bias(h, i, t).is_none_or(|bias| bias != f32::NEG_INFINITY)
    }

    pub fn bias(&self, h: usize, i: usize, t: usize) -> Option<f32> {
        self.bias.as_ref().map(|bias| bias.values.value(bias.index(h, i, t)))
    }

    /// What the rule makes of a score.
    pub fn ruled(&self, score: f32, h: usize, i: usize, t: usize) -> f32 {
        let at = ScoreAt { batch: 0, head: h as i32, query: i as i32, key: t as i32 };
        self.rule.map_or(score, |rule| rule.score(score, at))
    }

    /// The same in `f64`, with the size of what is rounded.
    pub fn ruled_exactly(&self, score: f64, h: usize, i: usize, t: usize) -> (f64, f64) {
        let Some(ScoreFrom { rule, query, head }) = self.rule else { return (score, 0.0) };
        let (query, head) = (i as i64 + i64::from(query), h as i64 + i64::from(head));
        match rule {
            Rule::Relative => {
                let shift = (query - t as i64) as f64 * 0.125;
                (score * 0.5 + shift, score.abs() + shift.abs())
            }
            Rule::Parity if (query + head + t as i64) % 2 == 0 => (score * 2.0, 0.0),
            Rule::Parity => (score, 0.0),
        }
    }

    /// For some of the heads and queries alone.
    pub fn part(&self, heads: Range<usize>, rows: Range<usize>) -> Options {
        let part = |mask: &Mask| {
            let (table, bools) = mask.bools.part(heads.clone(), rows.clone(), |at| mask.bools.values[at]);
            Mask::new(table.with(bools), mask.given)
        };
        let masks = self.masks.iter().map(part).collect();
        let bias = self.bias.as_ref().map(|bias| {
            let (table, bits) = bias.part(heads.clone(), rows.clone(), |at| bias.values.bits(at));
            let mut values = Buffer::new(bias.values.kind(), bits.len());
            bits.iter().enumerate().for_each(|(i, &bits)| values.set_bits(i, bits));
            table.with(values)
        });
        let rule = self.rule.map(|from| {
            let (query, head) = (from.query + rows.start as i32, from.head + heads.start as i32);
            ScoreFrom { query, head, ..from }
        });
        Options { masks, bias, rule, ..self.clone() }
    }
}

/// Heads in a ring or in pages, with NaN where no key is and as much round the slots as `heads` has.
pub struct Placed {
    pub slots: Heads,
    len: usize,
    layout: Layout,
    table: Vec<u32>,
}

impl Placed {
    pub fn new(heads: &Heads, layout: Layout) -> Placed {
        let len = heads.len;
        let (room, pages) = match layout {
            Layout::Plain => (len, 0),
            Layout::Ring(more, _) => (len + more, 0),
            Layout::Pages(size, _) => ((len.div_ceil(size) + 2) * size, len.div_ceil(size)),
        };
        let sizes = (room, heads.n_heads, heads.head_dim);
        let mut slots = Heads::with_guard(heads.kind(), sizes, heads.order, heads.start);
        let mut table: Vec<u32> = (0..pages as u32 + 2).collect();
        if let Layout::Pages(_, seed) = layout {
            let mut rng = Rng::new(seed);
            (1..table.len()).rev().for_each(|i| table.swap(i, rng.below(i + 1)));
            table.truncate(pages);
        }
        let mut placed = Placed { slots: slots.clone(), len, layout, table };
        for t in 0..len {
            let slot = placed.slot(t);
            for h in 0..heads.n_heads {
                for d in 0..heads.head_dim {
                    slots.set_bits(slot, h, d, heads.buffer.bits(heads.index(t, h, d)));
                }
            }
        }
        placed.slots = slots;
        placed
    }

    /// Without the pages that hold none of `keys`: their entries name none.
    pub fn with_pages_of(mut self, keys: &Range<usize>) -> Placed {
        if let Layout::Pages(size, _) = self.layout {
            for (i, page) in self.table.iter_mut().enumerate() {
                if keys.is_empty() || (i + 1) * size <= keys.start || keys.end <= i * size {
                    *page = u32::MAX;
                }
            }
        }
        self
    }

    /// Where key `t` lies.
    pub fn slot(&self, t: usize) -> usize {
        match self.layout {
            Layout::Plain => t,
            Layout::Ring(_, first) => (first % self.slots.len.max(1) + t) % self.slots.len,
            Layout::Pages(size, _) => self.table[t / size] as usize * size + t % size,
        }
    }

    pub fn keys<T: Typed>(&self) -> Box<dyn Keys + '_> {
        match self.layout {
            Layout::Plain => Box::new(self.slots.view::<T>()),
            Layout::Ring(_, first) => Box::new(self.ring::<T>(first)),
            Layout::Pages(size, _) => Box::new(self.pages::<T>(size)),
        }
    }

    fn ring<T: Typed>(&self, first: usize) -> Ring<'_, T> {
        Ring::new(self.slots.view(), first % self.slots.len.max(1), self.len).expect("a valid ring")
    }

    fn pages<T: Typed>(&self, size: usize) -> Paged<'_, T> {
        let Heads { n_heads, head_dim, token_stride, head_stride, start, end, .. } = self.slots;
        let slice = &T::slice(&self.slots.buffer)[start..end];
        let sizes = [self.slots.len / size, size, n_heads, head_dim];
        let pool =
            HeadsRef::batch_with_strides(slice, sizes, [size * token_stride, token_stride, head_stride]);
        Paged::new(pool.expect("pages of tokens"), &self.table, 1, self.len).expect("a valid table")
    }
}
