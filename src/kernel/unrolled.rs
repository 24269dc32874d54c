//! Loops over the elements of an array of registers, written out.
//!
//! An array is kept in registers only if every index is a constant. At opt-level 3 the compiler unrolls the loop
//! and sees that; at "s" and "z", which firmware uses, it unrolls nothing, and accumulators would lie in memory.

/// Runs `$body` with the constant `$I` equal to 0, 1, ... up to below `$n`, which is at most 8, or 16 if that is
/// said: every copy takes time to compile.
macro_rules! unrolled {
    ($I:ident < $n:expr => $body:block) => {{
        const { assert!($n <= 8) };
        $crate::kernel::unrolled::unrolled!($I, $n, $body; 0 1 2 3 4 5 6 7);
    }};
    ($I:ident < $n:expr, 16 => $body:block) => {{
        const { assert!($n <= 16) };
        $crate::kernel::unrolled::unrolled!($I, $n, $body; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    }};
    ($I:ident, $n:expr, $body:block; $($value:literal)*) => {
        $(
            // Beyond the end the branch is dead; the lints look at it all the same.
            #[allow(unconditional_panic, clippy::out_of_bounds_indexing)]
            if const { $value < $n } {
                const $I: usize = $value;
                $body
            }
        )*
    };
}
pub(crate) use unrolled;
