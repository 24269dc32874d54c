//! The file of the trained weights, read while compiling: sizes, then a number for each parameter.
//!
//! `examples/train` writes it and describes its layout.

const FILE: &[u8] = include_bytes!("model.bin");
const HEADER_LEN: usize = 6;

/// Words the model knows.
pub const VOCAB: usize = file_u32(0) as usize;
/// Words of the longest sentence.
pub const MAX_LEN: usize = file_u32(1) as usize;
/// Features of a token.
pub const D_MODEL: usize = file_u32(2) as usize;
pub const N_LAYERS: usize = file_u32(3) as usize;
pub const N_HEADS: usize = file_u32(4) as usize;
/// Features of a query, a key or a value.
pub const HEAD_DIM: usize = file_u32(5) as usize;

pub const EMBEDDING_LEN: usize = VOCAB * D_MODEL;
pub const POSITION_LEN: usize = MAX_LEN * D_MODEL;
/// Numbers of one of a layer's four matrices.
pub const MATRIX_LEN: usize = D_MODEL * N_HEADS * HEAD_DIM;
pub const LAYER_LEN: usize = 4 * MATRIX_LEN;
/// Numbers the training chose.
pub const N_PARAMS: usize = EMBEDDING_LEN + POSITION_LEN + N_LAYERS * LAYER_LEN;

const _: () = assert!(FILE.len() == 4 * (HEADER_LEN + N_PARAMS));

/// Parameter `i`, for constants.
pub const fn param(i: usize) -> f32 {
    f32::from_bits(file_u32(HEADER_LEN + i))
}

/// The `i`-th four bytes of the file.
const fn file_u32(i: usize) -> u32 {
    u32::from_le_bytes([FILE[4 * i], FILE[4 * i + 1], FILE[4 * i + 2], FILE[4 * i + 3]])
}
