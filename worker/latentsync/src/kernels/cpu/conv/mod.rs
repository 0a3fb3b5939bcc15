//! Convolution on the CPU. The algorithm is chosen by the layer's shape alone: Winograd's for 3x3 layers with
//! many channels, im2col for the rest.

mod epilogue;
mod im2col;
mod sizes;
mod winograd;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use self::sizes::{Addends, Sizes};
use super::matrix::{BorrowedValues, borrow_values, contiguous};
use crate::slices::ConvolutionShape;
use crate::tensors::Weight;

/// A square convolution. The operand is `(images, in, h, w)`, the weights are `(out, in, k, k)`. The bias is
/// `(out)`, or `(samples, out)` with one row for every `images / samples` images. The residual has the shape
/// of the result and is added to it.
pub(crate) struct CpuConv2d<'a> {
    pub(crate) weight: &'a Weight,
    pub(crate) bias: &'a Tensor,
    pub(crate) residual: Option<&'a Tensor>,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
}

impl CpuConv2d<'_> {
    fn sizes(&self, x: &Layout) -> Result<Sizes> {
        let (images, input, height, width) = x.shape().dims4()?;
        let &[output, weight_input, kernel, _] = self.weight.shape() else {
            bail!("convolution weights of shape {:?}", self.weight.shape());
        };
        if weight_input != input || height + 2 * self.padding < kernel || width + 2 * self.padding < kernel {
            bail!("convolution of {:?} with {:?}", x.shape(), self.weight.shape());
        }
        let reach = |side: usize| (side + 2 * self.padding - kernel) / self.stride + 1;
        Ok(Sizes {
            images,
            input,
            height,
            width,
            output,
            kernel,
            stride: self.stride,
            padding: self.padding,
            out_height: reach(height),
            out_width: reach(width),
        })
    }
}

/// Returns the number of values in the workspace of a convolution; see [`workspace`](super::workspace).
pub(crate) fn workspace_values(shape: ConvolutionShape, stride: usize, threads: usize) -> usize {
    let sizes = Sizes {
        images: shape.images,
        input: shape.input,
        height: shape.height * stride,
        width: shape.width * stride,
        output: shape.output,
        kernel: shape.kernel,
        stride,
        padding: shape.kernel / 2,
        out_height: shape.height,
        out_width: shape.width,
    };
    if winograd::suits(sizes) {
        winograd::workspace_values(sizes, threads)
    } else {
        im2col::workspace_values(sizes, threads)
    }
}

impl CustomOp1 for CpuConv2d<'_> {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let sizes = self.sizes(layout)?;
        let x = contiguous(x, layout)?;
        let bias = borrow_values(self.bias)?;
        let residual = self.residual.map(borrow_values).transpose()?;
        let rows = bias.values().len() / sizes.output;
        if rows == 0 || sizes.images % rows != 0 {
            bail!("a bias of {:?} for {} images", self.bias.shape(), sizes.images);
        }
        let addends = Addends {
            bias: bias.values(),
            images_per_bias: sizes.images / rows,
            residual: residual.as_ref().map(BorrowedValues::values),
        };
        let mut out = vec![0.0_f32; sizes.images * sizes.output * sizes.out_height * sizes.out_width];
        self.weight.with(|weights| {
            if winograd::suits(sizes) {
                winograd::convolve(x, weights, addends, sizes, winograd::LIMITS, &mut out);
            } else {
                im2col::convolve(x, weights, addends, sizes, &mut out);
            }
            Ok(())
        })?;
        let shape = Shape::from((sizes.images, sizes.output, sizes.out_height, sizes.out_width));
        Ok((CpuStorage::F32(out), shape))
    }
}

#[cfg(test)]
mod tests;
