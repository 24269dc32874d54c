//! Why a call was refused: one small value with the numbers in it.

use core::fmt;

/// Why a call was refused. Nothing was written to any output when one of these comes back.
///
/// Variants carry what was needed and what was given, in elements.
///
/// ```
/// use qkv::{Error, MatRef};
/// let data = [1.0_f32; 5];
/// assert_eq!(MatRef::new(&data, 2, 3).err(), Some(Error::SliceTooShort { needed: 6, got: 5 }));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The slice ends before the last element of the shape and strides.
    SliceTooShort {
        /// Elements from the start of the slice to the last one of the view.
        needed: usize,
        /// Elements of the slice.
        got: usize,
    },
    /// A product of sizes and strides, or a token's number or position, does not fit in `usize`.
    ShapeOverflow,
    /// Two elements of a mutable view would share one place in memory.
    OverlappingStrides {
        /// The stride that is too small (elements).
        stride: usize,
        /// The smallest one that keeps the elements apart, given the other sizes.
        needed: usize,
    },
    /// Two arguments disagree on a dimension.
    DimMismatch {
        /// Which dimension, as the documentation names it.
        dim: &'static str,
        /// What the other arguments ask for.
        expected: usize,
        /// What this argument has.
        got: usize,
    },
    /// An argument is larger than another one allows.
    TooLarge {
        /// Which argument, or which of its numbers.
        what: &'static str,
        /// The largest that is allowed.
        most: usize,
        /// What it is.
        got: usize,
    },
    /// The key heads do not divide the query heads.
    HeadsDoNotDivide {
        /// Query heads.
        n_heads: usize,
        /// Key heads.
        n_kv_heads: usize,
    },
    /// What was asked for is not there for packed sequences.
    NotForPacked {
        /// What was asked for.
        what: &'static str,
    },
    /// The scratch slice is shorter than the `*_scratch_len` function says.
    ScratchTooShort {
        /// `f32`s needed.
        needed: usize,
        /// `f32`s given.
        got: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::SliceTooShort { needed, got } => {
                write!(f, "slice too short: the shape and strides need {needed} elements, it has {got}")
            }
            Error::ShapeOverflow => f.write_str(
                "shape overflow: sizes times strides, or a token's number or position, exceed usize",
            ),
            Error::OverlappingStrides { stride, needed } => write!(
                f,
                "overlapping strides: a mutable view needs a stride of at least {needed} here, got {stride}"
            ),
            Error::DimMismatch { dim, expected, got } => {
                write!(f, "dimension mismatch: {dim} should be {expected}, got {got}")
            }
            Error::TooLarge { what, most, got } => {
                write!(f, "{what} too large: at most {most} here, got {got}")
            }
            Error::HeadsDoNotDivide { n_heads, n_kv_heads } => {
                write!(
                    f,
                    "{n_heads} query heads cannot share {n_kv_heads} key heads: they must be a multiple"
                )
            }
            Error::NotForPacked { what } => {
                write!(f, "no {what} of packed sequences: take each sequence in a call of its own")
            }
            Error::ScratchTooShort { needed, got } => write!(
                f,
                "scratch too short: {needed} f32s needed, got {got}; size it with the matching `*_scratch_len`"
            ),
        }
    }
}

impl core::error::Error for Error {}

/// `Ok` if `got == expected`, else the mismatch by name.
#[inline]
pub(crate) fn expect_dim(dim: &'static str, expected: usize, got: usize) -> Result<(), Error> {
    if got == expected { Ok(()) } else { Err(Error::DimMismatch { dim, expected, got }) }
}

/// `Ok` if `got <= most`.
#[inline]
pub(crate) fn expect_most(what: &'static str, most: usize, got: usize) -> Result<(), Error> {
    if got <= most { Ok(()) } else { Err(Error::TooLarge { what, most, got }) }
}

/// `Ok` if `got` is the number of one of `n`.
#[inline]
pub(crate) fn expect_one_of(what: &'static str, n: usize, got: usize) -> Result<(), Error> {
    if got < n { Ok(()) } else { Err(Error::TooLarge { what, most: n.saturating_sub(1), got }) }
}

/// The same as [`expect_dim`] of several dimensions: `Ok` if both numbers of each pair are the same.
#[cfg_attr(not(target_os = "none"), inline)]
#[cfg_attr(target_os = "none", inline(never))]
pub(crate) fn expect_dims(names: &[&'static str], sizes: &[(usize, usize)]) -> Result<(), Error> {
    names.iter().zip(sizes).try_for_each(|(&dim, &(expected, got))| expect_dim(dim, expected, got))
}

/// `Ok` if the scratch is long enough.
#[inline]
pub(crate) fn expect_scratch(needed: usize, got: usize) -> Result<(), Error> {
    if got >= needed { Ok(()) } else { Err(Error::ScratchTooShort { needed, got }) }
}
