//! Convolution on the CPU. The way is chosen by the layer's shape alone: Winograd's for wide 3x3 layers, laid-out
//! patches for the rest.

mod direct;
mod sizes;
mod winograd;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::matrix::{Lent, contiguous, lend};
use super::weight::Weight;
use crate::slices::Convolution;
use sizes::{Addends, Sizes};

/// Square kernel; the operand is `(images, in, h, w)`, the weights `(out, in, k, k)`. The bias is `(out)`, or `(samples,
/// out)` with one row for every `images / samples` images. The residual, like the result, is added to it.
pub(super) struct CpuConv2d<'a> {
    pub(super) weight: &'a Weight,
    pub(super) bias: &'a Tensor,
    pub(super) residual: Option<&'a Tensor>,
    pub(super) stride: usize,
    pub(super) padding: usize,
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

/// Values of the room that a convolution works in; see [`room`](super::room).
pub(super) fn room(sizes: Convolution, stride: usize, threads: usize) -> usize {
    let Convolution {
        images,
        input,
        output,
        height: out_height,
        width: out_width,
        kernel,
    } = sizes;
    let sizes = Sizes {
        images,
        input,
        height: out_height * stride,
        width: out_width * stride,
        output,
        kernel,
        stride,
        padding: kernel / 2,
        out_height,
        out_width,
    };
    if winograd::suits(sizes) {
        winograd::room(sizes, threads)
    } else {
        direct::room(sizes, threads)
    }
}

impl CustomOp1 for CpuConv2d<'_> {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let sizes = self.sizes(layout)?;
        let x = contiguous(x, layout)?;
        let bias = lend(self.bias)?;
        let residual = self.residual.map(lend).transpose()?;
        let rows = bias.values().len() / sizes.output;
        if rows == 0 || sizes.images % rows != 0 {
            bail!("a bias of {:?} for {} images", self.bias.shape(), sizes.images);
        }
        let addends = Addends {
            bias: bias.values(),
            images_per_bias: sizes.images / rows,
            residual: residual.as_ref().map(Lent::values),
        };
        let mut out = vec![0.0_f32; sizes.images * sizes.output * sizes.out_height * sizes.out_width];
        self.weight.with(|weights| {
            if winograd::suits(sizes) {
                winograd::convolve(x, weights, addends, sizes, winograd::LIMITS, &mut out);
            } else {
                direct::convolve(x, weights, addends, sizes, &mut out);
            }
            Ok(())
        })?;
        let shape = Shape::from((sizes.images, sizes.output, sizes.out_height, sizes.out_width));
        Ok((CpuStorage::F32(out), shape))
    }
}

#[cfg(test)]
mod tests;
