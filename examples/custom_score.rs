//! `cargo run --release --example custom_score`: rules of your own for masks and scores, on packed documents.
//!
//! ```text
//! token    0 ............. 300 ........ 576 ..................... 1275 ...
//! document |------ 0 ------|---- 1 -----|---------- 2 ------------|---- 3
//! ```
//! Documents lie one behind the other, and a token sees those of its own document up to itself. A
//! [`MaskRule`] says so. Its `tile` says it of whole blocks: no key of another document is read.
//!
//! A [`ScoreRule`] adds a bias that depends on the distance of query and key in buckets that double,
//! as in T5 (Raffel et al., 2020): 1, 2 to 3, 4 to 7, and so on. It is plain arithmetic without calls
//! or branches, so the compiler does it for a vector of scores at a time.
//!
//! The example compares with the attention of each document alone. Keys are taken in blocks of 64 and
//! chunks of 1,024 that are counted from the first key, so a document has the very same bits if it starts
//! at a block and ends in the same chunk. Otherwise results differ by rounding.

use std::error::Error;
use std::ops::Range;
use std::process::ExitCode;
use std::time::Instant;

use qkv::{Attention, HeadsMut, HeadsRef, MaskRule, ScoreAt, ScoreRule, Tier, Tile, attention_scratch_len};

const LENS: [usize; 8] = [300, 276, 699, 5, 256, 384, 40, 88];
const N_HEADS: usize = 8;
const HEAD_DIM: usize = 64;
/// The largest difference where bits may differ: values are -1 to 1, and so are outputs.
const TOLERANCE: f32 = 1e-6;
/// Each call is timed so often; its best time is printed.
const TIMES: usize = 5;

/// Which document each token is in.
struct Documents(Vec<usize>);

impl MaskRule for Documents {
    fn sees(&self, query: usize, key: usize) -> bool {
        self.0[query] == self.0[key]
    }

    fn tile(&self, queries: Range<usize>, keys: Range<usize>) -> Tile {
        let of = |tokens: Range<usize>| (self.0[tokens.start], self.0[tokens.end - 1]);
        let ((first, last), (from, to)) = (of(queries), of(keys));
        if last < from || to < first {
            Tile::Skip
        } else if first == last && from == to {
            Tile::Full
        } else {
            Tile::Partial
        }
    }
}

/// `steps[b]` is added for distances from `2^b` on, in all heads but half as much in each as in the one
/// before.
struct Relative {
    steps: [f32; 8],
}

impl ScoreRule for Relative {
    #[inline(always)]
    fn score(&self, score: f32, at: ScoreAt) -> f32 {
        let distance = (at.query - at.key).abs();
        let mut bias = 0.0;
        // A table would be a load for each score; these are a few instructions for a vector of them.
        for (b, &step) in self.steps.iter().enumerate() {
            bias += if distance >= 1 << b { step } else { 0.0 };
        }
        // 2^-head, written into the exponent.
        score + bias * f32::from_bits(((127 - at.head) as u32) << 23)
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let len: usize = LENS.iter().sum();
    let documents = Documents(LENS.iter().enumerate().flat_map(|(i, &len)| vec![i; len]).collect());
    let relative = Relative { steps: [-0.5, -0.25, -0.25, 0.125, -0.5, -0.25, -0.125, -1.0] };
    let [q, k, v] = [1.7, 2.3, 3.1].map(|step| numbers(len * N_HEADS * HEAD_DIM, step));
    let of = |tokens: Range<usize>| -> Result<[HeadsRef<'_, f32>; 3], qkv::Error> {
        let Range { start, end } = tokens;
        let view = |x| HeadsRef::token_major(x, len, N_HEADS, HEAD_DIM)?.first_rows(end)?.split_at_row(start);
        Ok([view(&q)?.1, view(&k)?.1, view(&v)?.1])
    };
    let mut scratch = vec![0.0; attention_scratch_len(len, len, HEAD_DIM, HEAD_DIM)];
    let mut attend = |options: Attention, tokens: Range<usize>| -> Result<Vec<f32>, qkv::Error> {
        let mut out = vec![f32::NAN; tokens.len() * N_HEADS * HEAD_DIM];
        let [q, k, v] = of(tokens.clone())?;
        let view = HeadsMut::token_major(&mut out, tokens.len(), N_HEADS, HEAD_DIM)?;
        options.run(q, k, v, view, &mut scratch)?;
        Ok(out)
    };

    // The packed documents in one call, and each alone: the bias depends on the distance only.
    let alone = Attention::new().causal().score_rule(&relative);
    let packed = attend(alone.mask_rule(&documents), 0..len)?;
    println!("{} documents, {len} tokens, {N_HEADS} heads of {HEAD_DIM} features\n", LENS.len());
    println!("{:>8} {:>6} {:>6} {:>18}  bits", "document", "start", "end", "largest difference");
    let mut end = 0;
    for (document, document_len) in LENS.into_iter().enumerate() {
        let start = end;
        end += document_len;
        let rows = &packed[start * N_HEADS * HEAD_DIM..end * N_HEADS * HEAD_DIM];
        let want = attend(alone, start..end)?;
        let difference = rows.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, larger);
        let same = rows.iter().zip(&want).all(|(a, b)| a.to_bits() == b.to_bits());
        let bits = if same { "same" } else { "rounding" };
        println!("{document:>8} {start:>6} {end:>6} {difference:>18.1e}  {bits}");
        let must_be_same = start % 64 == 0 && start / 1024 == (end - 1) / 1024;
        if difference > TOLERANCE || must_be_same && !same {
            return Err(format!("document {document} differs from the same alone").into());
        }
    }

    let seen: usize = LENS.iter().map(|len| len * (len + 1) / 2).sum();
    let share = 100.0 * seen as f64 / (len * len) as f64;
    println!(
        "\nEach token sees {share:.0} % of all, on average. {} tier, best of {TIMES}:\n",
        Tier::detect()
    );
    let causal = Attention::new().causal();
    let asked = |query, key| documents.sees(query, key);
    for (what, options) in [
        ("every token sees every other", Attention::new()),
        ("every token sees those before it", causal),
        ("documents, asked of each pair of tokens", causal.mask_rule(&asked)),
        ("documents, asked of tiles first", causal.mask_rule(&documents)),
        ("the same, with relative positions", causal.mask_rule(&documents).score_rule(&relative)),
    ] {
        let mut best = f64::MAX;
        for _ in 0..TIMES {
            let start = Instant::now();
            attend(options, 0..len)?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        println!("{what:40} {:>8.2} ms", best * 1e3);
    }
    Ok(())
}

/// NaN is larger than all.
fn larger(a: f32, b: f32) -> f32 {
    if a.total_cmp(&b).is_gt() { a } else { b }
}

/// Any numbers from -1 to 1 that are not alike.
fn numbers(len: usize, step: f32) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * step).sin()).collect()
}
