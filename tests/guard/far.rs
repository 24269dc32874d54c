//! Offsets beyond 2^31 and 2^32 elements: rows and tokens that lie far apart in a mapping of which only
//! those are touched.

use crate::common::{Rng, nan_scratch, tiers};
use qkv::{Attention, Elem, HeadsMut, HeadsRef, MatMut, MatRef, Matmul, PackedMat, Tier};
use qkv::{attention_scratch_len, bf16, f16, matmul_scratch_len};

/// Address space that reads as zeros and takes memory only where it is written.
struct Far {
    start: *mut libc::c_void,
    bytes: usize,
}

impl Far {
    fn new(bytes: usize) -> Far {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let how = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, of no file.
        let start = unsafe { libc::mmap(core::ptr::null_mut(), bytes, how, flags, -1, 0) };
        assert!(start != libc::MAP_FAILED, "{bytes} bytes of address space");
        Far { start, bytes }
    }

    /// All of it, for numbers of which every bit pattern is one.
    fn all<T: Number>(&mut self) -> &mut [T] {
        // SAFETY: the mapping is readable and writable, aligned, and borrowed as a whole.
        unsafe { core::slice::from_raw_parts_mut(self.start.cast(), self.bytes / size_of::<T>()) }
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // SAFETY: nothing borrows the mapping any more.
        unsafe { libc::munmap(self.start, self.bytes) };
    }
}

/// A type of elements that can be made and compared.
trait Number: Elem + PartialEq + core::fmt::Debug {
    fn of(x: f32) -> Self;
}
impl Number for f32 {
    fn of(x: f32) -> f32 {
        x
    }
}
impl Number for f16 {
    fn of(x: f32) -> f16 {
        f16::from_f32(x)
    }
}
impl Number for bf16 {
    fn of(x: f32) -> bf16 {
        bf16::from_f32(x)
    }
}

/// Strides that pass 2^31 and 2^32 elements within a few rows, and sign bits on the way.
const STRIDES: [usize; 3] = [(1 << 30) + 1, (1 << 31) + 5, (1 << 32) + 3];

/// Copies rows of `width` side by side to rows `stride` apart.
fn spread<T: Copy>(from: &[T], width: usize, to: &mut [T], stride: usize) {
    for (i, row) in from.chunks(width).enumerate() {
        to[i * stride..][..width].copy_from_slice(row);
    }
}

fn gather<T: Copy>(from: &[T], width: usize, rows: usize, stride: usize) -> Vec<T> {
    (0..rows).flat_map(|i| from[i * stride..][..width].iter().copied()).collect()
}

fn numbers<T: Number>(rng: &mut Rng, len: usize) -> Vec<T> {
    (0..len).map(|_| T::of(rng.unit())).collect()
}

/// A, B and C with rows far apart, or columns, and what they give side by side.
fn product<T: Number>((m, k, n): (usize, usize, usize), stride: usize, tier: Tier) {
    let mut rng = Rng::new(1);
    let (a, b) = (numbers::<T>(&mut rng, m * k), numbers::<T>(&mut rng, k * n));
    let (mut c, zero) = (vec![T::of(0.0); m * n], T::of(0.0));
    let mut scratch = nan_scratch(matmul_scratch_len(m, k, n).max(matmul_scratch_len(n, k, m)));
    let (a_near, b_near) = (MatRef::new(&a, m, k).expect("A"), MatRef::new(&b, k, n).expect("B"));
    let options = Matmul::new().tier(tier);
    options.run(a_near, b_near, MatMut::new(&mut c, m, n).expect("C"), &mut scratch).expect("sizes agree");
    let space = |rows: usize, width: usize| Far::new(((rows - 1) * stride + width) * size_of::<T>());

    let mut far = space(m, k);
    spread(&a, k, far.all::<T>(), stride);
    let a_far = MatRef::with_strides(far.all::<T>(), m, k, stride, 1).expect("A");
    let mut other = space(k, n);
    spread(&b, n, other.all::<T>(), stride);
    let b_far = MatRef::with_strides(other.all::<T>(), k, n, stride, 1).expect("B");
    let mut out = space(m, n);
    let view = MatMut::with_strides(out.all::<T>(), m, n, stride, 1).expect("C");
    options.run(a_far, b_far, view, &mut scratch).expect("sizes agree");
    assert_eq!(gather(out.all::<T>(), n, m, stride), c, "{tier} {m} {k} {n}, {stride} apart");

    let mut storage = vec![zero; PackedMat::<T>::len(k, n)];
    let packed = PackedMat::pack(b_far, &mut storage).expect("the right length");
    let view = MatMut::with_strides(out.all::<T>(), m, n, stride, 1).expect("C");
    options.run_packed(a_far, packed, view, &mut scratch).expect("sizes agree");
    assert_eq!(gather(out.all::<T>(), n, m, stride), c, "{tier} {m} {k} {n}, {stride} apart, packed");

    // Columns: Cᵀ = Bᵀ Aᵀ, each of them the turned view.
    let mut turned = vec![zero; n * m];
    let view = MatMut::new(&mut turned, n, m).expect("C");
    options.run(b_far.t(), a_far.t(), view, &mut scratch).expect("sizes agree");
    let back: Vec<T> = (0..m * n).map(|at| turned[at % n * m + at / n]).collect();
    assert_eq!(back, c, "{tier} {m} {k} {n}, {stride} apart, turned");
}

#[test]
fn products_of_rows_far_apart_have_the_bits_of_rows_side_by_side() {
    for tier in tiers() {
        for stride in STRIDES {
            product::<f32>((5, 3, 9), stride, tier);
            product::<f16>((2, 5, 17), stride, tier);
            // Through packed blocks.
            product::<f32>((4, 5, 70), stride, tier);
            product::<bf16>((2, 3, 66), stride, tier);
        }
    }
}

/// Tokens, or heads, far apart in every operand, and what they give side by side.
fn attention<T: Number>(q_len: usize, kv_len: usize, far: [usize; 2], tier: Tier) {
    const HEADS: usize = 2;
    const DIM: usize = 9;
    let mut rng = Rng::new(2);
    let q = numbers::<T>(&mut rng, q_len * HEADS * DIM);
    let [k, v] = [(); 2].map(|()| numbers::<T>(&mut rng, kv_len * HEADS * DIM));
    let mut scratch = nan_scratch(attention_scratch_len(q_len, kv_len, DIM, DIM));
    let options = Attention::new().causal().tier(tier);
    let mut near = vec![T::of(0.0); q.len()];
    {
        let view = |x, len| HeadsRef::token_major(x, len, HEADS, DIM).expect("heads");
        let out = HeadsMut::token_major(&mut near, q_len, HEADS, DIM).expect("the output");
        options.run(view(&q, q_len), view(&k, kv_len), view(&v, kv_len), out, &mut scratch).expect("sizes");
    }
    let [token, head] = far;
    let place = |t: usize, h: usize| t * token + h * head;
    let space = |len: usize| Far::new((place(len - 1, HEADS - 1) + DIM) * size_of::<T>());
    let scatter = |from: &[T], to: &mut [T]| {
        for (i, features) in from.chunks(DIM).enumerate() {
            to[place(i / HEADS, i % HEADS)..][..DIM].copy_from_slice(features);
        }
    };
    let [mut q_far, mut k_far, mut v_far, mut out] = [q_len, kv_len, kv_len, q_len].map(space);
    scatter(&q, q_far.all());
    scatter(&k, k_far.all());
    scatter(&v, v_far.all());
    {
        let view = |x, len| HeadsRef::with_strides(x, len, HEADS, DIM, token, head).expect("heads");
        let (q, k, v) = (q_far.all::<T>(), k_far.all::<T>(), v_far.all::<T>());
        let to = HeadsMut::with_strides(out.all::<T>(), q_len, HEADS, DIM, token, head).expect("the output");
        options.run(view(q, q_len), view(k, kv_len), view(v, kv_len), to, &mut scratch).expect("sizes");
    }
    let got = out.all::<T>();
    for (i, expected) in near.chunks(DIM).enumerate() {
        let features = &got[place(i / HEADS, i % HEADS)..][..DIM];
        assert_eq!(features, expected, "{tier}, {q_len} x {kv_len}, strides {far:?}, row {i}");
    }
}

#[test]
fn attention_to_tokens_far_apart_has_the_bits_of_tokens_side_by_side() {
    for tier in tiers() {
        for stride in STRIDES {
            for far in [[stride, 9], [9, stride]] {
                attention::<f32>(1, 5, far, tier);
                attention::<f32>(12, 17, far, tier);
                attention::<f16>(1, 9, far, tier);
                attention::<bf16>(11, 11, far, tier);
            }
        }
    }
}
