//! Loops of a Cortex-M55's vectors: four sums an instruction, and no instruction for the end of a step.

/// What the assembler is told to expect.
macro_rules! fpu {
    () => {
        ".arch armv8.1-m.main\n.arch_extension mve.fp"
    };
}
/// Four elements as floats: neighbours, or at the addresses in q2 and as many bytes behind as another register says.
macro_rules! four_at {
    (f32 $at:literal => $to:literal) => {
        concat!("vldrw.u32 q", $to, ", [", $at, "]\n")
    };
    (bf16 $at:literal => $to:literal) => {
        concat!("vldrh.u32 q", $to, ", [", $at, "]\nvshl.i32 q", $to, ", q", $to, ", #16\n")
    };
    (f16 $at:literal => $to:literal) => {
        concat!("vldrh.u32 q", $to, ", [", $at, "]\nvcvtb.f32.f16 q", $to, ", q", $to, "\n")
    };
}
/// All steps of `tile` whose columns are neighbours in `b`: at "4" a row's elements in `a` are neighbours, at "3" its
/// rows. Rows of sums are q0 to q3; loads lie between multiply-adds, and with floats none waits for
/// the one before it.
macro_rules! neighbours {
    ($kind:ident) => {
        concat!(
            "4:
            add r12, r12, #1
            lsr lr, r12, #1
            wls lr, lr, 42f
            41:
            ldrd r6, r7, [r1], #8\n",
            four_at!($kind "r5" => 4),
            "add r5, r5, r10
            ldrd r8, r11, [r2], #8
            vfma.f32 q0, q4, r6\n",
            four_at!($kind "r5" => 5),
            "vfma.f32 q1, q4, r8
            add r5, r5, r10
            vfma.f32 q0, q5, r7
            ldrd r6, r7, [r3], #8
            vfma.f32 q1, q5, r11
            ldrd r8, r11, [r4], #8
            vfma.f32 q2, q4, r6
            vfma.f32 q3, q4, r8
            vfma.f32 q2, q5, r7
            vfma.f32 q3, q5, r11
            le lr, 41b
            42:
            lsls r12, r12, #31
            beq 12f
            ldr r6, [r1]
            ldr r7, [r2]
            ldr r8, [r3]
            ldr r11, [r4]
            mov lr, #1
            b 31f
            3:
            add lr, r12, #1
            30:
            ldrd r6, r7, [r1]
            ldrd r8, r11, [r1, #8]
            add r1, r1, r9
            31:\n",
            four_at!($kind "r5" => 4),
            "add r5, r5, r10
            vfma.f32 q0, q4, r6
            vfma.f32 q1, q4, r7
            vfma.f32 q2, q4, r8
            vfma.f32 q3, q4, r11
            le lr, 30b
            b 12f"
        )
    };
}
/// Eight neighbours at r2 as floats, q2 and q3.
macro_rules! eight_columns {
    (f32) => {
        concat!(four_at!(f32 "r2" => 2), four_at!(f32 "r2, #16" => 3))
    };
    ($kind:ident) => {
        concat!(four_at!($kind "r2" => 2), four_at!($kind "r2, #8" => 3))
    };
}
/// A step of `row`.
macro_rules! eight {
    () => {
        "ldr r12, [r1]
        vfma.f32 q0, q2, r12
        vfma.f32 q1, q3, r12"
    };
}
/// Two features of two keys, at r11 and r12, in r1 to r4. Free are q4 and q5.
macro_rules! features_of_two {
    (f32) => {
        "ldrd r1, r2, [r11]\nldrd r3, r4, [r12]\n"
    };
    (bf16) => {
        "ldr r2, [r11]\nldr r4, [r12]\nlsl r1, r2, #16\nbfc r2, #0, #16\nlsl r3, r4, #16\nbfc r4, #0, #16\n"
    };
    (f16) => {
        "ldr r1, [r11]\nldr r2, [r12]\nvmov s16, s17, r1, r2
        vcvtb.f32.f16 q5, q4\nvcvtt.f32.f16 q4, q4\nvmov r1, r3, s20, s21\nvmov r2, r4, s16, s17\n"
    };
}
/// Steps of `scores`. Each key's chains of even features are q0 and q1, those of odd ones q2 and q3.
macro_rules! two_keys {
    ($kind:ident) => {
        concat!(
            "push {{r1-r4}}
            b 4f
            3:\n",
            features_of_two!($kind),
            "add r11, r11, r5
            add r12, r12, r5
            vldrw.u32 q4, [lr]
            vldrw.u32 q5, [lr, #16]
            add lr, lr, r6
            vfma.f32 q0, q4, r1
            vfma.f32 q1, q4, r3
            vfma.f32 q2, q5, r2
            vfma.f32 q3, q5, r4
            4:
            subs r0, r0, #1
            bpl 3b
            pop {{r1-r4}}"
        )
    };
}
/// Two chains of `few_scores` of four keys, q0 and q1, by their addresses.
macro_rules! four_keys {
    ($kind:ident) => {
        concat!(
            "vmov s8, s9, r1, r2
            vmov s10, s11, r3, r4
            mov r3, #0
            mov r4, #", bytes!($kind), "
            wls lr, r8, 9f
            8:\n",
            four_at!($kind "r3, q2" => 3),
            four_at!($kind "r4, q2" => 4),
            "ldr r1, [r5]
            ldr r2, [r5, #16]
            add r5, r5, r7
            vadd.i32 q2, q2, r6
            vfma.f32 q0, q3, r1
            vfma.f32 q1, q4, r2
            le lr, 8b
            9:
            ldr lr, [r0, #28]
            cmp lr, #0
            beq 4f
            ldr r1, [r5]\n",
            four_at!($kind "r3, q2" => 3),
            "vfma.f32 q0, q3, r1"
        )
    };
}
/// `weigh`, unless it is asked for a single weight: the four chains are lanes. As `kernel::exp` has it. Exponents are not
/// positive, or NaN, which must stay: as bits, what is below the least is above it, and NaN is not.
macro_rules! four_weights {
    () => {
        "cmp r1, #1
        beq 10f
        push {{r4-r11, lr}}
        adr r3, 4f
        ldm r3, {{r3-r12}}
        mov r2, #0
        vidup.u32 q1, r2, #4
        vshl.i32 q1, q1, #2
        vmov r2, s0
        vmov.i32 q0, #0
        lsr lr, r1, #2
        wls lr, lr, 12f
        11:
        vldrw.u32 q2, [r0, q1]
        vsub.f32 q2, q2, r2
        vpt.u32 hi, q2, r3
        vdupt.32 q2, r3
        vdup.32 q3, r5
        vfma.f32 q3, q2, r4
        vsub.f32 q4, q3, r5
        vfma.f32 q2, q4, r6
        vdup.32 q4, r7
        vfmas.f32 q4, q2, r8
        vfmas.f32 q4, q2, r9
        vfmas.f32 q4, q2, r10
        vfmas.f32 q4, q2, r11
        vfmas.f32 q4, q2, r12
        vfmas.f32 q4, q2, r12
        vshl.i32 q3, q3, #23
        vmul.f32 q4, q4, q3
        vstrw.32 q4, [r0, q1]
        vadd.f32 q0, q0, q4
        add r0, r0, #64
        le lr, 11b
        12:
        vadd.f32 s0, s0, s2
        vadd.f32 s1, s1, s3
        vadd.f32 s0, s0, s1
        pop {{r4-r11, lr}}
        vpop {{d8-d9}}
        bx lr
        10:"
    };
}
