//! Where a build for debugging or a fuzz target calls a function instead of having a copy in every tile.
//!
//! There each access is checked, and in fuzz targets each branch counted, which makes code several times as long,
//! and the time to compile a function grows faster than its length. `cargo fuzz` sets `cfg(fuzzing)`; all other
//! builds without debug assertions inline.

/// `$body`, in a function of its own if it is built for fuzzing or debugging.
#[cfg(not(any(fuzzing, debug_assertions)))]
macro_rules! apart {
    ($s:expr => $body:expr) => {
        $body
    };
}
#[cfg(any(fuzzing, debug_assertions))]
macro_rules! apart {
    ($s:expr => $body:expr) => {
        $crate::apart::call(
            $s,
            #[inline(always)]
            move || $body,
        )
    };
}
pub(crate) use apart;

#[cfg(any(fuzzing, debug_assertions))]
#[inline(never)]
pub fn call<S: crate::simd::Simd, R>(s: S, f: impl FnOnce() -> R) -> R {
    s.vectorize(f)
}
