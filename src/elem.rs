//! `Elem`: what may lie in memory (`f32`, `f16`, `bf16`). In registers everything is `f32`.

use crate::apart::apart;
use crate::simd::{MAX_LANES, Simd};

/// A number type of operands and outputs: `f32`, and with the feature `half` also [`half::f16`] and
/// [`half::bf16`]. Sealed.
///
/// All arithmetic is in `f32`; an output is rounded once, at the store, to nearest, ties to even.
pub trait Elem: sealed::Lanes {}

/// The type of a buffer whose static type was erased: kernels are compiled once, not once a mix.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    F32,
    #[cfg(feature = "half")]
    F16,
    #[cfg(feature = "half")]
    Bf16,
}

/// Runs `$body` with `$e` naming the element type that `$kind` stands for.
macro_rules! by_kind {
    ($kind:expr, $e:ident => $body:expr) => {
        match $kind {
            $crate::elem::Kind::F32 => {
                type $e = f32;
                $body
            }
            #[cfg(feature = "half")]
            $crate::elem::Kind::F16 => {
                type $e = ::half::f16;
                $body
            }
            #[cfg(feature = "half")]
            $crate::elem::Kind::Bf16 => {
                type $e = ::half::bf16;
                $body
            }
        }
    };
}
pub(crate) use by_kind;

impl Kind {
    /// Bytes of an element.
    #[inline(always)]
    pub fn size(self) -> usize {
        by_kind!(self, E => size_of::<E>())
    }
}

pub mod sealed {
    use super::{Kind, Simd};

    /// Vector access to elements of one type; see [`super::Elem`].
    pub trait Lanes: Copy + Send + Sync + 'static {
        const KIND: Kind;
        const ZERO: Self;

        fn widen(self) -> f32;
        fn narrow(x: f32) -> Self;

        /// # Safety
        /// - `p` is valid for reading `S::LANES` elements.
        unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::V;
        /// The first `n` elements, zero in the other lanes.
        /// # Safety
        /// - `p` is valid for reading `n <= S::LANES` elements.
        unsafe fn load_partial<S: Simd>(s: S, p: *const Self, n: usize) -> S::V;
        /// Four columns of `LANES` rows: lane `i` of vector `e` is `p[i * stride + e]`.
        /// # Safety
        /// - `p` is valid for reading 4 elements at each of `S::LANES` rows, `stride` apart.
        unsafe fn load_columns<S: Simd>(s: S, p: *const Self, stride: usize) -> [S::V; 4];
        /// Eight columns of `LANES` rows.
        /// # Safety
        /// - `p` is valid for reading 8 elements at each of `S::LANES` rows, `stride` apart.
        unsafe fn load_eight_columns<S: Simd>(s: S, p: *const Self, stride: usize) -> [S::V; 8];
        /// `C` elements from `p` in every `C` lanes; `C` is 2 or 4, of 16-bit types 4.
        /// # Safety
        /// - `p` is valid for reading `C` elements.
        unsafe fn splat_group<S: Simd, const C: usize>(s: S, p: *const Self) -> S::V;
        /// # Safety
        /// - `p` is valid for writing `S::LANES` elements.
        unsafe fn store<S: Simd>(s: S, p: *mut Self, v: S::V);
        /// # Safety
        /// - `p` is valid for writing `n <= S::LANES` elements.
        unsafe fn store_partial<S: Simd>(s: S, p: *mut Self, n: usize, v: S::V);
    }
}
use sealed::Lanes;

impl Elem for f32 {}
impl Lanes for f32 {
    const KIND: Kind = Kind::F32;
    const ZERO: f32 = 0.0;

    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn narrow(x: f32) -> f32 {
        x
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(s: S, p: *const f32) -> S::V {
        // SAFETY: as the caller promises.
        unsafe { s.load(p) }
    }
    #[inline(always)]
    unsafe fn load_partial<S: Simd>(s: S, p: *const f32, n: usize) -> S::V {
        // SAFETY: as the caller promises.
        unsafe { s.load_partial(p, n) }
    }
    #[inline(always)]
    unsafe fn load_columns<S: Simd>(s: S, p: *const f32, stride: usize) -> [S::V; 4] {
        // SAFETY: as the caller promises.
        unsafe { s.load_columns(p, stride) }
    }
    #[inline(always)]
    unsafe fn load_eight_columns<S: Simd>(s: S, p: *const f32, stride: usize) -> [S::V; 8] {
        // SAFETY: as the caller promises.
        unsafe { s.load_eight_columns(p, stride) }
    }
    #[inline(always)]
    unsafe fn splat_group<S: Simd, const C: usize>(s: S, p: *const f32) -> S::V {
        // SAFETY: as the caller promises.
        unsafe { s.splat_group::<C>(p) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(s: S, p: *mut f32, v: S::V) {
        // SAFETY: as the caller promises.
        unsafe { s.store(p, v) }
    }
    #[inline(always)]
    unsafe fn store_partial<S: Simd>(s: S, p: *mut f32, n: usize, v: S::V) {
        // SAFETY: as the caller promises.
        unsafe { s.store_partial(p, n, v) }
    }
}

/// Both 16-bit types: whole vectors by the tier's instructions, partial ones through a buffer.
#[cfg(feature = "half")]
macro_rules! half_lanes {
    ($t:ty, $kind:ident, $load:ident, $columns:ident, $eight:ident, $four:ident, $store:ident, $widen:ident, $narrow:ident) => {
        impl Elem for $t {}
        impl Lanes for $t {
            const KIND: Kind = Kind::$kind;
            const ZERO: $t = <$t>::from_bits(0);

            #[inline(always)]
            fn widen(self) -> f32 {
                $widen(self.to_bits())
            }
            #[inline(always)]
            fn narrow(x: f32) -> $t {
                <$t>::from_bits($narrow(x))
            }
            #[inline(always)]
            unsafe fn load<S: Simd>(s: S, p: *const $t) -> S::V {
                // SAFETY: as the caller promises; the type is a transparent u16.
                unsafe { s.$load(p.cast()) }
            }
            #[inline(always)]
            unsafe fn load_partial<S: Simd>(s: S, p: *const $t, n: usize) -> S::V {
                debug_assert!(n <= S::LANES);
                let mut bits = [0_u16; MAX_LANES];
                // A copy of a length that is not constant would be a call, round which all registers are saved.
                for (i, bits) in bits.iter_mut().enumerate().take(S::LANES) {
                    if i < n {
                        // SAFETY: one of the `n` elements.
                        *bits = unsafe { *p.cast::<u16>().wrapping_add(i) };
                    }
                }
                // SAFETY: the array holds a whole vector.
                unsafe { s.$load(bits.as_ptr()) }
            }
            #[inline(always)]
            unsafe fn load_columns<S: Simd>(s: S, p: *const $t, stride: usize) -> [S::V; 4] {
                // SAFETY: as the caller promises; the type is a transparent u16.
                unsafe { s.$columns(p.cast(), stride) }
            }
            #[inline(always)]
            unsafe fn load_eight_columns<S: Simd>(s: S, p: *const $t, stride: usize) -> [S::V; 8] {
                // SAFETY: as the caller promises; the type is a transparent u16.
                unsafe { s.$eight(p.cast(), stride) }
            }
            #[inline(always)]
            unsafe fn splat_group<S: Simd, const C: usize>(s: S, p: *const $t) -> S::V {
                debug_assert!(C == 4);
                // SAFETY: as the caller promises; the type is a transparent u16.
                unsafe { s.$four(p.cast()) }
            }
            #[inline(always)]
            unsafe fn store<S: Simd>(s: S, p: *mut $t, v: S::V) {
                // SAFETY: as the caller promises; the type is a transparent u16.
                unsafe { s.$store(p.cast(), v) }
            }
            #[inline(always)]
            unsafe fn store_partial<S: Simd>(s: S, p: *mut $t, n: usize, v: S::V) {
                debug_assert!(n <= S::LANES);
                let mut bits = [0_u16; MAX_LANES];
                // SAFETY: the buffer holds a whole vector, and `n <= LANES` elements are writable.
                unsafe {
                    s.$store(bits.as_mut_ptr(), v);
                    core::ptr::copy_nonoverlapping(bits.as_ptr(), p.cast(), n);
                }
            }
        }
    };
}
#[cfg(feature = "half")]
half_lanes!(
    half::f16,
    F16,
    load_f16,
    load_columns_f16,
    load_eight_columns_f16,
    splat_four_f16,
    store_f16,
    f16_to_f32,
    f32_to_f16
);
#[cfg(feature = "half")]
half_lanes!(
    half::bf16,
    Bf16,
    load_bf16,
    load_columns_bf16,
    load_eight_columns_bf16,
    splat_four_bf16,
    store_bf16,
    bf16_to_f32,
    f32_to_bf16
);

/// A vector of `n` elements or of `LANES`, whichever is less; zero beyond.
///
/// # Safety
/// - `p` is valid for reading `min(n, LANES)` elements.
#[inline(always)]
pub unsafe fn load_up_to<S: Simd, E: Elem>(s: S, p: *const E, n: usize) -> S::V {
    // SAFETY: as the caller promises.
    apart!(s => unsafe { if n >= S::LANES { E::load(s, p) } else { E::load_partial(s, p, n) } })
}

/// The first `n` lanes or all of them, whichever is less.
///
/// # Safety
/// - `p` is valid for writing `min(n, LANES)` elements.
#[inline(always)]
pub unsafe fn store_up_to<S: Simd, E: Elem>(s: S, p: *mut E, n: usize, v: S::V) {
    // SAFETY: as the caller promises.
    apart!(s => unsafe { if n >= S::LANES { E::store(s, p, v) } else { E::store_partial(s, p, n, v) } })
}

/// [`Lanes::load_columns`] where only `columns <= 4` of each row exist, and only the rows for which `row`
/// gives an address; zero elsewhere.
///
/// # Safety
/// - Every address is valid for reading `columns` elements.
#[inline(always)]
pub unsafe fn load_some_columns<S: Simd, E: Elem>(
    s: S,
    columns: usize,
    row: impl Fn(usize) -> Option<*const E>,
) -> [S::V; 4] {
    let mut quads = [[E::narrow(0.0); 4]; MAX_LANES];
    for (i, quad) in quads.iter_mut().enumerate().take(S::LANES) {
        if let Some(p) = row(i) {
            for (e, x) in quad.iter_mut().enumerate().take(columns) {
                // SAFETY: one of the columns that exist.
                *x = unsafe { *p.add(e) };
            }
        }
    }
    // SAFETY: the array holds 4 columns of `LANES` rows.
    unsafe { E::load_columns(s, quads.as_ptr().cast(), 4) }
}

/// binary16 to `f32`, exact, without a branch on the value: the exponent and fraction are shifted
/// into place and rescaled by a power of two, which also turns subnormals into normal numbers.
#[inline(always)]
pub fn f16_to_f32(h: u16) -> f32 {
    let magnitude = ((h & 0x7fff) as u32) << 13;
    // 2^112 corrects the exponent bias (127 - 15).
    let scaled = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
    let special = if (h & 0x7c00) == 0x7c00 { 0x7f80_0000 } else { 0 };
    f32::from_bits(scaled.to_bits() | special | (((h & 0x8000) as u32) << 16))
}

/// `f32` to binary16, to nearest, ties to even; overflow gives infinity, NaN stays NaN.
#[inline(always)]
pub const fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    let half = if magnitude > 0x7f80_0000 {
        // Quiet, with the payload that fits, as CPUs have it.
        0x7e00 | (magnitude >> 13 & 0x1ff) as u16
    } else if magnitude >= 0x4780_0000 {
        // 65,536 and above, infinity too.
        0x7c00
    } else if magnitude >= 0x3880_0000 {
        // Normal: move the exponent bias, round the 13 dropped bits; a carry may reach infinity.
        let odd = (magnitude >> 13) & 1;
        ((magnitude - 0x3800_0000 + 0x0fff + odd) >> 13) as u16
    } else {
        // Subnormal or zero: adding 0.5 leaves the rounded number in the lowest bits of the sum.
        (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000) as u16
    };
    sign | half
}

/// bfloat16 to `f32`, exact.
#[inline(always)]
pub fn bf16_to_f32(h: u16) -> f32 {
    f32::from_bits((h as u32) << 16)
}

/// `f32` to bfloat16, to nearest, ties to even; NaN stays NaN.
#[inline(always)]
pub const fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        return (bits >> 16) as u16 | 0x40;
    }
    let odd = (bits >> 16) & 1;
    (bits.wrapping_add(0x7fff + odd) >> 16) as u16
}
