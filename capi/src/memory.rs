//! From C's pointers to slices: the only place where that is done. What cannot be a slice is refused, and so
//! is memory that is written and overlaps other memory of the call.

use crate::error::{ERROR_MISALIGNED, ERROR_NULL, ERROR_OVERFLOW, ERROR_OVERLAP, ErrorDetail, Refusal};

/// Most regions of a call: attention with every option, and the details of its refusal.
const REGIONS: usize = 17;

/// The memory of one call.
pub struct Memory {
    /// First address, end, and whether it is written.
    regions: [(usize, usize, bool); REGIONS],
    used: usize,
    /// Where the region of the details begins, or 0.
    details: usize,
}

impl Memory {
    /// That of a call which writes the details of a refusal to `error`, unless they cannot be written there.
    pub fn new(error: *const ErrorDetail) -> Memory {
        let mut memory = Memory { regions: [(0, 0, false); REGIONS], used: 0, details: 0 };
        if memory.note("error", error, 1, true).is_ok() {
            memory.details = error.addr();
        }
        memory
    }

    /// `len` elements to read.
    ///
    /// # Safety
    /// - If `ptr` is aligned and not null, it is valid for reading `len` elements as long as the call lasts.
    pub unsafe fn read<'a, T>(
        &mut self,
        what: &'static str,
        ptr: *const T,
        len: usize,
    ) -> Result<&'a [T], Refusal> {
        self.note(what, ptr, len, false)?;
        // SAFETY: as the caller promises; `note` has looked at the address and the length.
        Ok(if len == 0 { &[] } else { unsafe { core::slice::from_raw_parts(ptr, len) } })
    }

    /// The same where `NULL` is nothing.
    ///
    /// # Safety
    /// - As [`read`](Self::read).
    pub unsafe fn read_some<'a, T>(
        &mut self,
        what: &'static str,
        ptr: *const T,
        len: usize,
    ) -> Result<Option<&'a [T]>, Refusal> {
        if ptr.is_null() && len == 0 {
            return Ok(None);
        }
        // SAFETY: as the caller promises.
        unsafe { self.read(what, ptr, len) }.map(Some)
    }

    /// `len` elements to write.
    ///
    /// # Safety
    /// - If `ptr` is aligned and not null, it is valid for reading and writing `len` elements as long as the
    ///   call lasts, and nobody else uses them meanwhile.
    pub unsafe fn write<'a, T>(
        &mut self,
        what: &'static str,
        ptr: *mut T,
        len: usize,
    ) -> Result<&'a mut [T], Refusal> {
        self.note(what, ptr, len, true)?;
        // SAFETY: as the caller promises; `note` has looked at the address, the length and the overlaps.
        Ok(if len == 0 { &mut [] } else { unsafe { core::slice::from_raw_parts_mut(ptr, len) } })
    }

    fn note<T>(
        &mut self,
        what: &'static str,
        ptr: *const T,
        len: usize,
        written: bool,
    ) -> Result<(), Refusal> {
        if len == 0 {
            return Ok(());
        }
        if ptr.is_null() {
            return Err(Refusal::new(ERROR_NULL, what, 0, 0));
        }
        if !ptr.is_aligned() {
            return Err(Refusal::new(ERROR_MISALIGNED, what, align_of::<T>(), ptr.addr()));
        }
        let bytes = len.checked_mul(size_of::<T>()).filter(|&bytes| bytes <= isize::MAX as usize);
        let end = bytes.and_then(|bytes| ptr.addr().checked_add(bytes));
        let overflow = Refusal::new(ERROR_OVERFLOW, what, isize::MAX as usize / size_of::<T>().max(1), len);
        let Some(end) = end else { return Err(overflow) };
        let start = ptr.addr();
        for &(from, to, other) in self.regions.iter().take(self.used) {
            if (written || other) && start < to && from < end {
                let refusal = Refusal::new(ERROR_OVERLAP, what, 0, 0);
                // To write the details would be to write there.
                return Err(Refusal { silent: from == self.details, ..refusal });
            }
        }
        let Some(place) = self.regions.get_mut(self.used) else { return Err(overflow) };
        *place = (start, end, written);
        self.used += 1;
        Ok(())
    }
}

/// The struct behind an argument.
///
/// # Safety
/// - If `ptr` is aligned and not null, it is valid for reading.
pub unsafe fn argument<T: Copy>(what: &'static str, ptr: *const T) -> Result<T, Refusal> {
    // SAFETY: as the caller promises.
    match unsafe { optional(what, ptr) }? {
        Some(value) => Ok(value),
        None => Err(Refusal::new(ERROR_NULL, what, 0, 0)),
    }
}

/// The same where `NULL` is nothing.
///
/// # Safety
/// - As [`argument`].
pub unsafe fn optional<T: Copy>(what: &'static str, ptr: *const T) -> Result<Option<T>, Refusal> {
    if ptr.is_null() {
        return Ok(None);
    }
    if !ptr.is_aligned() {
        return Err(Refusal::new(ERROR_MISALIGNED, what, align_of::<T>(), ptr.addr()));
    }
    // SAFETY: as the caller promises.
    Ok(Some(unsafe { ptr.read() }))
}
