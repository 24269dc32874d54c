//! Each option, each form of keys and each part of the scores refuses sizes that disagree, by name, in every way to
//! run a call, and leaves the output as it was.
#![cfg(feature = "half")]

mod common;

use common::{mismatch, nan_scratch, too_large};
use core::ops::Range;
use qkv::{Attention, Error, HeadsMut, HeadsRef, Keys, Paged, Ring, Scores, TensorMut, TensorRef};
use qkv::{attention_scratch_len, states_len};

const BATCH: usize = 2;
const HEADS: usize = 4;
const QUERIES: usize = 3;
const KEYS: usize = 5;
const ROWS: usize = BATCH * HEADS * QUERIES;
const DATA: [f32; 200] = [0.5; 200];

/// A batch of `len` tokens of `heads` heads of 3 features.
fn view(batch: usize, len: usize, heads: usize) -> HeadsRef<'static, f32> {
    HeadsRef::batch_token_major(&DATA, batch, len, heads, 3).expect("200 are enough")
}

fn keys() -> HeadsRef<'static, f32> {
    view(BATCH, KEYS, 2)
}

/// What every way to run the call of `q` says, which must be the same. The output is a batch of `out`, each with as
/// many tokens as `q`.
fn ways<K: Keys + Copy, V: Keys + Copy>(
    options: Attention,
    q: HeadsRef<f32>,
    (k, v): (K, V),
    out: usize,
) -> Result<(), Error> {
    let rows = q.batch() * q.len() * q.n_heads();
    let (mut written, mut lse, mut states) =
        ([7.0_f32; 108], vec![7.0_f32; rows], vec![7.0_f32; states_len(1, rows, 3)]);
    let mut scratch = nan_scratch(attention_scratch_len(2 * QUERIES, 2 * KEYS, 3, 3));
    let (result, all) = {
        let mut out =
            HeadsMut::batch_token_major(&mut written, out, q.len(), q.n_heads(), 3).expect("enough");
        let all = [
            options.run_with_lse(q, k, v, out.reborrow(), &mut lse, &mut scratch),
            options.steps(q, k, v, out.reborrow(), None, &mut scratch).map(drop),
            options.split(q, k, v, out.reborrow(), None).map(drop),
        ];
        (options.run(q, k, v, out, &mut scratch), all)
    };
    assert!(all.iter().all(|other| *other == result), "{result:?} but {all:?}");
    let untouched = written.iter().chain(&lse).all(|&x| x == 7.0);
    assert_eq!(untouched, result.is_err(), "{result:?}");
    // States are of the queries alone: without an output, none disagrees with them.
    if out == q.batch() {
        let partial = options.partial(q, k, v, 0..1, &mut states, &mut scratch);
        assert_eq!(partial, result);
        assert_eq!(states.iter().all(|&x| x == 7.0), partial.is_err(), "{partial:?}");
        assert_eq!(options.split_keys(q, k, v, &mut states).map(drop), result);
    }
    result
}

fn attend(options: Attention) -> Result<(), Error> {
    ways(options, view(BATCH, QUERIES, HEADS), (keys(), keys()), BATCH)
}

#[test]
fn batches_must_agree() {
    let q = view(BATCH, QUERIES, HEADS);
    assert_eq!(attend(Attention::new()), Ok(()));
    let (one, three) = (view(1, KEYS, 2), view(3, KEYS, 2));
    assert_eq!(ways(Attention::new(), q, (one, one), BATCH), mismatch("batch of K", 2, 1));
    assert_eq!(ways(Attention::new(), q, (keys(), three), BATCH), mismatch("batch of V", 2, 3));
    assert_eq!(ways(Attention::new(), q, (keys(), keys()), 3), mismatch("batch of the output", 2, 3));
}

#[test]
fn lengths_and_starts_of_sequences() {
    let plain = Attention::new();
    assert_eq!(attend(plain.kv_lens(&[5, 0]).kv_starts(&[9, 2])), Ok(()));
    assert_eq!(attend(plain.kv_lens(&[5])), mismatch("batch (length of kv_lens)", 2, 1));
    assert_eq!(attend(plain.kv_lens(&[5, 6])), too_large("a number of kv_lens", 5, 6));
    assert_eq!(attend(plain.kv_starts(&[0, 0, 0])), mismatch("batch (length of kv_starts)", 2, 3));
    assert_eq!(attend(plain.alibi(&[0.5; 3])), mismatch("n_heads (length of the slopes)", 4, 3));
    assert_eq!(attend(plain.sinks(&[0.5; 2])), mismatch("n_heads (length of the sinks)", 4, 2));
}

#[test]
fn masks_and_biases() {
    const TENSORS: [([usize; 4], [&str; 3], usize, usize); 4] = [
        ([3, HEADS, QUERIES, KEYS], ["batch of the mask", "batch of the mask", "batch of the bias"], 2, 3),
        (
            [BATCH, 2, QUERIES, KEYS],
            ["n_heads of the mask", "n_heads of the mask", "n_heads of the bias"],
            4,
            2,
        ),
        ([BATCH, 1, 2, KEYS], ["q_len of the mask", "q_len of the mask", "q_len of the bias"], 3, 2),
        ([1, 1, 1, 9], ["kv_len of the mask", "bytes of a mask row", "kv_len of the bias"], 5, 9),
    ];
    let (bools, bytes, plain) = ([true; 200], [255_u8; 200], Attention::new());
    let all = |sizes| {
        let [batch, heads, queries, keys] = sizes;
        // A byte is eight keys.
        let bits = [batch, heads, queries, if keys == KEYS { 1 } else { keys }];
        [
            attend(plain.mask(TensorRef::new(&bools, sizes).expect("bools"))),
            attend(plain.mask_bits(TensorRef::new(&bytes, bits).expect("bytes"))),
            attend(plain.bias(TensorRef::new(&DATA, sizes).expect("floats"))),
        ]
    };
    assert_eq!(all([BATCH, HEADS, QUERIES, KEYS]), [Ok(()); 3]);
    assert_eq!(all([1, 1, 1, KEYS]), [Ok(()); 3]);
    for (sizes, names, expected, got) in TENSORS {
        let needed = |name| if name == "bytes of a mask row" { 1 } else { expected };
        assert_eq!(all(sizes), names.map(|name| mismatch(name, needed(name), got)), "{sizes:?}");
    }
}

#[test]
fn packed_sequences() {
    // Queries and keys of two sequences side by side.
    let (q, k, both) = (view(1, QUERIES, HEADS), view(1, KEYS, 2), [0, 1, KEYS]);
    let run = |q_offsets: &[usize], kv_offsets: &[usize]| {
        ways(Attention::new().q_offsets(q_offsets).kv_offsets(kv_offsets), q, (k, k), 1)
    };
    assert_eq!(run(&[0, 1, QUERIES], &both), Ok(()));
    assert_eq!(run(&[1, 1, QUERIES], &both), mismatch("first of the offsets", 0, 1));
    assert_eq!(run(&[0, 2, 1], &both), mismatch("offset (at least the one before)", 2, 1));
    assert_eq!(run(&[0, 1, 4], &both), mismatch("last of the offsets of queries", 3, 4));
    assert_eq!(run(&[0, 1, 2], &both), mismatch("last of the offsets of queries", 3, 2));
    assert_eq!(run(&[], &both), mismatch("last of the offsets of queries", 3, 0));
    assert_eq!(run(&[0, 1, QUERIES], &[0, 6, KEYS]), mismatch("offset (at least the one before)", 6, 5));
    assert_eq!(run(&[0, 1, QUERIES], &[0, 1, 6]), mismatch("last of the offsets of keys", 5, 6));
    assert_eq!(run(&[0, 1, QUERIES], &[0, KEYS]), mismatch("sequences of packed keys", 2, 1));
    // Only queries, or only keys, are packed: the other is a batch.
    let queries = Attention::new().q_offsets(&[0, 1, QUERIES]);
    assert_eq!(ways(queries, q, (keys(), keys()), 1), Ok(()));
    assert_eq!(ways(queries, q, (k, k), 1), mismatch("batch of K", 2, 1));
    let several = view(BATCH, QUERIES, HEADS);
    assert_eq!(ways(queries, several, (keys(), keys()), BATCH), mismatch("batch of packed queries", 1, 2));
    let packed = Attention::new().kv_offsets(&both);
    assert_eq!(ways(packed, several, (k, k), BATCH), Ok(()));
    assert_eq!(ways(packed, several, (keys(), keys()), BATCH), mismatch("batch of packed keys", 1, 2));
    assert_eq!(ways(packed, view(3, 1, HEADS), (k, k), 3), mismatch("sequences of packed keys", 3, 2));
    // A sequence's keys are those between its offsets.
    let lens = packed.kv_lens(&[2, 0]);
    assert_eq!(ways(lens, several, (k, k), BATCH), too_large("a number of kv_lens", 1, 2));
}

#[test]
fn rings_and_pages() {
    let ring = |first, len| Ring::new(view(BATCH, KEYS, 2), first, len).map(drop);
    assert_eq!((ring(4, 5), ring(0, 0)), (Ok(()), Ok(())));
    assert_eq!(ring(0, 6), too_large("keys in the ring", 5, 6));
    assert_eq!(ring(5, 5), too_large("first slot", 4, 5));
    let empty = |first| Ring::new(view(BATCH, 0, 2), first, 0).map(drop);
    assert_eq!((empty(0), empty(1)), (Ok(()), too_large("first slot", 0, 1)));

    // Three pages of two keys for each of two sequences.
    let pool = view(6, 2, 2);
    let pages = |table: &'static [u32], sequences, len| Paged::new(pool, table, sequences, len);
    assert_eq!(pages(&[0; 6], 2, 7).map(drop), too_large("keys in the pages", 6, 7));
    assert_eq!(pages(&[0; 7], 2, 6).map(drop), mismatch("page table (whole rows)", 6, 7));
    assert_eq!(pages(&[0; 1], 0, 6).map(drop), mismatch("page table (whole rows)", 0, 1));
    assert_eq!(pages(&[], 0, 6).map(drop), Ok(()));
    let attend = |options, table, len| {
        let paged = pages(table, 2, len).expect("pages enough");
        let v = view(BATCH, len, 2);
        let two = ways(options, view(BATCH, QUERIES, HEADS), (paged, paged), BATCH);
        assert_eq!(ways(options, view(BATCH, QUERIES, HEADS), (paged, v), BATCH), two);
        assert_eq!(ways(options, view(BATCH, QUERIES, HEADS), (v, paged), BATCH), two);
        two
    };
    let plain = Attention::new();
    assert_eq!(attend(plain, &[0, 5, 2, 1, 4, 3], 6), Ok(()));
    assert_eq!(attend(plain, &[0, 5, 2, 1, 4, 6], 5), too_large("page number in the table", 5, 6));
    assert_eq!(
        attend(plain, &[0, u32::MAX, 2, 1, 4, 3], 6),
        too_large("page number in the table", 5, u32::MAX as usize)
    );
    // Pages behind a sequence's keys are not used.
    assert_eq!(attend(plain, &[0, 5, 99, 1, 4, 99], 4), Ok(()));
    assert_eq!(attend(plain.kv_lens(&[2, 4]), &[0, 99, 99, 1, 4, 99], 6), Ok(()));
    assert_eq!(
        attend(plain.kv_lens(&[3, 4]), &[0, 99, 98, 1, 4, 99], 6),
        too_large("page number in the table", 5, 99)
    );
    // Nor those before what the first query sees: keys from 2 or 1 on, or from the first one that counts.
    let window = |before| plain.causal().window(before, 0);
    assert_eq!(attend(window(1), &[99, 5, 2, 98, 4, 3], 6), Ok(()));
    assert_eq!(attend(window(2), &[0, 5, 2, 98, 4, 3], 6), too_large("page number in the table", 5, 98));
    assert_eq!(attend(plain.kv_starts(&[2, 5]), &[99, 5, 2, 98, 97, 3], 6), Ok(()));
    assert_eq!(
        attend(plain.kv_starts(&[2, 3]), &[99, 5, 2, 98, 97, 3], 6),
        too_large("page number in the table", 5, 97)
    );
    // Scores of all keys use them all.
    for which in [Scores::Raw, Scores::Capped, Scores::Masked, Scores::Weights] {
        let (mut written, mut scratch) = ([7.0_f32; 200], nan_scratch(attention_scratch_len(3, 6, 3, 0)));
        let out = TensorMut::new(&mut written, [BATCH, HEADS, QUERIES, 6]).expect("144");
        let (q, k) = (view(BATCH, QUERIES, HEADS), pages(&[99, 5, 2, 98, 4, 3], 2, 6).expect("pages enough"));
        let result = window(1).scores(q, k, which, (0..HEADS, 0..QUERIES), out, &mut scratch);
        let all = matches!(which, Scores::Raw | Scores::Capped);
        assert_eq!(result, if all { too_large("page number in the table", 5, 99) } else { Ok(()) });
        assert_eq!(written.iter().all(|&x| x == 7.0), all, "{which:?}");
    }
}

#[test]
fn parts_of_the_scores() {
    let scores = |options: Attention, heads: Range<usize>, queries: Range<usize>, sizes: [usize; 4]| {
        let (mut written, mut scratch) = ([7.0_f32; 300], nan_scratch(attention_scratch_len(3, 5, 3, 0)));
        let out = TensorMut::new(&mut written, sizes).expect("300 are enough");
        let (q, all) = (view(BATCH, QUERIES, HEADS), (heads, queries));
        let result = options.scores(q, keys(), Scores::Masked, all, out, &mut scratch);
        assert_eq!(written.iter().all(|&x| x == 7.0), result.is_err(), "{result:?}");
        result
    };
    let plain = Attention::new();
    assert_eq!(scores(plain, 1..3, 2..3, [BATCH, 2, 1, KEYS]), Ok(()));
    assert_eq!(scores(plain, 1..5, 2..3, [BATCH, 4, 1, KEYS]), too_large("end of the heads", 4, 5));
    assert_eq!(scores(plain, 1..3, 2..4, [BATCH, 2, 2, KEYS]), too_large("end of the queries", 3, 4));
    assert_eq!(scores(plain, 1..3, 2..3, [1, 2, 1, KEYS]), mismatch("batch of the scores", 2, 1));
    assert_eq!(scores(plain, 1..3, 2..3, [BATCH, 4, 1, KEYS]), mismatch("heads of the scores", 2, 4));
    assert_eq!(scores(plain, 1..3, 2..3, [BATCH, 2, 3, KEYS]), mismatch("queries of the scores", 1, 3));
    assert_eq!(scores(plain, 1..3, 2..3, [BATCH, 2, 1, 6]), mismatch("kv_len of the scores", 5, 6));
    let mask = TensorRef::new(&[true; 6], [1, 1, 1, 6]).expect("six");
    assert_eq!(
        scores(plain.mask(mask), 1..3, 2..3, [BATCH, 2, 1, KEYS]),
        mismatch("kv_len of the mask", 5, 6)
    );
    let (needed, mut written) =
        (attention_scratch_len(QUERIES, KEYS, 3, 0), [7.0_f32; BATCH * HEADS * QUERIES * KEYS]);
    let out = TensorMut::new(&mut written, [BATCH, HEADS, QUERIES, KEYS]).expect("as long");
    let result = plain.weights(view(BATCH, QUERIES, HEADS), keys(), out, &mut nan_scratch(needed - 1));
    assert_eq!(result, Err(Error::ScratchTooShort { needed, got: needed - 1 }));
    assert!(written.iter().all(|&x| x == 7.0));
    // One batch, so that only being packed is wrong.
    let (mut written, offsets) = ([7.0_f32; 100], [[0, QUERIES], [0, KEYS]]);
    for packed in [plain.q_offsets(&offsets[0]), plain.kv_offsets(&offsets[1])] {
        let out = TensorMut::new(&mut written, [1, HEADS, QUERIES, KEYS]).expect("100 are enough");
        let result = packed.weights(view(1, QUERIES, HEADS), view(1, KEYS, 2), out, &mut nan_scratch(9999));
        assert_eq!((result, written), (Err(Error::NotForPacked { what: "scores or weights" }), [7.0; 100]));
    }
    // Nor does it matter which scores are wanted, or that a batch of keys is no batch of packed queries.
    let out = TensorMut::new(&mut written, [1, HEADS, QUERIES, KEYS]).expect("100 are enough");
    let (packed, all) = (plain.q_offsets(&[0, 1, QUERIES]), (0..HEADS, 0..QUERIES));
    let result =
        packed.scores(view(1, QUERIES, HEADS), keys(), Scores::Raw, all, out, &mut nan_scratch(9999));
    assert_eq!((result, written), (Err(Error::NotForPacked { what: "scores or weights" }), [7.0; 100]));
}

#[test]
fn states_and_what_they_are_merged_to() {
    let len = states_len(1, ROWS, 3);
    let merge = |options: Attention, len: usize, lse: Option<usize>| {
        let (mut written, mut sums) = ([7.0_f32; 3 * ROWS], vec![7.0_f32; lse.unwrap_or(0)]);
        let out = HeadsMut::batch_token_major(&mut written, BATCH, QUERIES, HEADS, 3).expect("as long");
        let result = options.merge(&mut vec![0.5; len], out, lse.map(|_| sums.as_mut_slice()));
        let untouched = written.iter().chain(&sums).all(|&x| x == 7.0);
        assert_eq!(untouched, result.is_err(), "{result:?}");
        result
    };
    let plain = Attention::new();
    assert_eq!((merge(plain, len, None), merge(plain, 2 * len, Some(ROWS))), (Ok(()), Ok(())));
    assert_eq!(merge(plain, len + 1, None), mismatch("states (whole chunks)", len, len + 1));
    assert_eq!(merge(plain, 0, None), mismatch("states (whole chunks)", len, 0));
    assert_eq!(merge(plain.sinks(&[0.5; 3]), len, None), mismatch("n_heads (length of the sinks)", 4, 3));
    let lse = "batch * n_heads * q_len (length of lse)";
    assert_eq!(merge(plain, len, Some(ROWS - 1)), mismatch(lse, ROWS, ROWS - 1));
    let (q, mut states) = (view(BATCH, QUERIES, HEADS), vec![7.0; len]);
    let result = plain.partial(q, keys(), keys(), 0..2, &mut states, &mut nan_scratch(9999));
    let dim = "chunks * rows * state (length of the states)";
    assert_eq!(result, mismatch(dim, 2 * len, len));
    let work = plain.split_keys(q, keys(), keys(), &mut states[1..]);
    assert_eq!(work.map(drop), mismatch(dim, len, len - 1));
    assert!(states.iter().all(|&x| x == 7.0));
    // Also of nothing.
    let (q, k) = (view(0, QUERIES, HEADS), view(0, KEYS, 2));
    let needed = attention_scratch_len(QUERIES, KEYS, 3, 3);
    let result = plain.partial(q, k, k, 0..1, &mut [], &mut []);
    assert_eq!(result, Err(Error::ScratchTooShort { needed, got: 0 }));
}
