//! The heads of a batch of sequences, or of a pool of pages, with guard values around all parts.

use super::buffer::{Buffer, Kind, Typed};
use super::{GUARD, Rng};
use qkv::{HeadsMut, HeadsRef};

/// Heads of a batch inside a larger buffer.
#[derive(Clone, Debug)]
pub struct Batch {
    pub buffer: Buffer,
    /// Batch, tokens, heads, features.
    pub sizes: [usize; 4],
    /// Of batch, tokens and heads.
    pub strides: [usize; 3],
    /// Elements from the first to the last one.
    extent: usize,
}

impl Batch {
    /// Random elements in -1..1 in random order, sentinels elsewhere.
    pub fn random(rng: &mut Rng, kind: Kind, sizes: [usize; 4]) -> Batch {
        // Dimensions from the inside out, with unused places behind each.
        let order = rng.pick(&[[2, 1, 0], [1, 2, 0], [2, 0, 1]]);
        let (mut strides, mut extent) = ([0; 3], sizes[3]);
        for dimension in order {
            strides[dimension] = extent + rng.pick(&[0, 0, 1, 5]);
            extent = strides[dimension] * sizes[dimension];
        }
        let last = |i: usize| sizes[i].saturating_sub(1) * strides[i];
        let extent = if sizes.contains(&0) { 0 } else { last(0) + last(1) + last(2) + sizes[3] };
        let buffer = Buffer::new(kind, extent + 2 * GUARD);
        let mut batch = Batch { buffer, sizes, strides, extent };
        for (b, t, h) in batch.rows() {
            for d in 0..sizes[3] {
                let at = batch.index(b, t, h, d);
                batch.buffer.set_bits(at, kind.bits(rng.unit()));
            }
        }
        batch
    }

    /// Sequence, token and head of all rows.
    pub fn rows(&self) -> impl Iterator<Item = (usize, usize, usize)> + use<> {
        let [batch, len, heads, _] = self.sizes;
        (0..batch).flat_map(move |b| (0..len).flat_map(move |t| (0..heads).map(move |h| (b, t, h))))
    }

    pub fn index(&self, b: usize, t: usize, h: usize, d: usize) -> usize {
        GUARD + b * self.strides[0] + t * self.strides[1] + h * self.strides[2] + d
    }

    pub fn kind(&self) -> Kind {
        self.buffer.kind()
    }

    /// The features of one head of a token, widened.
    pub fn row(&self, b: usize, t: usize, h: usize) -> Vec<f32> {
        (0..self.sizes[3]).map(|d| self.buffer.value(self.index(b, t, h, d))).collect()
    }

    /// Writes the features of one head of a token, rounded to the type.
    pub fn set_row(&mut self, b: usize, t: usize, h: usize, row: &[f32]) {
        for (d, &x) in row.iter().enumerate() {
            let (at, bits) = (self.index(b, t, h, d), self.kind().bits(x));
            self.buffer.set_bits(at, bits);
        }
    }

    /// That all bits are those of `expected`, guard values too; a NaN equals every NaN.
    pub fn check(&self, expected: &Batch) -> Result<(), String> {
        let bits =
            |batch: &Batch| (0..batch.buffer.len()).map(|i| batch.buffer.bits(i)).collect::<Vec<u32>>();
        super::same_bits(self.kind(), &bits(self), &bits(expected))?;
        // A guard value is a NaN with a payload.
        let mut inside = vec![false; self.buffer.len()];
        for (b, t, h) in self.rows() {
            let from = self.index(b, t, h, 0);
            inside[from..from + self.sizes[3]].fill(true);
        }
        let inside = inside.iter().enumerate().filter(|&(_, &inside)| inside).map(|(i, _)| i);
        self.buffer.check_untouched(&expected.buffer, inside)
    }

    /// That nothing differs from `before`.
    pub fn check_untouched(&self, before: &Batch) -> Result<(), String> {
        self.buffer.check_untouched(&before.buffer, core::iter::empty())
    }

    pub fn view<T: Typed>(&self) -> HeadsRef<'_, T> {
        let slice = &T::slice(&self.buffer)[GUARD..GUARD + self.extent];
        HeadsRef::batch_with_strides(slice, self.sizes, self.strides).expect("a valid order")
    }

    pub fn view_mut<T: Typed>(&mut self) -> HeadsMut<'_, T> {
        let slice = &mut T::slice_mut(&mut self.buffer)[GUARD..GUARD + self.extent];
        HeadsMut::batch_with_strides(slice, self.sizes, self.strides).expect("a valid order")
    }
}
