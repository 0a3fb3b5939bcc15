//! What is called before each operation of a network, for example to keep account of memory or to end a pass.

use candle_core::{Error, Result, Tensor};

use super::slices::{Attention, Convolution};

/// One operation of a network with the sizes that decide what memory it takes; batch and frames are in `images`,
/// `rows` or `outer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// `(rows, input)` to `(rows, output)`.
    Linear {
        rows: usize,
        input: usize,
        output: usize,
    },
    /// `(images, input, h x stride, w x stride)` to `(images, output, h, w)`.
    Conv2d { sizes: Convolution, stride: usize },
    /// `rows` independent attentions over all heads side by side in `width`.
    Attention { sizes: Attention, width: usize },
    /// `(images, channels, area)`, statistics over `together` images.
    GroupNorm {
        images: usize,
        together: usize,
        channels: usize,
        area: usize,
    },
    /// `(rows, width)`.
    LayerNorm { rows: usize, width: usize },
    /// `(rows, 2 x width)` to `(rows, width)`.
    Geglu { rows: usize, width: usize },
    /// Anything that gives `elements` values and takes nothing else: a transposition, an upsampling, a join, a padding, a
    /// sum that no layer includes.
    Copy { elements: usize },
}

impl Op {
    /// Values of the result.
    pub fn output_elements(self) -> usize {
        match self {
            Self::Linear { rows, output, .. } => rows * output,
            Self::Conv2d { sizes, .. } => sizes.images * sizes.output * sizes.height * sizes.width,
            Self::Attention { sizes, width } => sizes.rows * sizes.queries * width,
            Self::GroupNorm {
                images,
                channels,
                area,
                ..
            } => images * channels * area,
            Self::LayerNorm { rows, width } | Self::Geglu { rows, width } => rows * width,
            Self::Copy { elements } => elements,
        }
    }
}

/// Called on the thread that runs the networks; given to a run by [`Run::with_hooks`](super::Run::with_hooks).
pub trait Hooks {
    /// The operation `op` is about to run; `x` is its main operand.
    ///
    /// # Errors
    /// Any error keeps the operation from running: the network's pass ends with it.
    fn before(&mut self, op: Op, x: &Tensor) -> Result<()>;

    /// A pass failed; its tensors are dropped and its inputs unchanged. Says whether the pass is run again.
    fn retry(&mut self, _error: &Error) -> bool {
        false
    }
}
