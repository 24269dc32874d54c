//! Matrices, heads and tables as C has them, and the views that they become.

use core::ffi::c_void;

use qkv::{HeadsMut, HeadsRef, MatMut, MatRef, TensorRef};

use crate::error::Refusal;
use crate::memory::Memory;

/// 32-bit floats.
pub const F32: u32 = 0;
/// IEEE binary16.
#[cfg_attr(not(feature = "half"), expect(dead_code, reason = "the header has it"))]
pub const F16: u32 = 1;
/// bfloat16: the upper half of a 32-bit float.
#[cfg_attr(not(feature = "half"), expect(dead_code, reason = "the header has it"))]
pub const BF16: u32 = 2;
/// Of a mask: C's `bool`, bytes of 0 and 1.
pub const BOOL: u32 = 3;
/// Of a mask: bits in bytes, key 0 in the lowest bit of the first one.
pub const BITS: u32 = 4;

/// A matrix to read. Element (i, j) is `data[i * row_stride + j * col_stride]`; with both strides 0 rows
/// follow each other.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Mat {
    pub data: *const c_void,
    /// Elements from `data` on that are there.
    pub len: usize,
    pub dtype: u32,
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
    pub col_stride: usize,
}

/// A matrix to write, otherwise the same. No two elements may share a place.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct MatOut {
    pub data: *mut c_void,
    /// Elements from `data` on that are there.
    pub len: usize,
    pub dtype: u32,
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
    pub col_stride: usize,
}

/// Heads of queries, keys or values. Feature d of token t of head h of sequence b is
/// `data[b * batch_stride + t * token_stride + h * head_stride + d]`. With all strides 0 the memory is
/// `[batch][tokens][n_heads][head_dim]`. A batch of 0 is one of 1.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Heads {
    pub data: *const c_void,
    /// Elements from `data` on that are there.
    pub len: usize,
    pub dtype: u32,
    pub batch: usize,
    pub tokens: usize,
    pub n_heads: usize,
    pub head_dim: usize,
    pub batch_stride: usize,
    pub token_stride: usize,
    pub head_stride: usize,
}

/// Heads of an output, otherwise the same.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct HeadsOut {
    pub data: *mut c_void,
    /// Elements from `data` on that are there.
    pub len: usize,
    pub dtype: u32,
    pub batch: usize,
    pub tokens: usize,
    pub n_heads: usize,
    pub head_dim: usize,
    pub batch_stride: usize,
    pub token_stride: usize,
    pub head_stride: usize,
}

/// A mask or a bias. `sizes` are batch, heads, queries and keys; all but the keys may be 1, for what is the
/// same for all. Key t of query i of head h of sequence b is `data[b * strides[0] + h * strides[1] + i *
/// strides[2] + t]`; with all strides 0 the memory is `[batch][heads][queries][keys]`. In a mask of bits the
/// last size and the strides are in bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Table {
    pub data: *const c_void,
    /// Elements from `data` on that are there.
    pub len: usize,
    pub dtype: u32,
    pub sizes: [usize; 4],
    pub strides: [usize; 3],
}

/// A view of any type, or of the types that were built in.
macro_rules! any {
    ($any:ident, $view:ident) => {
        pub enum $any<'a> {
            F32($view<'a, f32>),
            #[cfg(feature = "half")]
            F16($view<'a, qkv::f16>),
            #[cfg(feature = "half")]
            Bf16($view<'a, qkv::bf16>),
        }
    };
}
any!(AnyMat, MatRef);
any!(AnyMatOut, MatMut);
any!(AnyHeads, HeadsRef);
any!(AnyHeadsOut, HeadsMut);

/// The `$any` of `$make::<T>`, for the type that a dtype names.
macro_rules! of_dtype {
    ($any:ident, $what:expr, $dtype:expr, $T:ident => $make:expr) => {
        match $dtype {
            crate::tensor::F32 => {
                type $T = f32;
                Ok($any::F32($make))
            }
            #[cfg(feature = "half")]
            crate::tensor::F16 => {
                type $T = qkv::f16;
                Ok($any::F16($make))
            }
            #[cfg(feature = "half")]
            crate::tensor::BF16 => {
                type $T = qkv::bf16;
                Ok($any::Bf16($make))
            }
            other => Err(crate::error::Refusal::new(crate::error::ERROR_DTYPE, $what, 0, other as usize)),
        }
    };
}
pub(crate) use of_dtype;

/// `$body` with `$view` the view in `$value`, whatever its type.
macro_rules! typed {
    ($any:ident, $value:expr, $view:ident => $body:expr) => {
        match $value {
            $any::F32($view) => $body,
            #[cfg(feature = "half")]
            $any::F16($view) => $body,
            #[cfg(feature = "half")]
            $any::Bf16($view) => $body,
        }
    };
}
pub(crate) use typed;

impl Mat {
    /// # Safety
    /// - As [`Memory::read`].
    pub unsafe fn view<'a>(self, what: &'static str, memory: &mut Memory) -> Result<AnyMat<'a>, Refusal> {
        let Mat { data, len, dtype, rows, cols, .. } = self;
        let (row_stride, col_stride) = mat_strides(self.row_stride, self.col_stride, cols);
        of_dtype!(AnyMat, what, dtype, T => {
            // SAFETY: as the caller promises.
            let elements = unsafe { memory.read(what, data.cast::<T>(), len)? };
            MatRef::with_strides(elements, rows, cols, row_stride, col_stride)
                .map_err(|error| Refusal::of(what, error))?
        })
    }
}

impl MatOut {
    /// # Safety
    /// - As [`Memory::write`].
    pub unsafe fn view<'a>(self, what: &'static str, memory: &mut Memory) -> Result<AnyMatOut<'a>, Refusal> {
        let MatOut { data, len, dtype, rows, cols, .. } = self;
        let (row_stride, col_stride) = mat_strides(self.row_stride, self.col_stride, cols);
        of_dtype!(AnyMatOut, what, dtype, T => {
            // SAFETY: as the caller promises.
            let elements = unsafe { memory.write(what, data.cast::<T>(), len)? };
            MatMut::with_strides(elements, rows, cols, row_stride, col_stride)
                .map_err(|error| Refusal::of(what, error))?
        })
    }
}

impl Heads {
    /// # Safety
    /// - As [`Memory::read`].
    pub unsafe fn view<'a>(self, what: &'static str, memory: &mut Memory) -> Result<AnyHeads<'a>, Refusal> {
        let Heads { data, len, dtype, batch, tokens, n_heads, head_dim, .. } = self;
        let sizes = [batch.max(1), tokens, n_heads, head_dim];
        let strides = head_strides([self.batch_stride, self.token_stride, self.head_stride], sizes);
        of_dtype!(AnyHeads, what, dtype, T => {
            // SAFETY: as the caller promises.
            let elements = unsafe { memory.read(what, data.cast::<T>(), len)? };
            HeadsRef::batch_with_strides(elements, sizes, strides)
                .map_err(|error| Refusal::of(what, error))?
        })
    }
}

impl HeadsOut {
    /// # Safety
    /// - As [`Memory::write`].
    pub unsafe fn view<'a>(
        self,
        what: &'static str,
        memory: &mut Memory,
    ) -> Result<AnyHeadsOut<'a>, Refusal> {
        let HeadsOut { data, len, dtype, batch, tokens, n_heads, head_dim, .. } = self;
        let sizes = [batch.max(1), tokens, n_heads, head_dim];
        let strides = head_strides([self.batch_stride, self.token_stride, self.head_stride], sizes);
        of_dtype!(AnyHeadsOut, what, dtype, T => {
            // SAFETY: as the caller promises.
            let elements = unsafe { memory.write(what, data.cast::<T>(), len)? };
            HeadsMut::batch_with_strides(elements, sizes, strides)
                .map_err(|error| Refusal::of(what, error))?
        })
    }
}

impl Table {
    /// # Safety
    /// - As [`Memory::read`], for elements `T`.
    pub unsafe fn view<'a, T: Copy>(
        self,
        what: &'static str,
        memory: &mut Memory,
    ) -> Result<TensorRef<'a, T>, Refusal> {
        // SAFETY: as the caller promises.
        let elements = unsafe { memory.read(what, self.data.cast::<T>(), self.len)? };
        let tensor = match self.strides {
            [0, 0, 0] => TensorRef::new(elements, self.sizes),
            strides => TensorRef::with_strides(elements, self.sizes, strides),
        };
        tensor.map_err(|error| Refusal::of(what, error))
    }
}

/// Rows one behind the other where no stride is given. Products that do not fit are refused by the views.
fn mat_strides(row_stride: usize, col_stride: usize, cols: usize) -> (usize, usize) {
    if (row_stride, col_stride) == (0, 0) { (cols, 1) } else { (row_stride, col_stride) }
}

fn head_strides(strides: [usize; 3], [_, tokens, n_heads, head_dim]: [usize; 4]) -> [usize; 3] {
    if strides != [0, 0, 0] {
        return strides;
    }
    let token = n_heads.saturating_mul(head_dim);
    [tokens.saturating_mul(token), token, head_dim]
}
