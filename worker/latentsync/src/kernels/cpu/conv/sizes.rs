//! The parameters of a convolution, for both algorithms.

/// The sizes of a square convolution; `height` and `width` are those of the input.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) images: usize,
    pub(super) input: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) output: usize,
    pub(super) kernel: usize,
    pub(super) stride: usize,
    pub(super) padding: usize,
    pub(super) out_height: usize,
    pub(super) out_width: usize,
}

/// What is added to the pixels of the result.
#[derive(Clone, Copy)]
pub(super) struct Addends<'a> {
    /// Rows of one value for each channel.
    pub(super) bias: &'a [f32],
    /// Number of consecutive images that share a row of the bias.
    pub(super) images_per_bias: usize,
    /// A tensor like the result.
    pub(super) residual: Option<&'a [f32]>,
}

impl Addends<'_> {
    /// Returns the bias of one channel of one image.
    pub(super) fn bias(&self, sizes: Sizes, image: usize, channel: usize) -> f32 {
        self.bias[image / self.images_per_bias * sizes.output + channel]
    }
}
