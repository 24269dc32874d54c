//! Matrix products.

use core::ffi::{c_int, c_void};

use qkv::{Matmul, PackedMat};

use crate::error::{ERROR_OPTION, ErrorDetail, Refusal, report};
use crate::memory::{Memory, argument, optional};
use crate::tensor::{AnyMat, AnyMatOut, Mat, MatOut, of_dtype, typed};
use crate::tier::tier;

/// `C = alpha A B + beta C + bias`. All zeros is `C = A B`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MatmulOptions {
    /// Whether `alpha` counts; else it must be 0, and the factor is 1.
    pub has_alpha: u32,
    /// The factor of the product. With 0, A and B are not read.
    pub alpha: f32,
    /// The factor of what C held. With 0, C is not read.
    pub beta: f32,
    /// A row of n numbers that is added to every row of C, or NULL.
    pub bias: *const f32,
    pub bias_len: usize,
    /// Which instructions: one of the tiers.
    pub tier: u32,
}

/// A matrix of k x n that `qkv_pack` has packed. Its layout is the same on every target, so that the elements
/// may be a constant in flash.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Packed {
    pub data: *const c_void,
    /// Elements: exactly `qkv_packed_len(k, n)`.
    pub len: usize,
    pub dtype: u32,
    pub k: usize,
    pub n: usize,
}

enum AnyPacked<'a> {
    F32(PackedMat<'a, f32>),
    #[cfg(feature = "half")]
    F16(PackedMat<'a, qkv::f16>),
    #[cfg(feature = "half")]
    Bf16(PackedMat<'a, qkv::bf16>),
}

/// Floats of scratch for a product of m x k by k x n: 0 up to 64 in each.
#[unsafe(no_mangle)]
pub extern "C" fn qkv_matmul_scratch_len(m: usize, k: usize, n: usize) -> usize {
    qkv::matmul_scratch_len(m, k, n)
}

/// `C = alpha A B + beta C + bias`. A is m x k, B is k x n, C is m x n. A transposed operand has its sizes and
/// strides swapped. `options` may be NULL. Sums are 32-bit floats, rounded once.
///
/// # Safety
/// Pointers and lengths are as the header's first lines say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qkv_matmul(
    a: *const Mat,
    b: *const Mat,
    c: *const MatOut,
    options: *const MatmulOptions,
    scratch: *mut f32,
    scratch_len: usize,
    error: *mut ErrorDetail,
) -> c_int {
    let run = || {
        let mut memory = Memory::new(error);
        // SAFETY: as the caller promises.
        let (a, b, c, options, scratch) = unsafe {
            (
                argument("a", a)?.view("a", &mut memory)?,
                argument("b", b)?.view("b", &mut memory)?,
                argument("c", c)?.view("c", &mut memory)?,
                product(options, &mut memory)?,
                memory.write("scratch", scratch, scratch_len)?,
            )
        };
        let done = typed!(AnyMat, a, a => typed!(AnyMat, b, b => typed!(AnyMatOut, c, c => {
            options.run(a, b, c, scratch)
        })));
        done.map_err(|error| Refusal::of("a product", error))
    };
    // SAFETY: as the caller promises.
    unsafe { report(run(), error) }
}

/// Elements of a packed matrix of k x n.
#[unsafe(no_mangle)]
pub extern "C" fn qkv_packed_len(k: usize, n: usize) -> usize {
    PackedMat::<f32>::len(k, n)
}

/// Packs B into `len` elements of `dtype`, at least `qkv_packed_len(b->rows, b->cols)`, rounding where that is
/// narrower.
///
/// # Safety
/// Pointers and lengths are as the header's first lines say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qkv_pack(
    b: *const Mat,
    dtype: u32,
    storage: *mut c_void,
    len: usize,
    error: *mut ErrorDetail,
) -> c_int {
    let run = || {
        let mut memory = Memory::new(error);
        // SAFETY: as the caller promises.
        let b = unsafe { argument("b", b)?.view("b", &mut memory)? };
        let packed: Result<AnyPacked<'_>, Refusal> = of_dtype!(AnyPacked, "dtype", dtype, T => {
            // SAFETY: as the caller promises.
            let storage = unsafe { memory.write("storage", storage.cast::<T>(), len)? };
            typed!(AnyMat, b, b => PackedMat::<T>::pack(b, storage))
                .map_err(|error| Refusal::of("storage", error))?
        });
        packed.map(|_| ())
    };
    // SAFETY: as the caller promises.
    unsafe { report(run(), error) }
}

/// `qkv_matmul` with B packed.
///
/// # Safety
/// Pointers and lengths are as the header's first lines say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qkv_matmul_packed(
    a: *const Mat,
    b: *const Packed,
    c: *const MatOut,
    options: *const MatmulOptions,
    scratch: *mut f32,
    scratch_len: usize,
    error: *mut ErrorDetail,
) -> c_int {
    let run = || {
        let mut memory = Memory::new(error);
        // SAFETY: as the caller promises.
        let (a, b, c, options, scratch) = unsafe {
            (
                argument("a", a)?.view("a", &mut memory)?,
                argument("b", b)?.view(&mut memory)?,
                argument("c", c)?.view("c", &mut memory)?,
                product(options, &mut memory)?,
                memory.write("scratch", scratch, scratch_len)?,
            )
        };
        let done = typed!(AnyMat, a, a => typed!(AnyPacked, b, b => typed!(AnyMatOut, c, c => {
            options.run_packed(a, b, c, scratch)
        })));
        done.map_err(|error| Refusal::of("a product", error))
    };
    // SAFETY: as the caller promises.
    unsafe { report(run(), error) }
}

impl Packed {
    unsafe fn view<'a>(self, memory: &mut Memory) -> Result<AnyPacked<'a>, Refusal> {
        of_dtype!(AnyPacked, "b", self.dtype, T => {
            // SAFETY: as the caller promises.
            let elements = unsafe { memory.read("b", self.data.cast::<T>(), self.len)? };
            PackedMat::from_packed(elements, self.k, self.n).map_err(|error| Refusal::of("b", error))?
        })
    }
}

unsafe fn product<'a>(options: *const MatmulOptions, memory: &mut Memory) -> Result<Matmul<'a>, Refusal> {
    // SAFETY: as the caller promises.
    let Some(options) = (unsafe { optional("options", options)? }) else { return Ok(Matmul::new()) };
    let MatmulOptions { has_alpha, alpha, beta, bias, bias_len, tier: which } = options;
    let mut product = Matmul::new().beta(beta);
    match has_alpha {
        0 if alpha == 0.0 => {}
        1 => product = product.alpha(alpha),
        other => return Err(Refusal::new(ERROR_OPTION, "has_alpha", 1, other as usize)),
    }
    // SAFETY: as the caller promises.
    if let Some(bias) = unsafe { memory.read_some("bias", bias, bias_len)? } {
        product = product.bias(bias);
    }
    if let Some(tier) = tier(which)? {
        product = product.tier(tier);
    }
    Ok(product)
}
