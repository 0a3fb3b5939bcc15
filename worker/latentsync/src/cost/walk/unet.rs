//! The UNet's forward pass, as `latentsync::unet` does it.

use super::tensor::WalkedTensor;
use super::tracker::MemoryTracker;
use crate::config::UNetConfig;

/// Groups of the norms in motion modules.
const MOTION_GROUPS: usize = 32;

/// What every module of a pass reads.
struct Context<'a> {
    config: &'a UNetConfig,
    frames: usize,
    time: WalkedTensor,
    /// `(batch x frames, tokens, width)`.
    audio: WalkedTensor,
}

/// What a layer is made of besides its `ResNet` block.
#[derive(Clone, Copy)]
struct Parts {
    attention: bool,
    motion: bool,
}

/// One pass over `latents`, `(batch, channels, frames, h, w)`; `audio` is `(batch, frames, tokens, width)`.
pub(super) fn forward(
    tracker: &MemoryTracker,
    config: &UNetConfig,
    latents: &WalkedTensor,
    audio: &WalkedTensor,
) -> WalkedTensor {
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
        time: time_embedding(tracker, channels[0], batch),
        audio: audio.viewed(&[batch * frames, tokens, audio_width]),
    };
    let pictures = tracker.copy(&[batch * frames, input, height, width]);
    let mut x = tracker.conv2d(&pictures, channels[0], 3, 1);
    drop(pictures);
    let mut skips = vec![x.clone()];
    for index in 0..channels.len() {
        x = down_block(tracker, &context, index, x, &mut skips);
    }
    x = mid_block(tracker, &context, x);
    for index in 0..channels.len() {
        x = up_block(tracker, &context, index, x, &mut skips);
    }
    x = tracker.group_norm(&x, config.norm_num_groups, frames);
    let noise = tracker.conv2d(&x, config.out_channels, 3, 1);
    drop(x);
    tracker
        .copy(&[batch, config.out_channels, frames, height, width])
        .viewed(&[batch, noise.shape[1], frames, height, width])
}

/// The embedding of the time step, repeated for every sample of the batch.
fn time_embedding(tracker: &MemoryTracker, width: usize, batch: usize) -> WalkedTensor {
    let each = tracker.spec.bytes_per_value;
    let sinusoid = tracker.tensor(each, &[1, width]);
    let hidden = tracker.linear(&sinusoid, 4 * width);
    let _embedding = tracker.linear(&hidden, 4 * width);
    tracker.tensor(each, &[batch, 4 * width])
}

fn down_block(
    tracker: &MemoryTracker,
    context: &Context,
    index: usize,
    x: WalkedTensor,
    skips: &mut Vec<WalkedTensor>,
) -> WalkedTensor {
    let config = context.config;
    let channels = &config.block_out_channels;
    let parts = Parts {
        attention: config.down_block_types[index] == "CrossAttnDownBlock3D",
        motion: config.has_motion(1 << index, false),
    };
    let mut x = x;
    for _ in 0..config.layers_per_block {
        x = layer(tracker, context, x, channels[index], parts);
        skips.push(x.clone());
    }
    if index + 1 < channels.len() {
        x = tracker.conv2d(&x, channels[index], 3, 2);
        skips.push(x.clone());
    }
    x
}

fn mid_block(tracker: &MemoryTracker, context: &Context, x: WalkedTensor) -> WalkedTensor {
    let channels = x.shape[1];
    let mut x = resnet(tracker, context, x, channels);
    x = spatial_transformer(tracker, context, &x);
    if context.config.use_motion_module && context.config.motion_module_mid_block {
        x = motion_module(tracker, context, &x);
    }
    resnet(tracker, context, x, channels)
}

fn up_block(
    tracker: &MemoryTracker,
    context: &Context,
    index: usize,
    x: WalkedTensor,
    skips: &mut Vec<WalkedTensor>,
) -> WalkedTensor {
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
        x = tracker.copy(&[images, hidden + skip.shape[1], height, width]);
        drop(skip);
        x = layer(tracker, context, x, channels[level], parts);
    }
    if let (true, Some(next)) = (index + 1 < channels.len(), skips.last()) {
        let (images, output, _, _) = x.picture();
        let upsampled = tracker.copy(&[images, output, next.shape[2], next.shape[3]]);
        drop(x);
        x = tracker.conv2d(&upsampled, output, 3, 1);
    }
    x
}

fn layer(
    tracker: &MemoryTracker,
    context: &Context,
    x: WalkedTensor,
    output: usize,
    parts: Parts,
) -> WalkedTensor {
    let mut x = resnet(tracker, context, x, output);
    if parts.attention {
        x = spatial_transformer(tracker, context, &x);
    }
    if parts.motion {
        x = motion_module(tracker, context, &x);
    }
    x
}

fn resnet(tracker: &MemoryTracker, context: &Context, x: WalkedTensor, output: usize) -> WalkedTensor {
    let (groups, input) = (context.config.norm_num_groups, x.shape[1]);
    let _time = tracker.linear(&context.time, output);
    let mut hidden = tracker.group_norm(&x, groups, context.frames);
    let _residual = if input == output {
        x
    } else {
        let shortcut = tracker.conv2d(&x, output, 1, 1);
        drop(x);
        shortcut
    };
    hidden = tracker.conv2d(&hidden, output, 3, 1);
    hidden = tracker.group_norm(&hidden, groups, context.frames);
    tracker.conv2d(&hidden, output, 3, 1)
}

fn spatial_transformer(tracker: &MemoryTracker, context: &Context, x: &WalkedTensor) -> WalkedTensor {
    let (images, channels, height, width) = x.picture();
    let area = height * width;
    let normed = tracker.group_norm(x, context.config.norm_num_groups, 1);
    let mut tokens = tracker.to_tokens(&normed);
    drop(normed);
    tokens = tracker.linear(&tokens, channels);

    let heads = context.config.attention_heads;
    let normed = tracker.layer_norm(&tokens);
    let (q, k, v) = project(tracker, &normed, &normed);
    drop(normed);
    let mixed = tracker.attend((&q, &k), heads, (images, area, area), false);
    drop((q, k, v));
    tokens = tracker.linear_with(&mixed, channels, 2);
    drop(mixed);

    let normed = tracker.layer_norm(&tokens);
    let (q, k, v) = project(tracker, &normed, &context.audio);
    drop(normed);
    let mixed = tracker.attend((&q, &k), heads, (images, area, context.audio.shape[1]), false);
    drop((q, k, v));
    tokens = tracker.linear_with(&mixed, channels, 2);
    drop(mixed);

    let normed = tracker.layer_norm(&tokens);
    tokens = tracker.feed_forward(&normed);
    drop(normed);
    let _tokens = tracker.linear(&tokens, channels);
    drop(tokens);
    tracker.to_picture(x)
}

/// Queries of `x`, keys and values of `of`; none has a bias.
fn project(
    tracker: &MemoryTracker,
    x: &WalkedTensor,
    of: &WalkedTensor,
) -> (WalkedTensor, WalkedTensor, WalkedTensor) {
    let width = x.width();
    (
        tracker.linear_with(x, width, 0),
        tracker.linear_with(of, width, 0),
        tracker.linear_with(of, width, 0),
    )
}

fn motion_module(tracker: &MemoryTracker, context: &Context, x: &WalkedTensor) -> WalkedTensor {
    let motion = &context.config.motion_module_kwargs;
    let (images, channels, height, width) = x.picture();
    let (area, frames) = (height * width, context.frames);
    let normed = tracker.group_norm(x, MOTION_GROUPS, 1);
    let mut tokens = tracker.to_tokens(&normed);
    drop(normed);
    tokens = tracker.linear(&tokens, channels);
    for _ in 0..motion.num_transformer_block {
        for _ in &motion.attention_block_types {
            let mut normed = tracker.layer_norm(&tokens);
            if motion.temporal_position_encoding {
                normed = tracker.copy(&normed.shape);
            }
            let (q, k, v) = project(tracker, &normed, &normed);
            drop(normed);
            let sizes = (images / frames * area, frames, frames);
            let mut mixed = tracker.attend((&q, &k), motion.num_attention_heads, sizes, true);
            drop((q, k, v));
            mixed = tracker.copy(&mixed.shape);
            tokens = tracker.linear_with(&mixed, channels, 2);
        }
        let normed = tracker.layer_norm(&tokens);
        tokens = tracker.feed_forward(&normed);
    }
    tokens = tracker.linear(&tokens, channels);
    let picture = tracker.to_picture(x);
    drop(tokens);
    picture
}
