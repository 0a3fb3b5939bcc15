//! Scaled dot-product attention on the CPU, in blocks of fixed sizes.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape};
use rayon::prelude::*;

use super::matrix::{Matrix, product};
use super::simd::{dispatch_simd, exp};

/// Queries that a thread works on at once, which limits the scores in memory to so many rows for each thread.
pub(crate) const QUERIES: usize = 256;

/// Attention of `(outer, rows, tokens, width)`, with `heads` heads side by side in `width`.
pub(crate) struct CpuAttention {
    pub(crate) heads: usize,
}

/// An operand `(outer, rows, tokens, width)` with any strides.
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

    /// Returns one head of some tokens of one row, `(tokens, head width)`. `tokens` and `columns` are the
    /// first one and their number.
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
                dispatch_simd(
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

/// Number of interleaved parts that a softmax is computed in; the compiler keeps one in each vector lane.
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
