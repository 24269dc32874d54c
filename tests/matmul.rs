//! `Matmul` against the `f64` reference, against the bit model, and against itself.
#![cfg(feature = "half")]

mod common;

use common::buffer::Kind;
use common::mat::{Layout, Mat};
use common::product::{Product, Shape};
use common::{Rng, expect, nan_scratch, same_bits, tiers};
use core::ops::Range;
use qkv::{MatMut, MatRef, Matmul, Tier, matmul, matmul_add, matmul_fixed, matmul_scratch_len};
use quickcheck::{Arbitrary, Gen, QuickCheck};

/// Round the blocks of tiles (4, 6, 8, 16, 48), of packed panels (16) and of small products (64).
const SIZES: [usize; 21] = [0, 1, 2, 3, 5, 6, 7, 8, 9, 13, 15, 16, 17, 31, 32, 33, 48, 49, 63, 64, 65];
/// Round the logical block of k and past it.
const LONG: [usize; 4] = [511, 512, 513, 1027];

#[derive(Clone, Debug)]
struct Small(Shape);

impl Arbitrary for Small {
    fn arbitrary(g: &mut Gen) -> Small {
        let mut rng = Rng::new(u64::arbitrary(g));
        let sizes = (rng.pick(&SIZES), rng.pick(&SIZES), rng.pick(&SIZES));
        Small(Shape::random(sizes, rng.word()))
    }

    fn shrink(&self) -> Box<dyn Iterator<Item = Small>> {
        let shape = self.0.clone();
        Box::new(
            (shape.m, shape.k, shape.n)
                .shrink()
                .map(move |(m, k, n)| Small(Shape { m, k, n, ..shape.clone() })),
        )
    }
}

fn check(seed: u64, tests: u64, property: fn(Small) -> Result<(), String>) {
    QuickCheck::new().rng(Gen::from_size_and_seed(100, seed)).tests(tests).quickcheck(property);
}

#[test]
fn prop_small_products_agree_with_the_reference_and_the_bit_model() {
    check(1, 1500, |Small(shape)| {
        shape.product().check()?;
        // Of whole vectors and with nothing to decide for each tile.
        let [a, b, _] = shape.layouts;
        let plain = Shape::plain(shape.m, shape.k, shape.n, shape.seed);
        Shape { layouts: [a, b, Layout::ROWS], ..plain }.product().check()
    });
}

#[test]
fn prop_scratch_contents_change_nothing() {
    check(2, 100, |Small(shape)| {
        let product = Shape { k: shape.k + 40, ..shape }.product();
        for tier in tiers() {
            let expected = product.run(tier).bits();
            for fill in [0.0, 1.0, f32::INFINITY] {
                // Longer than needed, and not aligned as before.
                let mut scratch = vec![fill; product.scratch_len() + 5];
                let mut c = product.c.clone();
                product.run_into(tier, &mut c, &mut scratch[3..]).map_err(|e| e.to_string())?;
                same_bits(c.kind(), &c.bits(), &expected)
                    .map_err(|m| format!("{tier}, scratch of {fill}: {m}"))?;
            }
        }
        Ok(())
    });
}

#[test]
fn prop_output_written_transposed_has_the_same_bits() {
    check(3, 150, |Small(shape)| {
        let rows = Shape { layouts: [shape.layouts[0], shape.layouts[1], Layout::ROWS], ..shape };
        let columns = Shape { layouts: [rows.layouts[0], rows.layouts[1], Layout::COLUMNS], ..rows.clone() };
        for tier in tiers() {
            let (left, right) = (rows.product().run(tier), columns.product().run(tier));
            same_bits(left.kind(), &left.bits(), &right.bits()).map_err(|m| format!("{tier}: {m}"))?;
        }
        Ok(())
    });
}

#[test]
fn prop_packed_b_gives_the_same_bits() {
    check(4, 120, |Small(shape)| {
        let product = shape.product();
        for storage in Kind::ALL {
            // What packing rounds is rounded before, so that both multiply the same numbers.
            let mut rounded = product.clone();
            for t in 0..shape.k {
                for j in 0..shape.n {
                    rounded.b.set(t, j, storage.value(storage.bits(product.b.get(t, j))));
                }
            }
            if rounded.b.values().iter().any(|x| storage.value(storage.bits(*x)) != *x) {
                continue;
            }
            for tier in tiers() {
                let expected = rounded.run(tier).bits();
                let c = rounded.run_packed(storage, tier);
                let place = || format!("{tier}, packed as {storage:?}");
                c.check_guards(&rounded.c).map_err(|m| format!("{}: {m}", place()))?;
                same_bits(c.kind(), &c.bits(), &expected).map_err(|m| format!("{}: {m}", place()))?;
            }
        }
        Ok(())
    });
}

#[test]
fn long_products_agree_with_the_reference_and_the_bit_model() {
    let mut rng = Rng::new(5);
    for k in LONG {
        for (m, n) in [(1, 1), (1, 40), (7, 17), (13, 50), (65, 3), (70, 1), (90, 12)] {
            for _ in 0..2 {
                let shape = Shape::random((m, k, n), rng.word());
                expect(shape.product().check(), &shape);
            }
        }
    }
}

#[test]
fn sizes_past_the_cache_blocks_agree_with_the_bit_model() {
    let half = [Kind::F16, Kind::Bf16, Kind::F16];
    // Rows of A packed at a time, rows and columns of partial sums, columns of B.
    for (m, k, n, kinds) in [
        (145, 70, 33, [Kind::F32; 3]),
        // Groups of columns, all rows at a time and not, and what is asked for.
        (17, 40, 100, [Kind::F32; 3]),
        (25, 20, 63, [Kind::F32, Kind::F16, Kind::F32]),
        (300, 20, 95, [Kind::F32; 3]),
        (40, 300, 450, [Kind::F32; 3]),
        (290, 515, 17, half),
        (20, 515, 520, half),
        (3, 30, 2065, [Kind::F32; 3]),
        (3, 513, 2065, half),
        (15, 513, 560, half),
    ] {
        for layout in [Layout::ROWS, Layout::COLUMNS] {
            let plain = Shape::plain(m, k, n, 6);
            let shape = Shape { kinds, layouts: [Layout::ROWS, layout, layout], bias: k == 70, ..plain };
            let product = shape.product();
            let models = [false, true].map(|fused| product.model(fused));
            for tier in tiers() {
                let c = product.run(tier);
                expect(c.check_guards(&product.c), (tier, &shape));
                expect(same_bits(c.kind(), &c.bits(), &models[usize::from(tier.is_fused())]), (tier, &shape));
                let packed = product.run_packed(kinds[1], tier);
                expect(same_bits(c.kind(), &packed.bits(), &c.bits()), (tier, &shape, "packed"));
            }
        }
    }
}

#[test]
fn scratch_is_never_exceeded_by_what_is_turned() {
    for (tier, a) in tiers().into_iter().flat_map(|tier| [Layout::ROWS, Layout::COLUMNS].map(|a| (tier, a))) {
        let few = [(300, 70, 2), (2, 70, 300), (65, 513, 1), (1, 513, 65), (100, 1024, 1), (90, 700, 12)];
        for (m, k, n) in few.into_iter().chain([(120, 90, 70), (70, 90, 400)]) {
            for (kinds, c) in [([Kind::F32; 3], Layout::COLUMNS), ([Kind::F16; 3], Layout::ROWS)] {
                let shape = Shape { kinds, layouts: [a, Layout::ROWS, c], ..Shape::plain(m, k, n, 7) };
                let product = shape.product();
                let len = product.scratch_len();
                let mut scratch: Vec<f32> = (0..len + 4096).map(|i| i as f32).collect();
                let (used, guard) = scratch.split_at_mut(len);
                let mut c = product.c.clone();
                product.run_into(tier, &mut c, used).expect("sizes agree");
                let kept = guard.iter().enumerate().all(|(i, &x)| x == (len + i) as f32);
                assert!(kept, "{tier} wrote behind {len} floats of scratch, {shape:?}");
            }
        }
    }
}

#[test]
fn prop_a_row_depends_on_its_own_row_of_a_only() {
    check(8, 100, |Small(shape)| {
        let product = Shape { m: shape.m + 30, ..shape }.product();
        for tier in tiers() {
            let whole = product.run(tier);
            for i in [0, product.c.rows / 2, product.c.rows - 1] {
                let alone = alone(&product, i..i + 1).run(tier).bits();
                let row = &whole.bits()[i * whole.cols..(i + 1) * whole.cols];
                same_bits(whole.kind(), row, &alone).map_err(|m| format!("{tier}, row {i}: {m}"))?;
            }
        }
        Ok(())
    });
}

/// The product of some rows of A and C alone.
fn alone(product: &Product, rows: Range<usize>) -> Product {
    let take = |from: &Mat| {
        let mut part = Mat::new(from.kind(), rows.len(), from.cols, Layout::ROWS);
        for (i, j) in rows.clone().flat_map(|i| (0..from.cols).map(move |j| (i, j))) {
            part.set(i - rows.start, j, from.get(i, j));
        }
        part
    };
    Product { a: take(&product.a), c: take(&product.c), ..product.clone() }
}

#[test]
fn few_rows_have_the_bits_they_have_among_many() {
    // Rows that read B where it lies, at the ends of its blocks of `k`, of columns and of vectors.
    let mut rng = Rng::new(17);
    for k in [15, 16, 64, 512, 513, 1029] {
        for n in [1, 31, 65, 2049] {
            let any = Shape::random((27, k, n), rng.word());
            // Columns that lie together are turned in registers.
            let layouts = [any.layouts[0], Layout::COLUMNS, any.layouts[2]];
            for many in [Shape { layouts, ..any.clone() }, any] {
                let product = many.product();
                for tier in tiers() {
                    let whole = product.run(tier).bits();
                    for m in [1, 2, 3, 4, 5, 6, 7, 8, 15, 16, 24] {
                        let few = alone(&product, 0..m);
                        let c = few.run(tier);
                        expect(c.check_guards(&few.c), (tier, m, &many));
                        expect(same_bits(c.kind(), &c.bits(), &whole[..m * n]), (tier, m, &many));
                    }
                }
            }
        }
    }
}

#[test]
fn few_rows_against_a_large_b_have_the_bits_they_have_among_more() {
    // 16 MiB of `f32`, larger than caches are. Blocks of `k`, vectors of columns and cache lines of a column all
    // end with a rest.
    let layouts = [Layout::ROWS, Layout::COLUMNS, Layout { outer_gap: 1, ..Layout::COLUMNS }];
    for (layout, kind) in layouts.into_iter().flat_map(|layout| Kind::ALL.map(|kind| (layout, kind))) {
        let layouts = [Layout::ROWS, layout, Layout::ROWS];
        let kinds = [Kind::F32, kind, kind];
        let more = Shape { layouts, kinds, beta: 1.0, ..Shape::plain(25, 2051, 2053, 23) };
        let product = more.product();
        for one in [Tier::detect(), Tier::portable()] {
            let whole = product.run(one).bits();
            for tier in tiers().into_iter().filter(|tier| tier.is_fused() == one.is_fused()) {
                for m in [1, 2, 3, 4, 9, 20] {
                    let few = alone(&product, 0..m);
                    let c = few.run(tier);
                    expect(c.check_guards(&few.c), (tier, m, &more));
                    expect(same_bits(c.kind(), &c.bits(), &whole[..m * more.n]), (tier, m, &more));
                }
            }
        }
    }
}

#[test]
fn one_row_has_the_bits_it_has_among_a_hundred() {
    for k in [64, 300, 1027] {
        for kinds in [[Kind::F32; 3], [Kind::F32, Kind::F16, Kind::F16]] {
            let product = Shape { kinds, ..Shape::plain(100, k, 70, 9) }.product();
            for tier in tiers() {
                let whole = product.run(tier).bits();
                let same = |c: Mat, whole: &[u32]| same_bits(kinds[2], &c.bits(), whole);
                expect(same(product.run_packed(kinds[1], tier), &whole), (tier, k, kinds));
                for i in [0, 50, 99] {
                    let row = alone(&product, i..i + 1).run(tier);
                    expect(same(row, &whole[i * 70..(i + 1) * 70]), (tier, k, kinds, i));
                }
            }
        }
    }
}

#[test]
fn c_split_by_rows_has_the_same_bits() {
    let product = Shape::plain(80, 70, 33, 10).product();
    for tier in tiers() {
        let whole = product.run(tier).bits();
        for row in [0, 1, 37, 79, 80] {
            let mut c = product.c.clone();
            let a = product.a.values();
            let (above, below) = c.view_mut::<f32>().split_at_row(row).expect("a row of C");
            for (part, a, m) in [(above, &a[..row * 70], row), (below, &a[row * 70..], 80 - row)] {
                let a = MatRef::new(a, m, 70).expect("rows of A");
                let mut scratch = nan_scratch(matmul_scratch_len(m, 70, 33));
                Matmul::new()
                    .tier(tier)
                    .run(a, product.b.view::<f32>(), part, &mut scratch)
                    .expect("sizes agree");
            }
            expect(same_bits(Kind::F32, &c.bits(), &whole), (tier, row));
        }
    }
}

#[test]
fn tiers_of_a_group_agree_in_every_bit() {
    let mut rng = Rng::new(11);
    for _ in 0..20 {
        let shape = Shape::random((rng.pick(&SIZES), rng.pick(&LONG), rng.pick(&SIZES)), rng.word());
        let product = shape.product();
        for fused in [false, true] {
            let mut first: Option<Vec<u32>> = None;
            for tier in tiers().into_iter().filter(|tier| tier.is_fused() == fused) {
                let bits = product.run(tier).bits();
                let expected = first.get_or_insert_with(|| bits.clone());
                expect(same_bits(shape.kinds[2], &bits, expected), (tier, &shape));
            }
        }
    }
}

#[test]
fn c_is_not_read_when_beta_is_zero() {
    for tier in tiers() {
        for kind in Kind::ALL {
            for (m, k, n) in [(3, 5, 7), (3, 0, 7), (70, 30, 70), (5, 600, 20)] {
                for (beta, alpha, bias) in [(0.0, 1.0, false), (-0.0, 0.0, false), (0.0, 0.5, true)] {
                    let kinds = [Kind::F32, Kind::F32, kind];
                    let shape = Shape { kinds, beta, alpha, bias, ..Shape::plain(m, k, n, 12) };
                    // C holds NaN sentinels.
                    let c = shape.product().run(tier);
                    assert!(c.values().iter().all(|x| x.is_finite()), "{tier} {shape:?}");
                }
            }
        }
    }
}

#[test]
fn a_and_b_are_not_read_when_alpha_is_zero() {
    for (m, k, n) in [(3, 5, 7), (70, 30, 70), (5, 600, 20)] {
        for beta in [0.0, 2.0] {
            let shape = Shape { alpha: 0.0, beta, bias: true, ..Shape::plain(m, k, n, 13) };
            let mut product = shape.product();
            product.a = product.a.fill_bits(&mut |kind| kind.sentinel(1));
            product.b = product.b.fill_bits(&mut |kind| kind.sentinel(2));
            expect(product.check(), &shape);
        }
    }
}

#[test]
fn product_is_zero_when_k_is_zero() {
    for tier in tiers() {
        for kind in Kind::ALL {
            let product = Shape { kinds: [kind; 3], ..Shape::plain(70, 0, 9, 14) }.product();
            assert!(product.run(tier).bits().iter().all(|&bits| bits == 0), "{tier} {kind:?}");
            assert_eq!(product.scratch_len(), 0);
        }
    }
}

#[test]
fn nan_and_infinity_reach_exactly_their_row_or_column() {
    for tier in tiers() {
        for (m, k, n) in [(9, 7, 20), (70, 66, 33), (5, 600, 20)] {
            for poison in [f32::NAN, f32::INFINITY] {
                let mut product = Shape::plain(m, k, n, 15).product();
                product.a.set(m / 2, k / 3, poison);
                let c = product.run(tier);
                for (at, x) in c.values().iter().enumerate() {
                    assert_eq!(
                        x.is_finite(),
                        at / n != m / 2,
                        "A: {tier}, {m} x {k} x {n}, element {at}: {x}"
                    );
                }
                let mut product = Shape::plain(m, k, n, 15).product();
                product.b.set(k / 3, n - 1, poison);
                let c = product.run(tier);
                for (at, x) in c.values().iter().enumerate() {
                    assert_eq!(
                        x.is_finite(),
                        at % n != n - 1,
                        "B: {tier}, {m} x {k} x {n}, element {at}: {x}"
                    );
                }
            }
        }
    }
}

#[test]
fn half_output_is_the_rounded_f32_output() {
    for tier in tiers() {
        for kind in [Kind::F16, Kind::Bf16] {
            for (m, k, n) in [(5, 7, 33), (40, 700, 70)] {
                let shape = Shape { bias: true, beta: 0.5, ..Shape::plain(m, k, n, 16) };
                let single = shape.product();
                // The same C in both.
                let mut half = Shape { kinds: [Kind::F32, Kind::F32, kind], ..shape }.product();
                let mut single_c = single.clone();
                for i in 0..m {
                    for j in 0..n {
                        half.c.set(i, j, single.c.get(i, j));
                        single_c.c.set(i, j, half.c.get(i, j));
                    }
                }
                let rounded: Vec<u32> = single_c.run(tier).values().iter().map(|&x| kind.bits(x)).collect();
                expect(same_bits(kind, &half.run(tier).bits(), &rounded), (tier, kind, m, k, n));
            }
        }
    }
}

#[test]
fn operands_may_repeat_rows_by_a_stride_of_zero() {
    let (row, b) = ([1.0_f32, 2.0, 3.0], [1.0_f32, 10.0, 100.0]);
    for tier in tiers() {
        let mut c = [0.0_f32; 10];
        let a = MatRef::with_strides(&row, 5, 3, 0, 1).expect("inside");
        let b = MatRef::with_strides(&b, 3, 2, 1, 0).expect("inside");
        Matmul::new()
            .tier(tier)
            .run(a, b, MatMut::new(&mut c, 5, 2).expect("inside"), &mut [])
            .expect("sizes agree");
        assert_eq!(c, [321.0; 10], "{tier}");
    }
}

#[test]
fn free_functions_are_the_options_of_their_name() {
    let product = Shape { beta: 1.0, ..Shape::plain(70, 20, 30, 17) }.product();
    let mut scratch = nan_scratch(product.scratch_len());
    let mut sum = product.c.clone();
    matmul_add(product.a.view::<f32>(), product.b.view::<f32>(), sum.view_mut::<f32>(), &mut scratch)
        .expect("sizes");
    assert_eq!(sum.bits(), product.run(Tier::detect()).bits());

    let product = Product { beta: 0.0, ..product };
    let mut plain = product.c.clone();
    matmul(product.a.view::<f32>(), product.b.view::<f32>(), plain.view_mut::<f32>(), &mut scratch)
        .expect("sizes");
    assert_eq!(plain.bits(), product.run(Tier::detect()).bits());
}

#[test]
fn fixed_sizes_give_the_same_bits() {
    const SCRATCH: usize = matmul_scratch_len(3, 70, 18);
    let product = Shape::plain(3, 70, 18, 18).product();
    let mut a = [[0.0_f32; 70]; 3];
    let mut b = [[0.0_f32; 18]; 70];
    a.as_flattened_mut().copy_from_slice(&product.a.values());
    b.as_flattened_mut().copy_from_slice(&product.b.values());
    let mut c = [[f32::NAN; 18]; 3];
    matmul_fixed(&a, &b, &mut c, &mut [f32::NAN; SCRATCH]);
    let bits: Vec<u32> = c.as_flattened().iter().map(|x| x.to_bits()).collect();
    assert_eq!(bits, product.run(Tier::detect()).bits());
}
