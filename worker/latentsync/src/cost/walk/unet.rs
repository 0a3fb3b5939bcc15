//! The UNet's forward pass, as `latentsync::unet` does it.

use super::tape::{Ghost, Tape};
use crate::config::UNetConfig;

/// Groups of the norms in motion modules.
const MOTION_GROUPS: usize = 32;

/// What every module of a pass needs to know.
struct Context<'a> {
    config: &'a UNetConfig,
    frames: usize,
    time: Ghost,
    /// `(batch x frames, tokens, width)`.
    audio: Ghost,
}

/// What a layer is made of besides its `ResNet` block.
#[derive(Clone, Copy)]
struct Parts {
    attention: bool,
    motion: bool,
}

/// One pass over `latents`, `(batch, channels, frames, h, w)`; `audio` is `(batch, frames, tokens, width)`.
pub(super) fn forward(tape: &Tape, config: &UNetConfig, latents: &Ghost, audio: &Ghost) -> Ghost {
    let &[batch, input, frames, height, width] = latents.shape.as_slice() else {
        return latents.clone();
    };
    let &[_, _, tokens, audio_width] = audio.shape.as_slice() else {
        return latents.clone();
    };
    let channels = &config.block_out_channels;
    let context = Context {
        config,
        frames,
        time: time_embedding(tape, channels[0], batch),
        audio: audio.viewed(&[batch * frames, tokens, audio_width]),
    };
    let pictures = tape.copy(&[batch * frames, input, height, width]);
    let mut x = tape.conv2d(&pictures, channels[0], 3, 1);
    drop(pictures);
    let mut skips = vec![x.clone()];
    for index in 0..channels.len() {
        x = down_block(tape, &context, index, x, &mut skips);
    }
    x = mid_block(tape, &context, x);
    for index in 0..channels.len() {
        x = up_block(tape, &context, index, x, &mut skips);
    }
    x = tape.group_norm(&x, config.norm_num_groups, frames);
    let noise = tape.conv2d(&x, config.out_channels, 3, 1);
    drop(x);
    tape.copy(&[batch, config.out_channels, frames, height, width])
        .viewed(&[batch, noise.shape[1], frames, height, width])
}

fn time_embedding(tape: &Tape, width: usize, batch: usize) -> Ghost {
    let sinusoid = tape.tensor(tape.account.bytes_per_value, &[1, width]);
    let hidden = tape.linear(&sinusoid, 4 * width);
    tape.linear(&hidden, 4 * width)
        .viewed(&[1, 4 * width])
        .repeated(tape, batch)
}

impl Ghost {
    fn repeated(self, tape: &Tape, batch: usize) -> Self {
        tape.tensor(tape.account.bytes_per_value, &[batch, self.shape[1]])
    }
}

fn down_block(tape: &Tape, context: &Context, index: usize, x: Ghost, skips: &mut Vec<Ghost>) -> Ghost {
    let config = context.config;
    let channels = &config.block_out_channels;
    let parts = Parts {
        attention: config.down_block_types[index] == "CrossAttnDownBlock3D",
        motion: config.has_motion(1 << index, false),
    };
    let mut x = x;
    for _ in 0..config.layers_per_block {
        x = layer(tape, context, x, channels[index], parts);
        skips.push(x.clone());
    }
    if index + 1 < channels.len() {
        x = tape.conv2d(&x, channels[index], 3, 2);
        skips.push(x.clone());
    }
    x
}

fn mid_block(tape: &Tape, context: &Context, x: Ghost) -> Ghost {
    let channels = x.shape[1];
    let mut x = resnet(tape, context, x, channels);
    x = spatial_transformer(tape, context, &x);
    if context.config.use_motion_module && context.config.motion_module_mid_block {
        x = motion_module(tape, context, &x);
    }
    resnet(tape, context, x, channels)
}

fn up_block(tape: &Tape, context: &Context, index: usize, x: Ghost, skips: &mut Vec<Ghost>) -> Ghost {
    let config = context.config;
    let channels = &config.block_out_channels;
    let level = channels.len() - 1 - index;
    let parts = Parts {
        attention: config.up_block_types[index] == "CrossAttnUpBlock3D",
        motion: config.has_motion(1 << level, true),
    };
    let mut x = x;
    for _ in 0..=config.layers_per_block {
        let Some(skip) = skips.pop() else {
            return x;
        };
        let (images, hidden, height, width) = x.picture();
        x = tape.copy(&[images, hidden + skip.shape[1], height, width]);
        drop(skip);
        x = layer(tape, context, x, channels[level], parts);
    }
    if let (true, Some(next)) = (index + 1 < channels.len(), skips.last()) {
        let (images, output, _, _) = x.picture();
        let upsampled = tape.copy(&[images, output, next.shape[2], next.shape[3]]);
        drop(x);
        x = tape.conv2d(&upsampled, output, 3, 1);
    }
    x
}

fn layer(tape: &Tape, context: &Context, x: Ghost, output: usize, parts: Parts) -> Ghost {
    let mut x = resnet(tape, context, x, output);
    if parts.attention {
        x = spatial_transformer(tape, context, &x);
    }
    if parts.motion {
        x = motion_module(tape, context, &x);
    }
    x
}

fn resnet(tape: &Tape, context: &Context, x: Ghost, output: usize) -> Ghost {
    let (groups, input) = (context.config.norm_num_groups, x.shape[1]);
    let _time = tape.linear(&context.time, output);
    let mut hidden = tape.group_norm(&x, groups, context.frames);
    let _residual = if input == output {
        x
    } else {
        let shortcut = tape.conv2d(&x, output, 1, 1);
        drop(x);
        shortcut
    };
    hidden = tape.conv2d(&hidden, output, 3, 1);
    hidden = tape.group_norm(&hidden, groups, context.frames);
    tape.conv2d(&hidden, output, 3, 1)
}

fn spatial_transformer(tape: &Tape, context: &Context, x: &Ghost) -> Ghost {
    let (images, channels, height, width) = x.picture();
    let area = height * width;
    let normed = tape.group_norm(x, context.config.norm_num_groups, 1);
    let mut tokens = tape.to_tokens(&normed);
    drop(normed);
    tokens = tape.linear(&tokens, channels);

    let heads = context.config.attention_heads;
    let normed = tape.layer_norm(&tokens);
    let (q, k, v) = project(tape, &normed, &normed);
    drop(normed);
    let mixed = tape.attend((&q, &k), heads, (images, area, area), false);
    drop((q, k, v));
    tokens = tape.linear_with(&mixed, channels, 2);
    drop(mixed);

    let normed = tape.layer_norm(&tokens);
    let (q, k, v) = project(tape, &normed, &context.audio);
    drop(normed);
    let mixed = tape.attend((&q, &k), heads, (images, area, context.audio.shape[1]), false);
    drop((q, k, v));
    tokens = tape.linear_with(&mixed, channels, 2);
    drop(mixed);

    let normed = tape.layer_norm(&tokens);
    tokens = tape.feed_forward(&normed);
    drop(normed);
    let _tokens = tape.linear(&tokens, channels);
    drop(tokens);
    tape.to_picture(x)
}

/// Queries of `x`, keys and values of `of`; none has a bias.
fn project(tape: &Tape, x: &Ghost, of: &Ghost) -> (Ghost, Ghost, Ghost) {
    let width = x.shape.last().copied().unwrap_or(1);
    (
        tape.linear_with(x, width, 0),
        tape.linear_with(of, width, 0),
        tape.linear_with(of, width, 0),
    )
}

fn motion_module(tape: &Tape, context: &Context, x: &Ghost) -> Ghost {
    let motion = &context.config.motion_module_kwargs;
    let (images, channels, height, width) = x.picture();
    let (area, frames) = (height * width, context.frames);
    let normed = tape.group_norm(x, MOTION_GROUPS, 1);
    let mut tokens = tape.to_tokens(&normed);
    drop(normed);
    tokens = tape.linear(&tokens, channels);
    for _ in 0..motion.num_transformer_block {
        for _ in &motion.attention_block_types {
            let mut normed = tape.layer_norm(&tokens);
            if motion.temporal_position_encoding {
                normed = tape.copy(&normed.shape);
            }
            let (q, k, v) = project(tape, &normed, &normed);
            drop(normed);
            let sizes = (images / frames * area, frames, frames);
            let mut mixed = tape.attend((&q, &k), motion.num_attention_heads, sizes, true);
            drop((q, k, v));
            mixed = tape.copy(&mixed.shape);
            tokens = tape.linear_with(&mixed, channels, 2);
        }
        let normed = tape.layer_norm(&tokens);
        tokens = tape.feed_forward(&normed);
    }
    tokens = tape.linear(&tokens, channels);
    let picture = tape.to_picture(x);
    drop(tokens);
    picture
}
