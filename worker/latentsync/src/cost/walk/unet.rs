//! The operations of a forward pass of the UNet, in the order in which [`unet`](crate::unet) runs them.

use super::tensor::MetaTensor;
use super::tracker::MemoryTracker;
use crate::config::{LayerModules, UNetConfig};

/// The groups of the group norms in motion modules.
const MOTION_GROUPS: usize = 32;

/// The inputs that all modules of a pass share.
struct WalkContext<'a> {
    config: &'a UNetConfig,
    frames: usize,
    temb: MetaTensor,
    /// The audio features, `(batch x frames, tokens, width)`.
    encoder_hidden_states: MetaTensor,
}

/// Runs one pass over `latents`, `(batch, channels, frames, h, w)`; `encoder_hidden_states` is `(batch,
/// frames, tokens, width)`.
pub(super) fn forward(
    tracker: &MemoryTracker,
    config: &UNetConfig,
    latents: &MetaTensor,
    encoder_hidden_states: &MetaTensor,
) -> MetaTensor {
    let &[batch, input, frames, height, width] = latents.shape.as_slice() else {
        return latents.clone();
    };
    let &[_, _, tokens, audio_width] = encoder_hidden_states.shape.as_slice() else {
        return latents.clone();
    };
    let channels = &config.block_out_channels;
    let context = WalkContext {
        config,
        frames,
        temb: time_embedding(tracker, channels[0], batch),
        encoder_hidden_states: encoder_hidden_states.viewed(&[batch * frames, tokens, audio_width]),
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

/// Returns the embedding of the timestep, repeated for every sample of the batch.
fn time_embedding(tracker: &MemoryTracker, width: usize, batch: usize) -> MetaTensor {
    let each = tracker.spec.bytes_per_value;
    let sinusoid = tracker.tensor(each, &[1, width]);
    let hidden = tracker.linear(&sinusoid, 4 * width);
    let _embedding = tracker.linear(&hidden, 4 * width);
    tracker.tensor(each, &[batch, 4 * width])
}

fn down_block(
    tracker: &MemoryTracker,
    context: &WalkContext,
    index: usize,
    x: MetaTensor,
    skips: &mut Vec<MetaTensor>,
) -> MetaTensor {
    let config = context.config;
    let channels = &config.block_out_channels;
    let modules = config.down_modules(index);
    let mut x = x;
    for _ in 0..config.layers_per_block {
        x = layer(tracker, context, x, channels[index], modules);
        skips.push(x.clone());
    }
    if index + 1 < channels.len() {
        x = tracker.conv2d(&x, channels[index], 3, 2);
        skips.push(x.clone());
    }
    x
}

fn mid_block(tracker: &MemoryTracker, context: &WalkContext, x: MetaTensor) -> MetaTensor {
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
    context: &WalkContext,
    index: usize,
    x: MetaTensor,
    skips: &mut Vec<MetaTensor>,
) -> MetaTensor {
    let config = context.config;
    let channels = &config.block_out_channels;
    let level = channels.len() - 1 - index;
    let modules = config.up_modules(index);
    let mut x = x;
    for _ in 0..=config.layers_per_block {
        let Some(skip) = skips.pop() else {
            return x;
        };
        let (images, hidden, height, width) = x.picture();
        x = tracker.copy(&[images, hidden + skip.shape[1], height, width]);
        drop(skip);
        x = layer(tracker, context, x, channels[level], modules);
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
    context: &WalkContext,
    x: MetaTensor,
    output: usize,
    modules: LayerModules,
) -> MetaTensor {
    let mut x = resnet(tracker, context, x, output);
    if modules.attention {
        x = spatial_transformer(tracker, context, &x);
    }
    if modules.motion {
        x = motion_module(tracker, context, &x);
    }
    x
}

fn resnet(tracker: &MemoryTracker, context: &WalkContext, x: MetaTensor, output: usize) -> MetaTensor {
    let (groups, input) = (context.config.norm_num_groups, x.shape[1]);
    let _time = tracker.linear(&context.temb, output);
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

fn spatial_transformer(tracker: &MemoryTracker, context: &WalkContext, x: &MetaTensor) -> MetaTensor {
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
    let (q, k, v) = project(tracker, &normed, &context.encoder_hidden_states);
    drop(normed);
    let mixed = tracker.attend(
        (&q, &k),
        heads,
        (images, area, context.encoder_hidden_states.shape[1]),
        false,
    );
    drop((q, k, v));
    tokens = tracker.linear_with(&mixed, channels, 2);
    drop(mixed);

    let normed = tracker.layer_norm(&tokens);
    tokens = tracker.feed_forward(&normed);
    drop(normed);
    let _tokens = tracker.linear(&tokens, channels);
    drop(tokens);
    tracker.to_image(x)
}

/// Returns the queries of `x` and the keys and values of `of`; none of them has a bias.
fn project(tracker: &MemoryTracker, x: &MetaTensor, of: &MetaTensor) -> (MetaTensor, MetaTensor, MetaTensor) {
    let width = x.width();
    (
        tracker.linear_with(x, width, 0),
        tracker.linear_with(of, width, 0),
        tracker.linear_with(of, width, 0),
    )
}

fn motion_module(tracker: &MemoryTracker, context: &WalkContext, x: &MetaTensor) -> MetaTensor {
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
    let picture = tracker.to_image(x);
    drop(tokens);
    picture
}
