//! Loops that compute a sum an instruction.

/// What the assembler is told to expect.
macro_rules! fpu {
    () => {
        ".fpu fpv5-sp-d16"
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
            vldmia r1!, {{s16, s17}}
            vldmia r2!, {{s18, s19}}
            vldmia r3!, {{s20, s21}}
            vldmia r4!, {{s22, s23}}
            vldmia r5, {{s24-s27}}
            add r5, r5, r10\n",
            four!(0 += 16 * 24, 4 += 18 * 24, 8 += 20 * 24, 12 += 22 * 24; 28, 29, 30, 31),
            four!(1 += 16 * 25, 5 += 18 * 25, 9 += 20 * 25, 13 += 22 * 25; 28, 29, 30, 31),
            four!(2 += 16 * 26, 6 += 18 * 26, 10 += 20 * 26, 14 += 22 * 26; 28, 29, 30, 31),
            four!(3 += 16 * 27, 7 += 18 * 27, 11 += 20 * 27, 15 += 22 * 27; 28, 29, 30, 31),
            "vldmia r5, {{s24-s27}}
            add r5, r5, r10\n",
            four!(0 += 17 * 24, 4 += 19 * 24, 8 += 21 * 24, 12 += 23 * 24; 28, 29, 30, 31),
            four!(1 += 17 * 25, 5 += 19 * 25, 9 += 21 * 25, 13 += 23 * 25; 28, 29, 30, 31),
            four!(2 += 17 * 26, 6 += 19 * 26, 10 += 21 * 26, 14 += 23 * 26; 28, 29, 30, 31),
            four!(3 += 17 * 27, 7 += 19 * 27, 11 += 21 * 27, 15 += 23 * 27; 28, 29, 30, 31),
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
            four!(0 += 8 * 16, 1 += 9 * 16, 2 += 10 * 16, 3 += 11 * 16; 17, 18, 19, 20),
            four!(4 += 12 * 16, 5 += 13 * 16, 6 += 14 * 16, 7 += 15 * 16; 17, 18, 19, 20),
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
            four!(0 += 16 * 20, 4 += 18 * 20, 8 += 17 * 24, 12 += 19 * 24; 28, 29, 30, 31),
            four!(1 += 16 * 21, 5 += 18 * 21, 9 += 17 * 25, 13 += 19 * 25; 28, 29, 30, 31),
            four!(2 += 16 * 22, 6 += 18 * 22, 10 += 17 * 26, 14 += 19 * 26; 28, 29, 30, 31),
            four!(3 += 16 * 23, 7 += 18 * 23, 11 += 17 * 27, 15 += 19 * 27; 28, 29, 30, 31),
            "4:
            subs r0, r0, #1
            bpl 3b"
        )
    };
}
