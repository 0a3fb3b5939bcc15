//! Scaled dot-product attention over several heads.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::composed;
use super::matrix::{Matrix, product};
use super::on_own_ops;
use super::simd::{exp, wide};
use crate::boundary::{Op, before};
use crate::slices::Attention;

/// Attention with `heads` heads side by side in the last dimension; scores are scaled by the root of a head's
/// width.
///
/// # Shapes
/// `q` is `(outer, rows, queries, width)`, `k` and `v` are `(outer, rows, keys, width)`; the result is like
/// `q` and contiguous. Each of the `outer x rows` rows attends for itself. Operands may be transposed in all
/// but the last dimension.
pub(crate) fn attend(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let (outer, rows, queries, width) = q.dims4()?;
    let sizes = Attention {
        rows: outer * rows,
        heads,
        queries,
        keys: k.dim(2)?,
    };
    before(Op::Attention { sizes, width }, q)?;
    attended(q, k, v, heads)
}

/// [`attend`] to what was told already.
pub(super) fn attended(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let (outer, rows, queries, width) = q.dims4()?;
    if on_own_ops(q) {
        return q.apply_op3_no_bwd(k, v, &CpuAttention { heads });
    }
    let flat = |x: &Tensor| x.reshape((outer * rows, x.dim(2)?, width));
    if composed::wide(q) != q.dtype() {
        let widened = |x: &Tensor| flat(x)?.to_dtype(composed::wide(x))?.unsqueeze(0);
        let mixed = attended(&widened(q)?, &widened(k)?, &widened(v)?, heads)?;
        return mixed.to_dtype(q.dtype())?.reshape((outer, rows, queries, width));
    }
    composed::attention(&flat(q)?, &flat(k)?, &flat(v)?, heads)?.reshape((outer, rows, queries, width))
}

/// Queries that are worked on at once: bounds the scores in memory to this many rows a thread.
pub(super) const QUERIES: usize = 256;

struct CpuAttention {
    heads: usize,
}

/// A `(outer, rows, tokens, width)` operand.
struct Operand<'a> {
    data: &'a [f32],
    strides: [usize; 4],
}

impl<'a> Operand<'a> {
    fn new(storage: &'a CpuStorage, layout: &Layout) -> Result<Self> {
        let mut strides = [0; 4];
        strides.copy_from_slice(layout.stride());
        Ok(Self {
            data: &storage.as_slice::<f32>()?[layout.start_offset()..],
            strides,
        })
    }

    /// Some tokens of one row, one head of each.
    fn head(
        &self,
        (outer, row): (usize, usize),
        tokens: (usize, usize),
        columns: (usize, usize),
    ) -> Matrix<'a> {
        let (first_token, count) = tokens;
        let (first_column, width) = columns;
        let [outer_stride, row_stride, token_stride, column_stride] = self.strides;
        let offset = outer * outer_stride
            + row * row_stride
            + first_token * token_stride
            + first_column * column_stride;
        Matrix {
            data: &self.data[offset..],
            rows: count,
            columns: width,
            row_stride: token_stride,
            column_stride,
        }
    }
}

impl CustomOp3 for CpuAttention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        q_layout: &Layout,
        k: &CpuStorage,
        k_layout: &Layout,
        v: &CpuStorage,
        v_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (outer, rows, queries, width) = q_layout.shape().dims4()?;
        let keys = k_layout.shape().dims4()?.2;
        let (q, k, v) = (
            Operand::new(q, q_layout)?,
            Operand::new(k, k_layout)?,
            Operand::new(v, v_layout)?,
        );
        let head_width = width / self.heads;
        let scale = 1.0 / (head_width as f32).sqrt();

        let mut out = vec![0.0_f32; outer * rows * queries * width];
        let blocks = out
            .par_chunks_mut(queries * width)
            .enumerate()
            .flat_map(|(row, out)| {
                out.par_chunks_mut(QUERIES * width)
                    .enumerate()
                    .map(move |(b, o)| (row, b, o))
            });
        blocks.for_each_init(Vec::new, |scores: &mut Vec<f32>, (row, block, out)| {
            let at = (row / rows, row % rows);
            let count = out.len() / width;
            scores.resize(count * keys, 0.0);
            let scores = &mut scores[..count * keys];
            for head in 0..self.heads {
                let columns = (head * head_width, head_width);
                let queries = q.head(at, (block * QUERIES, count), columns);
                product(
                    queries,
                    k.head(at, (0, keys), columns).transposed(),
                    scale,
                    scores,
                    keys,
                );
                wide(
                    #[inline(always)]
                    || {
                        for row in scores.chunks_mut(keys) {
                            softmax(row);
                        }
                    },
                );
                let weights = Matrix::dense(scores, count, keys);
                product(
                    weights,
                    v.head(at, (0, keys), columns),
                    1.0,
                    &mut out[columns.0..],
                    width,
                );
            }
        });
        Ok((CpuStorage::F32(out), q_layout.shape().clone()))
    }
}

const LANES: usize = 16;

/// Softmax in place, in [`LANES`] interleaved parts.
#[inline(always)]
fn softmax(row: &mut [f32]) {
    let mut largest = [f32::NEG_INFINITY; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks
        .remainder()
        .iter()
        .copied()
        .fold(f32::NEG_INFINITY, f32::max);
    for chunk in chunks {
        for (lane, &value) in largest.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    let largest = largest.into_iter().fold(rest, f32::max);

    let mut sums = [0.0_f32; LANES];
    let mut chunks = row.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (lane, value) in sums.iter_mut().zip(chunk) {
            *value = exp(*value - largest);
            *lane += *value;
        }
    }
    let mut sum: f32 = sums.iter().sum();
    for value in chunks.into_remainder() {
        *value = exp(*value - largest);
        sum += *value;
    }
    let inverse = 1.0 / sum;
    for value in row {
        *value *= inverse;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn ramp(shape: (usize, usize, usize, usize), step: usize) -> Tensor {
        let count = shape.0 * shape.1 * shape.2 * shape.3;
        let values: Vec<f32> = (0..count)
            .map(|i| ((i * step % 97) as f32 - 48.0) / 30.0)
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    #[test]
    fn agrees_with_tensor_operations() {
        for (rows, queries, keys, width, heads) in [
            (3, 300, 50, 16, 2),
            (64, 16, 16, 32, 8),
            (1, 7, 130, 8, 1),
            (2, 128, 128, 24, 3),
        ] {
            let q = ramp((1, rows, queries, width), 31);
            let (k, v) = (ramp((1, rows, keys, width), 17), ramp((1, rows, keys, width), 7));
            let ours = attend(&q, &k, &v, heads).unwrap().squeeze(0).unwrap();
            let flat = |x: &Tensor| x.squeeze(0).unwrap();
            let expected = composed::attention(&flat(&q), &flat(&k), &flat(&v), heads).unwrap();
            let difference = (ours - expected).unwrap().abs().unwrap().max_all().unwrap();
            assert!(
                difference.to_scalar::<f32>().unwrap() < 1e-5,
                "{rows} x {queries} x {keys}"
            );
        }
    }

    #[test]
    fn transposed_operands_give_the_same_bits() {
        let shape = (2, 16, 9, 32);
        let (q, k, v) = (ramp(shape, 31), ramp(shape, 17), ramp(shape, 7));
        let across = |x: &Tensor| x.transpose(1, 2).unwrap();
        let views = attend(&across(&q), &across(&k), &across(&v), 8).unwrap();
        let dense = |x: &Tensor| across(x).contiguous().unwrap();
        let copies = attend(&dense(&q), &dense(&k), &dense(&v), 8).unwrap();
        let bits = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(bits(&views) == bits(&copies));
    }
}
