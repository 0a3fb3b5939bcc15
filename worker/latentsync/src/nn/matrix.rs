//! A single-threaded matrix product on strided slices. Callers spread products over threads in a partition
//! that depends on shapes alone, so that results do not depend on the number of threads.

use std::marker::PhantomData;
use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Layout, Result, Storage, Tensor, bail};

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
    let whole = Shared::new(out);
    #[expect(unsafe_code, reason = "the one writer of a result that is borrowed alone")]
    // SAFETY: `whole` lives here alone.
    unsafe {
        whole.product(left, right, scale, 0, row_stride);
    }
}

/// A result whose parts are written by several threads: tiles of a matrix, which no set of slices can express.
pub(super) struct Shared<'a> {
    start: *mut f32,
    len: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

#[expect(unsafe_code, reason = "lets threads write different parts of one result")]
// SAFETY: all that can be done with a shared one is to write through its unsafe methods, whose callers answer for
// the parts not overlapping.
unsafe impl Sync for Shared<'_> {}

#[expect(unsafe_code, reason = "lets threads write different parts of one result")]
// SAFETY: as for `Sync`.
unsafe impl Send for Shared<'_> {}

impl<'a> Shared<'a> {
    pub(super) fn new(out: &'a mut [f32]) -> Self {
        Self {
            start: out.as_mut_ptr(),
            len: out.len(),
            borrow: PhantomData,
        }
    }

    /// `scale x left x right`, written from `offset` on with rows `row_stride` apart.
    ///
    /// # Safety
    /// No other thread may use the elements that are written.
    ///
    /// # Panics
    /// Where an operand or the result reaches past its end.
    #[expect(
        unsafe_code,
        reason = "the product is computed by a library with a pointer interface"
    )]
    pub(super) unsafe fn product(
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
        // SAFETY: every element that the strides reach was checked to lie within its slice, the rows of the result
        // do not overlap, and the caller answers for nobody else using them. `read_dst` is false: they are only
        // written.
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

    /// Some elements.
    ///
    /// # Safety
    /// No other slice or product may use these elements while this one lives.
    #[expect(unsafe_code, reason = "lets threads write different parts of one result")]
    pub(super) unsafe fn slice(&self, offset: usize, len: usize) -> &'a mut [f32] {
        assert!(offset + len <= self.len, "{len} elements from {offset} on");
        // SAFETY: within the slice that this was made of, and by the caller's word not used elsewhere.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(offset), len) }
    }
}

/// Cuts `0..len` into about equal ranges of at most `most`.
pub(super) fn ranges(len: usize, most: usize) -> Vec<Range<usize>> {
    let count = len.div_ceil(most.max(1)).max(1);
    (0..count)
        .map(|i| i * len / count..(i + 1) * len / count)
        .collect()
}

/// The elements of a contiguous `f32` operand.
pub(super) fn contiguous<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
        None => bail!("operand is not contiguous: {layout:?}"),
    }
}

/// A contiguous `f32` tensor on the CPU, lent to an operation.
pub(super) struct Lent<G> {
    storage: G,
    range: Range<usize>,
}

pub(super) fn lend(tensor: &Tensor) -> Result<Lent<impl Deref<Target = Storage>>> {
    let (storage, layout) = tensor.storage_and_layout();
    let range = layout.contiguous_offsets();
    let (true, Some((start, end))) = (matches!(&*storage, Storage::Cpu(CpuStorage::F32(_))), range) else {
        bail!("operand is not a contiguous f32 tensor on the CPU: {layout:?}");
    };
    Ok(Lent {
        storage,
        range: start..end,
    })
}

impl<G: Deref<Target = Storage>> Lent<G> {
    pub(super) fn values(&self) -> &[f32] {
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
