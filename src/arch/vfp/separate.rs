//! Steps that round the product and the sum.

/// `sum += a * b`, by the numbers of registers.
macro_rules! one {
    ($sum:literal += $a:literal * $b:literal) => {
        concat!("vmla.f32 s", $sum, ", s", $a, ", s", $b)
    };
}
/// The same twice, so that no sum waits for its product; registers at the end are free.
macro_rules! two {
    ($s0:literal += $a0:literal * $b0:literal, $s1:literal += $a1:literal * $b1:literal; $f0:literal, $f1:literal) => {
        concat!(
            "vmul.f32 s",
            $f0,
            ", s",
            $a0,
            ", s",
            $b0,
            "\nvmul.f32 s",
            $f1,
            ", s",
            $a1,
            ", s",
            $b1,
            "\nvadd.f32 s",
            $s0,
            ", s",
            $s0,
            ", s",
            $f0,
            "\nvadd.f32 s",
            $s1,
            ", s",
            $s1,
            ", s",
            $f1,
            "\n"
        )
    };
}
/// Sums are never -0.
macro_rules! plus_zero {
    ($($_:tt)*) => {
        ""
    };
}

/// What `n` is multiplied by in [`less_ln2`].
pub const LN2: [f32; 2] = [crate::kernel::exp::LN2_HIGH, crate::kernel::exp::LN2_LOW];
/// `r = x - n ln 2`.
macro_rules! less_ln2 {
    () => {
        concat!(one!(16 += 18 * 8), "\n", one!(16 += 18 * 15))
    };
}
/// The last two steps of the polynomial.
macro_rules! last {
    () => {
        concat!("vmul.f32 s18, s19, s16\n", one!(16 += 18 * 16), "\nvadd.f32 s16, s16, s14")
    };
}
/// Times 2^n.
macro_rules! scaled {
    () => {
        "vmul.f32 s16, s16, s17"
    };
}
