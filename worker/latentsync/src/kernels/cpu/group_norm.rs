//! Group norm on the CPU in one operation, without a copy of the input. The sums are `f64` over a fixed
//! partition: there is one for each image and group, and they are added in order, so that the bits do not
//! depend on the number of threads.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape};
use rayon::prelude::*;

use super::matrix::contiguous;
use super::simd::{dispatch_simd, exp, lane_sum};

/// Group norm of `(images, channels, h, w)`, with weight and bias `(channels)`.
pub(crate) struct CpuGroupNorm {
    /// Number of consecutive images whose statistics are taken together.
    pub(crate) images: usize,
    /// Number of groups that the channels are divided into.
    pub(crate) groups: usize,
    /// Term that is added to the variance.
    pub(crate) eps: f64,
    /// Whether `SiLU` is applied to the result.
    pub(crate) silu: bool,
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
    dispatch_simd(
        #[inline(always)]
        || lane_sum(values, f64::from),
    )
}

fn squared_sum(values: &[f32], centre: f64) -> f64 {
    dispatch_simd(
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
    dispatch_simd(
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
