//! The blocks that the encoder and the decoder of the image autoencoder share.

use candle_core::{Result, Tensor};

use crate::config::VaeConfig;
use crate::layers::{Conv2d, GroupNorm, Linear, attend, to_image, to_tokens};
use crate::run::Run;
use crate::tensors::VarBuilder;

/// The epsilon of all group norms of the autoencoder.
pub(super) const NORM_EPS: f64 = 1e-6;

/// Two convolutions with norms, and a residual.
pub(super) struct ResnetBlock2D {
    path: String,
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl ResnetBlock2D {
    pub(super) fn load(vb: &VarBuilder, config: &VaeConfig, input: usize, output: usize) -> Result<Self> {
        let norm =
            |name: &str, channels| GroupNorm::load(&vb.pp(name), config.norm_num_groups, channels, NORM_EPS);
        let shortcut = (input != output)
            .then(|| Conv2d::load(&vb.pp("conv_shortcut"), input, output, 1, 1, 0))
            .transpose()?;
        Ok(Self {
            path: vb.path().to_owned(),
            norm1: norm("norm1", input)?,
            conv1: Conv2d::load_3x3(&vb.pp("conv1"), input, output)?,
            norm2: norm("norm2", output)?,
            conv2: Conv2d::load_3x3(&vb.pp("conv2"), output, output)?,
            shortcut,
        })
    }

    /// Runs the block on `x`, `(images, channels, h, w)`.
    pub(super) fn forward(&self, run: &Run, x: Tensor) -> Result<Tensor> {
        let mut hidden = self.norm1.forward_silu(run, &x, 1)?;
        // The shortcut runs before the convolutions, so that the input can be dropped.
        let residual = match &self.shortcut {
            Some(shortcut) => {
                let residual = shortcut.forward(run, &x)?;
                run.put(&self.path, "conv_shortcut", &residual);
                drop(x);
                residual
            }
            None => x,
        };
        hidden = self.conv1.forward(run, &hidden)?;
        run.put(&self.path, "conv1", &hidden);
        hidden = self.norm2.forward_silu(run, &hidden, 1)?;
        let y = self.conv2.forward_add(run, &hidden, &residual)?;
        run.put_derived(&self.path, "conv2", || &y - &residual)?;
        run.put(&self.path, "", &y);
        Ok(y)
    }
}

/// Self-attention over all positions of a picture, with one head.
struct SelfAttention {
    path: String,
    norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl SelfAttention {
    fn load(vb: &VarBuilder, config: &VaeConfig, channels: usize) -> Result<Self> {
        // Published files have the names of older diffusers.
        let legacy = vb.contains("query.weight");
        let linear =
            |old: &str, new: &str| Linear::load(&vb.pp(if legacy { old } else { new }), channels, channels);
        Ok(Self {
            path: vb.path().to_owned(),
            norm: GroupNorm::load(&vb.pp("group_norm"), config.norm_num_groups, channels, NORM_EPS)?,
            to_q: linear("query", "to_q")?,
            to_k: linear("key", "to_k")?,
            to_v: linear("value", "to_v")?,
            to_out: linear("proj_attn", "to_out.0")?,
        })
    }

    fn forward(&self, run: &Run, x: &Tensor) -> Result<Tensor> {
        let tokens = to_tokens(run, &self.norm.forward(run, x, 1)?)?;
        let (q, k, v) = (
            self.to_q.forward(run, &tokens)?,
            self.to_k.forward(run, &tokens)?,
            self.to_v.forward(run, &tokens)?,
        );
        drop(tokens);
        let mut mixed = attend(run, &q.unsqueeze(0)?, &k.unsqueeze(0)?, &v.unsqueeze(0)?, 1)?.squeeze(0)?;
        drop((q, k, v));
        mixed = self.to_out.forward(run, &mixed)?;
        let y = to_image(run, &mixed, x)?;
        run.put(&self.path, "", &y);
        Ok(y)
    }
}

/// The block at the lowest resolution: attention between two `ResNet` blocks.
pub(super) struct UNetMidBlock2D {
    path: String,
    first: ResnetBlock2D,
    attention: SelfAttention,
    second: ResnetBlock2D,
}

impl UNetMidBlock2D {
    pub(super) fn load(vb: &VarBuilder, config: &VaeConfig, channels: usize) -> Result<Self> {
        let resnets = vb.pp("resnets");
        Ok(Self {
            path: vb.path().to_owned(),
            first: ResnetBlock2D::load(&resnets.pp(0), config, channels, channels)?,
            attention: SelfAttention::load(&vb.pp("attentions").pp(0), config, channels)?,
            second: ResnetBlock2D::load(&resnets.pp(1), config, channels, channels)?,
        })
    }

    /// Runs the block on `x`, `(images, channels, h, w)`.
    pub(super) fn forward(&self, run: &Run, x: Tensor) -> Result<Tensor> {
        let mut x = self.first.forward(run, x)?;
        x = self.attention.forward(run, &x)?;
        x = self.second.forward(run, x)?;
        run.put(&self.path, "", &x);
        Ok(x)
    }
}
