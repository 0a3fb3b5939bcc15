//! The exact (erf) GELU, alone and as the gate of a GEGLU.

use candle_core::cpu::erf::erf_f32;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::composed;
use super::matrix::contiguous;

/// GELU of every element.
pub(in crate::latentsync) fn gelu(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() && x.dtype() == DType::F32 {
        return x.contiguous()?.apply_op1_no_bwd(&CpuGelu);
    }
    x.gelu_erf()
}

/// `value x gelu(gate)`, with the value in the first half of the last dimension and the gate in the second.
pub(in crate::latentsync) fn geglu(x: &Tensor) -> Result<Tensor> {
    if x.device().is_cpu() && x.dtype() == DType::F32 {
        return x.contiguous()?.apply_op1_no_bwd(&CpuGeglu);
    }
    composed::geglu(x)
}

fn gelu_of(x: f32) -> f32 {
    (erf_f32(x * std::f32::consts::FRAC_1_SQRT_2) + 1.0) * 0.5 * x
}

struct CpuGelu;

impl CustomOp1 for CpuGelu {
    fn name(&self) -> &'static str {
        "gelu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(x, layout)?;
        let out = x.par_iter().with_min_len(1 << 12).map(|&x| gelu_of(x)).collect();
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }
}

struct CpuGeglu;

impl CustomOp1 for CpuGeglu {
    fn name(&self) -> &'static str {
        "geglu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(x, layout)?;
        let mut shape = layout.shape().dims().to_vec();
        let width = shape.pop().unwrap_or(2) / 2;
        shape.push(width);
        let mut out = vec![0.0_f32; x.len() / 2];
        out.par_chunks_mut(width)
            .zip(x.par_chunks(2 * width))
            .with_min_len(16)
            .for_each(|(out, x)| {
                let (values, gates) = x.split_at(width);
                for ((out, &value), &gate) in out.iter_mut().zip(values).zip(gates) {
                    *out = value * gelu_of(gate);
                }
            });
        Ok((CpuStorage::F32(out), Shape::from(shape)))
    }
}
