//! What the processor can do at most: fused multiply-adds, and reading memory.

use qkv::Tier;

use super::Number;

/// FLOPs of one run of fused multiply-adds in chains that do not wait for each other: two a cycle with
/// a latency of four or five cycles need ten, and 12 with their operands fit 16 registers.
/// With the vectors of AVX2 for that tier: wider ones may do twice as much.
pub fn chains(tier: Tier) -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::*;
        use std::hint::black_box;
        const STEPS: usize = 10_000;
        macro_rules! chains {
            ($features:literal, $lanes:literal, $splat:ident, $fma:ident) => {{
                #[target_feature(enable = $features)]
                fn run() -> f64 {
                    let (a, b) = ($splat(black_box(0.5)), $splat(black_box(1.0)));
                    let mut sums = [b; 12];
                    for _ in 0..STEPS {
                        // Not `map`: what is not inlined here has no such instructions.
                        for sum in &mut sums {
                            *sum = $fma(a, *sum, b);
                        }
                    }
                    black_box(sums);
                    (STEPS * 12 * $lanes * 2) as f64
                }
                // SAFETY: only called where the features have been found.
                Some(unsafe { run() })
            }};
        }
        if std::arch::is_x86_feature_detected!("avx512f") && tier.to_string() != "avx2" {
            return chains!("avx512f", 16, _mm512_set1_ps, _mm512_fmadd_ps);
        } else if std::arch::is_x86_feature_detected!("fma") {
            return chains!("avx,fma", 8, _mm256_set1_ps, _mm256_fmadd_ps);
        }
    }
    let _ = tier;
    None
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
