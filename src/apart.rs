//! Where a fuzz target calls a function instead of having a copy in every tile.
//!
//! There each access is checked and each branch counted, which makes code several times as long, and the time to
//! compile a function grows faster than its length. `cargo fuzz` sets `cfg(fuzzing)`; all other builds inline.

/// `$body`, in a function of its own if it is built for fuzzing.
#[cfg(not(fuzzing))]
macro_rules! apart {
    ($s:expr => $body:expr) => {
        $body
    };
}
#[cfg(fuzzing)]
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

#[cfg(fuzzing)]
#[inline(never)]
pub fn call<S: crate::simd::Simd, R>(s: S, f: impl FnOnce() -> R) -> R {
    s.vectorize(f)
}
