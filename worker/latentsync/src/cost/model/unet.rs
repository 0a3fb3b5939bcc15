//! Where the UNet is tight: on the way up, at the first layer of each level, where the most skips still wait and the
//! joined input is widest. The way down has the same tensors with fewer beside them.

use latentfarm_common::wire::memory::MemoryStage;

use super::Term;
use super::place::{Place, bytes};
use crate::boundary::Op;
use crate::cost::op::{Details, feed_forward};
use crate::cost::walk::ModelShape;
use crate::slices::{Attention, Convolution};

/// One level of the UNet.
struct Level<'a> {
    place: &'a Place<'a>,
    index: usize,
    /// Frames of all samples.
    images: usize,
    side: usize,
    channels: usize,
}

pub(super) fn terms(place: &Place) -> Vec<Term> {
    let config = &place.shape.unet;
    let mut terms = Vec::new();
    let base = place.while_denoising();
    for index in 0..config.block_out_channels.len() {
        let level = Level::new(place, index);
        let base = base + level.skips();
        let mut put = |what, tensors: u64| {
            terms.push(place.term(MemoryStage::Denoise, what, index, base + tensors));
        };
        put("first layer on the way up", level.resnet());
        if let Some(tensors) = level.upsampler() {
            put("upsampling", tensors + level.tensor(level.channels));
        }
        if config.up_block_types[level.mirrored()] == "CrossAttnUpBlock3D" {
            put("attention within a frame", level.attention());
            put("attention to speech", level.speech());
            put("feed-forward", level.feed_forward());
        }
        if config.has_motion(1 << index, true) {
            put("attention over frames", level.motion());
            put("feed-forward of the motion module", level.feed_forward());
        }
    }
    terms
}

impl<'a> Level<'a> {
    fn new(place: &'a Place<'a>, index: usize) -> Self {
        Self {
            place,
            index,
            images: ModelShape::FRAMES * place.batch,
            side: place.shape.latent_side() >> index,
            channels: place.shape.unet.block_out_channels[index],
        }
    }

    fn mirrored(&self) -> usize {
        self.place.shape.unet.block_out_channels.len() - 1 - self.index
    }

    fn area(&self) -> usize {
        self.side * self.side
    }

    /// A tensor of this level with so many channels.
    fn tensor(&self, channels: usize) -> u64 {
        bytes(self.images * channels * self.area(), self.place.each())
    }

    /// Channels that come up from the level below.
    fn below_channels(&self) -> usize {
        let channels = &self.place.shape.unet.block_out_channels;
        channels[(self.index + 1).min(channels.len() - 1)]
    }

    /// Skips that still wait when the first layer has taken its own.
    fn skips(&self) -> u64 {
        let config = &self.place.shape.unet;
        let each_level = (0..=self.index).map(|index| {
            let level = Level::new(self.place, index);
            let layers = config.layers_per_block - usize::from(index == self.index);
            let from_above = config.block_out_channels[index.saturating_sub(1)];
            layers as u64 * level.tensor(level.channels) + level.tensor(from_above)
        });
        each_level.sum()
    }

    fn conv(&self, input: usize, output: usize, kernel: usize) -> u64 {
        let sizes = Convolution {
            images: self.images,
            input,
            output,
            height: self.side,
            width: self.side,
            kernel,
        };
        let op = Op::Conv2d { sizes, stride: 1 };
        let details = Details {
            addends: 1,
            ..Details::default()
        };
        let streamed = self.place.streamed(input * output * kernel * kernel);
        self.place.cost(op, details).peak + streamed
    }

    fn norm(&self, channels: usize, together: usize) -> u64 {
        let op = Op::GroupNorm {
            images: self.images,
            together,
            channels,
            area: self.area(),
        };
        let details = Details {
            groups: self.place.shape.unet.norm_num_groups,
            ..Details::default()
        };
        self.place.cost(op, details).peak
    }

    /// Joining, norm, shortcut and the two convolutions of the first layer.
    fn resnet(&self) -> u64 {
        let (output, hidden) = (self.channels, self.below_channels());
        let input = hidden + output;
        let (wide, narrow) = (self.tensor(input), self.tensor(output));
        let join = self.tensor(hidden) + narrow + wide;
        let norm = wide + self.norm(input, ModelShape::FRAMES);
        let shortcut = 2 * wide + self.conv(input, output, 1);
        let first = wide + narrow + self.conv(input, output, 3);
        let second = 2 * narrow + self.conv(output, output, 3);
        join.max(norm).max(shortcut).max(first).max(second)
    }

    /// The convolution behind the upsampling to this level.
    fn upsampler(&self) -> Option<u64> {
        let channels = &self.place.shape.unet.block_out_channels;
        let below = *channels.get(self.index + 1)?;
        Some(self.tensor(below) + self.conv(below, below, 3))
    }

    fn attend(&self, heads: usize, (rows, queries, keys): (usize, usize, usize), across: bool) -> u64 {
        let sizes = Attention {
            rows,
            heads,
            queries,
            keys,
        };
        let op = Op::Attention {
            sizes,
            width: self.channels,
        };
        let details = Details {
            across,
            ..Details::default()
        };
        self.place.cost(op, details).peak
    }

    /// Input, tokens, and queries, keys and values.
    fn attention(&self) -> u64 {
        let heads = self.place.shape.unet.attention_heads;
        let scores = self.attend(heads, (self.images, self.area(), self.area()), false);
        5 * self.tensor(self.channels) + scores
    }

    /// Input, tokens, queries, and keys and values of the speech.
    fn speech(&self) -> u64 {
        let tokens = self.place.shape.audio_tokens();
        let heads = self.place.shape.unet.attention_heads;
        let heard = bytes(2 * self.images * tokens * self.channels, self.place.each());
        let scores = self.attend(heads, (self.images, self.area(), tokens), false);
        3 * self.tensor(self.channels) + heard + scores
    }

    /// As [`Level::attention`], over the frames of a sample.
    fn motion(&self) -> u64 {
        let frames = ModelShape::FRAMES;
        let heads = self.place.shape.unet.motion_module_kwargs.num_attention_heads;
        let sizes = (self.images / frames * self.area(), frames, frames);
        5 * self.tensor(self.channels) + self.attend(heads, sizes, true)
    }

    /// Input, tokens, the normed tokens, and what is inside.
    fn feed_forward(&self) -> u64 {
        let (rows, width) = (self.images * self.area(), self.channels);
        let inside = feed_forward(rows, width, &self.place.account, self.place.levers.limits);
        3 * self.tensor(width) + inside.peak + self.place.streamed(12 * width * width)
    }
}
