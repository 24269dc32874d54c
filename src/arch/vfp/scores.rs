//! Scores of four queries and of one.

use core::arch::naked_asm;

/// An element at a register as a float; the second register is free.
macro_rules! first_feature {
    (f32 $at:literal, $free:literal, $to:literal) => {
        concat!("vldr s", $to, ", [", $at, "]\n")
    };
    ($half:ident $at:literal, $free:literal, $to:literal) => {
        concat!("ldrh ", $free, ", [", $at, "]\n", element!($half $free, $to))
    };
}

macro_rules! scores {
    ($kind:ident) => {
        naked_asm!(
            fpu!(),
            "push {{r4-r11, lr}}",
            "vpush {{d8-d14}}",
            // keys, apart, n, q, step, q_step, steps, one, to, add.
            "ldm r0, {{r1-r10}}",
            "2:",
            "mov r0, #0",
            "vmov d0, r0, r0",
            "vmov d1, r0, r0",
            "vmov d2, r0, r0",
            "vmov d3, r0, r0",
            "vmov d4, r0, r0",
            "vmov d5, r0, r0",
            "vmov d6, r0, r0",
            "vmov d7, r0, r0",
            // Two keys; a single one twice.
            "mov r11, r1",
            "mov r12, r1",
            "cmp r3, #1",
            "it hi",
            "addhi r12, r12, r2",
            "mov lr, r4",
            "mov r0, r7",
            two_keys!($kind),
            "cmp r8, #0",
            "beq 5f",
            first_feature!($kind "r11", "r0", 16),
            first_feature!($kind "r12", "r0", 18),
            "vldmia lr, {{s20-s23}}",
            one!(0 += 16 * 20),
            one!(4 += 18 * 20),
            one!(1 += 16 * 21),
            one!(5 += 18 * 21),
            one!(2 += 16 * 22),
            one!(6 += 18 * 22),
            one!(3 += 16 * 23),
            one!(7 += 18 * 23),
            "5:",
            "mov r0, r10",
            "6:",
            "vadd.f32 s0, s0, s8",
            "vadd.f32 s1, s1, s9",
            "vadd.f32 s2, s2, s10",
            "vadd.f32 s3, s3, s11",
            "vadd.f32 s4, s4, s12",
            "vadd.f32 s5, s5, s13",
            "vadd.f32 s6, s6, s14",
            "vadd.f32 s7, s7, s15",
            "subs r0, r0, #1",
            "bmi 7f",
            "vldmia r9, {{s8-s15}}",
            "b 6b",
            "7:",
            "add r1, r1, r2, lsl #1",
            "subs r3, r3, #2",
            "it mi",
            "vstmiami r9!, {{s0-s3}}",
            "it pl",
            "vstmiapl r9!, {{s0-s7}}",
            "bgt 2b",
            "vpop {{d8-d14}}",
            "pop {{r4-r11, pc}}",
        )
    };
}
macro_rules! few_scores {
    ($kind:ident) => {
        naked_asm!(
            fpu!(),
            "push {{r4-r11, lr}}",
            "vpush {{d8-d9}}",
            // keys, apart, n; step, q_step; to.
            "ldm r0, {{r10, r11, r12}}",
            "ldr r6, [r0, #16]",
            "ldr r7, [r0, #20]",
            "ldr r9, [r0, #32]",
            "1:",
            "mov r1, #0",
            "vmov d0, r1, r1",
            "vmov d1, r1, r1",
            "vmov d2, r1, r1",
            "vmov d3, r1, r1",
            // Four keys, of which the last one is repeated.
            "mov r1, r10",
            "mov r2, r1",
            "cmp r12, #1",
            "it hi",
            "addhi r2, r2, r11",
            "mov r3, r2",
            "cmp r12, #2",
            "it hi",
            "addhi r3, r3, r11",
            "mov r4, r3",
            "cmp r12, #3",
            "it hi",
            "addhi r4, r4, r11",
            // q, steps.
            "ldr r5, [r0, #12]",
            "ldr r8, [r0, #24]",
            four_keys!($kind),
            "4:",
            "vadd.f32 s0, s0, s4",
            "vadd.f32 s1, s1, s5",
            "vadd.f32 s2, s2, s6",
            "vadd.f32 s3, s3, s7",
            "ldr lr, [r0, #36]",
            "mov r8, #4",
            "5:",
            "cmp lr, #0",
            "beq 6f",
            "vldr s8, [r9]",
            "vadd.f32 s0, s8, s0",
            "6:",
            "vstr s0, [r9]",
            "add r9, r9, #16",
            "vmov.f32 s0, s1",
            "vmov.f32 s1, s2",
            "vmov.f32 s2, s3",
            "subs r12, r12, #1",
            "beq 7f",
            "subs r8, r8, #1",
            "bne 5b",
            "add r10, r10, r11, lsl #2",
            "b 1b",
            "7:",
            "vpop {{d8-d9}}",
            "pop {{r4-r11, pc}}",
        )
    };
}
of_kind!(scores);
of_kind!(few_scores);
