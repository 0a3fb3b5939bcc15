//! Group norm, whose statistics may span several images, such as the frames of one video sample.

use candle_core::{Result, Tensor, bail};

use crate::hooks::Op;
use crate::kernels::cpu::CpuGroupNorm;
use crate::kernels::cuda;
use crate::kernels::reference::{self, NormSpec};
use crate::run::Run;
use crate::tensors::VarBuilder;

/// Group norm over `(images, channels, h, w)`.
pub(crate) struct GroupNorm {
    /// Path of the module in the checkpoint, under which a trace records its output.
    path: String,
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// Loads `weight` and `bias`, `(channels)` each.
    pub(crate) fn load(vb: &VarBuilder, groups: usize, channels: usize, eps: f64) -> Result<Self> {
        Ok(Self {
            path: vb.path().to_owned(),
            weight: vb.get(&[channels], "weight")?,
            bias: vb.get(&[channels], "bias")?,
            groups,
            eps,
        })
    }

    /// Runs the norm; the statistics of every `images` consecutive images are taken together.
    pub(crate) fn forward(&self, run: &Run, x: &Tensor, images: usize) -> Result<Tensor> {
        let y = self.apply(run, x, images, false)?;
        run.put(&self.path, "", &y);
        Ok(y)
    }

    /// Runs the norm followed by `SiLU` in one operation. A trace records the result as the part `silu` of
    /// the norm.
    pub(crate) fn forward_silu(&self, run: &Run, x: &Tensor, images: usize) -> Result<Tensor> {
        let y = self.apply(run, x, images, true)?;
        run.put(&self.path, "silu", &y);
        Ok(y)
    }

    fn apply(&self, run: &Run, x: &Tensor, images: usize, silu: bool) -> Result<Tensor> {
        let (total, channels, h, w) = x.dims4()?;
        let op = Op::GroupNorm {
            images: total,
            together: images,
            channels,
            area: h * w,
        };
        run.before(op, x)?;
        if images == 0 || total % images != 0 || channels % self.groups != 0 {
            bail!(
                "group norm of {total} images by {images}, {channels} channels by {}",
                self.groups
            );
        }
        if run.on_cpu(x) {
            let op = CpuGroupNorm {
                images,
                groups: self.groups,
                eps: self.eps,
                silu,
            };
            return x.contiguous()?.apply_op3_no_bwd(&self.weight, &self.bias, &op);
        }
        let spec = NormSpec {
            images,
            groups: self.groups,
            eps: self.eps,
            affine: (&self.weight, &self.bias),
            silu,
        };
        if run.on_cuda(x) {
            cuda::group_norm(x, spec)
        } else {
            reference::group_norm(run.options.limits, x, spec)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slices::SliceLimits;
    use candle_core::Device;

    #[test]
    fn one_operation_agrees_with_the_reference_kernel() {
        for (total, images, channels, groups, h, w) in
            [(1, 1, 4, 2, 3, 5), (6, 3, 32, 8, 7, 9), (4, 1, 6, 3, 1, 1)]
        {
            let tensor = |count: usize, step: usize| {
                let values: Vec<f32> = (0..count)
                    .map(|i| ((i * step % 101) as f32 - 40.0) / 17.0)
                    .collect();
                Tensor::from_vec(values, count, &Device::Cpu).unwrap()
            };
            let x = tensor(total * channels * h * w, 37)
                .reshape((total, channels, h, w))
                .unwrap();
            let norm = GroupNorm {
                path: String::new(),
                weight: tensor(channels, 13),
                bias: tensor(channels, 29),
                groups,
                eps: 1e-5,
            };
            let plain = |silu| {
                let spec = NormSpec {
                    images,
                    groups,
                    eps: norm.eps,
                    affine: (&norm.weight, &norm.bias),
                    silu,
                };
                reference::group_norm(SliceLimits::DEFAULT, &x, spec).unwrap()
            };
            for (ours, expected) in [
                (norm.forward(&Run::default(), &x, images).unwrap(), plain(false)),
                (
                    norm.forward_silu(&Run::default(), &x, images).unwrap(),
                    plain(true),
                ),
            ] {
                let difference = (ours - expected).unwrap().abs().unwrap().max_all().unwrap();
                assert!(
                    difference.to_scalar::<f32>().unwrap() < 1e-5,
                    "{total} x {channels}"
                );
            }
        }
    }
}
