//! A single-threaded matrix product on strided slices. Callers spread products over threads in a partition
//! that depends on shapes alone, so that results do not depend on the number of threads.

use candle_core::{CpuStorage, Layout, Result, bail};

/// A matrix that lies in a slice.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub(super) data: &'a [f32],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix whose rows lie one after the other.
    pub(super) fn dense(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self {
            data,
            rows,
            columns,
            row_stride: columns,
            column_stride: 1,
        }
    }

    pub(super) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    fn reach(&self) -> usize {
        (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride + 1
    }
}

/// `out = scale x left x right`; the rows of `out` are `row_stride` apart.
pub(super) fn product(left: Matrix, right: Matrix, scale: f32, out: &mut [f32], row_stride: usize) {
    let (m, k, n) = (left.rows, left.columns, right.columns);
    if m == 0 || n == 0 || k == 0 {
        return;
    }
    assert_eq!(k, right.rows, "inner sizes of a product");
    assert!(left.reach() <= left.data.len(), "left operand of {m} x {k}");
    assert!(right.reach() <= right.data.len(), "right operand of {k} x {n}");
    assert!(
        row_stride >= n && (m - 1) * row_stride + n <= out.len(),
        "result of {m} x {n}"
    );
    multiply(left, right, scale, out, row_stride);
}

#[expect(
    unsafe_code,
    reason = "the product is computed by a library with a pointer interface"
)]
fn multiply(left: Matrix, right: Matrix, scale: f32, out: &mut [f32], row_stride: usize) {
    // SAFETY: `product` has checked that every element that the strides reach lies within its slice, and that
    // the rows of `out` do not overlap; `out` is borrowed alone. `read_dst` is false, so it is only written.
    unsafe {
        gemm::gemm(
            left.rows,
            right.columns,
            left.columns,
            out.as_mut_ptr(),
            1,
            row_stride.cast_signed(),
            false,
            left.data.as_ptr(),
            left.column_stride.cast_signed(),
            left.row_stride.cast_signed(),
            right.data.as_ptr(),
            right.column_stride.cast_signed(),
            right.row_stride.cast_signed(),
            0.0,
            scale,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// The elements of a contiguous `f32` operand.
pub(super) fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("operand is not contiguous: {layout:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strided_product_is_the_product() {
        let left: Vec<f32> = (0..6).map(|i| i as f32).collect();
        let right: Vec<f32> = (0..6).map(|i| (i * i) as f32).collect();
        let mut out = vec![-1.0; 2 * 5];
        let columns_first = Matrix::dense(&right, 2, 3).transposed();
        product(Matrix::dense(&left, 2, 3), columns_first, 0.5, &mut out, 5);
        // Rows (0, 1, 2) and (3, 4, 5) by columns (0, 1, 4) and (9, 16, 25).
        assert_eq!(out[..2], [4.5, 33.0]);
        assert_eq!(out[5..7], [12.0, 108.0]);
        assert_eq!(out[2..5], [-1.0; 3]);
    }
}
