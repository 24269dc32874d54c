//! What a call returns: a code, and the numbers behind it for whoever asks.

use core::ffi::{CStr, c_char, c_int};

/// The call has done what it says.
pub const OK: c_int = 0;
/// A pointer is `NULL` where there must be something.
pub const ERROR_NULL: c_int = 1;
/// An address is not a multiple of what its type asks for.
pub const ERROR_MISALIGNED: c_int = 2;
/// A dtype that does not exist, has no meaning there, or was not built in.
pub const ERROR_DTYPE: c_int = 3;
/// An option has a value without a meaning, or lacks the `has_` field that makes it count.
pub const ERROR_OPTION: c_int = 4;
/// Memory that is written overlaps other memory of the call.
pub const ERROR_OVERLAP: c_int = 5;
/// A buffer has fewer elements than its sizes and strides reach.
pub const ERROR_BUFFER: c_int = 6;
/// Sizes times strides, or a token's number or position, do not fit in `size_t`, or a buffer does not fit in memory.
pub const ERROR_OVERFLOW: c_int = 7;
/// Two elements of an output would share a place.
pub const ERROR_STRIDES: c_int = 8;
/// Two arguments disagree on a size, or one is larger than another allows.
pub const ERROR_DIM: c_int = 9;
/// The scratch is shorter than the `_scratch_len` function says.
pub const ERROR_SCRATCH: c_int = 10;
/// Refused for a reason that this version has no code for.
pub const ERROR_OTHER: c_int = 11;

/// The details of a refusal. Every call that is given one writes it, code 0 where it succeeds. It may overlap nothing
/// else of the call: where that is noticed, before anything else is wrong, the code is returned and nothing written.
#[repr(C)]
pub struct ErrorDetail {
    /// What the call returned.
    pub code: c_int,
    /// The argument, field or size that was refused, ending in 0.
    pub what: [c_char; 64],
    /// What it should be at least, at most or exactly, where that is a number; else 0.
    pub expected: usize,
    /// What it is.
    pub got: usize,
}

/// A refused call.
pub struct Refusal {
    pub code: c_int,
    pub what: &'static str,
    pub expected: usize,
    pub got: usize,
    /// The details are not to be written.
    pub silent: bool,
}

impl Refusal {
    pub fn new(code: c_int, what: &'static str, expected: usize, got: usize) -> Refusal {
        Refusal { code, what, expected, got, silent: false }
    }

    /// `error` of the argument `what`.
    pub fn of(what: &'static str, error: qkv::Error) -> Refusal {
        match error {
            qkv::Error::SliceTooShort { needed, got } => Refusal::new(ERROR_BUFFER, what, needed, got),
            qkv::Error::ShapeOverflow => Refusal::new(ERROR_OVERFLOW, what, 0, 0),
            qkv::Error::OverlappingStrides { stride, needed } => {
                Refusal::new(ERROR_STRIDES, what, needed, stride)
            }
            qkv::Error::DimMismatch { dim, expected, got } => Refusal::new(ERROR_DIM, dim, expected, got),
            qkv::Error::TooLarge { what, most, got } => Refusal::new(ERROR_DIM, what, most, got),
            qkv::Error::HeadsDoNotDivide { n_heads, n_kv_heads } => {
                Refusal::new(ERROR_DIM, "n_heads (a multiple of n_kv_heads)", n_kv_heads, n_heads)
            }
            qkv::Error::ScratchTooShort { needed, got } => {
                Refusal::new(ERROR_SCRATCH, "scratch", needed, got)
            }
            qkv::Error::NotForPacked { what } => Refusal::new(ERROR_OPTION, what, 0, 0),
            _ => Refusal::new(ERROR_OTHER, what, 0, 0),
        }
    }
}

/// The code of `result`, which `detail` gets the numbers of.
///
/// # Safety
/// - `detail` is null or may be written.
pub unsafe fn report(result: Result<(), Refusal>, detail: *mut ErrorDetail) -> c_int {
    let Refusal { code, what, expected, got, silent } =
        result.err().unwrap_or_else(|| Refusal::new(OK, "", 0, 0));
    if silent || detail.is_null() || !detail.is_aligned() {
        return code;
    }
    let mut text = [0; 64];
    // The last one stays 0.
    for (to, &byte) in text.iter_mut().take(63).zip(what.as_bytes()) {
        *to = byte as c_char;
    }
    // SAFETY: as the caller promises.
    unsafe { detail.write(ErrorDetail { code, what: text, expected, got }) };
    code
}

/// A sentence for a code, ending in 0 and never to be freed.
#[unsafe(no_mangle)]
pub extern "C" fn qkv_error_text(code: c_int) -> *const c_char {
    let text: &CStr = match code {
        OK => c"ok",
        ERROR_NULL => c"a pointer is NULL where there must be something",
        ERROR_MISALIGNED => c"an address is not aligned for its type",
        ERROR_DTYPE => c"a dtype does not exist, has no meaning there, or was not built in",
        ERROR_OPTION => c"an option has a value without a meaning, or lacks its has_ field",
        ERROR_OVERLAP => c"memory that is written overlaps other memory of the call",
        ERROR_BUFFER => c"a buffer has fewer elements than its sizes and strides reach",
        ERROR_OVERFLOW => c"sizes times strides, or a token's number or position, do not fit in size_t",
        ERROR_STRIDES => c"two elements of an output would share a place",
        ERROR_DIM => c"two arguments disagree on a size, or one is larger than another allows",
        ERROR_SCRATCH => c"the scratch is too short",
        _ => c"refused for another reason",
    };
    text.as_ptr()
}
