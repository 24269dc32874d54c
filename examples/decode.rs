//! `cargo run --release --example decode`: a decode loop over each form of cache, with the bits of prefill.
//!
//! ```text
//! side by side   token n in row n             the whole context
//! pages          token n in page n / 64       the whole context, memory taken as it grows
//! ring           token n in slot n % slots    a sliding window, in memory that does not grow
//! ```
//! Caches hold keys and values in `f16`. Four query heads share a key head, and queries and keys are
//! rotated by their position. First comes a prompt, all tokens in one call, then one token at a time.
//!
//! Each loop is compared with a prefill of all tokens in one call. Bits depend on where a key stands in
//! its block of 64 and chunk of 1,024 keys, counted from the first key of the call. So a ring has the
//! bits of prefill if it is read from a multiple of 1,024 on, with the window as an option. A ring of
//! no more than the window is smaller, and counts from another key in each step: it has the bits of the
//! same keys side by side, and those of prefill up to rounding.

use std::error::Error;
use std::ops::Range;
use std::process::ExitCode;
use std::time::Instant;

use qkv::{Append, Attention, HeadsMut, HeadsRef, Paged, Ring, Rotary, attention_scratch_len, f16};
use qkv::{KEYS_PER_STATE, Tier};

const PROMPT: usize = 700;
const LEN: usize = 2500;
const WINDOW: usize = 1000;
const N_HEADS: usize = 8;
const N_KV_HEADS: usize = 2;
const HEAD_DIM: usize = 64;
const PAGE: usize = 64;
/// The largest difference where bits may differ: values are -1 to 1, and so are outputs.
const TOLERANCE: f32 = 1e-6;

/// `f32`s of a token's queries or outputs, and numbers of its keys or values.
const Q_ROW: usize = N_HEADS * HEAD_DIM;
const KV_ROW: usize = N_KV_HEADS * HEAD_DIM;

const ALL: Attention = Attention::new().causal();
const LAST: Attention = Attention::new().causal().window(WINDOW - 1, 0);

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
    println!("{PROMPT} tokens of prompt, then {} one by one, {} tier", LEN - PROMPT, Tier::detect());
    println!("{N_HEADS} heads on {N_KV_HEADS}, {HEAD_DIM} features, window of {WINDOW} keys\n");
    println!("{:32} {:>11}  compared with", "cache", "a token");

    let mut table = vec![0.0; Rotary::table_len(LEN, HEAD_DIM)];
    let rotary = Rotary::fill_table(HEAD_DIM, 10_000.0, &mut table)?;
    let tokens = Tokens {
        q: numbers(LEN * Q_ROW, 1.7),
        k: numbers(LEN * KV_ROW, 2.3),
        v: numbers(LEN * KV_ROW, 3.1),
        rotary,
    };
    let at_once = || std::iter::once(0..LEN);
    let steps = || std::iter::once(0..PROMPT).chain((PROMPT..LEN).map(|n| n..n + 1));
    // The first key that is read when there are `end` tokens.
    let first = |_| 0;
    let of_chunk = |end: usize| end.saturating_sub(WINDOW) / KEYS_PER_STATE * KEYS_PER_STATE;
    let of_window = |end: usize| end.saturating_sub(WINDOW);

    let prefill = side_by_side(&tokens, at_once(), ALL, first)?.0;
    let windowed = side_by_side(&tokens, at_once(), LAST, first)?.0;
    let window_alone = side_by_side(&tokens, steps(), ALL, of_window)?.0;

    let whole = side_by_side(&tokens, steps(), ALL, first)?;
    compare("side by side", &whole, ("prefill", &prefill), 0.0)?;
    let pages = paged(&tokens, steps())?;
    compare("pages of 64, in any order", &pages, ("prefill", &prefill), 0.0)?;
    // Room for the window and for what lies before it in its first chunk.
    let long = ring(&tokens, steps(), 2 * KEYS_PER_STATE, LAST, of_chunk)?;
    compare("ring, from a multiple of 1,024", &long, ("prefill with a window", &windowed), 0.0)?;
    let short = ring(&tokens, steps(), WINDOW, ALL, of_window)?;
    compare("ring of the window", &short, ("its keys side by side", &window_alone), 0.0)?;
    compare("", &short, ("prefill with a window", &windowed), TOLERANCE)
}

/// What projections give for all tokens, and the angles of their positions.
struct Tokens<'a> {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    rotary: Rotary<'a>,
}

/// The new tokens of a step. Queries are rotated; keys will be when they are appended.
struct New<'a> {
    append: Append<'a>,
    q: HeadsRef<'a, f32>,
    k: HeadsRef<'a, f32>,
    v: HeadsRef<'a, f32>,
    out: HeadsMut<'a, f32>,
    scratch: &'a mut [f32],
    /// Tokens in all.
    end: usize,
}

/// The outputs of all tokens, and the seconds that a step with one token took, on average.
type Outputs = (Vec<f32>, f64);

impl Tokens<'_> {
    fn each(
        &self,
        steps: impl Iterator<Item = Range<usize>>,
        mut step: impl FnMut(New<'_>) -> Result<(), qkv::Error>,
    ) -> Result<Outputs, qkv::Error> {
        let mut out = vec![f32::NAN; LEN * Q_ROW];
        let mut scratch = vec![0.0; attention_scratch_len(LEN, LEN, HEAD_DIM, HEAD_DIM)];
        let (mut time, mut singles) = (0.0, 0.0);
        for Range { start, end } in steps {
            let clock = Instant::now();
            let (len, appended) = (end - start, [start]);
            let mut q = self.q[start * Q_ROW..end * Q_ROW].to_vec();
            self.rotary.rotate(HeadsMut::token_major(&mut q, len, N_HEADS, HEAD_DIM)?, &appended)?;
            let kv = start * KV_ROW..end * KV_ROW;
            step(New {
                append: Append::new(&appended),
                q: HeadsRef::token_major(&q, len, N_HEADS, HEAD_DIM)?,
                k: HeadsRef::token_major(&self.k[kv.clone()], len, N_KV_HEADS, HEAD_DIM)?,
                v: HeadsRef::token_major(&self.v[kv], len, N_KV_HEADS, HEAD_DIM)?,
                out: HeadsMut::token_major(&mut out[start * Q_ROW..end * Q_ROW], len, N_HEADS, HEAD_DIM)?,
                scratch: &mut scratch,
                end,
            })?;
            if len == 1 {
                (time, singles) = (time + clock.elapsed().as_secs_f64(), singles + 1.0);
            }
        }
        Ok((out, time / singles))
    }
}

/// Room for all tokens. Keys are read from `first(tokens)` on.
fn side_by_side(
    tokens: &Tokens,
    steps: impl Iterator<Item = Range<usize>>,
    options: Attention,
    first: impl Fn(usize) -> usize,
) -> Result<Outputs, qkv::Error> {
    let [mut k_cache, mut v_cache] = [f16::ZERO; 2].map(|zero| vec![zero; LEN * KV_ROW]);
    tokens.each(steps, |new| {
        new.append.rotary(tokens.rotary).to(new.k, slots_mut(&mut k_cache)?)?;
        new.append.to(new.v, slots_mut(&mut v_cache)?)?;
        let (_, k) = slots(&k_cache)?.first_rows(new.end)?.split_at_row(first(new.end))?;
        let (_, v) = slots(&v_cache)?.first_rows(new.end)?.split_at_row(first(new.end))?;
        options.run(new.q, k, v, new.out, new.scratch)
    })
}

/// Pages from a pool, taken when the tokens need one more: here not in the order of memory.
fn paged(tokens: &Tokens, steps: impl Iterator<Item = Range<usize>>) -> Result<Outputs, qkv::Error> {
    const PAGES: usize = LEN.div_ceil(PAGE);
    let mut free = (0..PAGES as u32).step_by(2).chain((1..PAGES as u32).step_by(2));
    let mut table = Vec::new();
    let [mut k_pool, mut v_pool] = [f16::ZERO; 2].map(|zero| vec![zero; PAGES * PAGE * KV_ROW]);
    tokens.each(steps, |new| {
        table.extend(free.by_ref().take(new.end.div_ceil(PAGE) - table.len()));
        let pages = |pool| HeadsMut::batch_token_major(pool, PAGES, PAGE, N_KV_HEADS, HEAD_DIM);
        new.append.rotary(tokens.rotary).to_pages(new.k, pages(&mut k_pool)?, &table)?;
        new.append.to_pages(new.v, pages(&mut v_pool)?, &table)?;
        let pages = |pool| HeadsRef::batch_token_major(pool, PAGES, PAGE, N_KV_HEADS, HEAD_DIM);
        let k = Paged::new(pages(&k_pool)?, &table, 1, new.end)?;
        let v = Paged::new(pages(&v_pool)?, &table, 1, new.end)?;
        ALL.run(new.q, k, v, new.out, new.scratch)
    })
}

/// A ring of `len` slots. Keys are read from `first(tokens)` on.
fn ring(
    tokens: &Tokens,
    steps: impl Iterator<Item = Range<usize>>,
    len: usize,
    options: Attention,
    first: impl Fn(usize) -> usize,
) -> Result<Outputs, qkv::Error> {
    let [mut k_slots, mut v_slots] = [f16::ZERO; 2].map(|zero| vec![zero; len * KV_ROW]);
    tokens.each(steps, |new| {
        new.append.rotary(tokens.rotary).to_ring(new.k, slots_mut(&mut k_slots)?)?;
        new.append.to_ring(new.v, slots_mut(&mut v_slots)?)?;
        // With as many slots as keys this is `Ring::last(slots, new.end)`.
        let first = first(new.end);
        let k = Ring::new(slots(&k_slots)?, first % len, new.end - first)?;
        let v = Ring::new(slots(&v_slots)?, first % len, new.end - first)?;
        options.run(new.q, k, v, new.out, new.scratch)
    })
}

fn slots(cache: &[f16]) -> Result<HeadsRef<'_, f16>, qkv::Error> {
    HeadsRef::token_major(cache, cache.len() / KV_ROW, N_KV_HEADS, HEAD_DIM)
}

fn slots_mut(cache: &mut [f16]) -> Result<HeadsMut<'_, f16>, qkv::Error> {
    HeadsMut::token_major(cache, cache.len() / KV_ROW, N_KV_HEADS, HEAD_DIM)
}

/// Prints one line; an error if a number differs by more than `tolerance`, or a bit does if that is 0.
fn compare(
    cache: &str,
    (out, time): &Outputs,
    (name, want): (&str, &[f32]),
    tolerance: f32,
) -> Result<(), Box<dyn Error>> {
    let differ = out.iter().zip(want).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
    // In the total order NaN is the largest of all.
    let differences = out.iter().zip(want).map(|(a, b)| (a - b).abs());
    let most = differences.max_by(f32::total_cmp).unwrap_or(0.0);
    let result = if differ == 0 { "same bits".into() } else { format!("up to {most:.0e} apart") };
    println!("{cache:32} {:>8.1} µs  {name:22} {result}", time * 1e6);
    if differ > 0 && most.total_cmp(&tolerance).is_ge() {
        return Err(format!("{differ} of {} outputs differ from {name}", out.len()).into());
    }
    Ok(())
}

/// Any numbers from -1 to 1 that are not alike.
fn numbers(len: usize, step: f32) -> Vec<f32> {
    (0..len).map(|i| (i as f32 * step).sin()).collect()
}
