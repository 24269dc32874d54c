//! Any attention call: within the `f64` bound, with the model's bits, guards intact; or an error and the
//! output as it was.
#![cfg_attr(fuzzing, no_main)]

#[path = "../../tests/common/mod.rs"]
mod common;
mod input;
mod target;

use arbitrary::{Arbitrary, Unstructured};
use common::attend::{Causal, Lookup, Shape};
use common::buffer::Kind;
use common::heads::{Heads, Order};
use common::options::{Layout, Options};
use common::{nan_scratch, tiers};
use input::{Factor, Numbers, Type};

#[derive(Arbitrary, Debug)]
struct Input {
    q_len: u8,
    kv_len: u8,
    /// Makes `kv_len` pass a chunk.
    long: u8,
    heads: (u8, u8),
    head_dim: u8,
    v_head_dim: u8,
    causal: Seen,
    alibi: bool,
    sinks: bool,
    /// Keys before and behind a query's own; all if there is no number.
    window: (Option<u8>, Option<u8>),
    scale: Option<Factor>,
    /// A seed of masks, biases and rules, and what is set beside them.
    options: Option<More>,
    types: [Type; 4],
    orders: [Memory; 4],
    numbers: Numbers,
    /// What is wrong, if anything is.
    wrong: Option<Wrong>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct More {
    seed: u16,
    slots: Slots,
    /// The first key that counts, and the end of them.
    start: Option<u8>,
    end: Option<u8>,
    softcap: Option<u8>,
    /// The biases are of the operands' kind of numbers.
    any_bias: bool,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Slots {
    AsSeeded,
    Plain,
    Ring(u8, u8),
    Pages(u8, u8),
}

impl More {
    /// Changes the seeded options.
    fn set(self, options: &mut Options, kv_len: usize, bits: &mut dyn FnMut(Kind) -> u32) {
        match self.slots {
            Slots::AsSeeded => {}
            Slots::Plain => options.layouts = [Layout::Plain; 2],
            Slots::Ring(more, first) => {
                let slots = kv_len + usize::from(more % 8);
                let ring = Layout::Ring(usize::from(more % 8), usize::from(first) % slots.max(1));
                options.layouts = [ring; 2];
            }
            Slots::Pages(size, seed) => {
                options.layouts = [Layout::Pages(1 + usize::from(size % 130), seed.into()); 2];
            }
        }
        if let Some(start) = self.start {
            options.start = Some(start.into());
        }
        if let Some(end) = self.end {
            options.end = Some(usize::from(end).min(kv_len));
        }
        if let Some(cap) = self.softcap {
            options.softcap = Some(f32::from(cap) * 0.25 + 0.1);
        }
        if let Some(bias) = &mut options.bias
            && self.any_bias
        {
            let kind = bias.values.kind();
            (0..bias.values.len()).for_each(|i| bias.values.set_bits(i, bits(kind)));
        }
    }
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Seen {
    All,
    BottomRight,
    Near(i8),
    Offset(isize),
    Free(isize),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Memory {
    Tokens,
    Heads,
    TokensApart(u8),
    HeadsApart(u8),
}

impl Memory {
    fn order(self) -> Order {
        let gaps = |gaps: u8| (usize::from(gaps % 8), usize::from(gaps / 8));
        match self {
            Memory::Tokens => Order::TokenMajor,
            Memory::Heads => Order::HeadMajor,
            Memory::TokensApart(apart) => Order::TokensApart(gaps(apart).0, gaps(apart).1),
            Memory::HeadsApart(apart) => Order::HeadsApart(gaps(apart).0, gaps(apart).1),
        }
    }
}

#[derive(Arbitrary, Debug)]
enum Wrong {
    HeadDim(u8),
    Keys(u8),
    KeyHeads(u8),
    Output(u8),
    Lse(u8),
    Scratch(u16),
}

/// Multiplications of a call, so that there are more than 1,000 runs a second.
const MOST: usize = 2500;

fn side(keys: Option<u8>) -> usize {
    keys.map_or(usize::MAX, usize::from)
}

fn one(data: &[u8]) {
    let mut u = Unstructured::new(data);
    let Ok(input) = Input::arbitrary(&mut u) else { return };
    let chunks = match input.long % 32 {
        1 => 1000,
        2 => 2030,
        _ => 0,
    };
    let shape = Shape {
        q_len: usize::from(input.q_len % 110),
        kv_len: usize::from(input.kv_len) + chunks,
        n_kv_heads: usize::from(input.heads.0 % 4),
        group: usize::from(input.heads.1 % 9),
        head_dim: usize::from(input.head_dim % 80),
        v_head_dim: usize::from(input.v_head_dim % 80),
        causal: match input.causal {
            Seen::All => Causal::No,
            Seen::BottomRight => Causal::BottomRight,
            Seen::Near(offset) => Causal::Offset(offset.into()),
            Seen::Offset(offset) => Causal::Offset(offset),
            Seen::Free(offset) => Causal::Free(offset),
        },
        alibi: input.alibi,
        sinks: input.sinks,
        window: (side(input.window.0), side(input.window.1)),
        scale: input.scale.map(Factor::value),
        options: input.options.map(|more| more.seed.into()),
        kinds: input.types.map(Type::kind),
        orders: input.orders.map(Memory::order),
        seed: 0,
    };
    let rows = shape.q_len * shape.n_heads();
    let features = shape.head_dim + shape.v_head_dim + 4;
    if rows * (shape.kv_len + 4) * features > MOST || shape.kv_len * shape.n_kv_heads * features > 2 * MOST {
        return;
    }
    let mut bits = input.numbers.bits(&mut u);
    let mut lookup = shape.lookup_of(0, &mut bits);
    if let Some(more) = input.options {
        more.set(&mut lookup.options, shape.kv_len, &mut bits);
    }
    let result = match input.wrong {
        None if shape.n_kv_heads > 0 => lookup.check(),
        None => Ok(()),
        Some(wrong) => refuse(&lookup, &wrong),
    };
    if let Err(message) = result {
        panic!("{message}\n  in {shape:?}, {:?}", input.options);
    }
}
target::target!(one);

/// The call with something wrong: an error, and the output as it was.
fn refuse(lookup: &Lookup, wrong: &Wrong) -> Result<(), String> {
    let mut bad = lookup.clone();
    let (mut scratch, mut lse) = (lookup.scratch_len(), lookup.q.n_heads * lookup.q.len);
    let resized = |from: &Heads, len, heads, dim| {
        let sizes = (from.len + len, from.n_heads + heads, from.head_dim + dim);
        Heads::new(from.kind(), sizes, Order::TokenMajor)
    };
    let more = |n: u8| 1 + usize::from(n % 16);
    match *wrong {
        Wrong::HeadDim(n) => bad.k = resized(&lookup.k, 0, 0, more(n)),
        Wrong::Keys(n) => bad.v = resized(&lookup.v, more(n), 0, 0),
        Wrong::KeyHeads(n) => bad.v = resized(&lookup.v, 0, more(n), 0),
        Wrong::Output(n) => bad.out = resized(&lookup.out, more(n), usize::from(n / 16), 0),
        Wrong::Lse(n) => lse += more(n),
        Wrong::Scratch(less) => match scratch.checked_sub(1 + usize::from(less)) {
            Some(less) => scratch = less,
            None => return Ok(()),
        },
    }
    for tier in tiers() {
        let (mut out, mut lse) = (bad.out.clone(), vec![7.0; lse]);
        if bad.run_into(tier, &mut out, Some(&mut lse), &mut nan_scratch(scratch)).is_ok() {
            return Err(format!("{tier}: {wrong:?} was accepted"));
        }
        out.check_untouched(&bad.out)?;
        if lse.iter().any(|&x| x != 7.0) {
            return Err(format!("{tier}: {wrong:?} changed the log-sum-exps"));
        }
    }
    Ok(())
}
