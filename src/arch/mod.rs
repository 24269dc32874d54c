//! The tiers: one file each, and the scalar tier's loops in assembly. Instructions are named here, and in `tier`, which asks the CPU, nowhere else.

#[cfg(all(target_arch = "x86_64", not(target_os = "none"), not(target_os = "uefi")))]
pub mod avx2;
#[cfg(all(target_arch = "x86_64", not(target_os = "none"), not(target_os = "uefi")))]
pub mod avx512;
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
pub mod neon;
#[cfg(any(
    target_feature = "sse2",
    all(target_arch = "aarch64", target_feature = "neon"),
    target_feature = "simd128"
))]
pub mod portable;
pub mod scalar;
#[cfg(all(target_arch = "arm", target_os = "none", target_abi = "eabihf"))]
pub mod vfp;
