//! Appending to caches, and rotary embedding.

use core::ffi::c_int;

use qkv::Append;

use crate::error::{ERROR_OPTION, ErrorDetail, Refusal, report};
use crate::memory::{Memory, argument, optional};
use crate::options::{KV_PAGES, KV_RING, KV_ROWS, flag};
use crate::tensor::{AnyHeads, AnyHeadsOut, Heads, HeadsOut, typed};

/// Rotary embedding by a table of yours: at each position a pair (x1, x2) of features becomes
/// `(x1 cos - x2 sin, x2 cos + x1 sin)`. The bits are the same on every target.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Rotary {
    /// `[positions][2][dim / 2]`: for each position the cosines of all pairs, then their sines. Where positions grow
    /// for ever, as over a ring, the angles of the next token alone will do, as those of position 0.
    pub table: *const f32,
    pub table_len: usize,
    /// So many features of each head are rotated, the first ones; 0 is all of them.
    pub dim: usize,
    /// 1: features `2 i` and `2 i + 1` are a pair, and not `i` and `i + dim / 2`.
    pub interleaved: u32,
    /// For `qkv_rotate`, packed sequences: those of sequence b are the tokens `offsets[b]` to `offsets[b + 1]` of a
    /// batch of 1. One more than there are sequences: they begin with 0 and end with
    /// all tokens. `qkv_append` has its own.
    pub offsets: *const usize,
    pub offsets_len: usize,
}

/// How tokens are appended. All zeros is to rows, without rotation.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AppendOptions {
    /// Tokens are rotated on their way, as keys are; or NULL.
    pub rotary: *const Rotary,
    /// The position of each sequence's first new token, where that is not its number.
    pub positions: *const usize,
    pub positions_len: usize,
    /// Packed sequences: new tokens of sequence b are the tokens `offsets[b]` to `offsets[b + 1]` of a batch of 1.
    /// One more than there are sequences: they begin with 0 and end with all tokens.
    pub offsets: *const usize,
    pub offsets_len: usize,
    /// How the cache lies: QKV_KV_ROWS, QKV_KV_RING or QKV_KV_PAGES.
    pub kv_layout: u32,
    /// `[sequences][pages]`, for pages, and else NULL.
    pub page_table: *const u32,
    pub page_table_len: usize,
}

/// Appends new keys or values to a cache, converted to its type. Token i of sequence b is number
/// `appended[b] + i` of its sequence: that is its place and, where it is rotated, its position. `appended_len` is
/// how many sequences there are. The rest of the cache is not touched. `options` may be NULL.
///
/// Number n goes to token n of rows, to slot `n % cache->tokens` of a ring, or to token `n % cache->tokens` of
/// page `page_table[b * pages + n / cache->tokens]`. Of more new tokens than a ring has slots the last ones are
/// written. After n tokens in all attention takes a ring with a `kv_len` of n, or from `n > cache->tokens` on with
/// one of `cache->tokens` and a `kv_first` of `n % cache->tokens`.
///
/// # Safety
/// Pointers and lengths are as the header's first lines say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qkv_append(
    tokens: *const Heads,
    appended: *const usize,
    appended_len: usize,
    cache: *const HeadsOut,
    options: *const AppendOptions,
    error: *mut ErrorDetail,
) -> c_int {
    let run = || {
        let mut memory = Memory::new(error);
        // SAFETY: as the caller promises.
        let (tokens, cache, (append, places)) = unsafe {
            let heads = argument("tokens", tokens)?;
            let appended = memory.read("appended", appended, appended_len)?;
            (
                heads.view("tokens", &mut memory)?,
                argument("cache", cache)?.view("cache", &mut memory)?,
                match optional("options", options)? {
                    None => (Append::new(appended), Places::Rows),
                    Some(options) => options.append(appended, heads.head_dim, &mut memory)?,
                },
            )
        };
        let done = typed!(AnyHeads, tokens, tokens => typed!(AnyHeadsOut, cache, cache => match places {
            Places::Rows => append.to(tokens, cache),
            Places::Ring => append.to_ring(tokens, cache),
            Places::Pages(table) => append.to_pages(tokens, cache, table),
        }));
        done.map_err(|error| Refusal::of("appended", error))
    };
    // SAFETY: as the caller promises.
    unsafe { report(run(), error) }
}

/// Rotates heads where they are, as queries are: token i of sequence b is at position `first[b] + i`. `first_len` is
/// how many sequences there are.
///
/// # Safety
/// Pointers and lengths are as the header's first lines say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qkv_rotate(
    x: *const HeadsOut,
    first: *const usize,
    first_len: usize,
    rotary: *const Rotary,
    error: *mut ErrorDetail,
) -> c_int {
    let run = || {
        let mut memory = Memory::new(error);
        // SAFETY: as the caller promises.
        let (x, first, rotary) = unsafe {
            let heads = argument("x", x)?;
            (
                heads.view("x", &mut memory)?,
                memory.read("first", first, first_len)?,
                argument("rotary", rotary)?.rotary(heads.head_dim, &mut memory)?,
            )
        };
        typed!(AnyHeadsOut, x, x => rotary.rotate(x, first)).map_err(|error| Refusal::of("first", error))
    };
    // SAFETY: as the caller promises.
    unsafe { report(run(), error) }
}

impl Rotary {
    /// # Safety
    /// - As [`Memory::read`] for everything that is pointed to.
    unsafe fn rotary<'a>(self, head_dim: usize, memory: &mut Memory) -> Result<qkv::Rotary<'a>, Refusal> {
        // SAFETY: as the caller promises.
        let table = unsafe { memory.read("table", self.table, self.table_len)? };
        let dim = if self.dim == 0 { head_dim } else { self.dim };
        let mut rotary = qkv::Rotary::new(table, dim).map_err(|error| Refusal::of("rotary", error))?;
        if flag("interleaved", self.interleaved)? {
            rotary = rotary.interleaved();
        }
        // SAFETY: as the caller promises.
        if let Some(offsets) = unsafe { memory.read_some("offsets", self.offsets, self.offsets_len)? } {
            rotary = rotary.offsets(offsets);
        }
        Ok(rotary)
    }
}

/// Where tokens go.
#[derive(Clone, Copy)]
enum Places<'a> {
    Rows,
    Ring,
    Pages(&'a [u32]),
}

impl AppendOptions {
    /// # Safety
    /// - As [`Memory::read`] for everything that is pointed to.
    unsafe fn append<'a>(
        &self,
        appended: &'a [usize],
        head_dim: usize,
        memory: &mut Memory,
    ) -> Result<(Append<'a>, Places<'a>), Refusal> {
        let mut append = Append::new(appended);
        // SAFETY: as the caller promises.
        unsafe {
            if let Some(rotary) = optional("rotary", self.rotary)? {
                append = append.rotary(rotary.rotary(head_dim, memory)?);
            }
            if let Some(positions) = memory.read_some("positions", self.positions, self.positions_len)? {
                append = append.positions(positions);
            }
            if let Some(offsets) = memory.read_some("offsets", self.offsets, self.offsets_len)? {
                append = append.offsets(offsets);
            }
            let table = memory.read_some("page_table", self.page_table, self.page_table_len)?;
            let places = match (self.kv_layout, table) {
                (KV_ROWS, None) => Places::Rows,
                (KV_RING, None) => Places::Ring,
                (KV_PAGES, table) => Places::Pages(table.unwrap_or_default()),
                (other, _) => {
                    return Err(Refusal::new(ERROR_OPTION, "kv_layout", KV_PAGES as usize, other as usize));
                }
            };
            Ok((append, places))
        }
    }
}
