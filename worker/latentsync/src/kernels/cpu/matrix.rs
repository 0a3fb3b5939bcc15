//! A single-threaded matrix product on strided slices. The callers spread products over threads in a
//! partition that depends on shapes alone, so that results do not depend on the number of threads.

use std::marker::PhantomData;
use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};

/// A matrix in a slice of values, with any strides.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub(crate) data: &'a [f32],
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) row_stride: usize,
    pub(crate) column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Returns the matrix of rows that follow each other in `data`.
    pub(crate) fn dense(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self {
            data,
            rows,
            columns,
            row_stride: columns,
            column_stride: 1,
        }
    }

    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    /// Returns the length of the slice up to the last element of the matrix.
    fn reach(&self) -> usize {
        (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride + 1
    }
}

/// Computes `out = scale x left x right`; the rows of `out` begin `row_stride` values apart.
pub(crate) fn product(left: Matrix, right: Matrix, scale: f32, out: &mut [f32], row_stride: usize) {
    let whole = SharedOutput::new(out);
    #[expect(unsafe_code, reason = "the only writer of a result that is borrowed mutably")]
    // SAFETY: `whole` exists only here.
    unsafe {
        whole.product(left, right, scale, 0, row_stride);
    }
}

/// An output whose parts several threads write: tiles of a matrix, which cannot be expressed as disjoint
/// slices.
pub(crate) struct SharedOutput<'a> {
    start: *mut f32,
    len: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

#[expect(unsafe_code, reason = "lets threads write different parts of one result")]
// SAFETY: a shared reference only allows writing through the unsafe methods, whose callers guarantee that the
// parts do not overlap.
unsafe impl Sync for SharedOutput<'_> {}

#[expect(unsafe_code, reason = "lets threads write different parts of one result")]
// SAFETY: the reason is that for `Sync`.
unsafe impl Send for SharedOutput<'_> {}

impl<'a> SharedOutput<'a> {
    /// Makes `out` writable by several threads for as long as it is borrowed.
    pub(crate) fn new(out: &'a mut [f32]) -> Self {
        Self {
            start: out.as_mut_ptr(),
            len: out.len(),
            borrow: PhantomData,
        }
    }

    /// Writes `scale x left x right` from `offset` on, with rows that begin `row_stride` values apart.
    ///
    /// # Safety
    /// No other thread may use the elements that are written.
    ///
    /// # Panics
    /// Panics if an operand or the result would reach past the end of its slice.
    #[expect(
        unsafe_code,
        reason = "the product is computed by a library with a pointer interface"
    )]
    pub(crate) unsafe fn product(
        &self,
        left: Matrix,
        right: Matrix,
        scale: f32,
        offset: usize,
        row_stride: usize,
    ) {
        let (m, k, n) = (left.rows, left.columns, right.columns);
        if m == 0 || n == 0 || k == 0 {
            return;
        }
        assert_eq!(k, right.rows, "inner sizes of a product");
        assert!(left.reach() <= left.data.len(), "left operand of {m} x {k}");
        assert!(right.reach() <= right.data.len(), "right operand of {k} x {n}");
        assert!(
            row_stride >= n && offset + (m - 1) * row_stride + n <= self.len,
            "result of {m} x {n}"
        );
        // SAFETY: every element that the strides reach was checked to be within its slice, the rows of the
        // result do not overlap, and the caller guarantees that nobody else uses them. `read_dst` is false,
        // so that they are only written.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                self.start.add(offset),
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

    /// Returns `len` elements from `offset` on.
    ///
    /// # Safety
    /// No other slice or product may use these elements while the returned slice exists.
    #[expect(unsafe_code, reason = "lets threads write different parts of one result")]
    pub(crate) unsafe fn slice(&self, offset: usize, len: usize) -> &'a mut [f32] {
        assert!(offset + len <= self.len, "{len} elements from {offset} on");
        // SAFETY: the elements are within the slice that `self` was made of, and the caller guarantees that
        // they are not used elsewhere.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(offset), len) }
    }
}

/// Divides `0..len` into ranges of about equal length, `most` at most.
pub(crate) fn ranges(len: usize, most: usize) -> Vec<Range<usize>> {
    let count = len.div_ceil(most.max(1)).max(1);
    (0..count)
        .map(|i| i * len / count..(i + 1) * len / count)
        .collect()
}

/// Returns the elements of a contiguous `f32` operand.
///
/// # Errors
/// Fails for another layout or type.
pub(crate) fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("operand is not contiguous: {layout:?}"),
    }
}

/// The values of a contiguous `f32` tensor on the CPU, borrowed for the time of an operation.
pub(crate) struct BorrowedValues<G> {
    storage: G,
    range: Range<usize>,
}

/// Borrows the values of `tensor`.
///
/// # Errors
/// Fails unless it is contiguous, `f32` and on the CPU.
pub(crate) fn borrow_values(tensor: &Tensor) -> Result<BorrowedValues<impl Deref<Target = Storage>>> {
    let (storage, layout) = tensor.storage_and_layout();
    let range = layout.contiguous_offsets();
    let (true, Some((start, end))) = (matches!(&*storage, Storage::Cpu(CpuStorage::F32(_))), range) else {
        bail!("operand is not a contiguous f32 tensor on the CPU: {layout:?}");
    };
    Ok(BorrowedValues {
        storage,
        range: start..end,
    })
}

impl<G: Deref<Target = Storage>> BorrowedValues<G> {
    pub(crate) fn values(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            _ => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_everything_once() {
        for (len, most) in [(0, 5), (1, 5), (5, 5), (6, 5), (1280, 320), (1000, 333)] {
            let cut = ranges(len, most);
            assert_eq!(cut.iter().map(ExactSizeIterator::len).sum::<usize>(), len);
            assert!(cut.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(cut.iter().all(|range| range.len() <= most));
        }
    }

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
