//! Products of the Rust peers, each called as its documentation says.

use crate::matmul::{Peer, Product, Run, Shape};

pub fn peers() -> Vec<Peer> {
    vec![
        Peer { name: "gemm", run: Box::new(gemm) },
        Peer { name: "matrixmultiply", run: Box::new(matrixmultiply) },
        Peer { name: "faer", run: Box::new(faer) },
        Peer { name: "nano-gemm", run: nano_gemm() },
        Peer { name: "rten-gemm", run: rten_gemm() },
        Peer { name: "ndarray", run: Box::new(ndarray) },
        Peer { name: "nalgebra", run: Box::new(nalgebra) },
        Peer { name: "microgemm", run: microgemm() },
    ]
}

fn gemm(product: &mut Product) {
    let Product { shape, a, b, c } = product;
    let (m, n, k, [b_row, b_col]) =
        (shape.m, shape.n, shape.k, shape.b_strides().map(|stride| stride as isize));
    let (a_row, c_row) = (k as isize, n as isize);
    // SAFETY: sizes and strides are those of the operands; C is not read.
    unsafe {
        let (c, a, b) = (c.as_mut_ptr(), a.as_ptr(), b.as_ptr());
        let alone = gemm::Parallelism::None;
        gemm::gemm(
            m, n, k, c, 1, c_row, false, a, 1, a_row, b, b_col, b_row, 0.0, 1.0, false, false, false, alone,
        );
    }
}

fn matrixmultiply(product: &mut Product) {
    let Product { shape, a, b, c } = product;
    let (m, n, k, [b_row, b_col]) =
        (shape.m, shape.n, shape.k, shape.b_strides().map(|stride| stride as isize));
    let (a_row, c_row) = (k as isize, n as isize);
    // SAFETY: sizes and strides are those of the operands.
    unsafe {
        let (c, a, b) = (c.as_mut_ptr(), a.as_ptr(), b.as_ptr());
        matrixmultiply::sgemm(m, k, n, 1.0, a, a_row, 1, b, b_row, b_col, 0.0, c, c_row, 1);
    }
}

fn faer(product: &mut Product) {
    use faer::{Accum, MatMut, MatRef, Par, linalg::matmul::matmul};
    let Product { shape: Shape { m, n, k, transposed, .. }, a, b, c } = product;
    let a = MatRef::from_row_major_slice(a, *m, *k);
    let b = match transposed {
        true => MatRef::from_row_major_slice(b, *n, *k).transpose(),
        false => MatRef::from_row_major_slice(b, *k, *n),
    };
    matmul(MatMut::from_row_major_slice_mut(c, *m, *n), Accum::Replace, a, b, 1.0_f32, Par::Seq);
}

/// Its kernels are for columns, C^T = B^T A^T, and it is used with a plan for the sizes.
fn nano_gemm() -> Run {
    use nano_gemm::Plan;
    let mut planned: Option<(Shape, Plan<f32>)> = None;
    Box::new(move |product| {
        let Product { shape, a, b, c } = product;
        let (m, n, k) = (shape.m, shape.n, shape.k);
        let [b_row, b_col] = shape.b_strides().map(|stride| stride as isize);
        if planned.as_ref().is_none_or(|(of, _)| of != shape) {
            let plan = match shape.transposed {
                true => Plan::new_f32(n, m, k),
                false => Plan::new_colmajor_lhs_and_dst_f32(n, m, k),
            };
            planned = Some((*shape, plan));
        }
        let (_, plan) = planned.as_ref().unwrap();
        let (a_row, c_row) = (k as isize, n as isize);
        // SAFETY: sizes and strides are those of the operands and of the plan; C is not read.
        unsafe {
            let (c, a, b) = (c.as_mut_ptr(), a.as_ptr(), b.as_ptr());
            plan.execute_unchecked(
                n, m, k, c, 1, c_row, b, b_col, b_row, a, 1, a_row, 0.0, 1.0, false, false,
            );
        }
    })
}

fn rten_gemm() -> Run {
    use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions};
    use rten_tensor::NdTensorView;
    let executor = GemmExecutor::<f32>::new();
    Box::new(move |product| {
        let Product { shape: Shape { m, n, k, transposed, .. }, a, b, c } = product;
        let a = NdTensorView::from_data([*m, *k], &**a);
        let b = match transposed {
            true => NdTensorView::from_data([*n, *k], &**b).transposed(),
            false => NdTensorView::from_data([*k, *n], &**b),
        };
        let (a, b) = (GemmInputA::Unpacked(a), GemmInputB::Unpacked(b));
        executor.gemm(c, a, b, GemmOptions::default()).unwrap();
    })
}

fn ndarray(product: &mut Product) {
    use ndarray::{ArrayView2, ArrayViewMut2, linalg::general_mat_mul};
    let Product { shape: Shape { m, n, k, transposed, .. }, a, b, c } = product;
    let a = ArrayView2::from_shape((*m, *k), a).unwrap();
    let b = match transposed {
        true => ArrayView2::from_shape((*n, *k), b).unwrap().reversed_axes(),
        false => ArrayView2::from_shape((*k, *n), b).unwrap(),
    };
    general_mat_mul(1.0, &a, &b, 0.0, &mut ArrayViewMut2::from_shape((*m, *n), c).unwrap());
}

/// Matrices are in columns there: C^T = B^T A^T on the same memory.
fn nalgebra(product: &mut Product) {
    use nalgebra::{DMatrixView, DMatrixViewMut};
    let Product { shape: Shape { m, n, k, transposed, .. }, a, b, c } = product;
    let a = DMatrixView::from_slice(a, *k, *m);
    let mut c = DMatrixViewMut::from_slice(c, *n, *m);
    match transposed {
        true => c.gemm_tr(1.0, &DMatrixView::from_slice(b, *k, *n), &a, 0.0),
        false => c.gemm(1.0, &DMatrixView::from_slice(b, *n, *k), &a, 0.0),
    }
}

fn microgemm() -> Run {
    use microgemm::{Kernel as _, MatMut, MatRef, PackSizes, kernels::GenericKernel8x8};
    let mut packing = Vec::new();
    Box::new(move |product| {
        let Product { shape: Shape { m, n, k, transposed, .. }, a, b, c } = product;
        let (m, n, k) = (*m, *n, *k);
        // Blocks are the caller's to choose: those that fit caches.
        let sizes = PackSizes {
            mc: m.next_multiple_of(8).min(128),
            kc: k.min(256),
            nc: n.next_multiple_of(8).min(1024),
        };
        packing.resize(sizes.buf_len(), 0.0);
        // It reads C even for a factor of 0.
        c.fill(0.0);
        let a = MatRef::row_major(m, k, a);
        let b = if *transposed { MatRef::col_major(k, n, b) } else { MatRef::row_major(k, n, b) };
        let mut c = MatMut::row_major(m, n, c);
        GenericKernel8x8::<f32>::new().gemm(1.0, a, b, 0.0, &mut c, sizes, &mut packing);
    })
}
