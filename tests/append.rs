//! Appending tokens to caches of each form, bit for bit against plain loops, and what attention then reads.
#![cfg(feature = "half")]

mod common;

use common::batch::Batch;
use common::buffer::Kind;
use common::{Rng, bits, expect, mismatch, nan_scratch, tiers, too_large};
use qkv::{
    Append, Attention, Error, HeadsMut, HeadsRef, Keys, Paged, Ring, Rotary, Tier, attention_scratch_len,
};
use quickcheck::{Gen, QuickCheck};

/// A form of cache.
#[derive(Clone, Debug)]
enum Form {
    Rows,
    Ring,
    /// `[sequences][pages]`.
    Pages(Vec<u32>),
}

/// New tokens for a cache.
#[derive(Clone, Debug)]
struct Case {
    tokens: Batch,
    cache: Batch,
    form: Form,
    appended: Vec<usize>,
    /// Features that are rotated, and whether neighbours are pairs.
    rotary: Option<(usize, bool)>,
    /// For each position the cosines and the sines.
    angles: Vec<f32>,
}

const POSITIONS: usize = 40;

impl Case {
    fn random(rng: &mut Rng, kinds: (Kind, Kind), form: usize, interleaved: Option<bool>) -> Case {
        let (batch, len, heads) = (rng.below(4), rng.below(6), 1 + rng.below(3));
        let head_dim = rng.pick(&[1, 2, 5, 8, 9, 16, 17, 24, 32, 33, 66]);
        let tokens = Batch::random(rng, kinds.0, [batch, len, heads, head_dim]);
        let appended: Vec<usize> = (0..batch).map(|_| rng.below(30)).collect();
        let most = appended.iter().max().unwrap_or(&0) + len;
        let (form, sequences, room) = match form {
            0 => (Form::Rows, batch, most + rng.below(3)),
            1 => (Form::Ring, batch, 1 + rng.below(12)),
            _ => {
                let size = 1 + rng.below(9);
                let pages = most.div_ceil(size) + rng.below(2);
                let pool = batch * pages + rng.below(3);
                let mut order: Vec<u32> = (0..pool as u32).collect();
                (1..pool).rev().for_each(|i| order.swap(i, rng.below(i + 1)));
                // What no new token needs names no page.
                let used = |b: usize, page: usize| {
                    let (from, to) = (appended[b], appended[b] + len);
                    from < to && (from / size..=(to - 1) / size).contains(&page)
                };
                let entry = |i: usize| if used(i / pages, i % pages) { order[i] } else { u32::MAX };
                (Form::Pages((0..batch * pages).map(entry).collect()), pool, size)
            }
        };
        let cache = Batch::random(rng, kinds.1, [sequences, room, heads, head_dim]);
        let dim = [head_dim & !1, 2 * rng.below(head_dim / 2 + 1)][rng.below(2)];
        let mut angles = vec![f32::NAN; Rotary::table_len(POSITIONS, dim)];
        Rotary::fill_table(dim, 50.0, &mut angles).expect("whole positions");
        let rotary = interleaved.map(|interleaved| (dim, interleaved));
        Case { tokens, cache, form, appended, rotary, angles }
    }

    /// Where token `i` of sequence `b` goes.
    fn place(&self, b: usize, i: usize) -> (usize, usize) {
        let (number, size) = (self.appended[b] + i, self.cache.sizes[1]);
        match &self.form {
            Form::Rows => (b, number),
            Form::Ring => (b, number % size),
            Form::Pages(table) => {
                (table[table.len() / self.appended.len() * b + number / size] as usize, number % size)
            }
        }
    }

    /// The cache as plain loops leave it.
    fn expected(&self) -> Batch {
        let mut cache = self.cache.clone();
        for (b, i, h) in self.tokens.rows() {
            let mut row = self.tokens.row(b, i, h);
            if let Some((dim, interleaved)) = self.rotary {
                let angles = &self.angles[(self.appended[b] + i) * dim..][..dim];
                row = bits::rotary(&row, angles, interleaved);
            }
            let (sequence, token) = self.place(b, i);
            cache.set_row(sequence, token, h, &row);
        }
        cache
    }

    /// Appends tokens `from..to` of each sequence.
    fn append(&self, tier: Tier, cache: &mut Batch, from: usize, to: usize) -> Result<(), Error> {
        let appended: Vec<usize> = self.appended.iter().map(|appended| appended + from).collect();
        let mut append = Append::new(&appended).tier(tier);
        if let Some((dim, interleaved)) = self.rotary {
            let rotary = Rotary::new(&self.angles, dim)?;
            append = append.rotary(if interleaved { rotary.interleaved() } else { rotary });
        }
        with_type!(self.tokens.kind(), T => with_type!(cache.kind(), C => {
            let tokens = self.tokens.view::<T>().first_rows(to)?.split_at_row(from)?.1;
            let cache = cache.view_mut::<C>();
            match &self.form {
                Form::Rows => append.to(tokens, cache),
                Form::Ring => append.to_ring(tokens, cache),
                Form::Pages(table) => append.to_pages(tokens, cache, table),
            }
        }))
    }

    /// That all tiers leave the bits of plain loops, at once and one by one.
    fn check(&self) -> Result<(), String> {
        let (expected, len) = (self.expected(), self.tokens.sizes[1]);
        for tier in tiers() {
            let (mut at_once, mut one_by_one) = (self.cache.clone(), self.cache.clone());
            self.append(tier, &mut at_once, 0, len).map_err(|error| error.to_string())?;
            at_once.check(&expected).map_err(|message| format!("{tier}: {message}"))?;
            for i in 0..len {
                self.append(tier, &mut one_by_one, i, i + 1).map_err(|error| error.to_string())?;
            }
            one_by_one.check(&expected).map_err(|message| format!("{tier}, one by one: {message}"))?;
        }
        Ok(())
    }
}

#[test]
fn append_has_the_bits_of_plain_loops_in_every_form_and_type() {
    let mut rng = Rng::new(1);
    let mut written = 0;
    for from in Kind::ALL {
        for to in Kind::ALL {
            for form in 0..3 {
                for interleaved in [None, Some(false), Some(true)] {
                    for _ in 0..8 {
                        let case = Case::random(&mut rng, (from, to), form, interleaved);
                        expect(case.check(), &case);
                        written += usize::from(case.expected().check_untouched(&case.cache).is_err());
                    }
                }
            }
        }
    }
    assert!(written > 300, "only {written} of 648 cases append anything");
}

#[test]
fn prop_append_has_the_bits_of_plain_loops() {
    fn property(seed: u64) -> Result<(), String> {
        let mut rng = Rng::new(seed);
        let kinds = (rng.pick(&Kind::ALL), rng.pick(&Kind::ALL));
        let (form, interleaved) = (rng.below(3), rng.pick(&[None, Some(false), Some(true)]));
        let case = Case::random(&mut rng, kinds, form, interleaved);
        case.check().map_err(|message| format!("{message} in {case:?}"))
    }
    QuickCheck::new().rng(Gen::from_size_and_seed(10, 1)).tests(1000).quickcheck(property as fn(u64) -> _);
}

#[test]
fn append_keeps_the_bits_of_a_nan_that_is_stored_in_its_own_type() {
    let mut rng = Rng::new(2);
    for kind in Kind::ALL {
        let mut case = Case::random(&mut rng, (kind, kind), 0, None);
        (case.tokens, case.cache) =
            (Batch::random(&mut rng, kind, [1, 1, 1, 9]), Batch::random(&mut rng, kind, [1, 1, 1, 9]));
        case.appended = vec![0];
        let places: Vec<usize> = (0..9).map(|d| case.tokens.index(0, 0, 0, d)).collect();
        for (i, &at) in places.iter().enumerate() {
            case.tokens.buffer.set_bits(at, kind.sentinel(i + 1));
        }
        for tier in tiers() {
            let mut cache = case.cache.clone();
            case.append(tier, &mut cache, 0, 1).expect("sizes agree");
            let got: Vec<u32> = (0..9).map(|d| cache.buffer.bits(cache.index(0, 0, 0, d))).collect();
            assert_eq!(got, (1..=9).map(|i| kind.sentinel(i)).collect::<Vec<u32>>(), "{tier}");
        }
    }
}

#[test]
fn ring_keeps_the_last_tokens_when_more_come_than_it_has_slots() {
    let new: Vec<f32> = (0..10).map(|i| i as f32).collect();
    let mut slots = [-1.0_f32; 4];
    let append = |appended: usize, len: usize, slots: &mut [f32]| {
        let there = slots.len();
        let tokens = HeadsRef::token_major(&new, len, 1, 1).expect("ten");
        Append::new(&[appended]).to_ring(tokens, HeadsMut::token_major(slots, there, 1, 1).expect("slots"))
    };
    assert_eq!((append(3, 10, &mut slots), slots), (Ok(()), [9.0, 6.0, 7.0, 8.0]));
    assert_eq!((append(4, 4, &mut slots), slots), (Ok(()), [0.0, 1.0, 2.0, 3.0]));
    assert_eq!(
        (append(usize::MAX - 2, 2, &mut slots), slots),
        (Ok(()), [0.0, 0.0, 1.0, 3.0]),
        "-3 mod 4 is 1"
    );
    assert_eq!(append(usize::MAX, 2, &mut slots), Err(Error::ShapeOverflow));
    assert_eq!(append(5, 10, &mut []), Ok(()), "a ring without slots holds nothing");
}

/// A call of one form with sizes that may disagree; the cache must be untouched then.
struct Sizes {
    tokens: [usize; 4],
    cache: [usize; 4],
    appended: Vec<usize>,
    table: Vec<u32>,
    rotary: Option<usize>,
}

impl Sizes {
    fn run(&self, form: usize) -> Result<(), Error> {
        let mut rng = Rng::new(3);
        let (tokens, before) =
            (Batch::random(&mut rng, Kind::F32, self.tokens), Batch::random(&mut rng, Kind::F16, self.cache));
        let (mut cache, angles) = (before.clone(), [0.5; 10 * 4]);
        let mut append = Append::new(&self.appended);
        if let Some(dim) = self.rotary {
            append = append.rotary(Rotary::new(&angles[..10 * dim], dim)?);
        }
        let result = match form {
            0 => append.to(tokens.view::<f32>(), cache.view_mut::<qkv::f16>()),
            1 => append.to_ring(tokens.view::<f32>(), cache.view_mut::<qkv::f16>()),
            _ => append.to_pages(tokens.view::<f32>(), cache.view_mut::<qkv::f16>(), &self.table),
        };
        let untouched = cache.check_untouched(&before);
        assert!(result.is_ok() != untouched.is_ok(), "{result:?} and {untouched:?}");
        result
    }
}

#[test]
fn append_refuses_each_size_that_disagrees_by_name() {
    // In pages: two sequences with three pages each, of a pool of eight.
    let good = |form: usize| Sizes {
        tokens: [2, 3, 2, 5],
        cache: if form == 2 { [8, 4, 2, 5] } else { [2, 9, 2, 5] },
        appended: vec![1, 6],
        table: vec![7, 1, 99, 99, 3, 2],
        rotary: Some(4),
    };
    type Change = fn(&mut Sizes);
    let cases: [(Change, Result<(), Error>); 6] = [
        (|sizes| sizes.appended = vec![1], mismatch("batch (length of appended)", 2, 1)),
        (|sizes| sizes.cache[2] = 3, mismatch("n_heads of the cache", 2, 3)),
        (|sizes| sizes.cache[3] = 4, mismatch("head_dim of the cache", 5, 4)),
        (|sizes| sizes.appended[1] = usize::MAX, Err(Error::ShapeOverflow)),
        (|sizes| sizes.appended[0] = 8, too_large("positions, for the rotary table,", 10, 11)),
        (|sizes| (sizes.tokens[3], sizes.cache[3]) = (3, 3), too_large("rotary dim", 3, 4)),
    ];
    for form in 0..3 {
        assert_eq!(good(form).run(form), Ok(()), "form {form}");
        for (i, (change, error)) in cases.iter().enumerate() {
            let mut sizes = good(form);
            change(&mut sizes);
            assert_eq!(sizes.run(form), *error, "form {form}, case {i}");
        }
        let mut plain = good(form);
        (plain.rotary, plain.appended[1]) = (None, usize::MAX);
        assert_eq!(plain.run(form), Err(Error::ShapeOverflow), "form {form}, not rotated");
    }
    let run = |form: usize, change: Change| {
        let mut sizes = good(form);
        change(&mut sizes);
        sizes.run(form)
    };
    for form in 0..2 {
        assert_eq!(
            run(form, |sizes| sizes.cache[0] = 3),
            mismatch("batch of the cache", 2, 3),
            "form {form}"
        );
    }
    let room = "tokens in the cache";
    assert_eq!(run(0, |sizes| sizes.appended[1] = 7), too_large(room, 9, 10));
    assert_eq!(run(2, |sizes| (sizes.appended[1], sizes.rotary) = (10, None)), too_large(room, 12, 13));
    assert_eq!(run(2, |sizes| sizes.cache[1] = 0), too_large(room, 0, 4));
    assert_eq!(run(2, |sizes| sizes.table.truncate(5)), mismatch("page table (whole rows)", 4, 5));
    // The first sequence's page for its token number 0, the last sequence's for its last.
    assert_eq!(run(2, |sizes| sizes.table[0] = 8), too_large("page number in the table", 7, 8));
    assert_eq!(run(2, |sizes| sizes.table[5] = 80), too_large("page number in the table", 7, 80));
    assert_eq!(
        run(2, |sizes| sizes.table[4] = u32::MAX),
        too_large("page number in the table", 7, u32::MAX as usize)
    );
    assert_eq!(run(2, |sizes| sizes.cache[0] = 0), too_large("page number in the table", 0, 7));
}

#[test]
fn append_of_nothing_is_accepted_and_writes_nothing() {
    let run = |tokens: [usize; 4], cache: [usize; 4]| {
        let none: &[f32] = &[];
        let tokens = HeadsRef::batch_with_strides(none, tokens, [0; 3]).expect("no elements");
        let cache =
            || HeadsMut::batch_with_strides(&mut [] as &mut [f32], cache, [0; 3]).expect("no elements");
        let append = Append::new(&[0, 0][..tokens.batch()]);
        let table = [0, 0];
        [
            append.to(tokens, cache()),
            append.to_ring(tokens, cache()),
            append.to_pages(tokens, cache(), &table[..tokens.batch()]),
        ]
    };
    // No sequences; no tokens; no heads; and any number of tokens without features.
    assert_eq!(run([0, 5, 2, 3], [0, 9, 2, 3]), [Ok(()); 3]);
    assert_eq!(run([2, 0, 2, 3], [2, 0, 2, 3]), [Ok(()); 3]);
    assert_eq!(run([2, 4, 0, 3], [2, 9, 0, 3]), [Ok(()); 3]);
    assert_eq!(run([2, usize::MAX, 2, 0], [2, usize::MAX, 2, 0]), [Ok(()); 3]);
}

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const DIM: usize = 12;

fn numbers(rng: &mut Rng, n: usize) -> Vec<f32> {
    (0..n).map(|_| rng.unit()).collect()
}

/// The bits of attention for `q`, `[batch][len][HEADS][DIM]`.
fn attend(options: Attention<'_>, q: &[f32], batch: usize, k: impl Keys, v: impl Keys) -> Vec<u32> {
    let len = q.len() / (batch * HEADS * DIM);
    let (mut out, mut scratch) =
        (vec![f32::NAN; q.len()], nan_scratch(attention_scratch_len(len, 300, DIM, DIM)));
    let q = HeadsRef::batch_token_major(q, batch, len, HEADS, DIM).expect("queries");
    let to = HeadsMut::batch_token_major(&mut out, batch, len, HEADS, DIM).expect("output");
    options.run(q, k, v, to, &mut scratch).expect("sizes agree");
    out.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn attention_over_a_ring_that_was_appended_to_is_attention_to_a_window() {
    const SLOTS: usize = 70;
    const MAX: usize = 200;
    let row = KV_HEADS * DIM;
    let mut rng = Rng::new(4);
    let (k, v) = (numbers(&mut rng, MAX * row), numbers(&mut rng, MAX * row));
    let mut table = vec![f32::NAN; Rotary::table_len(MAX, 8)];
    let rotary = Rotary::fill_table(8, 10_000.0, &mut table).expect("whole positions");
    for tier in tiers() {
        let [mut k_ring, mut v_ring] = [(); 2].map(|()| vec![qkv::f16::NAN; SLOTS * row]);
        let [mut k_rows, mut v_rows] = [(); 2].map(|()| vec![qkv::f16::NAN; MAX * row]);
        let mut there = 0;
        // Blocks of 64 keys at absolute positions: where the window starts with one, even the bits are those
        // of a window over all keys.
        for (new, window_has_the_bits) in
            [(1, true), (32, true), (37, true), (1, false), (63, true), (30, false), (34, true), (1, false)]
        {
            let append = Append::new(core::slice::from_ref(&there)).tier(tier);
            for (x, ring, rows, append) in [
                (&k, &mut k_ring, &mut k_rows, append.rotary(rotary)),
                (&v, &mut v_ring, &mut v_rows, append),
            ] {
                let tokens =
                    HeadsRef::token_major(&x[there * row..], new, KV_HEADS, DIM).expect("new tokens");
                let slots = HeadsMut::token_major(ring, SLOTS, KV_HEADS, DIM).expect("slots");
                append.to_ring(tokens, slots).expect("a ring has room");
                append
                    .to(tokens, HeadsMut::token_major(rows, MAX, KV_HEADS, DIM).expect("rows"))
                    .expect("room");
            }
            there += new;
            let mut q = numbers(&mut rng, HEADS * DIM);
            let heads = HeadsMut::token_major(&mut q, 1, HEADS, DIM).expect("a query");
            rotary.tier(tier).rotate(heads, &[there - 1]).expect("a position");
            let slots = |x| Ring::last(HeadsRef::token_major(x, SLOTS, KV_HEADS, DIM).expect("slots"), there);
            let rows = |x| HeadsRef::token_major(x, there, KV_HEADS, DIM).expect("rows");
            let last = |x| rows(x).split_at_row(there.saturating_sub(SLOTS)).expect("part").1;
            let plain = Attention::new().causal().tier(tier);
            let ring = attend(plain, &q, 1, slots(&k_ring), slots(&v_ring));
            assert_eq!(ring, attend(plain, &q, 1, last(&k_rows), last(&v_rows)), "{tier}, {there} tokens");
            if window_has_the_bits {
                let window = attend(plain.window(SLOTS - 1, 0), &q, 1, rows(&k_rows), rows(&v_rows));
                assert_eq!(ring, window, "{tier}, a window at {there} tokens");
            }
        }
    }
}

#[test]
fn attention_over_pages_that_were_appended_to_has_the_bits_of_rows() {
    const BATCH: usize = 3;
    const MAX: usize = 150;
    const SIZE: usize = 16;
    let (row, pages) = (KV_HEADS * DIM, MAX.div_ceil(SIZE));
    let mut rng = Rng::new(5);
    let mut table: Vec<u32> = (0..(BATCH * pages) as u32).collect();
    (1..table.len()).rev().for_each(|i| table.swap(i, rng.below(i + 1)));
    let mut angles = vec![f32::NAN; Rotary::table_len(MAX, DIM)];
    let rotary = Rotary::fill_table(DIM, 10_000.0, &mut angles).expect("whole positions").interleaved();
    for tier in tiers() {
        let [mut k_pool, mut v_pool] = [(); 2].map(|()| vec![qkv::bf16::NAN; table.len() * SIZE * row]);
        let [mut k_rows, mut v_rows] = [(); 2].map(|()| vec![qkv::bf16::NAN; BATCH * MAX * row]);
        // Sequences that already differ in length: tokens before the first are never seen.
        let starts = [0, 5, 40];
        let mut there = starts;
        for new in [17, 1, 1, 30, 1] {
            for (x, pool, rows, turned) in [
                (numbers(&mut rng, BATCH * new * row), &mut k_pool, &mut k_rows, true),
                (numbers(&mut rng, BATCH * new * row), &mut v_pool, &mut v_rows, false),
            ] {
                let append = Append::new(&there).tier(tier);
                let append = if turned { append.rotary(rotary) } else { append };
                let tokens = HeadsRef::batch_token_major(&x, BATCH, new, KV_HEADS, DIM).expect("new tokens");
                let pool = HeadsMut::batch_head_major(pool, table.len(), SIZE, KV_HEADS, DIM).expect("pages");
                append.to_pages(tokens, pool, &table).expect("room");
                let rows = HeadsMut::batch_token_major(rows, BATCH, MAX, KV_HEADS, DIM).expect("rows");
                append.to(tokens, rows).expect("room");
            }
            there = there.map(|there| there + new);
            let mut q = numbers(&mut rng, BATCH * new * HEADS * DIM);
            let heads = HeadsMut::batch_token_major(&mut q, BATCH, new, HEADS, DIM).expect("queries");
            rotary.tier(tier).rotate(heads, &there.map(|there| there - new)).expect("positions");
            let options = Attention::new().causal().kv_starts(&starts).kv_lens(&there).tier(tier);
            let pool = |x| {
                let pool = HeadsRef::batch_head_major(x, table.len(), SIZE, KV_HEADS, DIM).expect("pages");
                Paged::new(pool, &table, BATCH, MAX).expect("a table")
            };
            let rows = |x| HeadsRef::batch_token_major(x, BATCH, MAX, KV_HEADS, DIM).expect("rows");
            let paged = attend(options, &q, BATCH, pool(&k_pool), pool(&v_pool));
            assert_eq!(paged, attend(options, &q, BATCH, rows(&k_rows), rows(&v_rows)), "{tier}, {there:?}");
            assert!(
                paged.iter().all(|&bits| !f32::from_bits(bits).is_nan()),
                "what was not appended is seen"
            );
        }
    }
}
