//! The arithmetic of the UNet, computed from the walk over its operations, for benchmarks. Every multiply-add
//! in convolutions, linear layers and attention counts as two floating-point operations. Norms, activations
//! and sums are left out, as by PyTorch's own counter.

use super::walk::unet_operations;
use crate::config::UNetConfig;
use crate::hooks::Op;

/// Returns the arithmetic of one pass of the UNet in units of 10^9 floating-point operations. The pass is
/// over `frames` latents of `side` x `side` with `audio_tokens` tokens for each frame.
pub fn unet_gflop(config: &UNetConfig, frames: usize, side: usize, audio_tokens: usize) -> f64 {
    let ops = unet_operations(config, frames, side, audio_tokens);
    ops.into_iter().map(multiplications).sum::<f64>() * 2.0 / 1e9
}

/// Returns the number of multiply-adds of an operation.
fn multiplications(op: Op) -> f64 {
    match op {
        Op::Linear { rows, input, output } => product(&[rows, input, output]),
        Op::Conv2d { sizes, .. } => {
            let kernel = sizes.kernel * sizes.kernel;
            product(&[
                sizes.images,
                sizes.height,
                sizes.width,
                sizes.input,
                sizes.output,
                kernel,
            ])
        }
        // The scores take one product, and their mixture of the values takes another one.
        Op::Attention { sizes, width } => product(&[2, sizes.rows, sizes.queries, sizes.keys, width]),
        Op::GroupNorm { .. } | Op::LayerNorm { .. } | Op::Geglu { .. } | Op::Copy { .. } => 0.0,
    }
}

fn product(factors: &[usize]) -> f64 {
    factors.iter().map(|&factor| factor as f64).product()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PYTORCH_GFLOP: f64 = 4_050.481_971_2;

    /// PyTorch's counter gives the expected number for the same pass.
    #[test]
    fn published_model_has_the_arithmetic_that_pytorch_counts() {
        let config = UNetConfig::from_json(UNetConfig::PUBLISHED).unwrap();
        let gflop = unet_gflop(&config, 16, 32, 50);
        assert!((gflop - PYTORCH_GFLOP).abs() < 1e-6 * PYTORCH_GFLOP, "{gflop}");
    }
}
