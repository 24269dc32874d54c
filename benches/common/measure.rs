//! The command line of the benches that keep the best times, their clock, and the reading of memory.

use std::time::Instant;

use super::Number;
use qkv::Tier;

/// The least that a timing lasts, so that the clock's resolution does not matter (seconds).
const SHORTEST: f64 = 100e-6;

/// `[--quick] [--tier NAME] [filter]`.
pub struct Args {
    /// For a first look.
    pub quick: bool,
    /// The tier of the calls: by default the fastest.
    pub tier: Tier,
    /// Measure only what has this in its name.
    pub filter: String,
}

impl Args {
    /// `None`, after a note, if the bench is only run to see that it starts.
    pub fn parse(bench: &str) -> Result<Option<Args>, lexopt::Error> {
        let mut args = Args { quick: false, tier: Tier::detect(), filter: String::new() };
        let mut benching = false;
        let mut parser = lexopt::Parser::from_env();
        while let Some(arg) = parser.next()? {
            match arg {
                lexopt::Arg::Long("quick") => args.quick = true,
                lexopt::Arg::Long("bench") => benching = true,
                lexopt::Arg::Long("tier") => args.tier = tier(&parser.value()?.to_string_lossy())?,
                lexopt::Arg::Value(name) => args.filter = name.to_string_lossy().into_owned(),
                other => return Err(other.unexpected()),
            }
        }
        if !benching {
            println!("measures only under `cargo bench --bench {bench}`");
        }
        Ok(benching.then_some(args))
    }
}

fn tier(name: &str) -> Result<Tier, lexopt::Error> {
    let there = || Tier::all().map(|tier| tier.to_string());
    let unknown = || format!("no tier {name:?} here: there are {}", there().collect::<Vec<_>>().join(", "));
    Tier::all().find(|tier| tier.to_string() == name).ok_or_else(|| unknown().into())
}

/// Times one call, or as many as take long enough, and keeps the best: the seconds of this time.
pub fn best_of(best: &mut f64, call: &mut dyn FnMut()) -> f64 {
    let calls = (SHORTEST / *best).ceil().max(1.0);
    let start = Instant::now();
    (0..calls as usize).for_each(|_| call());
    let time = start.elapsed().as_secs_f64() / calls;
    *best = best.min(time);
    time
}

/// Reads a slice: adds it up word by word, in vectors where the processor has them.
pub fn sum_bits<T: Number>(x: &[T]) -> u64 {
    // SAFETY: the element types have no padding, and any bits are a `u64`.
    let (_, words, _) = unsafe { x.align_to::<u64>() };
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        #[target_feature(enable = "avx2")]
        fn in_vectors(words: &[u64]) -> u64 {
            sum_words(words)
        }
        // SAFETY: the processor has AVX2.
        return unsafe { in_vectors(words) };
    }
    sum_words(words)
}

/// From four places at once, which reads up to 1.4 times as fast as in order (Zen 3, 16 MiB).
#[inline(always)]
fn sum_words(words: &[u64]) -> u64 {
    let mut parts = words.chunks_exact((words.len() / 4).max(1)).map(|part| part.as_chunks::<8>().0.iter());
    let [a, b, c, d] = std::array::from_fn(|_| parts.next().unwrap_or_default());
    let mut sums = [[0_u64; 8]; 4];
    for (((a, b), c), d) in a.zip(b).zip(c).zip(d) {
        for (sum, chunk) in sums.iter_mut().zip([a, b, c, d]) {
            *sum = std::array::from_fn(|i| sum[i].wrapping_add(chunk[i]));
        }
    }
    sums.into_iter().flatten().fold(0, u64::wrapping_add)
}
