//! Where the autoencoder is tight: at its finer levels, and in the attention over all positions of the coarsest.

use latentfarm_common::wire::memory::{DeviceKind, MemoryStage};

use super::Term;
use super::place::{Place, bytes};
use crate::boundary::Op;
use crate::cost::op::Details;
use crate::cost::walk::ModelShape;
use crate::slices::{Attention, Convolution};

const F32: usize = 4;

/// One level of the autoencoder, for one picture.
struct Level<'a> {
    place: &'a Place<'a>,
    side: usize,
}

/// Encoding the last picture of a window: the latents of all others are there.
pub(super) fn encode_terms(place: &Place) -> Vec<Term> {
    let channels = &place.shape.vae.block_out_channels;
    let on_device = match place.account.kind {
        DeviceKind::Cpu => 0,
        DeviceKind::Cuda => bytes(place.face(), F32 + place.each()),
    };
    let base = place.request() + place.latents(8) + place.on_host(2 * place.face()) + on_device;
    let mut terms = Vec::new();
    let mut put = |what, level, tensors: u64| {
        terms.push(place.term(MemoryStage::VaeEncode, what, level, base + tensors));
    };
    for (index, &output) in channels.iter().enumerate() {
        let level = Level::new(place, index);
        let input = channels[index.saturating_sub(1)];
        put("layer of the encoder", index, level.resnet(input, output));
        if index + 1 < channels.len() {
            // The input, and the picture padded twice.
            put("padding", index, level.tensor(output) + level.padding(output));
        }
    }
    let last = channels.len() - 1;
    let coarsest = Level::new(place, last);
    put(
        "attention of the encoder",
        last,
        coarsest.attention(channels[last]),
    );
    terms
}

/// Decoding the last picture of a window: all others are pasted and wait on the host.
pub(super) fn decode_terms(place: &Place) -> Vec<Term> {
    let channels = &place.shape.vae.block_out_channels;
    let last = channels.len() - 1;
    let base = place.request() + place.latents(4) + place.on_host((ModelShape::FRAMES - 1) * place.face());
    let mut terms = Vec::new();
    let mut put = |what, level, tensors: u64| {
        terms.push(place.term(MemoryStage::VaeDecode, what, level, base + tensors));
    };
    for (index, &output) in channels.iter().enumerate() {
        let level = Level::new(place, index);
        let input = channels[(index + 1).min(last)];
        put("layer of the decoder", index, level.resnet(input, output));
        if index < last {
            let upsampled = level.tensor(input);
            put(
                "upsampling of the decoder",
                index,
                upsampled + level.conv(input, input, 3),
            );
        }
    }
    let coarsest = Level::new(place, last);
    put(
        "attention of the decoder",
        last,
        coarsest.attention(channels[last]),
    );
    // The decoded face in both types, its original twice, the new one, and all as bytes.
    let pasting = bytes(place.face(), F32) + place.on_host(3 * place.face() + 4 * place.face());
    put("pasting", 0, pasting);
    terms
}

impl<'a> Level<'a> {
    fn new(place: &'a Place<'a>, index: usize) -> Self {
        Self {
            place,
            side: place.shape.resolution_px >> index,
        }
    }

    fn tensor(&self, channels: usize) -> u64 {
        bytes(channels * self.side * self.side, self.place.each())
    }

    fn conv(&self, input: usize, output: usize, kernel: usize) -> u64 {
        let sizes = Convolution {
            images: 1,
            input,
            output,
            height: self.side,
            width: self.side,
            kernel,
        };
        let op = Op::Conv2d { sizes, stride: 1 };
        self.place.cost(op, added()).peak
    }

    /// A row and a column more, while the row alone is there.
    fn padding(&self, channels: usize) -> u64 {
        let elements = channels * (self.side + 1) * (self.side + 1);
        self.place.cost(Op::Copy { elements }, added()).peak
    }

    fn norm(&self, channels: usize) -> u64 {
        let op = Op::GroupNorm {
            images: 1,
            together: 1,
            channels,
            area: self.side * self.side,
        };
        let details = Details {
            groups: self.place.shape.vae.norm_num_groups,
            ..Details::default()
        };
        self.place.cost(op, details).peak
    }

    fn resnet(&self, input: usize, output: usize) -> u64 {
        let (from, to) = (self.tensor(input), self.tensor(output));
        let norm = from + self.norm(input);
        let shortcut = if input == output {
            0
        } else {
            2 * from + self.conv(input, output, 1)
        };
        let first = from + to + self.conv(input, output, 3);
        let second = 2 * to + self.conv(output, output, 3);
        norm.max(shortcut).max(first).max(second)
    }

    /// Input, queries, keys and values, and the scores of all positions.
    fn attention(&self, channels: usize) -> u64 {
        let area = self.side * self.side;
        let sizes = Attention {
            rows: 1,
            heads: 1,
            queries: area,
            keys: area,
        };
        let op = Op::Attention {
            sizes,
            width: channels,
        };
        4 * self.tensor(channels) + self.place.cost(op, Details::default()).peak
    }
}

fn added() -> Details {
    Details {
        addends: 1,
        ..Details::default()
    }
}
