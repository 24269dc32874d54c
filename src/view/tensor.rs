//! Tensors of masks, biases and weights over slices: a number for each sequence, head, query and key.

use core::marker::PhantomData;

use super::{check, threads};
use crate::error::{Error, expect_dim};

/// A tensor whose element type is a value. All offsets of existing elements fit in `isize`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawTensor {
    ptr: *mut u8,
    /// Bytes of an element.
    size: usize,
    /// Batch, heads, queries, keys.
    sizes: [usize; 4],
    strides: [usize; 3],
}

impl RawTensor {
    /// The address of what there is for query `i` of head `h` of sequence `b`, from key `t` on.
    #[inline(always)]
    pub fn at<T>(&self, b: usize, h: usize, i: usize, t: usize) -> *mut T {
        debug_assert!(size_of::<T>() == self.size);
        let [batch, heads, queries] = self.strides;
        self.ptr.cast::<T>().wrapping_add(b * batch + h * heads + i * queries + t)
    }

    /// The address of the same, the bytes from it to that of the next query, and the bytes of up to `n` keys, as far
    /// as there are keys.
    pub fn rows(&self, b: usize, h: usize, i: usize, t: usize, n: usize) -> (*const u8, usize, usize) {
        let [batch, heads, queries] = self.strides;
        let offset = (b * batch + h * heads + i * queries + t) * self.size;
        let [.., keys] = self.sizes;
        (self.ptr.wrapping_add(offset), queries * self.size, keys.saturating_sub(t).min(n) * self.size)
    }

    /// Whether all queries share what there is for a head.
    pub fn same_for_queries(&self) -> bool {
        self.strides[2] == 0
    }

    /// Whether all heads share what there is for a query.
    pub fn same_for_heads(&self) -> bool {
        self.strides[1] == 0
    }

    /// That the tensor has these sizes.
    ///
    /// # Errors
    /// [`Error::DimMismatch`] with the name of the dimension.
    pub fn check_sizes(&self, names: [&'static str; 4], sizes: [usize; 4]) -> Result<(), Error> {
        let mut all = names.iter().zip(sizes.iter().zip(&self.sizes));
        all.try_for_each(|(&name, (&size, &got))| expect_dim(name, size, got))
    }

    /// The same where a batch, heads or queries of 1 are read again and again.
    ///
    /// # Errors
    /// As there.
    pub fn check_broadcast(&self, names: [&'static str; 4], mut sizes: [usize; 4]) -> Result<(), Error> {
        for (size, &got) in sizes.iter_mut().zip(&self.sizes).take(3) {
            *size = if got == 1 { 1 } else { *size };
        }
        self.check_sizes(names, sizes)
    }
}

/// A tensor to read: a mask or a bias for each sequence, head, query and key. Keys lie together.
///
/// Batch, heads and queries may have the size 1: what is there is then read for all of them.
///
/// ```
/// use qkv::TensorRef;
/// // One mask for 2 queries of 3 keys, the same for all sequences and heads.
/// let mask = [true, false, false, true, true, false];
/// assert_eq!(TensorRef::new(&mask, [1, 1, 2, 3])?.sizes(), [1, 1, 2, 3]);
/// # Ok::<(), qkv::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct TensorRef<'a, T: Copy> {
    pub(crate) raw: RawTensor,
    slice: PhantomData<&'a [T]>,
}

/// A tensor to write: a score or a weight for each sequence, head, query and key. Keys lie together.
#[derive(Debug)]
pub struct TensorMut<'a, T: Copy> {
    pub(crate) raw: RawTensor,
    slice: PhantomData<&'a mut [T]>,
}
threads!(TensorRef: Number, TensorMut: Number);

/// What may lie in a tensor and go to other threads.
pub(crate) trait Number: Copy + Send + Sync {}
impl<T: Copy + Send + Sync> Number for T {}

macro_rules! tensor {
    ($view:ident, [$($mutability:tt)?], [$($as_ptr:tt)*], $exclusive:expr) => {
        impl<'a, T: Copy> $view<'a, T> {
            /// Memory `[batch][heads][queries][keys]`, for `sizes` in this order.
            ///
            /// # Errors
            /// [`Error::SliceTooShort`] or [`Error::ShapeOverflow`].
            pub fn new(data: &'a $($mutability)? [T], sizes: [usize; 4]) -> Result<Self, Error> {
                let [_, heads, queries, keys] = sizes;
                let head = queries.checked_mul(keys).ok_or(Error::ShapeOverflow)?;
                let sequence = heads.checked_mul(head).ok_or(Error::ShapeOverflow)?;
                Self::with_strides(data, sizes, [sequence, head, keys])
            }

            /// What belongs to key `t`, query `i`, head `h`, sequence `b` is
            /// `data[b * strides[0] + h * strides[1] + i * strides[2] + t]`.
            ///
            /// # Errors
            /// [`Error::SliceTooShort`], [`Error::ShapeOverflow`], and for a tensor to write
            /// [`Error::OverlappingStrides`].
            pub fn with_strides(
                data: &'a $($mutability)? [T],
                sizes: [usize; 4],
                strides: [usize; 3],
            ) -> Result<Self, Error> {
                let [batch, heads, queries, keys] = sizes;
                let dims = [(queries, strides[2]), (heads, strides[1]), (batch, strides[0])];
                check(&dims, keys, data.len(), $exclusive)?;
                // What is never stepped along has a stride that cannot overflow, and repeats.
                let empty = sizes.contains(&0);
                let mut strides = strides;
                for (stride, size) in strides.iter_mut().zip(sizes) {
                    if empty || size == 1 {
                        *stride = 0;
                    }
                }
                let ptr = data.$($as_ptr)*.cast();
                let raw = RawTensor { ptr, size: size_of::<T>(), sizes, strides };
                Ok($view { raw, slice: PhantomData })
            }

            /// Batch, heads, queries, keys.
            pub fn sizes(&self) -> [usize; 4] {
                self.raw.sizes
            }
        }
    };
}
tensor!(TensorRef, [], [as_ptr().cast_mut()], false);
tensor!(TensorMut, [mut], [as_mut_ptr()], true);
