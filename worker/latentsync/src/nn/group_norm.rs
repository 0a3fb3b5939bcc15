//! Group norm whose statistics may span several images: the frames of one video sample.
//!
//! On the CPU one operation does it all: sums in `f64` over a fixed partition (one per image and group, added
//! in order), so the bits do not depend on the number of threads, and no copy of the input is made.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::composed::{self, NormSpec};
use super::matrix::contiguous;
use super::on_own_ops;
use super::simd::{exp, lane_sum, wide};
use crate::boundary::{Op, before};
use crate::trace::Trace;
use crate::weights::Keys;

/// Group norm over `(images, channels, h, w)`.
pub(crate) struct GroupNorm {
    path: String,
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    pub(crate) fn load(keys: &Keys, groups: usize, channels: usize, eps: f64) -> Result<Self> {
        Ok(Self {
            path: keys.path().to_owned(),
            weight: keys.get(&[channels], "weight")?,
            bias: keys.get(&[channels], "bias")?,
            groups,
            eps,
        })
    }

    /// Statistics of every `images` consecutive images are taken together.
    pub(crate) fn forward(&self, x: &Tensor, images: usize, trace: &Trace) -> Result<Tensor> {
        let y = self.apply(x, images, false)?;
        trace.put(&self.path, "", &y);
        Ok(y)
    }

    /// The norm followed by `SiLU` in one operation; it is recorded as the part `silu` of the norm.
    pub(crate) fn forward_silu(&self, x: &Tensor, images: usize, trace: &Trace) -> Result<Tensor> {
        let y = self.apply(x, images, true)?;
        trace.put(&self.path, "silu", &y);
        Ok(y)
    }

    fn apply(&self, x: &Tensor, images: usize, silu: bool) -> Result<Tensor> {
        let (total, channels, h, w) = x.dims4()?;
        let op = Op::GroupNorm {
            images: total,
            together: images,
            channels,
            area: h * w,
        };
        before(op, x)?;
        if images == 0 || total % images != 0 || channels % self.groups != 0 {
            bail!(
                "group norm of {total} images by {images}, {channels} channels by {}",
                self.groups
            );
        }
        if on_own_ops(x) {
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
        composed::group_norm(x, spec)
    }
}

struct CpuGroupNorm {
    images: usize,
    groups: usize,
    eps: f64,
    silu: bool,
}

impl CustomOp3 for CpuGroupNorm {
    fn name(&self) -> &'static str {
        "group-norm"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(x, x_layout)?;
        let weight = contiguous(weight, weight_layout)?;
        let bias = contiguous(bias, bias_layout)?;
        let (total, channels, h, w) = x_layout.shape().dims4()?;
        let (area, group_channels) = (h * w, channels / self.groups);

        let sums = |centre: &[f64]| -> Vec<f64> {
            let squared = !centre.is_empty();
            let partial: Vec<f64> = x
                .par_chunks(group_channels * area)
                .enumerate()
                .map(|(index, values)| {
                    if squared {
                        let (image, group) = (index / self.groups, index % self.groups);
                        squared_sum(values, centre[image / self.images * self.groups + group])
                    } else {
                        plain_sum(values)
                    }
                })
                .collect();
            let mut whole = vec![0.0; total / self.images * self.groups];
            for (index, sum) in partial.iter().enumerate() {
                let (image, group) = (index / self.groups, index % self.groups);
                whole[image / self.images * self.groups + group] += sum;
            }
            let count = (self.images * group_channels * area) as f64;
            whole.iter().map(|sum| sum / count).collect()
        };
        let mean = sums(&[]);
        let variance = sums(&mean);

        let mut out = vec![0.0_f32; x.len()];
        out.par_chunks_mut(area)
            .zip(x.par_chunks(area))
            .enumerate()
            .for_each(|(plane, (out, x))| {
                let (image, channel) = (plane / channels, plane % channels);
                let index = image / self.images * self.groups + channel / group_channels;
                let scale = f64::from(weight[channel]) / (variance[index] + self.eps).sqrt();
                let shift = f64::from(bias[channel]) - mean[index] * scale;
                affine(out, x, to_f32(scale), to_f32(shift), self.silu);
            });
        Ok((CpuStorage::F32(out), x_layout.shape().clone()))
    }
}

fn plain_sum(values: &[f32]) -> f64 {
    wide(
        #[inline(always)]
        || lane_sum(values, f64::from),
    )
}

fn squared_sum(values: &[f32], centre: f64) -> f64 {
    wide(
        #[inline(always)]
        || {
            lane_sum(
                values,
                #[inline(always)]
                |value| {
                    let distance = f64::from(value) - centre;
                    distance * distance
                },
            )
        },
    )
}

fn affine(out: &mut [f32], x: &[f32], scale: f32, shift: f32, silu: bool) {
    wide(
        #[inline(always)]
        || {
            if silu {
                for (out, &x) in out.iter_mut().zip(x) {
                    let y = x * scale + shift;
                    *out = y / (1.0 + exp(-y));
                }
            } else {
                for (out, &x) in out.iter_mut().zip(x) {
                    *out = x * scale + shift;
                }
            }
        },
    );
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is meant")]
fn to_f32(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn one_operation_agrees_with_the_composed_norm() {
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
                composed::group_norm(&x, spec).unwrap()
            };
            for (ours, expected) in [
                (norm.forward(&x, images, &Trace::off()).unwrap(), plain(false)),
                (norm.forward_silu(&x, images, &Trace::off()).unwrap(), plain(true)),
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
