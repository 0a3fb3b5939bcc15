//! A group norm in `f64`, written as its formula.

use candle_core::Tensor;

use crate::support;

/// Computes `(x - mean) / sqrt(variance + eps) x weight + bias`. The statistics are those of a group of
/// channels over `together` consecutive images.
pub(crate) fn normed(
    x: &Tensor,
    together: usize,
    groups: usize,
    eps: f64,
    affine: &(Vec<f32>, Vec<f32>),
) -> Vec<f64> {
    let (images, channels, h, w) = x.dims4().unwrap();
    let (area, values) = (h * w, support::values(x));
    let mut out = vec![0.0; values.len()];
    for sample in 0..images / together {
        for group in 0..groups {
            let members: Vec<usize> = (0..values.len())
                .filter(|i| i / area / channels / together == sample)
                .filter(|i| i / area % channels / (channels / groups) == group)
                .collect();
            let count = members.len() as f64;
            let mean = members.iter().map(|i| f64::from(values[*i])).sum::<f64>() / count;
            let squares = members.iter().map(|i| (f64::from(values[*i]) - mean).powi(2));
            let scale = 1.0 / (squares.sum::<f64>() / count + eps).sqrt();
            for i in members {
                let channel = i / area % channels;
                let (weight, bias) = (f64::from(affine.0[channel]), f64::from(affine.1[channel]));
                out[i] = (f64::from(values[i]) - mean) * scale * weight + bias;
            }
        }
    }
    out
}
