//! Heads of Q, K, V and the output, with guard values before, between and after their elements.

use super::buffer::{Buffer, Kind, Typed};
use super::{GUARD, Rng};
use qkv::{HeadsMut, HeadsRef};

/// How heads lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `[len][n_heads][head_dim]`.
    TokenMajor,
    /// `[n_heads][len][head_dim]`.
    HeadMajor,
    /// Token-major with so many unused places after each head and each token.
    TokensApart(usize, usize),
    /// Head-major with so many unused places after each token and each head.
    HeadsApart(usize, usize),
}

impl Order {
    pub fn random(rng: &mut Rng) -> Order {
        let (inner, outer) = (rng.pick(&[0, 1, 5]), rng.pick(&[0, 1, 16]));
        rng.pick(&[
            Order::TokenMajor,
            Order::HeadMajor,
            Order::TokensApart(inner, outer),
            Order::HeadsApart(inner, outer),
        ])
    }
}

/// Heads inside a larger buffer.
#[derive(Clone, Debug)]
pub struct Heads {
    pub buffer: Buffer,
    pub order: Order,
    pub len: usize,
    pub n_heads: usize,
    pub head_dim: usize,
    pub token_stride: usize,
    pub head_stride: usize,
    /// The view's slice is `start..end` of the buffer.
    pub start: usize,
    pub end: usize,
}

impl Heads {
    /// Sentinels everywhere, the elements included, with [`GUARD`] more on both sides.
    pub fn new(kind: Kind, (len, n_heads, head_dim): (usize, usize, usize), order: Order) -> Heads {
        Heads::with_guard(kind, (len, n_heads, head_dim), order, GUARD)
    }

    pub fn with_guard(
        kind: Kind,
        (len, n_heads, head_dim): (usize, usize, usize),
        order: Order,
        guard: usize,
    ) -> Heads {
        let (token_stride, head_stride) = match order {
            Order::TokenMajor => (n_heads * head_dim, head_dim),
            Order::HeadMajor => (head_dim, len * head_dim),
            Order::TokensApart(inner, outer) => (n_heads * (head_dim + inner) + outer, head_dim + inner),
            Order::HeadsApart(inner, outer) => (head_dim + inner, len * (head_dim + inner) + outer),
        };
        let empty = len == 0 || n_heads == 0 || head_dim == 0;
        let extent =
            if empty { 0 } else { (len - 1) * token_stride + (n_heads - 1) * head_stride + head_dim };
        let buffer = Buffer::new(kind, extent + 2 * guard);
        let (start, end) = (guard, guard + extent);
        Heads { buffer, order, len, n_heads, head_dim, token_stride, head_stride, start, end }
    }

    /// The elements from `bits`, token by token and head by head.
    pub fn fill_bits(mut self, bits: &mut dyn FnMut(Kind) -> u32) -> Heads {
        let kind = self.buffer.kind();
        for t in 0..self.len {
            for h in 0..self.n_heads {
                for d in 0..self.head_dim {
                    let at = self.index(t, h, d);
                    self.buffer.set_bits(at, bits(kind));
                }
            }
        }
        self
    }

    /// Random elements in `-size..size`.
    pub fn random(self, rng: &mut Rng, size: f32) -> Heads {
        self.fill_bits(&mut |kind| kind.bits(size * rng.unit()))
    }

    /// The same without anything before and behind the view's slice.
    pub fn bare(&self) -> Heads {
        let buffer = self.buffer.part(self.start..self.end);
        Heads { buffer, start: 0, end: self.end - self.start, ..*self }
    }

    /// The same numbers in another order.
    pub fn reordered(&self, order: Order) -> Heads {
        let mut to = Heads::new(self.kind(), (self.len, self.n_heads, self.head_dim), order);
        for t in 0..self.len {
            for h in 0..self.n_heads {
                for d in 0..self.head_dim {
                    to.set_bits(t, h, d, self.buffer.bits(self.index(t, h, d)));
                }
            }
        }
        to
    }

    pub fn index(&self, t: usize, h: usize, d: usize) -> usize {
        self.start + t * self.token_stride + h * self.head_stride + d
    }

    pub fn kind(&self) -> Kind {
        self.buffer.kind()
    }

    pub fn get(&self, t: usize, h: usize, d: usize) -> f32 {
        self.buffer.value(self.index(t, h, d))
    }

    pub fn set_bits(&mut self, t: usize, h: usize, d: usize, bits: u32) {
        let at = self.index(t, h, d);
        self.buffer.set_bits(at, bits);
    }

    /// All features of one token become `x`.
    pub fn set_token(&mut self, t: usize, h: usize, x: f32) {
        for d in 0..self.head_dim {
            self.set_bits(t, h, d, self.kind().bits(x));
        }
    }

    /// The features of one token, widened.
    pub fn token(&self, t: usize, h: usize) -> Vec<f32> {
        (0..self.head_dim).map(|d| self.get(t, h, d)).collect()
    }

    /// The bits of one token.
    pub fn token_bits(&self, t: usize, h: usize) -> Vec<u32> {
        (0..self.head_dim).map(|d| self.buffer.bits(self.index(t, h, d))).collect()
    }

    fn indices(&self) -> impl Iterator<Item = usize> {
        let token = move |t| (0..self.n_heads).flat_map(move |h| (0..self.head_dim).map(move |d| (t, h, d)));
        (0..self.len).flat_map(token).map(|(t, h, d)| self.index(t, h, d))
    }

    /// All bits, token by token and head by head.
    pub fn bits(&self) -> Vec<u32> {
        self.indices().map(|at| self.buffer.bits(at)).collect()
    }

    /// That only elements differ from `before`.
    pub fn check_guards(&self, before: &Heads) -> Result<(), String> {
        self.buffer.check_untouched(&before.buffer, self.indices())
    }

    /// That nothing differs from `before`.
    pub fn check_untouched(&self, before: &Heads) -> Result<(), String> {
        self.buffer.check_untouched(&before.buffer, core::iter::empty())
    }

    pub fn view<T: Typed>(&self) -> HeadsRef<'_, T> {
        let slice = &T::slice(&self.buffer)[self.start..self.end];
        let (len, n_heads, head_dim) = (self.len, self.n_heads, self.head_dim);
        match self.order {
            Order::TokenMajor => HeadsRef::token_major(slice, len, n_heads, head_dim),
            Order::HeadMajor => HeadsRef::head_major(slice, len, n_heads, head_dim),
            _ => HeadsRef::with_strides(slice, len, n_heads, head_dim, self.token_stride, self.head_stride),
        }
        .expect("a valid order")
    }

    pub fn view_mut<T: Typed>(&mut self) -> HeadsMut<'_, T> {
        let (len, n_heads, head_dim) = (self.len, self.n_heads, self.head_dim);
        let slice = &mut T::slice_mut(&mut self.buffer)[self.start..self.end];
        match self.order {
            Order::TokenMajor => HeadsMut::token_major(slice, len, n_heads, head_dim),
            Order::HeadMajor => HeadsMut::head_major(slice, len, n_heads, head_dim),
            _ => HeadsMut::with_strides(slice, len, n_heads, head_dim, self.token_stride, self.head_stride),
        }
        .expect("a valid order")
    }
}
