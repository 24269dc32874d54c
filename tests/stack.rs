//! Products and attention need little stack, whatever their sizes: they run in threads that have little, on whose end
//! they would fail.
#![cfg(feature = "half")]

mod common;

use common::attend::{Lookup, Shape as Shapes};
use common::buffer::Kind;
use common::mat::Layout;
use common::product::Shape;
use common::{nan_scratch, tiers};
use qkv::Attention;

/// 16 KiB for the library; the rest is the thread's own and, without optimization, the test's.
const STACK: usize = (16 + 12) << 10;

fn on_little_stack(call: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, call);
        thread.expect("a thread").join().expect("no panic");
    });
}

#[test]
fn products() {
    let layouts = [Layout::ROWS, Layout::COLUMNS]
        .map(|a| [Layout::ROWS, Layout::COLUMNS].map(|b| [a, b, Layout::ROWS]));
    for (m, k, n) in [(64, 64, 64), (50, 64, 33), (3, 300, 70), (100, 600, 90), (1, 64, 64), (64, 64, 1)] {
        for (layouts, kind) in layouts.as_flattened().iter().flat_map(|&l| Kind::ALL.map(|kind| (l, kind))) {
            let shape = Shape { layouts, kinds: [kind; 3], ..Shape::plain(m, k, n, 5) };
            let product = shape.product();
            for tier in tiers() {
                let (mut c, mut scratch) = (product.c.clone(), nan_scratch(product.scratch_len()));
                on_little_stack(|| product.run_into(tier, &mut c, &mut scratch).expect("sizes agree"));
            }
        }
    }
}

#[test]
fn lookups() {
    for (q_len, kv_len, head_dim) in [(1, 300, 65), (7, 100, 33), (70, 200, 16)] {
        for kind in Kind::ALL {
            let shape = Shapes { group: 3, kinds: [kind; 4], ..Shapes::plain(q_len, kv_len, head_dim, 5) };
            let lookup = shape.lookup();
            for tier in tiers() {
                let (mut out, mut scratch) = (lookup.out.clone(), nan_scratch(lookup.scratch_len()));
                let Lookup { q, k, v, .. } = &lookup;
                with_type!(kind, T => on_little_stack(|| {
                    let options = Attention::new().causal().tier(tier);
                    let (q, k, v, out) = (q.view::<T>(), k.view::<T>(), v.view::<T>(), out.view_mut::<T>());
                    options.run(q, k, v, out, &mut scratch).expect("sizes agree");
                }));
            }
        }
    }
}
