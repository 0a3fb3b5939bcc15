//! The exact (erf) GELU, alone and as the gate of a GEGLU.

use candle_core::{Result, Tensor};

use super::widened::widened;
use crate::kernels::cpu::{CpuGeglu, CpuGelu};
use crate::kernels::{cuda, reference};
use crate::run::Run;

/// GELU of every element.
pub(crate) fn gelu(run: &Run, x: &Tensor) -> Result<Tensor> {
    run.before_copy(x.elem_count(), x)?;
    activated(run, x)
}

/// [`gelu`] without a call of the hooks.
fn activated(run: &Run, x: &Tensor) -> Result<Tensor> {
    if run.on_cpu(x) {
        return x.contiguous()?.apply_op1_no_bwd(&CpuGelu);
    }
    if run.on_cuda(x) {
        return cuda::gelu(x);
    }
    match widened(x)? {
        Some(wide) => activated(run, &wide)?.to_dtype(x.dtype()),
        None => reference::gelu(x),
    }
}

/// `value x gelu(gate)`, with the value in the first half of the last dimension and the gate in the second. It is a part
/// of the feed-forward, which has called the hooks for it.
pub(super) fn gated(run: &Run, x: &Tensor) -> Result<Tensor> {
    if run.on_cpu(x) {
        return x.contiguous()?.apply_op1_no_bwd(&CpuGeglu);
    }
    if run.on_cuda(x) {
        return cuda::geglu(x);
    }
    match widened(x)? {
        Some(wide) => gated(run, &wide)?.to_dtype(x.dtype()),
        None => reference::geglu(x),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn agrees_with_the_exact_form() {
        let values: Vec<f32> = (-7000_i16..7000).map(|i| f32::from(i) / 1000.0).collect();
        let x = Tensor::from_vec(values, (2, 7000), &Device::Cpu).unwrap();
        let largest = |difference: Tensor| {
            let largest = difference.abs().unwrap().max_all().unwrap();
            largest.to_scalar::<f32>().unwrap()
        };
        assert!(largest((gelu(&Run::default(), &x).unwrap() - x.gelu_erf().unwrap()).unwrap()) < 2e-6);
        assert!(
            largest((gated(&Run::default(), &x).unwrap() - reference::geglu(&x).unwrap()).unwrap()) < 1e-5
        );
    }
}
