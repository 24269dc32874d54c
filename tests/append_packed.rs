//! Appending and rotating packed tokens of sequences of different lengths, at positions of their own, bit for bit against
//! plain loops.
#![cfg(feature = "half")]

mod common;

use common::batch::Batch;
use common::buffer::Kind;
use common::{Rng, bits, expect, mismatch, tiers, too_large};
use qkv::{Append, Error, HeadsMut, HeadsRef, Rotary};

const POSITIONS: usize = 40;

/// Packed tokens, and a cache of rows, a ring or pages.
#[derive(Debug)]
struct Case {
    tokens: Batch,
    offsets: Vec<usize>,
    appended: Vec<usize>,
    positions: Option<Vec<usize>>,
    cache: Batch,
    ring: bool,
    /// `[sequences][pages]`, if there are pages.
    table: Option<Vec<u32>>,
    rotated: Option<usize>,
    interleaved: bool,
    angles: Vec<f32>,
}

impl Case {
    fn random(rng: &mut Rng) -> Case {
        let lens: Vec<usize> = (0..rng.below(5)).map(|_| rng.below(6)).collect();
        let mut offsets = vec![0];
        lens.iter().for_each(|len| offsets.push(offsets[offsets.len() - 1] + len));
        let appended: Vec<usize> = lens.iter().map(|_| rng.below(20)).collect();
        let positions =
            (rng.below(2) == 0).then(|| appended.iter().map(|_| rng.below(POSITIONS - 6)).collect());
        let (heads, head_dim) = (1 + rng.below(3), rng.pick(&[1, 2, 5, 8, 9, 16, 33]));
        let most = lens.iter().zip(&appended).map(|(len, appended)| len + appended).max().unwrap_or(0);
        let (form, size) = (rng.below(3), 1 + rng.below(9));
        let pages = most.div_ceil(size);
        let table = (form == 2).then(|| {
            let mut table: Vec<u32> = (0..(lens.len() * pages) as u32).collect();
            (1..table.len()).rev().for_each(|i| table.swap(i, rng.below(i + 1)));
            table
        });
        let (sequences, room) = match form {
            0 => (lens.len(), most + rng.below(3)),
            1 => (lens.len(), size),
            _ => (lens.len() * pages, size),
        };
        let kinds = [(); 2].map(|()| rng.pick(&Kind::ALL));
        let tokens = Batch::random(rng, kinds[0], [1, offsets[lens.len()], heads, head_dim]);
        let cache = Batch::random(rng, kinds[1], [sequences, room, heads, head_dim]);
        let dim = 2 * rng.below(head_dim / 2 + 1);
        let mut angles = vec![f32::NAN; Rotary::table_len(POSITIONS, dim)];
        Rotary::fill_table(dim, 50.0, &mut angles).expect("whole positions");
        let (rotated, interleaved) = ((rng.below(3) > 0).then_some(dim), rng.below(2) == 0);
        let ring = form == 1;
        Case { tokens, offsets, appended, positions, cache, ring, table, rotated, interleaved, angles }
    }

    fn rotary(&self) -> Option<Rotary<'_>> {
        let rotary = Rotary::new(&self.angles, self.rotated?).expect("whole positions");
        Some(if self.interleaved { rotary.interleaved() } else { rotary })
    }

    fn positions(&self) -> &[usize] {
        self.positions.as_ref().unwrap_or(&self.appended)
    }

    /// Sequence, number in it, place among the packed tokens and head of all rows.
    fn rows(&self) -> impl Iterator<Item = (usize, usize, usize, usize)> {
        let heads = self.tokens.sizes[2];
        (0..self.appended.len()).flat_map(move |b| {
            let tokens = (self.offsets[b]..self.offsets[b + 1]).enumerate();
            tokens.flat_map(move |(i, at)| (0..heads).map(move |h| (b, i, at, h)))
        })
    }

    fn row(&self, b: usize, i: usize, at: usize, h: usize) -> Vec<f32> {
        let row = self.tokens.row(0, at, h);
        let Some(dim) = self.rotated else { return row };
        bits::rotary(&row, &self.angles[(self.positions()[b] + i) * dim..][..dim], self.interleaved)
    }

    /// The cache as plain loops leave it.
    fn expected(&self) -> Batch {
        let mut cache = self.cache.clone();
        for (b, i, at, h) in self.rows() {
            let (number, size) = (self.appended[b] + i, self.cache.sizes[1]);
            let (sequence, token) = match &self.table {
                _ if self.ring => (b, number % size),
                None => (b, number),
                Some(table) => {
                    let pages = table.len() / self.appended.len();
                    (table[b * pages + number / size] as usize, number % size)
                }
            };
            cache.set_row(sequence, token, h, &self.row(b, i, at, h));
        }
        cache
    }

    fn check(&self) -> Result<(), String> {
        let expected = self.expected();
        for tier in tiers() {
            let mut append = Append::new(&self.appended).offsets(&self.offsets).tier(tier);
            if let Some(positions) = &self.positions {
                append = append.positions(positions);
            }
            if let Some(rotary) = self.rotary() {
                append = append.rotary(rotary);
            }
            let mut cache = self.cache.clone();
            with_type!(self.tokens.kind(), T => with_type!(cache.kind(), C => {
                let (tokens, cache) = (self.tokens.view::<T>(), cache.view_mut::<C>());
                match &self.table {
                    _ if self.ring => append.to_ring(tokens, cache),
                    None => append.to(tokens, cache),
                    Some(table) => append.to_pages(tokens, cache, table),
                }
            }))
            .map_err(|error| format!("{tier}: {error}"))?;
            cache.check(&expected).map_err(|message| format!("{tier}: {message}"))?;
        }
        let Some(rotary) = self.rotary() else { return Ok(()) };
        let mut rotated = self.tokens.clone();
        self.rows().for_each(|(b, i, at, h)| rotated.set_row(0, at, h, &self.row(b, i, at, h)));
        for tier in tiers() {
            let rotary = rotary.offsets(&self.offsets).tier(tier);
            let (mut in_place, mut out) = (self.tokens.clone(), self.tokens.clone());
            with_type!(self.tokens.kind(), T => {
                rotary
                    .rotate(in_place.view_mut::<T>(), self.positions())
                    .and_then(|()| rotary.rotate_to(self.tokens.view::<T>(), self.positions(), out.view_mut::<T>()))
            })
            .map_err(|error| format!("{tier}: {error}"))?;
            in_place.check(&rotated).map_err(|message| format!("{tier}, in place: {message}"))?;
            out.check(&rotated).map_err(|message| format!("{tier}, rotated: {message}"))?;
        }
        Ok(())
    }
}

#[test]
fn prop_packed_tokens_have_the_bits_of_plain_loops_in_every_form() {
    let mut rng = Rng::new(8);
    for _ in 0..1000 {
        let case = Case::random(&mut rng);
        expect(case.check(), &case);
    }
}

#[test]
fn packed_tokens_are_refused_by_name() {
    let (new, angles) = ([1.0_f32; 5], [0.5_f32; 6 * 2]);
    let mut cache = [7.0_f32; 2 * 8 * 2];
    let mut append = |tokens: HeadsRef<'_, f32>, append: Append<'_>| {
        let to = HeadsMut::batch_token_major(&mut cache, 2, 8, 1, tokens.head_dim()).expect("rows of 8");
        let result = append.to(tokens, to);
        assert!(cache.iter().all(|&x| x == 7.0), "{result:?}");
        result
    };
    let three = HeadsRef::token_major(&new, 3, 1, 1).expect("three tokens");
    let batch = HeadsRef::batch_token_major(&new, 2, 2, 1, 1).expect("twice two tokens");
    let two = HeadsRef::token_major(&new[..4], 2, 1, 2).expect("two tokens of two features");
    let rotary = Rotary::new(&angles, 2).expect("six positions");
    for (tokens, call, error) in [
        (batch, Append::new(&[0, 0]).offsets(&[0, 1, 2]), mismatch("batch of packed tokens", 1, 2)),
        (three, Append::new(&[0, 0]).offsets(&[0, 1, 2]), mismatch("last of the offsets of tokens", 3, 2)),
        (three, Append::new(&[0, 0]).offsets(&[1, 2, 3]), mismatch("first of the offsets", 0, 1)),
        (three, Append::new(&[0, 0]).offsets(&[0, 4, 3]), mismatch("offset (at least the one before)", 4, 3)),
        (three, Append::new(&[0]).offsets(&[0, 1, 3]), mismatch("batch (length of appended)", 2, 1)),
        (
            three,
            Append::new(&[0, 0]).offsets(&[0, 1, 3]).positions(&[0]),
            mismatch("batch (length of positions)", 2, 1),
        ),
        (three, Append::new(&[0, 7]).offsets(&[0, 1, 3]), too_large("tokens in the cache", 8, 9)),
        (three, Append::new(&[0, usize::MAX]).offsets(&[0, 1, 3]), Err(Error::ShapeOverflow)),
        (
            two,
            Append::new(&[0, 0]).offsets(&[0, 1, 2]).rotary(rotary).positions(&[0, 6]),
            too_large("positions, for the rotary table,", 6, 7),
        ),
    ] {
        assert_eq!(append(tokens, call), error, "{call:?}");
    }
}
