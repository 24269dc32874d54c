//! Attention.

use core::ffi::c_int;

use qkv::{Attention, Keys, Paged, Ring};

use crate::error::{ErrorDetail, Refusal, report};
use crate::memory::{Memory, argument, optional};
use crate::options::{AttentionOptions, Places};
use crate::tensor::{AnyHeads, AnyHeadsOut, Heads, HeadsOut, typed};

/// Floats of scratch for any number of sequences and heads, and any types. For packed sequences the lengths
/// are those of the longest one.
#[unsafe(no_mangle)]
pub extern "C" fn qkv_attention_scratch_len(
    q_len: usize,
    kv_len: usize,
    head_dim: usize,
    v_head_dim: usize,
) -> usize {
    qkv::attention_scratch_len(q_len, kv_len, head_dim, v_head_dim)
}

/// `out = softmax(scale Q K^T) V` for each head. The query heads are a multiple of the key heads. `options`
/// may be NULL.
///
/// # Safety
/// Pointers and lengths are as the header's first lines say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qkv_attention(
    q: *const Heads,
    k: *const Heads,
    v: *const Heads,
    out: *const HeadsOut,
    options: *const AttentionOptions,
    scratch: *mut f32,
    scratch_len: usize,
    error: *mut ErrorDetail,
) -> c_int {
    let run = || {
        let mut memory = Memory::new(error);
        // SAFETY: as the caller promises.
        let (q, k, v, out, options, scratch) = unsafe {
            (
                argument("q", q)?.view("q", &mut memory)?,
                argument("k", k)?.view("k", &mut memory)?,
                argument("v", v)?.view("v", &mut memory)?,
                argument("out", out)?.view("out", &mut memory)?,
                optional("options", options)?,
                memory.write("scratch", scratch, scratch_len)?,
            )
        };
        let Some(options) = options else {
            let (k, v) = (rows(&k), rows(&v));
            let done = typed!(AnyHeads, q, q => typed!(AnyHeadsOut, out, out => {
                Attention::new().run(q, k, v, out, scratch)
            }));
            return done.map_err(|error| Refusal::of("out", error));
        };
        // SAFETY: as the caller promises.
        let (attention, lse) = unsafe { options.attention(&mut memory)? };
        let sequences = match (options.kv_offsets.is_null(), options.q_offsets.is_null()) {
            (false, _) => 1,
            (true, true) => typed!(AnyHeads, &q, q => q.batch()),
            (true, false) => options.q_offsets_len.saturating_sub(1),
        };
        // SAFETY: as the caller promises.
        let places = unsafe { options.places(sequences, &mut memory)? };
        let (k, v) = (placed(k, places, "k")?, placed(v, places, "v")?);
        let (k, v) = (k.keys(), v.keys());
        let done = typed!(AnyHeads, q, q => typed!(AnyHeadsOut, out, out => match lse {
            None => attention.run(q, k, v, out, scratch),
            Some(lse) => attention.run_with_lse(q, k, v, out, lse, scratch),
        }));
        done.map_err(|error| Refusal::of("out", error))
    };
    // SAFETY: as the caller promises.
    unsafe { report(run(), error) }
}

fn rows<'k>(heads: &'k AnyHeads<'_>) -> &'k dyn Keys {
    typed!(AnyHeads, heads, heads => heads)
}

/// Keys or values of any type, in any place.
enum Placed<'a> {
    Rows(AnyHeads<'a>),
    Ring(AnyRing<'a>),
    Pages(AnyPages<'a>),
}

enum AnyRing<'a> {
    F32(Ring<'a, f32>),
    #[cfg(feature = "half")]
    F16(Ring<'a, qkv::f16>),
    #[cfg(feature = "half")]
    Bf16(Ring<'a, qkv::bf16>),
}

enum AnyPages<'a> {
    F32(Paged<'a, f32>),
    #[cfg(feature = "half")]
    F16(Paged<'a, qkv::f16>),
    #[cfg(feature = "half")]
    Bf16(Paged<'a, qkv::bf16>),
}

impl Placed<'_> {
    fn keys(&self) -> &dyn Keys {
        match self {
            Placed::Rows(heads) => rows(heads),
            Placed::Ring(ring) => typed!(AnyRing, ring, ring => ring),
            Placed::Pages(pages) => typed!(AnyPages, pages, pages => pages),
        }
    }
}

fn placed<'a>(heads: AnyHeads<'a>, places: Places<'a>, what: &'static str) -> Result<Placed<'a>, Refusal> {
    /// The same types in another view.
    macro_rules! map {
        ($any:ident, $heads:ident => $made:expr) => {
            match heads {
                AnyHeads::F32($heads) => $any::F32($made),
                #[cfg(feature = "half")]
                AnyHeads::F16($heads) => $any::F16($made),
                #[cfg(feature = "half")]
                AnyHeads::Bf16($heads) => $any::Bf16($made),
            }
        };
    }
    let refused = |error| Refusal::of(what, error);
    Ok(match places {
        Places::Rows => Placed::Rows(heads),
        Places::Ring { first, len } => {
            Placed::Ring(map!(AnyRing, slots => Ring::new(slots, first, len).map_err(refused)?))
        }
        Places::Pages { table, sequences, len } => {
            Placed::Pages(map!(AnyPages, pool => Paged::new(pool, table, sequences, len).map_err(refused)?))
        }
    })
}
