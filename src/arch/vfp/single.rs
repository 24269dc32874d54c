//! Loops of the scalar unit: one sum at a time.

/// What the assembler is told to expect.
macro_rules! fpu {
    () => {
        ".fpu fpv5-sp-d16"
    };
}
/// Four neighbours at r5 as floats, and r5 on to those of the next step. Free are r6 to r8, s16 and s17.
macro_rules! columns {
    (f32 $a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!("vldmia r5, {{s", $a, "-s", $d, "}}\nadd r5, r5, r10\n")
    };
    (bf16 $a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            "ldr r6, [r5]\nldr r7, [r5, #4]\nadd r5, r5, r10\n",
            pair!(bf16 "r6", "r8" => $a, $b),
            pair!(bf16 "r7", "r8" => $c, $d)
        )
    };
    (f16 $a:literal, $b:literal, $c:literal, $d:literal) => {
        concat!(
            "ldr r6, [r5]\nldr r7, [r5, #4]\nadd r5, r5, r10\nvmov s16, s17, r6, r7\n",
            pair!(f16 16 => $a, $b),
            pair!(f16 17 => $c, $d)
        )
    };
}
/// The two elements of a word as floats; the word, and a free register, are used up.
#[cfg(feature = "half")]
macro_rules! pair {
    (bf16 $word:literal, $free:literal => $low:literal, $high:literal) => {
        concat!(
            concat!("lsl ", $free, ", ", $word, ", #16\nbfc ", $word, ", #0, #16\n"),
            concat!("vmov s", $low, ", s", $high, ", ", $free, ", ", $word, "\n")
        )
    };
    (f16 $word:literal => $low:literal, $high:literal) => {
        concat!("vcvtb.f32.f16 s", $low, ", s", $word, "\nvcvtt.f32.f16 s", $high, ", s", $word, "\n")
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
    ($kind:ident) => {
        concat!(
            "4:
            subs r12, r12, #1
            bmi 41f
            42:\n",
            columns!($kind 20, 21, 22, 23),
            columns!($kind 24, 25, 26, 27),
            row_of_two!(1: 0, 1, 2, 3),
            row_of_two!(2: 4, 5, 6, 7),
            row_of_two!(3: 8, 9, 10, 11),
            row_of_two!(4: 12, 13, 14, 15),
            "subs r12, r12, #2
            bpl 42b
            cmn r12, #2
            beq 12f
            41:\n",
            columns!($kind 20, 21, 22, 23),
            "vldr s16, [r1]
            vldr s17, [r2]
            vldr s18, [r3]
            vldr s19, [r4]
            b 5f
            3:\n",
            columns!($kind 20, 21, 22, 23),
            "vldmia r1, {{s16-s19}}
            add r1, r1, r9"
        )
    };
}
/// Eight neighbours at r2 as floats, s8 to s15. Free are r6, r12, lr and s16.
macro_rules! eight_columns {
    (f32) => {
        "vldmia r2, {{s8-s15}}"
    };
    (bf16) => {
        concat!(
            "ldr r6, [r2]\nldr r12, [r2, #4]\n",
            pair!(bf16 "r6", "lr" => 8, 9),
            pair!(bf16 "r12", "lr" => 10, 11),
            "ldr r6, [r2, #8]\nldr r12, [r2, #12]\n",
            pair!(bf16 "r6", "lr" => 12, 13),
            pair!(bf16 "r12", "lr" => 14, 15)
        )
    };
    (f16) => {
        concat!(
            "ldr r6, [r2]\nldr r12, [r2, #4]\nvmov s12, s13, r6, r12\n",
            "ldr r6, [r2, #8]\nldr r12, [r2, #12]\nvmov s14, s15, r6, r12\n",
            pair!(f16 12 => 8, 9),
            pair!(f16 13 => 10, 11),
            pair!(f16 14 => 12, 13),
            pair!(f16 15 => 14, 15)
        )
    };
}
/// A step of `row`.
macro_rules! eight {
    () => {
        concat!(
            "vldr s16, [r1]\n",
            four!(0 += 8 * 16, 1 += 9 * 16, 2 += 10 * 16, 3 += 11 * 16; 17, 18),
            four!(4 += 12 * 16, 5 += 13 * 16, 6 += 14 * 16, 7 += 15 * 16; 17, 18),
        )
    };
}
/// Two features of two keys, at r11 and r12. Free are r1, r2, s20 and s21.
macro_rules! features_of_two {
    (f32) => {
        "vldmia r11, {{s16, s17}}\nvldmia r12, {{s18, s19}}\n"
    };
    (bf16) => {
        concat!(
            "ldr r1, [r11]\n",
            pair!(bf16 "r1", "r2" => 16, 17),
            "ldr r1, [r12]\n",
            pair!(bf16 "r1", "r2" => 18, 19)
        )
    };
    (f16) => {
        concat!(
            "ldr r1, [r11]\nldr r2, [r12]\nvmov s20, s21, r1, r2\n",
            pair!(f16 20 => 16, 17),
            pair!(f16 21 => 18, 19)
        )
    };
}
/// Steps of `scores`.
macro_rules! two_keys {
    ($kind:ident) => {
        concat!(
            if_half!($kind "push {{r1, r2}}"),
            "b 4f
            3:\n",
            features_of_two!($kind),
            "add r11, r11, r5
            add r12, r12, r5
            vldmia lr, {{s20-s27}}
            add lr, lr, r6\n",
            four!(0 += 16 * 20, 4 += 18 * 20, 8 += 17 * 24, 12 += 19 * 24; 28, 29),
            four!(1 += 16 * 21, 5 += 18 * 21, 9 += 17 * 25, 13 += 19 * 25; 28, 29),
            four!(2 += 16 * 22, 6 += 18 * 22, 10 += 17 * 26, 14 += 19 * 26; 28, 29),
            four!(3 += 16 * 23, 7 += 18 * 23, 11 += 17 * 27, 15 += 19 * 27; 28, 29),
            "4:
            subs r0, r0, #1
            bpl 3b\n",
            if_half!($kind "pop {{r1, r2}}")
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
/// Two features of four keys, at r1 to r4; at "8" the pointers move on. Free are r11, lr and s16 to s19.
macro_rules! features_of_four {
    (f32 8) => {
        "vldmia r1!, {{s8, s9}}\nvldmia r2!, {{s10, s11}}\nvldmia r3!, {{s12, s13}}\nvldmia r4!, {{s14, s15}}\n"
    };
    (f32 2) => {
        "vldmia r1, {{s8, s9}}\nvldmia r2, {{s10, s11}}\nvldmia r3, {{s12, s13}}\nvldmia r4, {{s14, s15}}\n"
    };
    (bf16 $at:tt) => {
        concat!(
            word!($at "r11", "r1"),
            pair!(bf16 "r11", "lr" => 8, 9),
            word!($at "r11", "r2"),
            pair!(bf16 "r11", "lr" => 10, 11),
            word!($at "r11", "r3"),
            pair!(bf16 "r11", "lr" => 12, 13),
            word!($at "r11", "r4"),
            pair!(bf16 "r11", "lr" => 14, 15)
        )
    };
    (f16 $at:tt) => {
        concat!(
            word!($at "r11", "r1"),
            word!($at "lr", "r2"),
            "vmov s16, s17, r11, lr\n",
            word!($at "r11", "r3"),
            word!($at "lr", "r4"),
            "vmov s18, s19, r11, lr\n",
            pair!(f16 16 => 8, 9),
            pair!(f16 17 => 10, 11),
            pair!(f16 18 => 12, 13),
            pair!(f16 19 => 14, 15)
        )
    };
}
/// A word, at "8" that of a pointer which moves on.
#[cfg(feature = "half")]
macro_rules! word {
    (8 $to:literal, $at:literal) => {
        concat!("ldr ", $to, ", [", $at, "], #4\n")
    };
    (2 $to:literal, $at:literal) => {
        concat!("ldr ", $to, ", [", $at, "]\n")
    };
}
/// Two chains of `few_scores` of four keys. At "8" steps are neighbours.
macro_rules! four_keys {
    ($kind:ident) => {
        concat!(
            "cmp r6, #2 * ", bytes!($kind), "
            bne 3f
            b 9f
            8:\n",
            features_of_four!($kind 8),
            two_features!(),
            "9:
            subs r8, r8, #1
            bpl 8b
            b 10f
            2:\n",
            features_of_four!($kind 2),
            "add r1, r1, r6
            add r2, r2, r6
            add r3, r3, r6
            add r4, r4, r6\n",
            two_features!(),
            "3:
            subs r8, r8, #1
            bpl 2b
            10:\n",
            if_half!($kind "ldr r11, [r0, #4]"),
            "ldr lr, [r0, #28]
            cmp lr, #0
            beq 4f
            vldr s16, [r5]\n",
            first_feature!($kind "r1", "lr", 8),
            first_feature!($kind "r2", "lr", 10),
            first_feature!($kind "r3", "lr", 12),
            first_feature!($kind "r4", "lr", 14),
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
