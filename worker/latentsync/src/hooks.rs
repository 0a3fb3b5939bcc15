//! Hooks that the layers call before each operation of a network. The engine uses them to charge a simulated
//! GPU, to check a memory budget and to stop a pass.

use candle_core::{Error, Result, Tensor};

use super::slices::{AttentionShape, ConvolutionShape};

/// One operation of a network with the sizes that its memory depends on. The batch and the frames are counted
/// in `images` or `rows`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// A linear layer maps `(rows, input)` to `(rows, output)`.
    Linear {
        /// The number of rows in the batch.
        rows: usize,
        /// The values of a row of the input.
        input: usize,
        /// The values of a row of the result.
        output: usize,
    },
    /// A convolution maps `(images, input, h x stride, w x stride)` to `(images, output, h, w)`.
    Conv2d {
        /// The sizes of the result and of the kernel.
        sizes: ConvolutionShape,
        /// The stride in both directions.
        stride: usize,
    },
    /// `sizes.rows` independent attentions, whose heads lie side by side in `width`.
    Attention {
        /// The numbers of rows, heads, queries and keys.
        sizes: AttentionShape,
        /// The values of a query over all heads.
        width: usize,
    },
    /// A group norm of `(images, channels, area)`.
    GroupNorm {
        /// The number of images in the batch.
        images: usize,
        /// The number of consecutive images that share their statistics.
        together: usize,
        /// The channels of an image.
        channels: usize,
        /// The pixels of a channel.
        area: usize,
    },
    /// A layer norm of `(rows, width)` over the last dimension.
    LayerNorm {
        /// The number of rows in the batch.
        rows: usize,
        /// The values of a row.
        width: usize,
    },
    /// A GEGLU maps `(rows, 2 x width)` to `(rows, width)`.
    Geglu {
        /// The number of rows in the batch.
        rows: usize,
        /// The values of a row of the result.
        width: usize,
    },
    /// Any operation that allocates its result alone: a transposition, an upsampling, a concatenation, a
    /// padding, or a sum that is not a part of a layer.
    Copy {
        /// The values of the result.
        elements: usize,
    },
}

impl Op {
    /// Returns the number of values in the result.
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

/// The methods that layers call on the thread that runs the networks; see
/// [`Run::with_hooks`](super::Run::with_hooks).
pub trait Hooks {
    /// This is called before the operation `op` runs; `x` is its main operand.
    ///
    /// # Errors
    /// An error ends the network's pass before the operation runs.
    fn before(&mut self, op: Op, x: &Tensor) -> Result<()>;

    /// This is called after a pass failed, when its tensors are dropped and its inputs are unchanged. It
    /// returns whether the pass is run again.
    fn retry(&mut self, _error: &Error) -> bool {
        false
    }
}
