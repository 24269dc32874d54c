//! `cargo run --release --example threads [-- --threads N]`: one call on many threads, with the same bits.
//!
//! Threads belong to the caller. There are some ways to give them work, and none of them changes a bit:
//!
//! ```text
//! Attention::split          items of a key head and 192 queries; whoever is free takes the next one. Or one part for
//!                           each thread: a decode step, whose heads lie side by side, is faster so
//! HeadsRef::head_chunks     some heads for each thread, as views: the call knows nothing of threads
//! Attention::split_keys     items of 1,024 keys, for a decode step: one query, and few heads
//! ```
//! With `--features rayon` also `Attention::run_parallel`, which runs the items of `split` on rayon's
//! threads.

use std::error::Error;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use lexopt::prelude::{Long, Short, ValueExt};
use qkv::{Attention, HeadsMut, HeadsRef, KEYS_PER_STATE, Tier, Work, attention_scratch_len, states_len};

const ATTENTION: Attention = Attention::new().causal();
/// Each way is timed so often; its best time is printed.
const TIMES: usize = 5;

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
    let there = thread::available_parallelism()?;
    // With two on one processor there is nothing to gain, but bits to compare.
    let mut most = there.max(const { NonZeroUsize::new(2).unwrap() });
    let mut args = lexopt::Parser::from_env();
    while let Some(arg) = args.next()? {
        match arg {
            Long("threads") => most = args.value()?.parse::<NonZeroUsize>()?,
            Long("help") | Short('h') => {
                println!("threads [--threads N]: one call on 1 to N threads, by default {most}");
                return Ok(());
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let threads = 1..=most.get();
    println!("{} tier, processors here: {there}, the best of {TIMES} times", Tier::detect());

    let prefill = Call::new([1024, 1024], [16, 8], 64);
    let mut table = Table::new("prefill, causal", &prefill)?;
    for threads in threads.clone() {
        table.row("split", threads, |out| prefill.split(threads, out))?;
    }
    for threads in threads.clone() {
        table.row("head chunks", threads, |out| prefill.head_chunks(threads, out))?;
    }
    #[cfg(feature = "rayon")]
    for threads in threads.clone() {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        table.row("run_parallel", threads, |out| pool.install(|| prefill.run_parallel(threads, out)))?;
    }
    #[cfg(not(feature = "rayon"))]
    println!("{:14} needs `--features rayon`", "run_parallel");

    let decode = Call::new([1, 4 * KEYS_PER_STATE], [32, 8], 128);
    let mut table = Table::new("decode", &decode)?;
    for threads in threads.clone() {
        table.row("split", threads, |out| decode.split(threads, out))?;
    }
    for threads in threads.clone() {
        table.row("split, parts", threads, |out| decode.parts(threads, out))?;
    }
    let decode = Call::new([1, 16 * KEYS_PER_STATE], [4, 1], 128);
    let mut table = Table::new("decode, one key head", &decode)?;
    for threads in threads {
        table.row("split_keys", threads, |out| decode.split_keys(threads, out))?;
    }
    println!("\nAll have the same bits.");
    Ok(())
}

/// The operands of one call, token by token.
struct Call {
    q_len: usize,
    kv_len: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
}

impl Call {
    /// Queries and keys, query heads and key heads, features.
    fn new([q_len, kv_len]: [usize; 2], [n_heads, n_kv_heads]: [usize; 2], head_dim: usize) -> Call {
        // Any numbers from -1 to 1 that are not alike.
        let numbers = |len: usize, step: f32| (0..len).map(|i| (i as f32 * step).sin()).collect();
        let (q, kv) = (q_len * n_heads * head_dim, kv_len * n_kv_heads * head_dim);
        let (q, k, v) = (numbers(q, 1.7), numbers(kv, 2.3), numbers(kv, 3.1));
        Call { q_len, kv_len, n_heads, n_kv_heads, head_dim, q, k, v }
    }

    fn views(&self) -> Result<[HeadsRef<'_, f32>; 3], qkv::Error> {
        let keys = |x| HeadsRef::token_major(x, self.kv_len, self.n_kv_heads, self.head_dim);
        let q = HeadsRef::token_major(&self.q, self.q_len, self.n_heads, self.head_dim)?;
        Ok([q, keys(&self.k)?, keys(&self.v)?])
    }

    fn out<'a>(&self, out: &'a mut [f32]) -> Result<HeadsMut<'a, f32>, qkv::Error> {
        HeadsMut::token_major(out, self.q_len, self.n_heads, self.head_dim)
    }

    /// Each thread has its own.
    fn scratch(&self) -> Vec<f32> {
        vec![0.0; attention_scratch_len(self.q_len, self.kv_len, self.head_dim, self.head_dim)]
    }

    fn alone(&self, out: &mut [f32]) -> Result<(), qkv::Error> {
        let [q, k, v] = self.views()?;
        ATTENTION.run(q, k, v, self.out(out)?, &mut self.scratch())
    }

    fn split(&self, threads: usize, out: &mut [f32]) -> Result<(), qkv::Error> {
        let [q, k, v] = self.views()?;
        self.share(threads, ATTENTION.split(q, k, v, self.out(out)?, None)?)
    }

    /// Heads that a thread takes are read together.
    fn parts(&self, threads: usize, out: &mut [f32]) -> Result<(), qkv::Error> {
        let [q, k, v] = self.views()?;
        let mut work = ATTENTION.split(q, k, v, self.out(out)?, None)?;
        on_threads(work.parts(threads).map(|part| move || part.run(&mut self.scratch())))
    }

    fn split_keys(&self, threads: usize, out: &mut [f32]) -> Result<(), qkv::Error> {
        let [q, k, v] = self.views()?;
        let chunks = self.kv_len.div_ceil(KEYS_PER_STATE);
        let mut states = vec![0.0; states_len(chunks, self.q_len * self.n_heads, self.head_dim)];
        self.share(threads, ATTENTION.split_keys(q, k, v, &mut states)?)?;
        ATTENTION.merge(&mut states, self.out(out)?, None)
    }

    /// Whoever is free takes the next item.
    fn share(&self, threads: usize, mut work: Work<'_>) -> Result<(), qkv::Error> {
        let items = &Mutex::new(work.items());
        on_threads((0..threads).map(|_| {
            move || {
                let mut scratch = self.scratch();
                // A panic elsewhere has not harmed the iterator.
                let next = || items.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).next();
                while let Some(item) = next() {
                    item.run(&mut scratch)?;
                }
                Ok(())
            }
        }))
    }

    /// Query heads and the key heads that they read go to the same thread.
    fn head_chunks(&self, threads: usize, out: &mut [f32]) -> Result<(), qkv::Error> {
        let [q, k, v] = self.views()?;
        let kv_heads = self.n_kv_heads.div_ceil(threads);
        let heads = kv_heads * (self.n_heads / self.n_kv_heads);
        let inputs = q.head_chunks(heads).zip(k.head_chunks(kv_heads)).zip(v.head_chunks(kv_heads));
        on_threads(
            inputs
                .zip(self.out(out)?.head_chunks(heads))
                .map(|(((q, k), v), out)| move || ATTENTION.run(q, k, v, out, &mut self.scratch())),
        )
    }

    /// As many threads as the scratch has room for.
    #[cfg(feature = "rayon")]
    fn run_parallel(&self, threads: usize, out: &mut [f32]) -> Result<(), qkv::Error> {
        let [q, k, v] = self.views()?;
        let mut scratch = self.scratch();
        scratch.resize(threads * scratch.len(), 0.0);
        ATTENTION.run_parallel(q, k, v, self.out(out)?, &mut scratch)
    }
}

/// Runs each on a thread of its own; the first error, if there is one.
fn on_threads<F>(parts: impl Iterator<Item = F>) -> Result<(), qkv::Error>
where
    F: FnOnce() -> Result<(), qkv::Error> + Send,
{
    thread::scope(|scope| {
        let threads: Vec<_> = parts.map(|part| scope.spawn(part)).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// Prints times, and compares with the call on one thread.
struct Table {
    out: Vec<f32>,
    time: f64,
}

impl Table {
    fn new(name: &str, call: &Call) -> Result<Table, Box<dyn Error>> {
        let Call { q_len, kv_len, n_heads, n_kv_heads, head_dim, .. } = *call;
        println!("\n{name}: {q_len} x {kv_len}, {n_heads}/{n_kv_heads} heads of {head_dim} features");
        println!("{:14} {:>7} {:>10} {:>8}", "", "threads", "time", "speedup");
        let mut out = vec![f32::NAN; call.q.len()];
        let time = best_time(&mut || call.alone(&mut out))?;
        println!("{:14} {:>7} {:>7.2} ms {:>8.2}", "run", 1, time * 1e3, 1.0);
        Ok(Table { out, time })
    }

    fn row(
        &mut self,
        way: &str,
        threads: usize,
        call: impl Fn(&mut [f32]) -> Result<(), qkv::Error>,
    ) -> Result<(), Box<dyn Error>> {
        let mut out = vec![f32::NAN; self.out.len()];
        let time = best_time(&mut || call(&mut out))?;
        println!("{way:14} {threads:>7} {:>7.2} ms {:>8.2}", time * 1e3, self.time / time);
        let differ = out.iter().zip(&self.out).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        if differ > 0 {
            return Err(
                format!("{way} on {threads} threads: {differ} of {} outputs differ", out.len()).into()
            );
        }
        Ok(())
    }
}

/// Seconds.
fn best_time(call: &mut dyn FnMut() -> Result<(), qkv::Error>) -> Result<f64, qkv::Error> {
    let mut best = f64::MAX;
    for _ in 0..TIMES {
        let start = Instant::now();
        call()?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(best)
}
