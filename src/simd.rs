//! `Simd`: the vector operations of one tier, as methods of a token that proves the CPU has them.

/// Most lanes any tier has: the length of the arrays that hold a vector.
pub const MAX_LANES: usize = 16;
/// The number of each lane.
pub const INDICES: [f32; MAX_LANES] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];
/// Bytes of a cache line.
pub const LINE: usize = 64;
/// Where the line begins in which `row` begins, and how many lines hold a row of `bytes`. Rows that do not all begin at
/// the same place of a line, as `stride` bytes from one to the next say, may end in one more.
#[inline(always)]
pub fn lines(row: *const u8, stride: usize, bytes: usize) -> (*const u8, usize) {
    let before = row as usize % LINE;
    let after = if stride.is_multiple_of(LINE) { 0 } else { LINE - 1 };
    (row.wrapping_sub(before), (before + bytes + after).div_ceil(LINE))
}
/// Whether any tier of this target has vectors.
pub const VECTORS: bool = cfg!(any(
    target_feature = "sse2",
    all(target_arch = "aarch64", target_feature = "neon"),
    target_feature = "simd128"
));

/// The vector operations of one tier.
///
/// A value of the type is the proof that this CPU has the instructions, so arithmetic is safe; only
/// memory access is `unsafe`. All methods of all tiers give the same bits for the same lane, except
/// that [`fma`](Simd::fma) rounds once where `FUSED` and twice elsewhere.
///
/// Everything that runs under [`vectorize`](Simd::vectorize) must be `#[inline(always)]`, closures
/// too: a call that is not inlined leaves the region in which the tier's instructions may be used,
/// and costs several times the kernel's run time.
pub trait Simd: Copy + 'static {
    /// A vector of `LANES` `f32`s.
    type V: Copy;
    /// `f32`s in a vector: 1, 4, 8 or 16.
    const LANES: usize;
    /// Whether `fma` rounds once.
    const FUSED: bool;
    /// Rows of the register tile.
    const MR: usize;
    /// Vectors in a row of the register tile.
    const NV: usize;
    /// Query rows that one attention panel holds in its lanes; a multiple of `NV * LANES`.
    const PANEL: usize;
    /// Whether [`prefetch`](Simd::prefetch) does anything: elsewhere loops that ask are not compiled.
    const PREFETCHES: bool = false;
    /// The tier, of the same bits, whose vectors the few rows of a decode step fill better.
    type Few: Simd;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::V;
    /// `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a / b`.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once where `FUSED`.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `if a > b { a } else { b }`: a NaN in `a` is dropped, one in `b` stays.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `if a > b { yes } else { no }`; a comparison with NaN is false.
    fn select_gt(self, a: Self::V, b: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// A bit for each lane in which `a > b`, the first lane's lowest.
    fn gt_bits(self, a: Self::V, b: Self::V) -> u32;
    /// `if sign is set { yes } else { no }`, by the highest bit of each lane of `sign`.
    fn select_sign(self, sign: Self::V, yes: Self::V, no: Self::V) -> Self::V;
    /// The lane's bits shifted left by one.
    fn next_bit(self, bits: Self::V) -> Self::V;
    /// 32 bools from `p` as bits, the first one lowest.
    /// # Safety
    /// - `p` is valid for reading 32 bools.
    #[inline(always)]
    unsafe fn load_bools(self, p: *const bool) -> u32 {
        // SAFETY: as the caller promises.
        let eights = unsafe { p.cast::<[[bool; 8]; 4]>().read_unaligned() };
        eights.iter().rev().fold(0, |word, eight| {
            // Each byte is 0 or 1: the product has byte i's bit at 56 + i, and nothing else there.
            let bytes = u64::from_le_bytes(eight.map(u8::from));
            word << 8 | (bytes.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32
        })
    }
    /// The lane's bits shifted left by 23: `2^n` where `t = n + 127 + 1.5 * 2^23`, `-127 < n < 128`,
    /// and `0` for `n = -127`.
    fn pow2(self, t: Self::V) -> Self::V;
    /// `LANES` floats from `p`, of any alignment.
    /// # Safety
    /// - `p` is valid for reading `LANES` floats.
    unsafe fn load(self, p: *const f32) -> Self::V;
    /// The first `n <= LANES` floats from `p`, zero in the other lanes.
    /// # Safety
    /// - `p` is valid for reading `n` floats; `n <= LANES`.
    unsafe fn load_partial(self, p: *const f32, n: usize) -> Self::V;
    /// `LANES` IEEE binary16 numbers from `p`, widened.
    /// # Safety
    /// - `p` is valid for reading `LANES` 16-bit values.
    unsafe fn load_f16(self, p: *const u16) -> Self::V;
    /// `LANES` bfloat16 numbers from `p`, widened.
    /// # Safety
    /// - `p` is valid for reading `LANES` 16-bit values.
    unsafe fn load_bf16(self, p: *const u16) -> Self::V;
    /// Four columns of `LANES` rows: lane `i` of vector `e` is `p[i * stride + e]`.
    /// # Safety
    /// - `p` is valid for reading 4 floats at each of `LANES` rows, `stride` apart.
    unsafe fn load_columns(self, p: *const f32, stride: usize) -> [Self::V; 4];
    /// [`load_columns`](Simd::load_columns) of binary16 numbers, widened.
    /// # Safety
    /// - As there, of 16-bit values.
    unsafe fn load_columns_f16(self, p: *const u16, stride: usize) -> [Self::V; 4];
    /// [`load_columns`](Simd::load_columns) of bfloat16 numbers, widened.
    /// # Safety
    /// - As there, of 16-bit values.
    unsafe fn load_columns_bf16(self, p: *const u16, stride: usize) -> [Self::V; 4];
    /// Eight columns of `LANES` rows: lane `i` of vector `e` is `p[i * stride + e]`.
    /// # Safety
    /// - `p` is valid for reading 8 floats at each of `LANES` rows, `stride` apart.
    #[inline(always)]
    unsafe fn load_eight_columns(self, p: *const f32, stride: usize) -> [Self::V; 8] {
        // SAFETY: as the caller promises.
        let ([a, b, c, d], [e, f, g, h]) =
            unsafe { (self.load_columns(p, stride), self.load_columns(p.add(4), stride)) };
        [a, b, c, d, e, f, g, h]
    }
    /// [`load_eight_columns`](Simd::load_eight_columns) of binary16 numbers, widened.
    /// # Safety
    /// - As there, of 16-bit values.
    #[inline(always)]
    unsafe fn load_eight_columns_f16(self, p: *const u16, stride: usize) -> [Self::V; 8] {
        // SAFETY: as the caller promises.
        let ([a, b, c, d], [e, f, g, h]) =
            unsafe { (self.load_columns_f16(p, stride), self.load_columns_f16(p.add(4), stride)) };
        [a, b, c, d, e, f, g, h]
    }
    /// [`load_eight_columns`](Simd::load_eight_columns) of bfloat16 numbers, widened.
    /// # Safety
    /// - As there, of 16-bit values.
    #[inline(always)]
    unsafe fn load_eight_columns_bf16(self, p: *const u16, stride: usize) -> [Self::V; 8] {
        // SAFETY: as the caller promises.
        let ([a, b, c, d], [e, f, g, h]) =
            unsafe { (self.load_columns_bf16(p, stride), self.load_columns_bf16(p.add(4), stride)) };
        [a, b, c, d, e, f, g, h]
    }
    /// `C` floats from `p` in every `C` lanes; `C` is 2 or 4.
    /// # Safety
    /// - `p` is valid for reading `C` floats.
    #[inline(always)]
    unsafe fn splat_group<const C: usize>(self, p: *const f32) -> Self::V {
        let mut lanes = [0.0; MAX_LANES];
        // SAFETY: the array holds a whole vector; `C` floats are readable.
        unsafe {
            for group in lanes.as_chunks_mut::<C>().0 {
                *group = p.cast::<[f32; C]>().read_unaligned();
            }
            self.load(lanes.as_ptr())
        }
    }
    /// Four binary16 numbers from `p`, widened, in every four lanes.
    /// # Safety
    /// - `p` is valid for reading 4 16-bit values.
    #[inline(always)]
    unsafe fn splat_four_f16(self, p: *const u16) -> Self::V {
        // SAFETY: as the caller promises; the array holds a whole vector.
        unsafe { self.load_f16([p.cast::<[u16; 4]>().read_unaligned(); MAX_LANES / 4].as_ptr().cast()) }
    }
    /// Four bfloat16 numbers from `p`, widened, in every four lanes.
    /// # Safety
    /// - `p` is valid for reading 4 16-bit values.
    #[inline(always)]
    unsafe fn splat_four_bf16(self, p: *const u16) -> Self::V {
        // SAFETY: as the caller promises; the array holds a whole vector.
        unsafe { self.load_bf16([p.cast::<[u16; 4]>().read_unaligned(); MAX_LANES / 4].as_ptr().cast()) }
    }
    /// The sums of every two neighbouring lanes: those of `a` in the lower half of the lanes, those of `b`
    /// in the upper.
    #[inline(always)]
    fn sum_twos(self, a: Self::V, b: Self::V) -> Self::V {
        let mut lanes = [0.0; 2 * MAX_LANES];
        // SAFETY: the array holds two whole vectors.
        unsafe {
            self.store(lanes.as_mut_ptr(), a);
            self.store(lanes.as_mut_ptr().add(Self::LANES), b);
            let mut sums = [0.0; MAX_LANES];
            for (sum, [even, odd]) in sums.iter_mut().zip(lanes.as_chunks::<2>().0) {
                *sum = even + odd;
            }
            self.load(sums.as_ptr())
        }
    }
    /// [`sum_twos`](Simd::sum_twos) twice: the sums `(0 + 1) + (2 + 3)` of every four neighbouring lanes, in order.
    #[inline(always)]
    fn sum_fours(self, [a, b, c, d]: [Self::V; 4]) -> Self::V {
        self.sum_twos(self.sum_twos(a, b), self.sum_twos(c, d))
    }
    /// Stores the lower half of the lanes to `low`, the upper to `high`.
    /// # Safety
    /// - Both are valid for writing half a vector.
    #[inline(always)]
    unsafe fn store_halves(self, low: *mut f32, high: *mut f32, v: Self::V) {
        let mut lanes = [0.0; MAX_LANES];
        let half = Self::LANES / 2;
        // SAFETY: the array holds a whole vector; half a vector is writable at both.
        unsafe {
            self.store(lanes.as_mut_ptr(), v);
            core::ptr::copy_nonoverlapping(lanes.as_ptr(), low, half);
            core::ptr::copy_nonoverlapping(lanes.as_ptr().add(half), high, half);
        }
    }
    /// Stores each quarter of the lanes to its place.
    /// # Safety
    /// - All are valid for writing a quarter of a vector.
    #[inline(always)]
    unsafe fn store_quarters(self, to: [*mut f32; 4], v: Self::V) {
        let mut lanes = [0.0; MAX_LANES];
        let quarter = Self::LANES / 4;
        // SAFETY: the array holds a whole vector; a quarter of a vector is writable at each.
        unsafe {
            self.store(lanes.as_mut_ptr(), v);
            for (i, to) in to.into_iter().enumerate() {
                core::ptr::copy_nonoverlapping(lanes.as_ptr().add(i * quarter), to, quarter);
            }
        }
    }
    /// Stores all lanes to `p`, of any alignment.
    /// # Safety
    /// - `p` is valid for writing `LANES` floats.
    unsafe fn store(self, p: *mut f32, v: Self::V);
    /// Stores the first `n <= LANES` lanes to `p` and touches nothing behind them.
    /// # Safety
    /// - `p` is valid for writing `n` floats; `n <= LANES`.
    unsafe fn store_partial(self, p: *mut f32, n: usize, v: Self::V);
    /// Stores all lanes to `p` as binary16, rounded to nearest, ties to even.
    /// # Safety
    /// - `p` is valid for writing `LANES` 16-bit values.
    unsafe fn store_f16(self, p: *mut u16, v: Self::V);
    /// Stores all lanes to `p` as bfloat16, rounded to nearest, ties to even.
    /// # Safety
    /// - `p` is valid for writing `LANES` 16-bit values.
    unsafe fn store_bf16(self, p: *mut u16, v: Self::V);
    /// Asks for the cache line at `p`, into the L2; any address is allowed.
    #[inline(always)]
    fn prefetch<T>(self, _p: *const T) {}
    /// Asks for all cache lines of `n` elements at `p`, which need not begin with one: what lies in a line that was left
    /// out is waited for as long as all of them.
    #[inline(always)]
    fn prefetch_all<T>(self, p: *const T, n: usize) {
        for i in (0..n).step_by(LINE / size_of::<T>()) {
            self.prefetch(p.wrapping_add(i));
        }
        self.prefetch(p.wrapping_add(n).wrapping_sub(1));
    }

    /// The token of [`Few`](Simd::Few).
    fn few(self) -> Self::Few;

    /// Runs `f` where the compiler may use the tier's instructions.
    fn vectorize<R>(self, f: impl FnOnce() -> R) -> R;
}
