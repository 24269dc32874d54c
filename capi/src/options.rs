//! The options of attention as one struct of C.

use qkv::Attention;

use crate::error::{ERROR_DTYPE, ERROR_OPTION, Refusal};
use crate::memory::{Memory, optional};
use crate::tensor::{BITS, BOOL, F32, Table};
use crate::tier::tier;

/// Keys and values lie in rows: `k` and `v` hold them in order.
pub const KV_ROWS: u32 = 0;
/// Key t is in slot `(kv_first + t) % k->tokens`, for `kv_len` keys.
pub const KV_RING: u32 = 1;
/// `k` and `v` are pools of pages, as a batch: key t of sequence b is token `t % k->tokens` of page
/// `page_table[b * pages + t / k->tokens]`, for up to `kv_len` keys. Entries without a key that some query sees for its
/// place, as those before a sliding window, are not used.
pub const KV_PAGES: u32 = 2;

/// The options of attention. All zeros is plain attention: every query sees every key, the scale is
/// `1 / sqrt(head_dim)`. A pointer that is NULL is an option that is not used. Lengths are in elements.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AttentionOptions {
    /// The factor of the scores; 0 is `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// A score s becomes `softcap * tanh(s / softcap)`; 0 is none.
    pub softcap: f32,
    /// 1: a query sees its own key and those before it. The last query's own key is the last key, unless an
    /// offset says otherwise.
    pub causal: u32,
    /// 1: query i's own key is `i + offset`.
    pub has_offset: u32,
    pub offset: isize,
    /// 1: a query sees so many keys before its own and so many after it; `SIZE_MAX` is all of them.
    pub has_window: u32,
    pub window_before: usize,
    pub window_after: usize,
    /// Keys of each sequence; those from there on are not read.
    pub kv_lens: *const usize,
    pub kv_lens_len: usize,
    /// The first key of each sequence; those before it are not read.
    pub kv_starts: *const usize,
    pub kv_starts_len: usize,
    /// Packed sequences: queries, and outputs, of sequence b are the tokens `q_offsets[b]` to
    /// `q_offsets[b + 1]` of a batch of 1. One more than there are sequences: they begin with 0 and end with
    /// all tokens.
    pub q_offsets: *const usize,
    pub q_offsets_len: usize,
    /// The same for keys and values.
    pub kv_offsets: *const usize,
    pub kv_offsets_len: usize,
    /// A query sees a key where the mask is 1. Its dtype is QKV_BOOL or QKV_BITS.
    pub mask: *const Table,
    /// Added to the scores; a key with minus infinity is not seen.
    pub bias: *const Table,
    /// Linear biases: a slope for each query head.
    pub alibi_slopes: *const f32,
    pub alibi_slopes_len: usize,
    /// One more score for each query head, without a value.
    pub sinks: *const f32,
    pub sinks_len: usize,
    /// Where the log-sum-exps go: `[batch][n_heads][q_len]`.
    pub lse: *mut f32,
    pub lse_len: usize,
    /// How keys and values lie: QKV_KV_ROWS, QKV_KV_RING or QKV_KV_PAGES. What follows is for rings and pages, and
    /// else 0.
    pub kv_layout: u32,
    pub kv_first: usize,
    pub kv_len: usize,
    /// `[sequences][pages]`; as many sequences as there are of queries, or one, that of all keys, with `kv_offsets`.
    pub page_table: *const u32,
    pub page_table_len: usize,
    /// Which instructions: one of the tiers.
    pub tier: u32,
}

/// Where keys and values lie.
#[derive(Clone, Copy)]
pub enum Places<'a> {
    Rows,
    Ring { first: usize, len: usize },
    Pages { table: &'a [u32], sequences: usize, len: usize },
}

/// Options, and where the log-sum-exps go.
type Options<'a> = (Attention<'a>, Option<&'a mut [f32]>);

impl AttentionOptions {
    /// # Safety
    /// - As [`Memory::read`] for everything that is pointed to, as [`Memory::write`] for the log-sum-exps.
    pub unsafe fn attention<'a>(&self, memory: &mut Memory) -> Result<Options<'a>, Refusal> {
        let mut attention = Attention::new();
        if self.scale != 0.0 {
            attention = attention.scale(self.scale);
        }
        // Less than 0 and NaN are refused.
        if self.softcap > 0.0 {
            attention = attention.softcap(self.softcap);
        } else if self.softcap != 0.0 {
            return Err(Refusal::new(ERROR_OPTION, "softcap", 0, 0));
        }
        if flag("causal", self.causal)? {
            attention = attention.causal();
        }
        if flag("has_offset", self.has_offset)? {
            attention = attention.offset(self.offset);
        } else if self.offset != 0 {
            return Err(Refusal::new(ERROR_OPTION, "has_offset", 1, 0));
        }
        if flag("has_window", self.has_window)? {
            attention = attention.window(self.window_before, self.window_after);
        } else if (self.window_before, self.window_after) != (0, 0) {
            return Err(Refusal::new(ERROR_OPTION, "has_window", 1, 0));
        }
        // SAFETY: as the caller promises.
        unsafe {
            if let Some(lens) = memory.read_some("kv_lens", self.kv_lens, self.kv_lens_len)? {
                attention = attention.kv_lens(lens);
            }
            if let Some(starts) = memory.read_some("kv_starts", self.kv_starts, self.kv_starts_len)? {
                attention = attention.kv_starts(starts);
            }
            if let Some(offsets) = memory.read_some("q_offsets", self.q_offsets, self.q_offsets_len)? {
                attention = attention.q_offsets(offsets);
            }
            if let Some(offsets) = memory.read_some("kv_offsets", self.kv_offsets, self.kv_offsets_len)? {
                attention = attention.kv_offsets(offsets);
            }
            if let Some(slopes) =
                memory.read_some("alibi_slopes", self.alibi_slopes, self.alibi_slopes_len)?
            {
                attention = attention.alibi(slopes);
            }
            if let Some(sinks) = memory.read_some("sinks", self.sinks, self.sinks_len)? {
                attention = attention.sinks(sinks);
            }
            if let Some(mask) = optional("mask", self.mask)? {
                attention = match mask.dtype {
                    BOOL => attention.mask(mask.view("mask", memory)?),
                    BITS => attention.mask_bits(mask.view("mask", memory)?),
                    other => return Err(Refusal::new(ERROR_DTYPE, "mask", BOOL as usize, other as usize)),
                };
            }
            if let Some(bias) = optional("bias", self.bias)? {
                attention = match bias.dtype {
                    F32 => attention.bias(bias.view::<f32>("bias", memory)?),
                    #[cfg(feature = "half")]
                    crate::tensor::F16 => attention.bias(bias.view::<qkv::f16>("bias", memory)?),
                    #[cfg(feature = "half")]
                    crate::tensor::BF16 => attention.bias(bias.view::<qkv::bf16>("bias", memory)?),
                    other => return Err(Refusal::new(ERROR_DTYPE, "bias", 0, other as usize)),
                };
            }
            if let Some(tier) = tier(self.tier)? {
                attention = attention.tier(tier);
            }
            let lse = match self.lse.is_null() && self.lse_len == 0 {
                true => None,
                false => Some(memory.write("lse", self.lse, self.lse_len)?),
            };
            Ok((attention, lse))
        }
    }

    /// Where the keys and values of so many sequences lie.
    ///
    /// # Safety
    /// - As [`Memory::read`] for the page table.
    pub unsafe fn places<'a>(&self, sequences: usize, memory: &mut Memory) -> Result<Places<'a>, Refusal> {
        let (first, len) = (self.kv_first, self.kv_len);
        // SAFETY: as the caller promises.
        let table = unsafe { memory.read_some("page_table", self.page_table, self.page_table_len)? };
        match (self.kv_layout, table) {
            (KV_ROWS, None) if (first, len) == (0, 0) => Ok(Places::Rows),
            (KV_RING, None) => Ok(Places::Ring { first, len }),
            (KV_PAGES, table) if first == 0 => {
                Ok(Places::Pages { table: table.unwrap_or_default(), sequences, len })
            }
            (other, _) => Err(Refusal::new(ERROR_OPTION, "kv_layout", KV_PAGES as usize, other as usize)),
        }
    }
}

/// 0 or 1.
pub fn flag(what: &'static str, value: u32) -> Result<bool, Refusal> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(Refusal::new(ERROR_OPTION, what, 1, other as usize)),
    }
}
