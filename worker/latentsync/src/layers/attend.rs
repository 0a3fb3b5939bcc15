//! Scaled dot-product attention over several heads.

use candle_core::{Result, Tensor};

use super::upcast::upcast;
use crate::hooks::Op;
use crate::kernels::cpu::CpuAttention;
use crate::kernels::{cuda, reference};
use crate::run::Run;
use crate::slices::AttentionShape;

/// Attention with `heads` heads side by side in the last dimension. Scores are divided by the root of a
/// head's width.
///
/// # Shapes
/// `q` is `(outer, rows, queries, width)`, `k` and `v` are `(outer, rows, keys, width)`; the result has the
/// shape of `q` and is contiguous. Each of the `outer x rows` rows attends to itself alone. Operands may be
/// transposed in all but the last dimension.
pub(crate) fn attend(run: &Run, q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let (outer, rows, queries, width) = q.dims4()?;
    let sizes = AttentionShape {
        rows: outer * rows,
        heads,
        queries,
        keys: k.dim(2)?,
    };
    run.before(Op::Attention { sizes, width }, q)?;
    attend_unhooked(run, q, k, v, heads)
}

/// [`attend`] without a call of the hooks.
fn attend_unhooked(run: &Run, q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let (outer, rows, queries, width) = q.dims4()?;
    if run.on_cpu(q) {
        return q.apply_op3_no_bwd(k, v, &CpuAttention { heads });
    }
    if let (Some(wide_q), Some(wide_k), Some(wide_v)) = (upcast(q)?, upcast(k)?, upcast(v)?) {
        return attend_unhooked(run, &wide_q, &wide_k, &wide_v, heads)?.to_dtype(q.dtype());
    }
    if run.on_cuda(q) {
        return cuda::attention(run.options.limits, [q, k, v], heads);
    }
    let flat = |x: &Tensor| x.reshape((outer * rows, x.dim(2)?, width));
    reference::attention(run.options.limits, &flat(q)?, &flat(k)?, &flat(v)?, heads)?
        .reshape((outer, rows, queries, width))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slices::SliceLimits;
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
            let ours = attend(&Run::default(), &q, &k, &v, heads)
                .unwrap()
                .squeeze(0)
                .unwrap();
            let flat = |x: &Tensor| x.squeeze(0).unwrap();
            let expected =
                reference::attention(SliceLimits::DEFAULT, &flat(&q), &flat(&k), &flat(&v), heads).unwrap();
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
        let views = attend(&Run::default(), &across(&q), &across(&k), &across(&v), 8).unwrap();
        let dense = |x: &Tensor| across(x).contiguous().unwrap();
        let copies = attend(&Run::default(), &dense(&q), &dense(&k), &dense(&v), 8).unwrap();
        let bits = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(bits(&views) == bits(&copies));
    }
}
