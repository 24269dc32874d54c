//! What runs a target: libFuzzer, or, without its instruments and on a stable compiler, inputs changed at random: more
//! than twenty times as many a second.

use super::common::Rng;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, fs, panic, process};

/// The target's entry. `cargo fuzz` sets `fuzzing`.
macro_rules! target {
    ($one:path) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|data: &[u8]| $one(data));
        #[cfg(not(fuzzing))]
        fn main() {
            target::at_random($one);
        }
    };
}
pub(crate) use target;

const USAGE: &str = "which? SECONDS [SEED], or the file of an input";

/// What the arguments ask for: `SECONDS [SEED]` of inputs from those of the corpus, if there are, or one input, a `FILE`.
pub fn at_random(one: fn(&[u8])) {
    let args: Vec<String> = env::args().collect();
    let name = Path::new(&args[0]).file_stem().expect("a program has a name");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let number = |i: usize| args.get(i).map_or(Some(1), |arg| arg.parse::<u64>().ok());
    let (Some(seconds), Some(seed)) = (number(1), number(2)) else {
        return one(&fs::read(&args[1]).expect(USAGE));
    };
    let corpus: Vec<Vec<u8>> = fs::read_dir(folder.join("corpus").join(name))
        .map(|files| files.filter_map(|file| fs::read(file.ok()?.path()).ok()).collect())
        .unwrap_or_default();
    let (mut rng, begin, mut runs) = (Rng::new(seed), Instant::now(), 0_u64);
    while begin.elapsed() < Duration::from_secs(seconds) {
        let input = changed(&corpus, &mut rng);
        runs += 1;
        if panic::catch_unwind(|| one(&input)).is_err() {
            let found = folder.join("artifacts").join(name).join(format!("random-{seed}-{runs}"));
            fs::create_dir_all(found.parent().expect("a folder")).expect("a place for what was found");
            fs::write(&found, &input).expect("a place for what was found");
            eprintln!("the input is in {}", found.display());
            process::exit(1);
        }
    }
    println!("{}: {runs} runs from {} inputs, seed {seed}", name.display(), corpus.len());
}

/// An input of the corpus, or random bytes, with a few changes.
fn changed(corpus: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    const SPECIAL: [f32; 6] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, 1e-45, f32::MAX];
    let mut input = match rng.below(8) {
        1.. if !corpus.is_empty() => corpus[rng.below(corpus.len())].clone(),
        _ => (0..20 + rng.below(150)).map(|_| rng.word() as u8).collect(),
    };
    for _ in 0..1 + rng.below(6) {
        let most = 40 + rng.below(400);
        let at = rng.below(input.len().min(most));
        let (before, rest) = input.split_at(at);
        let (byte, behind) = rest.split_first().map_or((0, rest), |(&byte, behind)| (byte, behind));
        let new = match rng.below(7) {
            0 => vec![rng.word() as u8],
            1 => vec![byte ^ 1 << rng.below(8)],
            2 => vec![byte.wrapping_add(1)],
            3 => vec![byte.wrapping_sub(1)],
            4 => vec![],
            5 => vec![rng.word() as u8, byte],
            _ => rng.pick(&SPECIAL).to_le_bytes().to_vec(),
        };
        input = [before, &new, behind].concat();
    }
    input
}
