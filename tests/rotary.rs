//! Rotary position embedding: the table within its bound, rotation bit for bit against plain loops, and what
//! makes it an embedding of positions.
#![cfg(feature = "half")]

mod common;

use common::batch::Batch;
use common::buffer::Kind;
use common::{Rng, bits, expect, mismatch, tiers, too_large};
use qkv::{Error, HeadsMut, HeadsRef, Rotary};

/// Half the distance to the next larger number.
fn half_ulp(x: f32) -> f64 {
    (f64::from(x.abs().next_up()) - f64::from(x.abs())) / 2.0
}

fn table(positions: usize, dim: usize, base: f32) -> Vec<f32> {
    let mut table = vec![f32::NAN; Rotary::table_len(positions, dim)];
    Rotary::fill_table(dim, base, &mut table).expect("whole positions");
    table
}

#[test]
fn table_is_within_its_bound() {
    // Powers of two are exact frequencies: the reference has the error of its sine and cosine only.
    let exact = [(65_536.0, 32, 8_000), (4.0, 2, 100), (2.0_f32.powi(20), 40, 3_000)];
    let rounded = [(10_000.0, 128, 5_000), (500_000.0, 64, 5_000), (1.0, 6, 50), (1e6, 10, 20_000)];
    for (base, dim, positions) in exact.into_iter().chain(rounded) {
        let (table, half) = (table(positions, dim, base), dim / 2);
        // Both sides compute in f64.
        let sides = if exact.contains(&(base, dim, positions)) { 1.0 } else { 2.0 };
        for (position, row) in table.chunks(dim).enumerate() {
            for i in 0..half {
                let frequency = f64::from(base).powf(-2.0 * i as f64 / dim as f64);
                let angle = position as f64 * frequency;
                for (got, want) in [(row[i], angle.cos()), (row[half + i], angle.sin())] {
                    let bound = half_ulp(got) + sides * position as f64 * 2.0_f64.powi(-51);
                    let off = (f64::from(got) - want).abs();
                    assert!(
                        off <= bound,
                        "position {position}, pair {i} of {dim}, {base}: {got} is off by {off:e}"
                    );
                }
            }
        }
    }
}

#[test]
fn table_len_saturates() {
    const LEN: usize = Rotary::table_len(2048, 64);
    assert_eq!((LEN, Rotary::table_len(3, 0), Rotary::table_len(usize::MAX, 2)), (2048 * 64, 0, usize::MAX));
}

#[test]
fn tables_of_wrong_sizes_are_refused_and_untouched() {
    for (dim, len, error) in [
        (3, 6, mismatch("rotary dim (even)", 2, 3)),
        (usize::MAX, 0, mismatch("rotary dim (even)", usize::MAX - 1, usize::MAX)),
        (4, 7, mismatch("rotary table (whole positions)", 4, 7)),
        (4, 3, mismatch("rotary table (whole positions)", 0, 3)),
        (0, 1, mismatch("rotary table (whole positions)", 0, 1)),
    ] {
        let mut table = vec![7.0; len];
        assert_eq!(Rotary::new(&table, dim).map(drop), error, "{dim} of {len}");
        assert_eq!(Rotary::fill_table(dim, 10.0, &mut table).map(drop), error, "{dim} of {len}");
        assert!(table.iter().all(|&x| x == 7.0));
    }
    for dim in [0, 2, usize::MAX - 1] {
        assert!(Rotary::new(&[], dim).is_ok() && Rotary::fill_table(dim, 10.0, &mut []).is_ok(), "{dim}");
    }
}

/// Heads at positions, and how they are rotated.
#[derive(Clone, Debug)]
struct Case {
    heads: Batch,
    first: Vec<usize>,
    table: Vec<f32>,
    dim: usize,
    interleaved: bool,
}

impl Case {
    fn random(rng: &mut Rng, kind: Kind, interleaved: bool) -> Case {
        let head_dim = rng.pick(&[1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 34, 64, 70]);
        let sizes = [rng.below(3), rng.below(4), 1 + rng.below(3), head_dim];
        let part = 2 * rng.below(head_dim / 2 + 1);
        let dim = rng.pick(&[head_dim & !1, head_dim & !1, part]);
        let mut heads = Batch::random(rng, kind, sizes);
        for _ in 0..rng.below(4) {
            let special = rng.pick(&[
                f32::INFINITY,
                f32::NAN,
                f32::MAX,
                1e-40,
                -0.0,
                6e-8,
                f32::NEG_INFINITY,
                65_504.0,
            ]);
            let [b, t, h] = [0, 1, 2].map(|i| rng.below(sizes[i]));
            if b < sizes[0] && t < sizes[1] {
                let mut row = heads.row(b, t, h);
                row[rng.below(head_dim)] = special;
                heads.set_row(b, t, h, &row);
            }
        }
        let first = (0..sizes[0]).map(|_| rng.below(20)).collect();
        Case { heads, first, table: table(23, dim, 100.0), dim, interleaved }
    }

    fn rotary(&self) -> Rotary<'_> {
        let rotary = Rotary::new(&self.table, self.dim).expect("whole positions");
        if self.interleaved { rotary.interleaved() } else { rotary }
    }

    /// The model's heads, in the places of `out`.
    fn expected(&self, mut out: Batch) -> Batch {
        for (b, t, h) in self.heads.rows() {
            let row = self.heads.row(b, t, h);
            let angles = self.table.get((self.first[b] + t) * self.dim..).unwrap_or(&[]);
            let angles = angles.get(..self.dim).unwrap_or(&[]);
            out.set_row(b, t, h, &bits::rotary(&row, angles, self.interleaved));
        }
        out
    }
}

#[test]
fn rotation_has_the_bits_of_plain_loops() {
    let mut rng = Rng::new(1);
    let mut changed = 0;
    for (from, to) in Kind::ALL.into_iter().flat_map(|from| Kind::ALL.map(|to| (from, to))) {
        for case in 0..60 {
            let case = Case::random(&mut rng, from, case % 2 == 0);
            let out = Batch::random(&mut rng, to, case.heads.sizes);
            let (want, want_in_place) = (case.expected(out.clone()), case.expected(case.heads.clone()));
            for tier in tiers() {
                let rotary = case.rotary().tier(tier);
                let (mut out, mut heads) = (out.clone(), case.heads.clone());
                with_type!(from, T => {
                    with_type!(to, O => {
                        let result = rotary.rotate_to(case.heads.view::<T>(), &case.first, out.view_mut::<O>());
                        result.expect("sizes agree");
                    });
                    rotary.rotate(heads.view_mut::<T>(), &case.first).expect("sizes agree");
                });
                expect(out.check(&want), (tier, &case, &out));
                expect(heads.check(&want_in_place), (tier, &case));
                changed += usize::from(heads.check_untouched(&case.heads).is_err());
            }
        }
    }
    assert!(changed > 200, "only {changed} rotations did something");
}

#[test]
fn rotation_refuses_each_size_that_disagrees_by_name() {
    let angles = table(5, 4, 100.0);
    let rotary = Rotary::new(&angles, 4).expect("five positions");
    let (x, mut out) = ([1.0_f32; 120], [7.0_f32; 120]);
    let mut run = |sizes: [usize; 4], first: &[usize], to: [usize; 4]| {
        let strides = |[_, len, heads, dim]: [usize; 4]| [len * heads * dim, heads * dim, dim];
        let heads = HeadsRef::batch_with_strides(&x, sizes, strides(sizes)).expect("few");
        let result = rotary.rotate_to(
            heads,
            first,
            HeadsMut::batch_with_strides(&mut out, to, strides(to)).expect("few"),
        );
        let in_place =
            rotary.rotate(HeadsMut::batch_with_strides(&mut out, sizes, strides(sizes)).expect("few"), first);
        if sizes == to {
            assert_eq!(result, in_place, "in place as to another place");
            assert!(result.is_ok() || out == [7.0; 120], "{result:?}, but written");
        } else {
            assert!(result.is_err());
        }
        out = [7.0; 120];
        result
    };
    let good = [2, 3, 4, 5];
    assert_eq!(run(good, &[0, 2], good), Ok(()));
    assert_eq!(run(good, &[0, 3], good), too_large("positions, for the rotary table,", 5, 6));
    assert_eq!(run(good, &[usize::MAX, 0], good), Err(Error::ShapeOverflow));
    assert_eq!(run(good, &[0], good), mismatch("batch (length of first)", 2, 1));
    assert_eq!(run([2, 3, 4, 3], &[0, 0], [2, 3, 4, 3]), too_large("rotary dim", 3, 4));
    assert_eq!(run(good, &[0, 0], [1, 3, 4, 5]), mismatch("batch of the output", 2, 1));
    assert_eq!(run(good, &[0, 0], [2, 2, 4, 5]), mismatch("tokens of the output", 3, 2));
    assert_eq!(run(good, &[0, 0], [2, 3, 2, 5]), mismatch("n_heads of the output", 4, 2));
    assert_eq!(run(good, &[0, 0], [2, 3, 4, 4]), mismatch("head_dim of the output", 5, 4));
    // Without tokens a position need not exist; without features there may be any number of tokens.
    assert_eq!(run([2, 0, 4, 5], &[9, 9], [2, 0, 4, 5]), Ok(()));
    let none = Rotary::new(&[], 0).expect("no features");
    let many = HeadsMut::token_major(&mut [] as &mut [f32], usize::MAX, 3, 0).expect("no elements");
    assert_eq!(none.rotate(many, &[0]), Ok(()));
}

/// `q · k` after rotation of both, in `f64`.
fn score(rotary: Rotary<'_>, q: &[f32], k: &[f32], (i, t): (usize, usize)) -> f64 {
    let [mut q, mut k] = [q, k].map(<[f32]>::to_vec);
    for (x, position) in [(&mut q, i), (&mut k, t)] {
        let dim = x.len();
        let heads = HeadsMut::token_major(x, 1, 1, dim).expect("one head");
        rotary.rotate(heads, &[position]).expect("a position of the table");
    }
    // Widened before they are multiplied, as in `reference::matmul`.
    let [q, k] = [q, k].map(|x| x.into_iter().map(f64::from).collect::<Vec<f64>>());
    q.iter().zip(&k).map(|(x, y)| x * y).sum()
}

#[test]
fn scores_depend_on_the_difference_of_positions_only() {
    let (dim, positions) = (64, 4_096);
    let angles = table(positions, dim, 10_000.0);
    let halves = Rotary::new(&angles, dim).expect("whole positions");
    let mut rng = Rng::new(2);
    let mut apart = 0;
    for (rotary, pair) in [(halves, [1, 32]), (halves.interleaved(), [2, 1])] {
        for _ in 0..50 {
            let [q, k] = [(); 2].map(|()| (0..dim).map(|_| rng.unit()).collect::<Vec<f32>>());
            // A rotated feature is off by 2.5 units of |x1| + |x2|: half of one for the table, one for the
            // product and one for the sum. A pair has two products of two such features, and there are two
            // scores; one more unit covers the table's error in f64.
            let [step, other] = pair;
            let size =
                |x: &[f32], i: usize| f64::from(x[i * step]).abs() + f64::from(x[i * step + other]).abs();
            let bound: f64 =
                (0..dim / 2).map(|i| size(&q, i) * size(&k, i)).sum::<f64>() * 21.0 * 2.0_f64.powi(-24);
            let distance = rng.below(200);
            let near = score(rotary, &q, &k, (distance, 0));
            for _ in 0..5 {
                let start = rng.below(positions - distance - 1);
                let far = score(rotary, &q, &k, (start + distance, start));
                assert!((near - far).abs() <= bound, "{near} at {distance}, {far} {start} later");
                let wrong = score(rotary, &q, &k, (start + distance + 1, start));
                apart += usize::from((near - wrong).abs() > bound);
            }
        }
    }
    assert!(apart > 450, "another distance looks the same: {apart} of 500 differ");
}
