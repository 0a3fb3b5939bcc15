//! The exact (erf) GELU, alone and as the gate of a GEGLU.

use candle_core::{CustomOp1, Result, Tensor};

use super::upcast::upcast;
use crate::kernels::cpu::{CpuGeglu, CpuGelu};
use crate::kernels::{cuda, reference};
use crate::run::Run;

/// Applies the exact (erf) GELU to every element.
pub(crate) fn gelu(run: &Run, x: &Tensor) -> Result<Tensor> {
    run.before_copy(x.elem_count(), x)?;
    activation(run, x, &CpuGelu, cuda::gelu, reference::gelu)
}

/// `value x gelu(gate)`, with the value in the first half of the last dimension and the gate in the second.
/// It does not call the hooks: the feed-forward, of which it is a part, has called them.
pub(super) fn geglu(run: &Run, x: &Tensor) -> Result<Tensor> {
    activation(run, x, &CpuGeglu, cuda::geglu, reference::geglu)
}

/// Computes an activation with the kernel of the backend that works on `x`.
fn activation(
    run: &Run,
    x: &Tensor,
    on_cpu: &impl CustomOp1,
    on_cuda: fn(&Tensor) -> Result<Tensor>,
    reference: fn(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    if run.on_cpu(x) {
        return x.contiguous()?.apply_op1_no_bwd(on_cpu);
    }
    if run.on_cuda(x) {
        return on_cuda(x);
    }
    match upcast(x)? {
        Some(wide) => activation(run, &wide, on_cpu, on_cuda, reference)?.to_dtype(x.dtype()),
        None => reference(x),
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
            largest((geglu(&Run::default(), &x).unwrap() - reference::geglu(&x).unwrap()).unwrap()) < 1e-5
        );
    }
}
