//! The AVX2 tier: AVX2, FMA and F16C, eight lanes.

use crate::simd::Simd;
use core::arch::x86_64::*;

/// Proof that this CPU and its operating system have AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    /// # Safety
    /// - AVX2, FMA and F16C are there and enabled by the operating system.
    pub unsafe fn new() -> Avx2 {
        Avx2(())
    }
}

/// Calls intrinsics of this tier. Memory access goes through the caller's promise.
macro_rules! avx2 {
    ($e:expr) => {
        // SAFETY: `self` proves the CPU features; pointers are as the caller of the method promises.
        unsafe { $e }
    };
}

/// All ones in the first `n` lanes.
#[inline(always)]
fn first(n: usize) -> __m256i {
    avx2!(_mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)))
}

#[inline(always)]
fn widen_bf16(x: __m128i) -> __m256 {
    avx2!(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(x))))
}

/// Four floats from each of `p` and `p + apart`.
#[inline(always)]
unsafe fn two_quads(p: *const f32, apart: usize) -> __m256 {
    avx2!(_mm256_insertf128_ps::<1>(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p.add(apart))))
}

/// The same of 16-bit values.
#[inline(always)]
unsafe fn two_short_quads(p: *const u16, apart: usize) -> __m128i {
    avx2!(_mm_set_epi64x(p.add(apart).cast::<i64>().read_unaligned(), p.cast::<i64>().read_unaligned()))
}

/// Eight 16-bit values from each of `p` and `p + apart`.
#[inline(always)]
pub unsafe fn two_short_eights(p: *const u16, apart: usize) -> __m256i {
    avx2!({
        let low = _mm256_castsi128_si256(_mm_loadu_si128(p.cast()));
        _mm256_inserti128_si256::<1>(low, _mm_loadu_si128(p.add(apart).cast()))
    })
}

/// The same of four rows, `stride` from each other.
#[inline(always)]
pub unsafe fn eights_of_rows(p: *const u16, stride: usize, apart: usize) -> [__m256i; 4] {
    avx2!([
        two_short_eights(p, apart),
        two_short_eights(p.add(stride), apart),
        two_short_eights(p.add(2 * stride), apart),
        two_short_eights(p.add(3 * stride), apart),
    ])
}

/// The first numbers of pairs of bfloat16, and the second ones, widened.
#[inline(always)]
fn widen_pairs(pairs: __m256) -> [__m256; 2] {
    avx2!({
        let pairs = _mm256_castps_si256(pairs);
        let second = _mm256_and_si256(pairs, _mm256_set1_epi32(0xffff_0000_u32 as i32));
        [_mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs)), _mm256_castsi256_ps(second)]
    })
}

/// The halves of each vector hold eight 16-bit columns of two rows: those of vector `i` of the result hold columns `2 i`
/// and `2 i + 1`, of four rows each.
#[inline(always)]
pub fn transpose_short_halves([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
    avx2!({
        let (ab_low, ab_high) = (_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b));
        let (cd_low, cd_high) = (_mm256_unpacklo_epi16(c, d), _mm256_unpackhi_epi16(c, d));
        [
            _mm256_unpacklo_epi32(ab_low, cd_low),
            _mm256_unpackhi_epi32(ab_low, cd_low),
            _mm256_unpacklo_epi32(ab_high, cd_high),
            _mm256_unpackhi_epi32(ab_high, cd_high),
        ]
    })
}

/// Two columns of eight rows of binary16, widened, of a vector of [`transpose_short_halves`].
#[inline(always)]
fn two_columns(v: __m256i) -> [__m256; 2] {
    avx2!({
        let v = _mm256_permute4x64_epi64::<0b11_01_10_00>(v);
        [_mm256_cvtph_ps(_mm256_castsi256_si128(v)), _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(v))]
    })
}

/// Vector `i` holds four columns of row `i` and, in its upper half, of row `i + 4`: 8 shuffles turn
/// them into four columns of eight rows.
#[inline(always)]
fn transpose_halves([a, b, c, d]: [__m256; 4]) -> [__m256; 4] {
    avx2!({
        let (ab_low, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        let (cd_low, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
        [
            _mm256_shuffle_ps::<0x44>(ab_low, cd_low),
            _mm256_shuffle_ps::<0xee>(ab_low, cd_low),
            _mm256_shuffle_ps::<0x44>(ab_high, cd_high),
            _mm256_shuffle_ps::<0xee>(ab_high, cd_high),
        ]
    })
}

impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    const FUSED: bool = true;
    // 12 accumulators, 2 vectors and 1 broadcast of 16 registers. A 4 x 3 tile makes LLVM rotate
    // registers with moves.
    const MR: usize = 6;
    const NV: usize = 2;
    const PANEL: usize = 48;
    const PREFETCHES: bool = true;
    type Few = Self;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        avx2!(_mm256_set1_ps(x))
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        avx2!(_mm256_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        avx2!(_mm256_max_ps(a, b))
    }
    #[inline(always)]
    fn select_gt(self, a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
        avx2!(_mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_GT_OQ>(a, b)))
    }
    #[inline(always)]
    fn gt_bits(self, a: __m256, b: __m256) -> u32 {
        avx2!(_mm256_movemask_ps(_mm256_cmp_ps::<_CMP_GT_OQ>(a, b))) as u32
    }
    #[inline(always)]
    fn select_sign(self, sign: __m256, yes: __m256, no: __m256) -> __m256 {
        // Bytes: with a blend of floats LLVM makes masked stores, which are slow, of `if seen { score }`.
        avx2!({
            let set = _mm256_srai_epi32::<31>(_mm256_castps_si256(sign));
            let (yes, no) = (_mm256_castps_si256(yes), _mm256_castps_si256(no));
            _mm256_castsi256_ps(_mm256_blendv_epi8(no, yes, set))
        })
    }
    #[inline(always)]
    fn next_bit(self, bits: __m256) -> __m256 {
        avx2!(_mm256_castsi256_ps(_mm256_slli_epi32::<1>(_mm256_castps_si256(bits))))
    }
    #[inline(always)]
    unsafe fn load_bools(self, p: *const bool) -> u32 {
        // Bit 0 of each byte becomes its sign.
        avx2!(_mm256_movemask_epi8(_mm256_slli_epi16::<7>(_mm256_loadu_si256(p.cast())))) as u32
    }
    #[inline(always)]
    fn pow2(self, t: __m256) -> __m256 {
        avx2!(_mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_castps_si256(t))))
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m256 {
        avx2!(_mm256_loadu_ps(p))
    }
    #[inline(always)]
    unsafe fn load_partial(self, p: *const f32, n: usize) -> __m256 {
        avx2!(_mm256_maskload_ps(p, first(n)))
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> __m256 {
        avx2!(_mm256_cvtph_ps(_mm_loadu_si128(p.cast())))
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> __m256 {
        // Each number to the upper half of its lane, by one shuffle.
        avx2!({
            let both = _mm256_broadcastsi128_si256(_mm_loadu_si128(p.cast()));
            let places = _mm256_set_epi64x(
                0x0f0e_ffff_0d0c_ffff,
                0x0b0a_ffff_0908_ffff,
                0x0706_ffff_0504_ffff,
                0x0302_ffff_0100_ffff,
            );
            _mm256_castsi256_ps(_mm256_shuffle_epi8(both, places))
        })
    }
    // Written out: a closure, or `map`, is not always inlined, and then each instruction is a call.
    #[inline(always)]
    unsafe fn load_columns(self, p: *const f32, stride: usize) -> [__m256; 4] {
        transpose_halves(avx2!([
            two_quads(p, 4 * stride),
            two_quads(p.add(stride), 4 * stride),
            two_quads(p.add(2 * stride), 4 * stride),
            two_quads(p.add(3 * stride), 4 * stride),
        ]))
    }
    #[inline(always)]
    unsafe fn load_columns_f16(self, p: *const u16, stride: usize) -> [__m256; 4] {
        transpose_halves(avx2!([
            _mm256_cvtph_ps(two_short_quads(p, 4 * stride)),
            _mm256_cvtph_ps(two_short_quads(p.add(stride), 4 * stride)),
            _mm256_cvtph_ps(two_short_quads(p.add(2 * stride), 4 * stride)),
            _mm256_cvtph_ps(two_short_quads(p.add(3 * stride), 4 * stride)),
        ]))
    }
    #[inline(always)]
    unsafe fn load_columns_bf16(self, p: *const u16, stride: usize) -> [__m256; 4] {
        transpose_halves(avx2!([
            widen_bf16(two_short_quads(p, 4 * stride)),
            widen_bf16(two_short_quads(p.add(stride), 4 * stride)),
            widen_bf16(two_short_quads(p.add(2 * stride), 4 * stride)),
            widen_bf16(two_short_quads(p.add(3 * stride), 4 * stride)),
        ]))
    }
    #[inline(always)]
    unsafe fn load_eight_columns_f16(self, p: *const u16, stride: usize) -> [__m256; 8] {
        avx2!({
            let [ab, cd, ef, gh] = transpose_short_halves(eights_of_rows(p, stride, 4 * stride));
            let ([a, b], [c, d]) = (two_columns(ab), two_columns(cd));
            let ([e, f], [g, h]) = (two_columns(ef), two_columns(gh));
            [a, b, c, d, e, f, g, h]
        })
    }
    #[inline(always)]
    unsafe fn load_eight_columns_bf16(self, p: *const u16, stride: usize) -> [__m256; 8] {
        // Two numbers at a time are turned like one float.
        avx2!({
            let [a, b, c, d] = eights_of_rows(p, stride, 4 * stride);
            let [ab, cd, ef, gh] = transpose_halves([
                _mm256_castsi256_ps(a),
                _mm256_castsi256_ps(b),
                _mm256_castsi256_ps(c),
                _mm256_castsi256_ps(d),
            ]);
            let ([a, b], [c, d]) = (widen_pairs(ab), widen_pairs(cd));
            let ([e, f], [g, h]) = (widen_pairs(ef), widen_pairs(gh));
            [a, b, c, d, e, f, g, h]
        })
    }
    #[inline(always)]
    unsafe fn splat_group<const C: usize>(self, p: *const f32) -> __m256 {
        avx2!(match C {
            2 => _mm256_castpd_ps(_mm256_set1_pd(p.cast::<f64>().read_unaligned())),
            _ => _mm256_set_m128(_mm_loadu_ps(p), _mm_loadu_ps(p)),
        })
    }
    #[inline(always)]
    unsafe fn splat_four_f16(self, p: *const u16) -> __m256 {
        avx2!(_mm256_cvtph_ps(_mm_set1_epi64x(p.cast::<i64>().read_unaligned())))
    }
    #[inline(always)]
    unsafe fn splat_four_bf16(self, p: *const u16) -> __m256 {
        // Each number to the upper half of its lane.
        avx2!({
            let fours = _mm256_set1_epi64x(p.cast::<i64>().read_unaligned());
            let places = _mm256_set_epi64x(
                0x0706_ffff_0504_ffff,
                0x0302_ffff_0100_ffff,
                0x0706_ffff_0504_ffff,
                0x0302_ffff_0100_ffff,
            );
            _mm256_castsi256_ps(_mm256_shuffle_epi8(fours, places))
        })
    }
    #[inline(always)]
    fn sum_twos(self, a: __m256, b: __m256) -> __m256 {
        avx2!({
            let sums = _mm256_castps_pd(_mm256_hadd_ps(a, b));
            _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(sums))
        })
    }
    #[inline(always)]
    fn sum_fours(self, [a, b, c, d]: [__m256; 4]) -> __m256 {
        avx2!({
            let sums = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
            _mm256_permutevar8x32_ps(sums, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))
        })
    }
    #[inline(always)]
    unsafe fn store_halves(self, low: *mut f32, high: *mut f32, v: __m256) {
        avx2!({
            _mm_storeu_ps(low, _mm256_castps256_ps128(v));
            _mm_storeu_ps(high, _mm256_extractf128_ps::<1>(v));
        })
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, v: __m256) {
        avx2!(_mm256_storeu_ps(p, v))
    }
    #[inline(always)]
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: __m256) {
        avx2!(_mm256_maskstore_ps(p, first(n), v))
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, v: __m256) {
        avx2!(_mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v)))
    }
    #[inline(always)]
    unsafe fn store_bf16(self, p: *mut u16, v: __m256) {
        avx2!({
            let bits = _mm256_castps_si256(v);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let up = _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff));
            let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
            let high = _mm256_srli_epi32::<16>(_mm256_blendv_epi8(up, quiet, nan));
            let packed = _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256::<1>(high));
            _mm_storeu_si128(p.cast(), packed)
        })
    }
    #[inline(always)]
    fn prefetch<T>(self, p: *const T) {
        avx2!(_mm_prefetch::<_MM_HINT_T1>(p.cast()))
    }
    #[inline(always)]
    fn few(self) -> Self {
        self
    }
    #[inline(always)]
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn region<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        avx2!(region(f))
    }
}
