//! The AVX-512 tier: AVX-512F (with the AVX2 tier's features below it), sixteen lanes.

use super::avx2::{Avx2, eights_of_rows, transpose_short_halves, two_short_eights};
use crate::simd::Simd;
use core::arch::x86_64::*;

/// Proof that this CPU and its operating system have AVX-512F, AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub struct Avx512(());

impl Avx512 {
    /// # Safety
    /// - AVX-512F, AVX2, FMA and F16C are there and enabled by the operating system.
    pub unsafe fn new() -> Avx512 {
        Avx512(())
    }
}

/// Calls intrinsics of this tier. Memory access goes through the caller's promise.
macro_rules! avx512 {
    ($e:expr) => {
        // SAFETY: `self` proves the CPU features; pointers are as the caller of the method promises.
        unsafe { $e }
    };
}

/// Ones in the first `n` lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    ((1_u32 << n) - 1) as __mmask16
}

#[inline(always)]
fn widen_bf16(x: __m256i) -> __m512 {
    avx512!(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(x))))
}

/// Four floats from each of `p`, `p + apart`, `p + 2 apart` and `p + 3 apart`.
#[inline(always)]
unsafe fn four_quads(p: *const f32, apart: usize) -> __m512 {
    avx512!({
        let v = _mm512_castps128_ps512(_mm_loadu_ps(p));
        let v = _mm512_insertf32x4::<1>(v, _mm_loadu_ps(p.add(apart)));
        let v = _mm512_insertf32x4::<2>(v, _mm_loadu_ps(p.add(2 * apart)));
        _mm512_insertf32x4::<3>(v, _mm_loadu_ps(p.add(3 * apart)))
    })
}

/// The same of 16-bit values.
#[inline(always)]
unsafe fn four_short_quads(p: *const u16, apart: usize) -> __m256i {
    avx512!({
        _mm256_setr_epi64x(
            p.cast::<i64>().read_unaligned(),
            p.add(apart).cast::<i64>().read_unaligned(),
            p.add(2 * apart).cast::<i64>().read_unaligned(),
            p.add(3 * apart).cast::<i64>().read_unaligned(),
        )
    })
}

/// Eight 16-bit values from each of `p`, `p + apart`, `p + 2 apart` and `p + 3 apart`.
#[inline(always)]
unsafe fn four_short_eights(p: *const u16, apart: usize) -> __m512 {
    avx512!({
        let v = _mm512_castsi256_si512(two_short_eights(p, apart));
        let v = _mm512_inserti64x4::<1>(v, two_short_eights(p.add(2 * apart), apart));
        _mm512_castsi512_ps(v)
    })
}

/// The first numbers of pairs of bfloat16, and the second ones, widened.
#[inline(always)]
fn widen_pairs(pairs: __m512) -> [__m512; 2] {
    avx512!({
        let pairs = _mm512_castps_si512(pairs);
        let second = _mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000_u32 as i32));
        [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)), _mm512_castsi512_ps(second)]
    })
}

/// Eight floats from each of `p` and `p + apart`.
#[inline(always)]
unsafe fn two_eights(p: *const f32, apart: usize) -> __m512 {
    avx512!({
        let low = _mm512_castpd256_pd512(_mm256_loadu_pd(p.cast()));
        _mm512_castpd_ps(_mm512_insertf64x4::<1>(low, _mm256_loadu_pd(p.add(apart).cast())))
    })
}

/// Quarter `g` of vector `i` holds four columns of row `i + 4 g`: 8 shuffles turn them into four
/// columns of sixteen rows.
#[inline(always)]
fn transpose_quarters([a, b, c, d]: [__m512; 4]) -> [__m512; 4] {
    avx512!({
        let (ab_low, ab_high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
        let (cd_low, cd_high) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
        [
            _mm512_shuffle_ps::<0x44>(ab_low, cd_low),
            _mm512_shuffle_ps::<0xee>(ab_low, cd_low),
            _mm512_shuffle_ps::<0x44>(ab_high, cd_high),
            _mm512_shuffle_ps::<0xee>(ab_high, cd_high),
        ]
    })
}

impl Simd for Avx512 {
    type V = __m512;
    const LANES: usize = 16;
    const FUSED: bool = true;
    // 24 accumulators, 3 vectors and 1 broadcast of 32 registers.
    const MR: usize = 8;
    const NV: usize = 3;
    const PANEL: usize = 48;
    const PREFETCHES: bool = true;
    // A vector takes eight rows of two features; of grouped heads there are often four.
    type Few = Avx2;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        avx512!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        avx512!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        avx512!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn select_gt(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        avx512!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), no, yes))
    }
    #[inline(always)]
    fn gt_bits(self, a: __m512, b: __m512) -> u32 {
        avx512!(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b)).into()
    }
    #[inline(always)]
    fn select_sign(self, sign: __m512, yes: __m512, no: __m512) -> __m512 {
        avx512!({
            let set = _mm512_cmplt_epi32_mask(_mm512_castps_si512(sign), _mm512_setzero_si512());
            _mm512_mask_blend_ps(set, no, yes)
        })
    }
    #[inline(always)]
    fn next_bit(self, bits: __m512) -> __m512 {
        avx512!(_mm512_castsi512_ps(_mm512_slli_epi32::<1>(_mm512_castps_si512(bits))))
    }
    #[inline(always)]
    unsafe fn load_bools(self, p: *const bool) -> u32 {
        avx512!(self.few().load_bools(p))
    }
    #[inline(always)]
    fn pow2(self, t: __m512) -> __m512 {
        avx512!(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_castps_si512(t))))
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        avx512!(_mm512_loadu_ps(p))
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> __m512 {
        avx512!(_mm512_maskz_loadu_ps(first(n), p))
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> __m512 {
        avx512!(_mm512_cvtph_ps(_mm256_loadu_si256(p.cast())))
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> __m512 {
        avx512!(widen_bf16(_mm256_loadu_si256(p.cast())))
    }
    // Written out: a closure, or `map`, is not always inlined, and then each instruction is a call.
    #[inline(always)]
    unsafe fn load_columns(self, p: *const f32, stride: usize) -> [__m512; 4] {
        transpose_quarters(avx512!([
            four_quads(p, 4 * stride),
            four_quads(p.add(stride), 4 * stride),
            four_quads(p.add(2 * stride), 4 * stride),
            four_quads(p.add(3 * stride), 4 * stride),
        ]))
    }
    // Reads of 32 bytes, and a shuffle of quarters: inserts of 16 bytes into a whole vector take as long each.
    #[inline(always)]
    unsafe fn load_eight_columns(self, p: *const f32, stride: usize) -> [__m512; 8] {
        avx512!({
            let q = p.add(8 * stride);
            let (a, e) = (two_eights(p, 4 * stride), two_eights(q, 4 * stride));
            let (b, f) = (two_eights(p.add(stride), 4 * stride), two_eights(q.add(stride), 4 * stride));
            let (c, g) =
                (two_eights(p.add(2 * stride), 4 * stride), two_eights(q.add(2 * stride), 4 * stride));
            let (d, h) =
                (two_eights(p.add(3 * stride), 4 * stride), two_eights(q.add(3 * stride), 4 * stride));
            let [s, t, u, v] = transpose_quarters([
                _mm512_shuffle_f32x4::<0x88>(a, e),
                _mm512_shuffle_f32x4::<0x88>(b, f),
                _mm512_shuffle_f32x4::<0x88>(c, g),
                _mm512_shuffle_f32x4::<0x88>(d, h),
            ]);
            let [w, x, y, z] = transpose_quarters([
                _mm512_shuffle_f32x4::<0xdd>(a, e),
                _mm512_shuffle_f32x4::<0xdd>(b, f),
                _mm512_shuffle_f32x4::<0xdd>(c, g),
                _mm512_shuffle_f32x4::<0xdd>(d, h),
            ]);
            [s, t, u, v, w, x, y, z]
        })
    }
    #[inline(always)]
    unsafe fn load_columns_f16(self, p: *const u16, stride: usize) -> [__m512; 4] {
        transpose_quarters(avx512!([
            _mm512_cvtph_ps(four_short_quads(p, 4 * stride)),
            _mm512_cvtph_ps(four_short_quads(p.add(stride), 4 * stride)),
            _mm512_cvtph_ps(four_short_quads(p.add(2 * stride), 4 * stride)),
            _mm512_cvtph_ps(four_short_quads(p.add(3 * stride), 4 * stride)),
        ]))
    }
    #[inline(always)]
    unsafe fn load_columns_bf16(self, p: *const u16, stride: usize) -> [__m512; 4] {
        transpose_quarters(avx512!([
            widen_bf16(four_short_quads(p, 4 * stride)),
            widen_bf16(four_short_quads(p.add(stride), 4 * stride)),
            widen_bf16(four_short_quads(p.add(2 * stride), 4 * stride)),
            widen_bf16(four_short_quads(p.add(3 * stride), 4 * stride)),
        ]))
    }
    #[inline(always)]
    unsafe fn load_eight_columns_f16(self, p: *const u16, stride: usize) -> [__m512; 8] {
        avx512!({
            // Rows 0 to 3 and 8 to 11, and the others: quarters of eight bytes of both then make up a column.
            let q = p.add(4 * stride);
            let [a, b, c, d] = transpose_short_halves(eights_of_rows(p, stride, 8 * stride));
            let [e, f, g, h] = transpose_short_halves(eights_of_rows(q, stride, 8 * stride));
            [
                _mm512_cvtph_ps(_mm256_unpacklo_epi64(a, e)),
                _mm512_cvtph_ps(_mm256_unpackhi_epi64(a, e)),
                _mm512_cvtph_ps(_mm256_unpacklo_epi64(b, f)),
                _mm512_cvtph_ps(_mm256_unpackhi_epi64(b, f)),
                _mm512_cvtph_ps(_mm256_unpacklo_epi64(c, g)),
                _mm512_cvtph_ps(_mm256_unpackhi_epi64(c, g)),
                _mm512_cvtph_ps(_mm256_unpacklo_epi64(d, h)),
                _mm512_cvtph_ps(_mm256_unpackhi_epi64(d, h)),
            ]
        })
    }
    #[inline(always)]
    unsafe fn load_eight_columns_bf16(self, p: *const u16, stride: usize) -> [__m512; 8] {
        // Two numbers at a time are turned like one float.
        avx512!({
            let [ab, cd, ef, gh] = transpose_quarters([
                four_short_eights(p, 4 * stride),
                four_short_eights(p.add(stride), 4 * stride),
                four_short_eights(p.add(2 * stride), 4 * stride),
                four_short_eights(p.add(3 * stride), 4 * stride),
            ]);
            let ([a, b], [c, d]) = (widen_pairs(ab), widen_pairs(cd));
            let ([e, f], [g, h]) = (widen_pairs(ef), widen_pairs(gh));
            [a, b, c, d, e, f, g, h]
        })
    }
    #[inline(always)]
    unsafe fn splat_group<const C: usize>(self, p: *const f32) -> __m512 {
        avx512!(match C {
            2 => _mm512_castpd_ps(_mm512_set1_pd(p.cast::<f64>().read_unaligned())),
            _ => _mm512_broadcast_f32x4(_mm_loadu_ps(p)),
        })
    }
    #[inline(always)]
    fn sum_fours(self, vectors: [__m512; 4]) -> __m512 {
        avx512!({
            // Quarter `g` of vector `i` holds the four of sum `4 i + g`.
            let [a, b, c, d] = transpose_quarters(vectors);
            let sums = _mm512_add_ps(_mm512_add_ps(a, b), _mm512_add_ps(c, d));
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            _mm512_permutexvar_ps(order, sums)
        })
    }
    #[inline(always)]
    unsafe fn store_halves(self, low: *mut f32, high: *mut f32, v: __m512) {
        avx512!({
            _mm256_storeu_ps(low, _mm512_castps512_ps256(v));
            _mm256_storeu_pd(high.cast(), _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v)));
        })
    }
    #[inline(always)]
    unsafe fn store_quarters(self, [a, b, c, d]: [*mut f32; 4], v: __m512) {
        avx512!({
            _mm_storeu_ps(a, _mm512_castps512_ps128(v));
            _mm_storeu_ps(b, _mm512_extractf32x4_ps::<1>(v));
            _mm_storeu_ps(c, _mm512_extractf32x4_ps::<2>(v));
            _mm_storeu_ps(d, _mm512_extractf32x4_ps::<3>(v));
        })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m512) {
        avx512!(_mm512_storeu_ps(p, v))
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: __m512) {
        avx512!(_mm512_mask_storeu_ps(p, first(n), v))
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, v: __m512) {
        avx512!(_mm256_storeu_si256(p.cast(), _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)))
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16, v: __m512) {
        avx512!({
            let bits = _mm512_castps_si512(v);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let up = _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
            let quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x0040_0000));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
            let high = _mm512_srli_epi32::<16>(_mm512_mask_blend_epi32(nan, up, quiet));
            _mm256_storeu_si256(p.cast(), _mm512_cvtepi32_epi16(high))
        })
    }
    #[inline(always)]
    fn prefetch<T>(self, p: *const T) {
        self.few().prefetch(p);
    }
    #[inline(always)]
    fn few(self) -> Avx2 {
        avx512!(Avx2::new())
    }
    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx512f,avx2,fma,f16c")]
        fn region<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        avx512!(region(f))
    }
}
