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

/// Adds what is there of a row, at r5, times a factor; r5 on to the next row.
macro_rules! row_there {
    ($factor:literal: $c0:literal, $c1:literal, $c2:literal, $c3:literal) => {
        concat!(
            "vldmia r5, {{s20-s23}}\nadd r5, r5, r4\n",
            one!($c0 += 20 * $factor),
            "\n",
            one!($c1 += 21 * $factor),
            "\n",
            one!($c2 += 22 * $factor),
            "\n",
            one!($c3 += 23 * $factor)
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
            // a_row, b_column, together, a, b, a_step, b_step, k.
            "ldm r0, {{r1, r2, r3, r4, r5, r9, r10, r12}}",
            "cmp r3, #1",
            "adr lr, 2f",
            "it eq",
            "adreq lr, 4f",
            "it hi",
            "adrhi lr, 3f",
            "cmp r3, #3",
            "it eq",
            "adreq lr, 9f",
            "add r6, r5, r2",
            "add r7, r5, r2, lsl #1",
            "add r8, r7, r2",
            // Four rows, of which the last one is repeated.
            "ldr r11, [r0, #44]",
            "mov r2, r4",
            "cmp r11, #1",
            "it hi",
            "addhi r2, r2, r1",
            "mov r3, r2",
            "cmp r11, #2",
            "it hi",
            "addhi r3, r3, r1",
            "cmp r11, #3",
            "mov r11, r4",
            "mov r4, r3",
            "it hi",
            "addhi r4, r4, r1",
            "mov r1, r11",
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
            // to, factor, left, to_row.
            "add r1, r0, #36",
            "ldm r1, {{r1-r4}}",
            plus_zero!(2: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15),
            "cmp r2, #0",
            "beq 7f",
            "vldmia r2, {{s16-s19}}",
            "mov r5, r1",
            row_there!(16: 0, 1, 2, 3),
            row_there!(17: 4, 5, 6, 7),
            row_there!(18: 8, 9, 10, 11),
            row_there!(19: 12, 13, 14, 15),
            "7:",
            "vstmia r1, {{s0-s3}}",
            "add r1, r1, r4",
            "cmp r3, #2",
            "blo 11f",
            "vstmia r1, {{s4-s7}}",
            "add r1, r1, r4",
            "beq 11f",
            "vstmia r1, {{s8-s11}}",
            "add r1, r1, r4",
            "cmp r3, #4",
            "blo 11f",
            "vstmia r1, {{s12-s15}}",
            // The next tile: left, to_row, a_next, b_next, to_next.
            "11:",
            "add r5, r0, #44",
            "ldm r5, {{r1-r5}}",
            "subs r1, r1, #4",
            "str r1, [r0, #44]",
            "ldr r6, [r0, #12]",
            "add r6, r6, r3",
            "str r6, [r0, #12]",
            "ldr r6, [r0, #16]",
            "add r6, r6, r4",
            "str r6, [r0, #16]",
            "ldr r6, [r0, #36]",
            "add r6, r6, r5",
            "str r6, [r0, #36]",
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
            // a, b, a_step, b_step, k, start, to, factor.
            "add r1, r0, #12",
            "ldm r1, {{r1-r8}}",
            "vldmia r6, {{s0-s7}}",
            "b 3f",
            "2:",
            eight_columns!($kind),
            "5:",
            eight!(),
            "add r2, r2, r4",
            "add r1, r1, r3",
            "3:",
            "subs r5, r5, #1",
            "bpl 2b",
            plus_zero!(8: 0, 1, 2, 3, 4, 5, 6, 7),
            "cmp r8, #0",
            "beq 4f",
            // Once more: what is there, times the factor.
            "mov r1, r8",
            "mov r8, #0",
            "mov r5, #0",
            "vldmia r7, {{s8-s15}}",
            "b 5b",
            "4:",
            "ldr r7, [r0, #36]",
            "vstmia r7!, {{s0-s7}}",
            "str r7, [r0, #36]",
            "ldr r2, [r0, #16]",
            concat!("add r2, r2, #8 * ", bytes!($kind)),
            "str r2, [r0, #16]",
            "ldr r1, [r0, #44]",
            "subs r1, r1, #8",
            "str r1, [r0, #44]",
            "bhi 1b",
            "vpop {{d8-d9}}",
            "pop {{r4-r8, pc}}",
        )

    };
}
of_kind!(tile);
of_kind!(row);
