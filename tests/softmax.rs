//! Softmax, log-sum-exp and the exponential against `f64`.
#![cfg(feature = "half")]

mod common;

use common::buffer::Kind;
use common::mat::{Layout, Mat};
use common::reference::softmax_row;
use common::{Rng, expect, same_bits, tiers};
use qkv::{Error, MatMut, MatRef, Softmax, Tier, exp_in_place, log_sum_exp, softmax, softmax_in_place};
use quickcheck::{Arbitrary, Gen, QuickCheck};

/// Round the lanes, the chains (4), the blocks (64) and the parts (256) of a sum.
const COLS: [usize; 19] = [0, 1, 2, 3, 4, 5, 7, 8, 9, 17, 63, 64, 65, 127, 129, 200, 256, 257, 581];

#[derive(Clone, Debug)]
struct Rows {
    rows: usize,
    cols: usize,
    /// Of the input and the output.
    kinds: [Kind; 2],
    layouts: [Layout; 2],
    size: f32,
    seed: u64,
}

impl Arbitrary for Rows {
    fn arbitrary(g: &mut Gen) -> Rows {
        let mut rng = Rng::new(u64::arbitrary(g));
        Rows {
            rows: rng.pick(&[0, 1, 2, 3, 5, 17, 33]),
            cols: rng.pick(&COLS),
            kinds: [(); 2].map(|()| rng.pick(&Kind::ALL)),
            layouts: [(); 2].map(|()| Layout::random(&mut rng)),
            size: rng.pick(&[0.01, 1.0, 10.0, 100.0, 3e38]),
            seed: rng.word(),
        }
    }

    fn shrink(&self) -> Box<dyn Iterator<Item = Rows>> {
        let all = self.clone();
        Box::new((all.rows, all.cols).shrink().map(move |(rows, cols)| Rows { rows, cols, ..all.clone() }))
    }
}

impl Rows {
    fn input(&self) -> Mat {
        let mut rng = Rng::new(self.seed);
        let x = Mat::new(self.kinds[0], self.rows, self.cols, self.layouts[0]);
        x.fill_bits(&mut |kind| kind.bits(self.size * rng.unit()))
    }

    fn output(&self) -> Mat {
        Mat::new(self.kinds[1], self.rows, self.cols, self.layouts[1])
    }
}

fn check(seed: u64, tests: u64, property: fn(Rows) -> Result<(), String>) {
    QuickCheck::new().rng(Gen::from_size_and_seed(100, seed)).tests(tests).quickcheck(property);
}

fn run(tier: Tier, x: &Mat, mut out: Mat) -> Mat {
    with_type!(x.kind(), X => with_type!(out.kind(), O => {
        Softmax::new().tier(tier).run(x.view::<X>(), out.view_mut::<O>()).expect("sizes agree");
    }));
    out
}

fn lse(tier: Tier, x: &Mat) -> Vec<f32> {
    let mut lse = vec![f32::NAN; x.rows];
    with_type!(x.kind(), X => Softmax::new().tier(tier).log_sum_exp(x.view::<X>(), &mut lse).expect("a place a row"));
    lse
}

/// Output and log-sum-exps of `x` against the reference.
fn check_rows(x: &Mat, out: &Mat, lse: &[f32]) -> Result<(), String> {
    for (i, &lse) in lse.iter().enumerate() {
        let row: Vec<f32> = (0..x.cols).map(|j| x.get(i, j)).collect();
        let expected = softmax_row(&row);
        for (j, expected) in expected.out.iter().enumerate() {
            expected.check(out.kind(), out.get(i, j)).map_err(|m| format!("({i}, {j}): {m}"))?;
        }
        expected.lse.check(Kind::F32, lse).map_err(|m| format!("lse {i}: {m}"))?;
    }
    Ok(())
}

#[test]
fn prop_rows_agree_with_the_reference() {
    check(1, 500, |rows| {
        let x = rows.input();
        for tier in tiers() {
            let out = run(tier, &x, rows.output());
            out.check_guards(&rows.output()).map_err(|m| format!("{tier}: {m}"))?;
            check_rows(&x, &out, &lse(tier, &x)).map_err(|m| format!("{tier}: {m}"))?;
        }
        Ok(())
    });
}

#[test]
fn prop_in_place_has_the_bits_of_out_of_place() {
    check(2, 200, |rows| {
        let x = rows.input();
        for tier in tiers() {
            let expected = run(tier, &x, Mat::new(x.kind(), x.rows, x.cols, Layout::ROWS));
            let mut place = x.clone();
            with_type!(x.kind(), T => {
                Softmax::new().tier(tier).run_in_place(place.view_mut::<T>()).map_err(|e| e.to_string())?;
            });
            place.check_guards(&x).map_err(|m| format!("{tier}: {m}"))?;
            same_bits(x.kind(), &place.bits(), &expected.bits()).map_err(|m| format!("{tier}: {m}"))?;
        }
        Ok(())
    });
}

#[test]
fn prop_layout_and_rows_around_change_no_bits_and_types_only_round() {
    check(3, 200, |rows| {
        let x = rows.input();
        let mut plain = Mat::new(Kind::F32, x.rows, x.cols, Layout::ROWS);
        (0..x.rows).for_each(|i| (0..x.cols).for_each(|j| plain.set(i, j, x.get(i, j))));
        for tier in tiers() {
            let expected = run(tier, &plain, plain.clone());
            let rounded: Vec<u32> = expected.values().iter().map(|&p| rows.kinds[1].bits(p)).collect();
            let out = run(tier, &x, rows.output());
            same_bits(out.kind(), &out.bits(), &rounded).map_err(|m| format!("{tier}: {m}"))?;
            for i in 0..x.rows {
                let row = &plain.values()[i * x.cols..(i + 1) * x.cols];
                let mut alone = vec![f32::NAN; x.cols];
                let (x, out) = (MatRef::new(row, 1, x.cols), MatMut::new(&mut alone, 1, x.cols));
                Softmax::new()
                    .tier(tier)
                    .run(x.expect("a row"), out.expect("a row"))
                    .map_err(|e| e.to_string())?;
                let alone: Vec<u32> = alone.iter().map(|x| x.to_bits()).collect();
                same_bits(Kind::F32, &alone, &expected.bits()[i * row.len()..(i + 1) * row.len()])?;
            }
        }
        Ok(())
    });
}

#[test]
fn tiers_of_a_group_agree_in_every_bit() {
    let mut rng = Rng::new(4);
    for cols in [1, 5, 64, 300, 512] {
        let x =
            Mat::new(Kind::F32, 3, cols, Layout::ROWS).fill_bits(&mut |kind| kind.bits(20.0 * rng.unit()));
        for fused in [false, true] {
            let mut first: Option<(Vec<u32>, Vec<f32>)> = None;
            for tier in tiers().into_iter().filter(|tier| tier.is_fused() == fused) {
                let found = (run(tier, &x, x.clone()).bits(), lse(tier, &x));
                assert_eq!(first.get_or_insert_with(|| found.clone()), &found, "{tier}, {cols} columns");
            }
        }
    }
}

#[test]
fn long_rows_agree_with_the_reference() {
    let mut rng = Rng::new(5);
    for cols in [4095, 4097, 50_000] {
        for size in [1.0, 30.0] {
            let x = Mat::new(Kind::F32, 1, cols, Layout::ROWS)
                .fill_bits(&mut |kind| kind.bits(size * rng.unit()));
            for tier in tiers() {
                expect(check_rows(&x, &run(tier, &x, x.clone()), &lse(tier, &x)), (tier, cols, size));
            }
        }
    }
}

#[test]
fn special_rows_follow_ieee() {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    for tier in tiers() {
        for kind in Kind::ALL {
            for cols in [1, 5, 64, 130] {
                let x = Mat::new(kind, 1, cols, Layout::ROWS).fill_bits(&mut |kind| kind.bits(-inf));
                let (out, sum) = (run(tier, &x, x.clone()), lse(tier, &x));
                assert!(out.bits().iter().all(|&bits| bits == 0), "{tier} {kind:?}: all minus infinity");
                assert_eq!(sum, [-inf], "{tier} {kind:?}: all minus infinity");
                for at in [0, cols / 2, cols - 1] {
                    let mut one = x.clone();
                    one.set(0, at, -3.0);
                    let out = run(tier, &one, one.clone()).values();
                    assert!(
                        out.iter().enumerate().all(|(j, &p)| p == f32::from(u8::from(j == at))),
                        "{tier} {out:?}"
                    );
                    assert_eq!(lse(tier, &one), [-3.0], "{tier} {kind:?}: one number");
                    for special in [nan, inf] {
                        one.set(0, at, special);
                        assert!(
                            run(tier, &one, one.clone()).values().iter().all(|p| p.is_nan()),
                            "{tier} {special}"
                        );
                        assert!(lse(tier, &one)[0].is_nan(), "{tier} {special}");
                    }
                }
            }
        }
        let empty = Mat::new(Kind::F32, 2, 0, Layout::ROWS);
        assert_eq!(lse(tier, &empty), [-inf; 2], "{tier}: no columns");
    }
}

#[test]
fn wrong_sizes_are_refused_and_change_nothing() {
    let x = [1.0_f32; 6];
    let mut out = [7.0_f32; 6];
    let view = MatRef::new(&x, 2, 3).expect("six numbers");
    let rows = softmax(view, MatMut::new(&mut out, 1, 3).expect("three numbers"));
    assert_eq!(rows, Err(Error::DimMismatch { dim: "rows of the output", expected: 2, got: 1 }));
    let cols = softmax(view, MatMut::new(&mut out, 2, 2).expect("four numbers"));
    assert_eq!(cols, Err(Error::DimMismatch { dim: "columns of the output", expected: 3, got: 2 }));
    let lse = log_sum_exp(view, &mut out[..3]);
    assert_eq!(lse, Err(Error::DimMismatch { dim: "length of the output (rows)", expected: 2, got: 3 }));
    assert_eq!(out, [7.0; 6]);
}

#[test]
fn free_functions_are_the_options_of_their_name() {
    let x = [1.0_f32, 2.0, -3.0, 0.5, 0.0, 9.0];
    let (mut free, mut place, mut method) = ([0.0; 6], x, [0.0; 6]);
    let view = MatRef::new(&x, 2, 3).expect("six numbers");
    softmax(view, MatMut::new(&mut free, 2, 3).expect("six numbers")).expect("sizes agree");
    softmax_in_place(MatMut::new(&mut place, 2, 3).expect("six numbers")).expect("sizes agree");
    Softmax::new().run(view, MatMut::new(&mut method, 2, 3).expect("six numbers")).expect("sizes agree");
    assert_eq!((free, place), (method, method));

    let (mut free, mut method) = ([0.0; 2], [0.0; 2]);
    log_sum_exp(view, &mut free).expect("sizes agree");
    Softmax::new().log_sum_exp(view, &mut method).expect("sizes agree");
    assert_eq!(free, method);

    let (mut free, mut method) = (x, x);
    exp_in_place(&mut free);
    Softmax::new().exp_in_place(&mut method);
    assert_eq!(free, method);
}

/// The distance of `got` from `e^x` in units of the last place of an `f32` of that size.
fn ulps(got: f32, x: f32) -> f64 {
    let exact = f64::from(x).exp();
    let exponent = exact.log2().floor().clamp(-126.0, 127.0);
    (f64::from(got) - exact).abs() / (exponent - 23.0).exp2()
}

/// The largest error of `e^x` in ULP over every `stride`-th bit pattern.
fn worst_exp(tier: Tier, stride: u64) -> (f64, f32) {
    let mut worst = (0.0, 0.0);
    let mut bits = 0_u64;
    while bits < 1 << 32 {
        let inputs: Vec<f32> = (0..4096)
            .map(|i| bits + i * stride)
            .take_while(|&b| b < 1 << 32)
            .map(|b| f32::from_bits(b as u32))
            .collect();
        let mut outputs = inputs.clone();
        Softmax::new().tier(tier).exp_in_place(&mut outputs);
        for (&x, &got) in inputs.iter().zip(&outputs) {
            // Half way from the largest `f32` to 2^128 a rounded result becomes infinite.
            let exact = f64::from(x).exp();
            if x.is_nan() || got.is_nan() {
                assert!(x.is_nan() && got.is_nan(), "{tier}: e^{x:e} = {got:e}");
            } else if got.is_infinite() {
                assert!(exact >= f64::from(f32::MAX), "{tier}: e^{x:e} = {got:e}");
            } else if exact > 1.001 * f64::from(f32::MAX) {
                panic!("{tier}: e^{x:e} = {got:e} is finite");
            } else if ulps(got, x) > worst.0 {
                worst = (ulps(got, x), x);
            }
        }
        bits += 4096 * stride;
    }
    worst
}

/// All tiers, so that the message has every figure.
fn check_exp(stride: u64) {
    let worst: Vec<(Tier, f64, f32)> = tiers()
        .into_iter()
        .map(|tier| {
            let (worst, x) = worst_exp(tier, stride);
            (tier, worst, x)
        })
        .collect();
    println!("{worst:?}");
    assert!(worst.iter().all(|&(_, ulps, _)| ulps <= 1.0), "tier, ULP, x: {worst:?}");
}

/// A weight by the scalar model, whose bits the kernels have (`tests/attention.rs`).
#[test]
fn weights_err_by_no_more_than_documented() {
    // Where e^-x is 2^-126 and 2^-110.5, a little before and behind it.
    for (fused, last, gone) in [(false, 87.3, 87.7), (true, 76.592, 76.594)] {
        assert!(
            common::bits::exp_weight(fused, -last) > 0.0 && common::bits::exp_weight(fused, -gone) == 0.0
        );
        for bits in (0_f32.to_bits()..=last.to_bits()).step_by(1021) {
            let x = -f32::from_bits(bits);
            let bound = if fused && x < -9.0 { 4.5 } else { 1.0 };
            let error = ulps(common::bits::exp_weight(fused, x), x);
            assert!(error <= bound, "fused {fused}: {error} ULP at {x:e}");
        }
    }
}

/// Beside a weight of 1 those below e^-30 change no sum: they come out as they are, and as 0 from where it is documented.
#[test]
fn small_weights_are_kept_down_to_where_they_are_zero() {
    for tier in tiers() {
        let fused = tier.is_fused();
        let mut row = [0.0; 70];
        for (i, x) in row.iter_mut().enumerate().skip(1) {
            *x = -30.0 - i as f32;
        }
        let limits = if fused { [-76.592, -76.594] } else { [-87.3, -87.7] };
        row[33..35].copy_from_slice(&limits);
        let model = row.map(|x| common::bits::exp_weight(fused, x));
        assert!(model[33] > 0.0 && model[34] == 0.0, "{tier}: {:e} and {:e}", model[33], model[34]);
        let mut out = row;
        Softmax::new().tier(tier).run_in_place(MatMut::new(&mut out, 1, 70).unwrap()).unwrap();
        assert_eq!(out.map(f32::to_bits), model.map(f32::to_bits), "{tier}: {out:?}");
    }
}

#[test]
fn exp_is_within_one_ulp() {
    check_exp(1021);
}

#[test]
fn exp_is_within_one_ulp_where_it_has_been_worst() {
    // Of all `f32`s, the worst for one or other way to evaluate the polynomial, fused or not.
    let worst =
        [-16.287_971, 37.777_23, -57.871_655, -28.072_41, -27.378_984, -5.863_082, -5.833_524, 3.120_905_2];
    for tier in tiers() {
        let mut x = worst;
        Softmax::new().tier(tier).exp_in_place(&mut x);
        for (&x, got) in worst.iter().zip(x) {
            assert!(ulps(got, x) <= 1.0, "{tier}: {} ULP at {x:e}", ulps(got, x));
        }
    }
}

#[test]
#[ignore = "4 minutes a tier: cargo test --release --test softmax -- --ignored"]
fn exp_is_within_one_ulp_for_every_f32() {
    check_exp(1);
}

#[test]
fn exp_of_special_values_follows_ieee() {
    for tier in tiers() {
        // Every place in a vector and in what is left of one.
        for len in 0..40 {
            let special =
                [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, 89.0, -104.0, f32::from_bits(1), f32::MIN];
            let expected = [1.0, 1.0, f32::INFINITY, 0.0, f32::INFINITY, 0.0, 1.0, 0.0];
            let mut x: Vec<f32> = special.into_iter().cycle().take(len).collect();
            Softmax::new().tier(tier).exp_in_place(&mut x);
            assert!(x.iter().zip(expected.iter().cycle()).all(|(x, y)| x == y), "{tier}, {len}: {x:?}");
        }
        // Subnormal results are kept.
        let mut x = [-87.5, -90.0, -102.0, -103.9];
        Softmax::new().tier(tier).exp_in_place(&mut x);
        assert!(x[0] < f32::MIN_POSITIVE && x[3] > 0.0 && x.is_sorted_by(|a, b| a > b), "{tier}: {x:?}");
    }
}
