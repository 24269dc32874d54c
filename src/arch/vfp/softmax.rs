//! Weights of scores, and the square root of their scale.

use core::arch::naked_asm;

use super::steps::LN2;
use crate::kernel::exp::{Form, LOG2_E, POLYNOMIAL, form};

/// Of weights.
const FORM: Form = form(cfg!(qkv_fma));

/// `√x`, rounded as IEEE says.
///
/// # Safety
/// - None beyond that there is such a unit.
#[unsafe(naked)]
pub unsafe extern "C" fn sqrt(_: f32) -> f32 {
    naked_asm!(fpu!(), "vsqrt.f32 s0, s0", "bx lr")
}

/// # Safety
/// - As [`lone::weigh`](crate::kernel::lone::weigh).
#[unsafe(naked)]
pub unsafe extern "C" fn weigh(_: *mut f32, _: usize, _: f32) -> f32 {
    naked_asm!(
        fpu!(),
        "vpush {{d8-d9}}",
        four_weights!(),
        "adr r2, 4f",
        "vldmia r2, {{s5-s15}}",
        // Four chains; the next one's sum is in s1.
        "mov r2, #0",
        "vmov s1, r2",
        "vmov s2, r2",
        "vmov s3, r2",
        "vmov s4, r2",
        "b 3f",
        "2:",
        "vldr s16, [r0]",
        "vsub.f32 s16, s16, s0",
        "vcmp.f32 s5, s16",
        "vmrs APSR_nzcv, fpscr",
        "it gt",
        "vmovgt.f32 s16, s5",
        // n, and r = x - n ln 2.
        "vmov.f32 s17, s7",
        one!(17 += 16 * 6),
        "vsub.f32 s18, s17, s7",
        less_ln2!(),
        // The polynomial.
        "vmov.f32 s18, s10",
        one!(18 += 16 * 9),
        "vmov.f32 s19, s11",
        one!(19 += 16 * 18),
        "vmov.f32 s18, s12",
        one!(18 += 16 * 19),
        "vmov.f32 s19, s13",
        one!(19 += 16 * 18),
        last!(),
        // Times 2^n.
        "vmov r2, s17",
        "lsl r2, r2, #23",
        "vmov s17, r2",
        scaled!(),
        "vstr s16, [r0]",
        "add r0, r0, #16",
        "vadd.f32 s17, s1, s16",
        "vmov.f32 s1, s2",
        "vmov.f32 s2, s3",
        "vmov.f32 s3, s4",
        "vmov.f32 s4, s17",
        "3:",
        "subs r1, r1, #1",
        "bpl 2b",
        "vadd.f32 s1, s1, s3",
        "vadd.f32 s2, s2, s4",
        "vadd.f32 s0, s1, s2",
        "vpop {{d8-d9}}",
        "bx lr",
        ".p2align 2",
        "4:",
        ".word {least}, {log2_e}, {round}, {high}, {c6}, {c5}, {c4}, {c3}, {c2}, {one}, {low}",
        least = const FORM.least.to_bits(),
        log2_e = const LOG2_E.to_bits(),
        round = const FORM.round.to_bits(),
        high = const (-LN2[0]).to_bits(),
        low = const (-LN2[1]).to_bits(),
        c6 = const (POLYNOMIAL[0] * FORM.scale).to_bits(),
        c5 = const (POLYNOMIAL[1] * FORM.scale).to_bits(),
        c4 = const (POLYNOMIAL[2] * FORM.scale).to_bits(),
        c3 = const (POLYNOMIAL[3] * FORM.scale).to_bits(),
        c2 = const (POLYNOMIAL[4] * FORM.scale).to_bits(),
        one = const FORM.scale.to_bits(),
    )
}
