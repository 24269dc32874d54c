//! Tiles and rows of products, and of weighted values.

use core::arch::naked_asm;

/// An element at a register as a float, and the register on by r10; r11 is free.
macro_rules! one_column {
    (f32 $at:literal, $to:literal) => {
        concat!("vldr s", $to, ", [", $at, "]\nadd ", $at, ", ", $at, ", r10")
    };
    ($half:ident $at:literal, $to:literal) => {
        concat!(
            "ldrh r11, [", $at, "]\nadd ", $at, ", ", $at, ", r10\n",
            element!($half "r11", $to)
        )
    };
}

macro_rules! tile {
    ($kind:ident) => {
        naked_asm!(
            fpu!(),
            "push {{r4-r11, lr}}",
            "vpush {{d8-d13}}",
            "1:",
            "ldr r1, [r0, #32]",
            "vldmia r1, {{s0-s15}}",
            // a, a_row, b, b_column, a_step, b_step, together, k.
            "ldm r0, {{r1, r2, r5, r6, r9, r10, r11, r12}}",
            // Four rows, of which the last one is repeated.
            "ldr r8, [r0, #48]",
            "mov lr, r2",
            "mov r2, r1",
            "cmp r8, #1",
            "it hi",
            "addhi r2, r2, lr",
            "mov r3, r2",
            "cmp r8, #2",
            "it hi",
            "addhi r3, r3, lr",
            "mov r4, r3",
            "cmp r8, #3",
            "it hi",
            "addhi r4, r4, lr",
            "add r7, r5, r6, lsl #1",
            "add r8, r7, r6",
            "add r6, r5, r6",
            "cmp r11, #1",
            "adr lr, 2f",
            "it eq",
            "adreq lr, 4f",
            "it hi",
            "adrhi lr, 3f",
            "cmp r11, #3",
            "it eq",
            "adreq lr, 9f",
            "b 6f",
            // One column, and rows of neighbours in a.
            "9:",
            "vldmia r1!, {{s16}}",
            "vldmia r2!, {{s17}}",
            "vldmia r3!, {{s18}}",
            "vldmia r4!, {{s19}}",
            one_column!($kind "r5", 20),
            four!(0 += 16 * 20, 4 += 17 * 20, 8 += 18 * 20, 12 += 19 * 20; 24, 25),
            "b 6f",
            // Any places.
            "2:",
            "vldr s16, [r1]",
            "add r1, r1, r9",
            "vldr s17, [r2]",
            "add r2, r2, r9",
            "vldr s18, [r3]",
            "add r3, r3, r9",
            "vldr s19, [r4]",
            "add r4, r4, r9",
            one_column!($kind "r5", 20),
            one_column!($kind "r6", 21),
            one_column!($kind "r7", 22),
            one_column!($kind "r8", 23),
            "b 5f",
            neighbours!($kind),
            "5:",
            four!(0 += 16 * 20, 4 += 17 * 20, 8 += 18 * 20, 12 += 19 * 20; 24, 25),
            four!(1 += 16 * 21, 5 += 17 * 21, 9 += 18 * 21, 13 += 19 * 21; 24, 25),
            four!(2 += 16 * 22, 6 += 17 * 22, 10 += 18 * 22, 14 += 19 * 22; 24, 25),
            four!(3 += 16 * 23, 7 += 17 * 23, 11 += 18 * 23, 15 += 19 * 23; 24, 25),
            "6:",
            "subs r12, r12, #1",
            "it pl",
            "movpl pc, lr",
            "12:",
            // to, to_row, factor, left.
            "add r1, r0, #36",
            "ldm r1, {{r1-r4}}",
            plus_zero!(3: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
            "cmp r3, #0",
            "bne 7f",
            "cmp r4, #4",
            "blo 7f",
            "vstmia r1, {{s0-s3}}",
            "add r1, r1, r2",
            "vstmia r1, {{s4-s7}}",
            "add r1, r1, r2",
            "vstmia r1, {{s8-s11}}",
            "add r1, r1, r2",
            "vstmia r1, {{s12-s15}}",
            "b 11f",
            // Row by row.
            "7:",
            "cmp r4, #4",
            "it hi",
            "movhi r4, #4",
            "vpush {{d0-d7}}",
            "mov r5, sp",
            "8:",
            "vldmia r5!, {{s0-s3}}",
            "cmp r3, #0",
            "beq 10f",
            "vldmia r3!, {{s4}}",
            "vldmia r1, {{s8-s11}}",
            one!(0 += 8 * 4),
            one!(1 += 9 * 4),
            one!(2 += 10 * 4),
            one!(3 += 11 * 4),
            "10:",
            "vstmia r1, {{s0-s3}}",
            "add r1, r1, r2",
            "subs r4, r4, #1",
            "bne 8b",
            "add sp, sp, #64",
            // The next tile.
            "11:",
            "add r4, r0, #48",
            "ldm r4, {{r1, r2, r3, r4}}",
            "subs r1, r1, #4",
            "str r1, [r0, #48]",
            "ldr r5, [r0]",
            "add r5, r5, r2",
            "str r5, [r0]",
            "ldr r5, [r0, #8]",
            "add r5, r5, r3",
            "str r5, [r0, #8]",
            "ldr r5, [r0, #36]",
            "add r5, r5, r4",
            "str r5, [r0, #36]",
            "bhi 1b",
            "vpop {{d8-d13}}",
            "pop {{r4-r11, pc}}",
        )

    };
}
macro_rules! row {
    ($kind:ident) => {
        naked_asm!(
            fpu!(),
            "push {{r4-r8, lr}}",
            "vpush {{d8-d9}}",
            "1:",
            // k, a, a_step, b, b_step, start, to, factor.
            "ldm r0, {{r1-r8}}",
            "vldmia r6, {{s0-s7}}",
            "b 3f",
            "2:",
            eight_columns!($kind),
            "5:",
            eight!(),
            "add r4, r4, r5",
            "add r2, r2, r3",
            "3:",
            "subs r1, r1, #1",
            "bpl 2b",
            plus_zero!(8: 0, 1, 2, 3, 4, 5, 6, 7),
            "cmp r8, #0",
            "beq 4f",
            // Once more: what is there, times the factor.
            "mov r2, r8",
            "mov r8, #0",
            "mov r1, #0",
            "vldmia r7, {{s8-s15}}",
            "b 5b",
            "4:",
            "ldr r7, [r0, #24]",
            "vstmia r7!, {{s0-s7}}",
            "str r7, [r0, #24]",
            "ldr r4, [r0, #12]",
            concat!("add r4, r4, #8 * ", bytes!($kind)),
            "str r4, [r0, #12]",
            "ldr r1, [r0, #32]",
            "subs r1, r1, #8",
            "str r1, [r0, #32]",
            "bhi 1b",
            "vpop {{d8-d9}}",
            "pop {{r4-r8, pc}}",
        )

    };
}
of_kind!(tile);
of_kind!(row);
