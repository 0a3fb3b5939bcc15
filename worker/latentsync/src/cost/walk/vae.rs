//! The autoencoder's passes, as `latentsync::vae` does them; one picture at a time, or a few.

use super::tape::{Ghost, Tape};
use crate::config::VaeConfig;

/// `pixels` is `(images, 3, R, R)` in `f32`, the moments `(images, 8, R/8, R/8)`.
pub(super) fn encode(tape: &Tape, config: &VaeConfig, pixels: &Ghost) -> Ghost {
    let channels = &config.block_out_channels;
    let pixels = converted(tape, pixels);
    let mut x = tape.conv2d(&pixels, channels[0], 3, 1);
    for (index, &output) in channels.iter().enumerate() {
        for _ in 0..config.layers_per_block {
            x = resnet(tape, config, x, output);
        }
        if index + 1 < channels.len() {
            let (images, _, height, width) = x.picture();
            x = tape.copy_twice(&[images, output, height + 1, width + 1]);
            x = tape.conv2d(&x, output, 3, 2);
        }
    }
    x = mid_block(tape, config, x);
    x = tape.group_norm(&x, config.norm_num_groups, 1);
    x = tape.conv2d(&x, 2 * config.latent_channels, 3, 1);
    drop(pixels);
    tape.conv2d(&x, 2 * config.latent_channels, 1, 1)
}

/// `latents` is `(images, 4, h, w)` in `f32`, the result `(images, 3, 8h, 8w)`.
pub(super) fn decode(tape: &Tape, config: &VaeConfig, latents: &Ghost) -> Ghost {
    let channels = &config.block_out_channels;
    let last = channels[channels.len() - 1];
    let hidden = tape.conv2d(&converted(tape, latents), config.latent_channels, 1, 1);
    let mut x = tape.conv2d(&hidden, last, 3, 1);
    x = mid_block(tape, config, x);
    for (index, &output) in channels.iter().rev().enumerate() {
        for _ in 0..=config.layers_per_block {
            x = resnet(tape, config, x, output);
        }
        if index + 1 < channels.len() {
            let (images, _, height, width) = x.picture();
            x = tape.copy(&[images, output, 2 * height, 2 * width]);
            x = tape.conv2d(&x, output, 3, 1);
        }
    }
    x = tape.group_norm(&x, config.norm_num_groups, 1);
    let pixels = tape.conv2d(&x, config.out_channels, 3, 1);
    drop(hidden);
    pixels
}

/// In the networks' type; the same tensor where that is `f32`.
fn converted(tape: &Tape, x: &Ghost) -> Ghost {
    match tape.account.bytes_per_value {
        4 => x.clone(),
        each => tape.tensor(each, &x.shape),
    }
}

fn mid_block(tape: &Tape, config: &VaeConfig, x: Ghost) -> Ghost {
    let channels = x.shape[1];
    let mut x = resnet(tape, config, x, channels);
    x = self_attention(tape, config, &x);
    resnet(tape, config, x, channels)
}

fn resnet(tape: &Tape, config: &VaeConfig, x: Ghost, output: usize) -> Ghost {
    let mut hidden = tape.group_norm(&x, config.norm_num_groups, 1);
    let _residual = if x.shape[1] == output {
        x
    } else {
        let shortcut = tape.conv2d(&x, output, 1, 1);
        drop(x);
        shortcut
    };
    hidden = tape.conv2d(&hidden, output, 3, 1);
    hidden = tape.group_norm(&hidden, config.norm_num_groups, 1);
    tape.conv2d(&hidden, output, 3, 1)
}

fn self_attention(tape: &Tape, config: &VaeConfig, x: &Ghost) -> Ghost {
    let (images, channels, height, width) = x.picture();
    let area = height * width;
    let normed = tape.group_norm(x, config.norm_num_groups, 1);
    let tokens = tape.to_tokens(&normed);
    drop(normed);
    let (q, k, v) = (
        tape.linear(&tokens, channels),
        tape.linear(&tokens, channels),
        tape.linear(&tokens, channels),
    );
    drop(tokens);
    let mut mixed = tape.attend((&q, &k), 1, (images, area, area), false);
    drop((q, k, v));
    mixed = tape.linear(&mixed, channels);
    let picture = tape.to_picture(x);
    drop(mixed);
    picture
}
