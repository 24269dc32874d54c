//! Loops that compute a sum an instruction.

/// What the assembler is told to expect.
macro_rules! fpu {
    () => {
        ".fpu fpv5-sp-d16"
    };
}
/// Two steps of a row of `tile`.
macro_rules! row_of_two {
    ($a:literal: $c0:literal, $c1:literal, $c2:literal, $c3:literal) => {
        concat!(
            "vldmia r", $a, "!, {{s16, s17}}\n",
            four!($c0 += 16 * 20, $c1 += 16 * 21, $c2 += 16 * 22, $c3 += 16 * 23; 18, 19),
            four!($c0 += 17 * 24, $c1 += 17 * 25, $c2 += 17 * 26, $c3 += 17 * 27; 18, 19),
        )
    };
}
/// Steps of `tile` whose columns are neighbours in `b`: at "4" a row's elements in `a` are neighbours, two steps at a
/// time, at "3" its rows.
macro_rules! neighbours {
    () => {
        concat!(
            "4:
            subs r12, r12, #1
            bmi 41f
            vldmia r5, {{s20-s23}}
            add r5, r5, r10
            vldmia r5, {{s24-s27}}
            add r5, r5, r10\n",
            row_of_two!(1: 0, 1, 2, 3),
            row_of_two!(2: 4, 5, 6, 7),
            row_of_two!(3: 8, 9, 10, 11),
            row_of_two!(4: 12, 13, 14, 15),
            "subs r12, r12, #1
            bpl 4b
            b 12f
            41:
            vldr s16, [r1]
            vldr s17, [r2]
            vldr s18, [r3]
            vldr s19, [r4]
            vldmia r5, {{s20-s23}}
            b 5f
            3:
            vldmia r1, {{s16-s19}}
            add r1, r1, r9
            vldmia r5, {{s20-s23}}
            add r5, r5, r10"
        )
    };
}
/// A step of `row`.
macro_rules! eight {
    () => {
        concat!(
            "vldmia r4, {{s8-s15}}\n",
            "vldr s16, [r2]\n",
            four!(0 += 8 * 16, 1 += 9 * 16, 2 += 10 * 16, 3 += 11 * 16; 17, 18),
            four!(4 += 12 * 16, 5 += 13 * 16, 6 += 14 * 16, 7 += 15 * 16; 17, 18),
        )
    };
}
/// Steps of `scores`.
macro_rules! two_keys {
    () => {
        concat!(
            "b 4f
            3:
            vldmia r11, {{s16, s17}}
            add r11, r11, r5
            vldmia r12, {{s18, s19}}
            add r12, r12, r5
            vldmia lr, {{s20-s27}}
            add lr, lr, r6\n",
            four!(0 += 16 * 20, 4 += 18 * 20, 8 += 17 * 24, 12 += 19 * 24; 28, 29),
            four!(1 += 16 * 21, 5 += 18 * 21, 9 += 17 * 25, 13 += 19 * 25; 28, 29),
            four!(2 += 16 * 22, 6 += 18 * 22, 10 += 17 * 26, 14 += 19 * 26; 28, 29),
            four!(3 += 16 * 23, 7 += 18 * 23, 11 += 17 * 27, 15 += 19 * 27; 28, 29),
            "4:
            subs r0, r0, #1
            bpl 3b"
        )
    };
}
/// A step of [`four_keys`], once the keys' two features are in s8 to s15.
macro_rules! two_features {
    () => {
        concat!(
            "vldr s16, [r5]
            vldr s17, [r5, #16]
            add r5, r5, r7\n",
            four!(0 += 8 * 16, 1 += 10 * 16, 2 += 12 * 16, 3 += 14 * 16; 18, 19),
            four!(4 += 9 * 17, 5 += 11 * 17, 6 += 13 * 17, 7 += 15 * 17; 18, 19),
        )
    };
}
/// Two chains of `few_scores` of four keys. At "8" steps are neighbours.
macro_rules! four_keys {
    () => {
        concat!(
            "cmp r6, #8
            bne 3f
            b 9f
            8:
            vldmia r1!, {{s8, s9}}
            vldmia r2!, {{s10, s11}}
            vldmia r3!, {{s12, s13}}
            vldmia r4!, {{s14, s15}}\n",
            two_features!(),
            "9:
            subs r8, r8, #1
            bpl 8b
            b 10f
            2:
            vldmia r1, {{s8, s9}}
            add r1, r1, r6
            vldmia r2, {{s10, s11}}
            add r2, r2, r6
            vldmia r3, {{s12, s13}}
            add r3, r3, r6
            vldmia r4, {{s14, s15}}
            add r4, r4, r6\n",
            two_features!(),
            "3:
            subs r8, r8, #1
            bpl 2b
            10:
            ldr lr, [r0, #28]
            cmp lr, #0
            beq 4f
            vldr s8, [r1]
            vldr s10, [r2]
            vldr s12, [r3]
            vldr s14, [r4]
            vldr s16, [r5]\n",
            one!(0 += 8 * 16),
            "\n",
            one!(1 += 10 * 16),
            "\n",
            one!(2 += 12 * 16),
            "\n",
            one!(3 += 14 * 16),
            "\n",
        )
    };
}
/// Weights are computed one by one.
macro_rules! four_weights {
    () => {
        ""
    };
}
