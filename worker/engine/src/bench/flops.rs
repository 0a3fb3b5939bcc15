//! Arithmetic of one UNet pass, counted from its configuration: two operations for every multiplication that is
//! added to a sum, in convolutions, linear layers and attention. Norms, activations and sums are left out.

use latentsync::config::UNetConfig;

/// The sizes of one pass.
#[derive(Clone, Copy)]
pub(super) struct Pass {
    pub(super) frames: usize,
    /// Side of the latents.
    pub(super) side: usize,
    /// Audio tokens of a frame.
    pub(super) tokens: usize,
}

/// Units of 10^9 operations; the result's height is the width, and sizes halve exactly.
pub(super) fn unet_gflop(config: &UNetConfig, pass: Pass) -> f64 {
    let counter = Counter { config, pass };
    counter.total() * 2.0 / 1e9
}

/// Counts multiplications.
struct Counter<'a> {
    config: &'a UNetConfig,
    pass: Pass,
}

impl Counter<'_> {
    fn total(&self) -> f64 {
        let channels = &self.config.block_out_channels;
        let blocks = channels.len();
        let (first, last) = (channels[0], channels[blocks - 1]);
        let mut sum = self.conv(self.config.in_channels, first, 3, 0)
            + self.conv(first, self.config.out_channels, 3, 0)
            + product(&[first, 4 * first])
            + product(&[4 * first, 4 * first]);

        let mut skips = vec![first];
        let mut input = first;
        for (level, &output) in channels.iter().enumerate() {
            let attention = self.config.down_block_types[level] == "CrossAttnDownBlock3D";
            let motion = self.config.has_motion(1 << level, false);
            for _ in 0..self.config.layers_per_block {
                sum += self.layer(input, output, level, attention, motion);
                skips.push(output);
                input = output;
            }
            if level + 1 < blocks {
                sum += self.conv(output, output, 3, level + 1);
                skips.push(output);
            }
        }

        let bottom = blocks - 1;
        let motion = self.config.use_motion_module && self.config.motion_module_mid_block;
        sum += self.layer(last, last, bottom, true, motion) + self.layer(last, last, bottom, false, false);

        for (index, &output) in channels.iter().rev().enumerate() {
            let level = bottom - index;
            let attention = self.config.up_block_types[index] == "CrossAttnUpBlock3D";
            let motion = self.config.has_motion(1 << level, true);
            for _ in 0..=self.config.layers_per_block {
                let skip = skips.pop().unwrap_or_default();
                sum += self.layer(input + skip, output, level, attention, motion);
                input = output;
            }
            if level > 0 {
                sum += self.conv(output, output, 3, level - 1);
            }
        }
        sum
    }

    fn layer(&self, input: usize, output: usize, level: usize, attention: bool, motion: bool) -> f64 {
        let mut sum = self.conv(input, output, 3, level)
            + self.conv(output, output, 3, level)
            + product(&[4 * self.config.block_out_channels[0], output]);
        if input != output {
            sum += self.conv(input, output, 1, level);
        }
        if attention {
            sum += self.spatial(output, level);
        }
        if motion {
            sum += self.motion(output, level);
        }
        sum
    }

    fn spatial(&self, width: usize, level: usize) -> f64 {
        let area = self.area(level);
        let Pass { frames, tokens, .. } = self.pass;
        let context = self.config.cross_attention_dim;
        // In and out; q, k, v, out of self-attention; q, out of audio attention; feed-forward (8 and 4).
        product(&[frames, area, width, width]) * (2.0 + 4.0 + 2.0 + 12.0)
            + product(&[2, frames, tokens, context, width])
            + product(&[2, frames, area, area + tokens, width])
    }

    fn motion(&self, width: usize, level: usize) -> f64 {
        let area = self.area(level);
        let frames = self.pass.frames;
        let motion = &self.config.motion_module_kwargs;
        let attentions = motion.attention_block_types.len();
        let block = product(&[frames, area, width, width]) * (4.0 * attentions as f64 + 12.0)
            + product(&[2 * attentions, area, frames, frames, width]);
        product(&[2, frames, area, width, width]) + block * motion.num_transformer_block as f64
    }

    /// A convolution whose result has the size of `level`.
    fn conv(&self, input: usize, output: usize, kernel: usize, level: usize) -> f64 {
        product(&[self.pass.frames, self.area(level), input, output, kernel, kernel])
    }

    fn area(&self, level: usize) -> usize {
        let side = self.pass.side >> level;
        side * side
    }
}

fn product(factors: &[usize]) -> f64 {
    factors.iter().map(|&factor| factor as f64).product()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PYTORCH_GFLOP: f64 = 4_050.481_971_2;

    /// PyTorch's own counter gives this number for the same pass.
    #[test]
    fn published_model_has_the_arithmetic_that_pytorch_counts() {
        let config = UNetConfig::from_json(UNetConfig::PUBLISHED).unwrap();
        let pass = Pass {
            frames: 16,
            side: 32,
            tokens: 50,
        };
        let gflop = unet_gflop(&config, pass);
        assert!((gflop - PYTORCH_GFLOP).abs() < 1e-6 * PYTORCH_GFLOP, "{gflop}");
    }
}
