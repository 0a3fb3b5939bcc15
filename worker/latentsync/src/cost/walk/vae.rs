//! The operations of the image autoencoder, in the order in which [`vae`](crate::vae) runs them.

use super::tensor::MetaTensor;
use super::tracker::MemoryTracker;
use crate::config::VaeConfig;

/// Encodes `pixels`, `(images, 3, R, R)` in `f32`, to moments, `(images, 8, R/8, R/8)`.
pub(super) fn encode(tracker: &MemoryTracker, config: &VaeConfig, pixels: &MetaTensor) -> MetaTensor {
    let channels = &config.block_out_channels;
    let pixels = converted(tracker, pixels);
    let mut x = tracker.conv2d(&pixels, channels[0], 3, 1);
    for (index, &output) in channels.iter().enumerate() {
        for _ in 0..config.layers_per_block {
            x = resnet(tracker, config, x, output);
        }
        if index + 1 < channels.len() {
            let (images, _, height, width) = x.picture();
            x = tracker.copy_twice(&[images, output, height + 1, width + 1]);
            x = tracker.conv2d(&x, output, 3, 2);
        }
    }
    x = mid_block(tracker, config, x);
    x = tracker.group_norm(&x, config.norm_num_groups, 1);
    x = tracker.conv2d(&x, 2 * config.latent_channels, 3, 1);
    drop(pixels);
    tracker.conv2d(&x, 2 * config.latent_channels, 1, 1)
}

/// Decodes `latents`, `(images, 4, h, w)` in `f32`, to pixels, `(images, 3, 8h, 8w)`.
pub(super) fn decode(tracker: &MemoryTracker, config: &VaeConfig, latents: &MetaTensor) -> MetaTensor {
    let channels = &config.block_out_channels;
    let last = channels[channels.len() - 1];
    let hidden = tracker.conv2d(&converted(tracker, latents), config.latent_channels, 1, 1);
    let mut x = tracker.conv2d(&hidden, last, 3, 1);
    x = mid_block(tracker, config, x);
    for (index, &output) in channels.iter().rev().enumerate() {
        for _ in 0..=config.layers_per_block {
            x = resnet(tracker, config, x, output);
        }
        if index + 1 < channels.len() {
            let (images, _, height, width) = x.picture();
            x = tracker.copy(&[images, output, 2 * height, 2 * width]);
            x = tracker.conv2d(&x, output, 3, 1);
        }
    }
    x = tracker.group_norm(&x, config.norm_num_groups, 1);
    let pixels = tracker.conv2d(&x, config.out_channels, 3, 1);
    drop(hidden);
    pixels
}

/// Converts a tensor to the networks' type; it returns the same tensor if that is `f32`.
fn converted(tracker: &MemoryTracker, x: &MetaTensor) -> MetaTensor {
    match tracker.spec.bytes_per_value {
        4 => x.clone(),
        each => tracker.tensor(each, &x.shape),
    }
}

fn mid_block(tracker: &MemoryTracker, config: &VaeConfig, x: MetaTensor) -> MetaTensor {
    let channels = x.shape[1];
    let mut x = resnet(tracker, config, x, channels);
    x = self_attention(tracker, config, &x);
    resnet(tracker, config, x, channels)
}

fn resnet(tracker: &MemoryTracker, config: &VaeConfig, x: MetaTensor, output: usize) -> MetaTensor {
    let mut hidden = tracker.group_norm(&x, config.norm_num_groups, 1);
    let _residual = if x.shape[1] == output {
        x
    } else {
        let shortcut = tracker.conv2d(&x, output, 1, 1);
        drop(x);
        shortcut
    };
    hidden = tracker.conv2d(&hidden, output, 3, 1);
    hidden = tracker.group_norm(&hidden, config.norm_num_groups, 1);
    tracker.conv2d(&hidden, output, 3, 1)
}

fn self_attention(tracker: &MemoryTracker, config: &VaeConfig, x: &MetaTensor) -> MetaTensor {
    let (images, channels, height, width) = x.picture();
    let area = height * width;
    let normed = tracker.group_norm(x, config.norm_num_groups, 1);
    let tokens = tracker.to_tokens(&normed);
    drop(normed);
    let (q, k, v) = (
        tracker.linear(&tokens, channels),
        tracker.linear(&tokens, channels),
        tracker.linear(&tokens, channels),
    );
    drop(tokens);
    let mut mixed = tracker.attend((&q, &k), 1, (images, area, area), false);
    drop((q, k, v));
    mixed = tracker.linear(&mixed, channels);
    let picture = tracker.to_image(x);
    drop(mixed);
    picture
}
