//! `no_std` SIMD kernels for attention: a cache-blocked matrix product and fused
//! `softmax(scale·Q Kᵀ) V`, over slices that the caller owns.
//!
//! ```text
//! Q = X W_Q    K = X W_K    V = X W_V        Attention(Q, K, V) = softmax(Q Kᵀ / √d) V
//! ```
//! Attention is a soft lookup. A token's query says what it looks for and a key how it wants to be
//! found; together they decide where to look. The values are what is then copied and mixed.
//!
//! - **Nothing is allocated.** Scratch is a slice of yours, its length a `const fn` of the sizes.
//! - **Nothing panics.** Wrong input is an [`Error`], and the output is untouched.
//! - **Same bits.** An output row depends on its own inputs only: not on the batch, on how work was
//!   split or on the memory layout, and it is the same in prefill and in decode. All tiers with fused
//!   multiply-add agree bit for bit, and so do all tiers without ([`Tier`]).
//!
//! # Where things are
//!
//! | what | where |
//! | --- | --- |
//! | matrices and heads over slices, with strides | [`MatRef`], [`MatMut`], [`HeadsRef`], [`HeadsMut`] |
//! | `C = A B`, with options, with sizes in the types | [`matmul()`], [`matmul_add`], [`Matmul`], [`matmul_fixed`] |
//! | weights packed once | [`PackedMat`] |
//! | attention: prefill, decode, causal, grouped heads | [`Attention`] |
//! | keys and values in a ring or in pages | [`Ring`], [`Paged`] |
//! | new tokens into a cache, rotary embedding | [`Append`], [`Rotary`] |
//! | masks and biases as tensors, rules of your own | [`TensorRef`], [`MaskRule`], [`ScoreRule`] |
//! | scores and weights themselves | [`Attention::scores`], [`Attention::weights`], [`Scores`] |
//! | attention on your threads | [`Attention::split`], [`Work`], [`Item`] |
//! | partial states over some keys, and their merge | [`Attention::partial`], [`Attention::merge`], [`states_len`] |
//! | attention a few tiles at a time | [`Attention::steps`], [`Steps`] |
//! | attention from X and its weights | [`SelfAttention`] |
//! | softmax, log-sum-exp, `e^x` | [`softmax()`], [`log_sum_exp`], [`exp_in_place`], [`Softmax`] |
//! | how much scratch | [`matmul_scratch_len`], [`attention_scratch_len`], [`SelfAttention::scratch_len`] |
//! | which instructions | [`Tier`] |
//! | `f32`, `f16`, `bf16` | [`Elem`] |
//!
//! Arguments come in one order: inputs, output, scratch. Sizes and strides are in elements.
//!
//! # A matrix product
//!
//! ```
//! use qkv::{MatMut, MatRef, matmul, matmul_scratch_len};
//!
//! let (m, k, n) = (2, 3, 2);
//! let a = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0];
//! let b = [1.0_f32, 0.0, 1.0, 0.0, 1.0, 1.0]; // Bᵀ: n x k
//! let mut c = [0.0_f32; 4];
//! let mut scratch = vec![0.0; matmul_scratch_len(m, k, n)];
//! matmul(MatRef::new(&a, m, k)?, MatRef::new(&b, n, k)?.t(), MatMut::new(&mut c, m, n)?, &mut scratch)?;
//! assert_eq!(c, [4.0, 5.0, 10.0, 11.0]);
//! # Ok::<(), qkv::Error>(())
//! ```
//!
//! # Attention
//!
//! ```
//! use qkv::{Attention, HeadsMut, HeadsRef, attention_scratch_len};
//!
//! // Three records with keys of two features, and a request that is like the second key.
//! let k = [1.0_f32, 0.0, 0.0, 1.0, -1.0, 0.0];
//! let v = [10.0_f32, 20.0, 30.0];
//! let q = [0.0_f32, 1.0];
//! let (mut out, mut scratch) = ([0.0_f32], [0.0; attention_scratch_len(1, 3, 2, 1)]);
//! Attention::new().scale(20.0).run(
//!     HeadsRef::token_major(&q, 1, 1, 2)?,
//!     HeadsRef::token_major(&k, 3, 1, 2)?,
//!     HeadsRef::token_major(&v, 3, 1, 1)?,
//!     HeadsMut::token_major(&mut out, 1, 1, 1)?,
//!     &mut scratch,
//! )?;
//! assert!((out[0] - 20.0).abs() < 1e-5);
//! # Ok::<(), qkv::Error>(())
//! ```
//!
//! # A layer in firmware
//!
//! All sizes are constants, so the linker knows how large the scratch is.
//!
//! ```
//! use qkv::{Attention, Error, MatMut, MatRef, SelfAttention, attention_scratch_len};
//!
//! const FRAMES: usize = 8;
//! const FEATURES: usize = 4;
//! // Q, K, V and the heads' outputs, and what the attention needs. Products this small need none.
//! const SCRATCH: usize = 4 * FRAMES * FEATURES + attention_scratch_len(FRAMES, FRAMES, FEATURES, FEATURES);
//!
//! fn layer(
//!     x: &[f32; FRAMES * FEATURES],
//!     w: &[[f32; FEATURES * FEATURES]; 3],
//!     out: &mut [f32; FRAMES * FEATURES],
//!     scratch: &mut [f32; SCRATCH],
//! ) -> Result<(), Error> {
//!     let [w_q, w_k, w_v] = w;
//!     let weights = |w| MatRef::new(w, FEATURES, FEATURES);
//!     SelfAttention::new(weights(w_q)?, weights(w_k)?, weights(w_v)?, 1)
//!         .attention(Attention::new().causal())
//!         .run(MatRef::new(x, FRAMES, FEATURES)?, MatMut::new(out, FRAMES, FEATURES)?, scratch)
//! }
//!
//! let (x, w) = ([1.0; FRAMES * FEATURES], [[0.5; FEATURES * FEATURES]; 3]);
//! let (mut out, mut scratch) = ([0.0; FRAMES * FEATURES], [0.0; SCRATCH]);
//! layer(&x, &w, &mut out, &mut scratch)?;
//! assert!(out.iter().all(|x| (x - 2.0).abs() < 1e-6));
//! # Ok::<(), Error>(())
//! ```

#![no_std]
#![warn(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

mod apart;
mod arch;
mod attention;
mod elem;
mod error;
mod kernel;
mod layer;
mod matmul;
mod simd;
mod softmax;
#[macro_use]
mod tier;
mod view;

pub use attention::{
    Append, Attention, Item, KEYS_PER_STATE, Keys, MaskRule, Paged, Ring, Rotary, ScoreAt, ScoreRule, Scores,
    Steps, Tile, Work, alibi_slopes, attention_scratch_len, states_len,
};
pub use elem::Elem;
pub use error::Error;
pub use layer::SelfAttention;
pub use matmul::{Matmul, PackedMat, matmul, matmul_add, matmul_fixed, matmul_scratch_len};
pub use softmax::{Softmax, exp_in_place, log_sum_exp, softmax, softmax_in_place};
pub use tier::Tier;
pub use view::{HeadsMut, HeadsRef, MatMut, MatRef, TensorMut, TensorRef};

/// The 16-bit types of operands, from the crate [`half`].
#[cfg(feature = "half")]
pub use half::{bf16, f16};

#[cfg(all(doctest, feature = "half"))]
#[doc = include_str!("../README.md")]
struct Readme;
