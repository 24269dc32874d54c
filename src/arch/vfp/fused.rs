//! Steps that round once.

/// `sum += a * b`, by the numbers of registers.
macro_rules! one {
    ($sum:literal += $a:literal * $b:literal) => {
        concat!("vfma.f32 s", $sum, ", s", $a, ", s", $b)
    };
}
/// The same twice; registers at the end are free.
macro_rules! two {
    ($($sum:literal += $a:literal * $b:literal),*; $($free:literal),*) => {
        concat!($(one!($sum += $a * $b), "\n"),*)
    };
}
/// Adds 0 to sums if register `r` is [`PLUS_ZERO`](crate::kernel::lone::PLUS_ZERO), and clears that.
macro_rules! plus_zero {
    ($r:literal: $($sum:literal),*) => {
        concat!(
            "cmp r", $r, ", #1\n bne 20f\n mov r", $r, ", #0\n vmov s16, r", $r, "\n",
            $("vadd.f32 s", $sum, ", s", $sum, ", s16\n",)*
            "20:"
        )
    };
}

/// What `n` is multiplied by in [`less_ln2`].
pub const LN2: [f32; 2] = [core::f32::consts::LN_2, 0.0];
/// `r = x - n ln 2`.
macro_rules! less_ln2 {
    () => {
        one!(16 += 18 * 8)
    };
}
/// The last two steps of the polynomial.
macro_rules! last {
    () => {
        concat!("vmov.f32 s18, s14\n", one!(18 += 19 * 16), "\nvmov.f32 s19, s14\n", one!(19 += 18 * 16))
    };
}
/// Times 2^n.
macro_rules! scaled {
    () => {
        "vmul.f32 s16, s19, s17"
    };
}
