//! Convolution on CUDA: im2col, a cuBLAS product, and the epilogue.

use candle_core::{Result, Tensor};

use super::epilogue::{Epilogue, add_epilogue_to_planes};
use super::launch::{Arg, LaunchGrid, empty_like, launch_typed, vector_width};
use crate::kernels::PiecewiseTensor;
use crate::kernels::reference::conv2d_slice;
use crate::slices::{ConvolutionShape, SliceLimits, pieces};

/// An image whose result has fewer places than this is convolved together with all others: one product
/// instead of many small ones. A place is a pixel of the result.
const MIN_PLACES: usize = 256;

/// A square convolution of `(images, input, h, w)` with its epilogue, in pieces within `limits`.
pub(crate) fn conv2d(
    limits: SliceLimits,
    x: &Tensor,
    weight: &Tensor,
    epilogue: Epilogue,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (_, _, h, w) = x.dims4()?;
    let (sizes, step) = conv2d_slice(limits, &x, weight, stride, padding)?;
    let ConvolutionShape {
        images,
        input,
        output: channels,
        kernel,
        ..
    } = sizes;
    let depth = input * kernel * kernel;
    let weight = weight.reshape((channels, depth))?;
    let im2col = Im2col {
        sizes,
        from: (h, w),
        stride,
        padding,
    };
    let mut whole = PiecewiseTensor::new((images, channels, sizes.height, sizes.width));
    for (first, count) in pieces(images, step.images) {
        let some = x.narrow(0, first, count)?;
        for (row, rows) in pieces(sizes.height, step.rows) {
            let places = rows * sizes.width;
            let y = if places < MIN_PLACES && count > 1 {
                let columns = im2col.columns(&some, row, rows, PatchLayout::WeightFirst)?;
                planes_of_rows(&weight.matmul(&columns)?, channels, count)?
            } else {
                let columns = if (kernel, stride, padding) == (1, 1, 0) && rows == sizes.height {
                    some.reshape((count, depth, places))?
                } else {
                    im2col.columns(&some, row, rows, PatchLayout::ImageFirst)?
                };
                weight.broadcast_as((count, channels, depth))?.matmul(&columns)?
            };
            let y = y.reshape((count, channels, rows, sizes.width))?;
            whole.write(y, |whole| whole.narrow(0, first, count), (2, row))?;
        }
    }
    let whole = whole.finish(&x)?;
    add_epilogue_to_planes(&whole, epilogue)?;
    Ok(whole)
}

/// The inputs of a convolution as the matrix that its weights are multiplied with.
struct Im2col {
    sizes: ConvolutionShape,
    /// Height and width of the input.
    from: (usize, usize),
    stride: usize,
    padding: usize,
}

/// The order of the matrix's dimensions: `(images, weights, places)`, or `(weights, images x places)`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PatchLayout {
    ImageFirst,
    WeightFirst,
}

impl Im2col {
    /// Writes the matrix for `rows` rows of the result, from `row` on.
    fn columns(&self, x: &Tensor, row: usize, rows: usize, layout: PatchLayout) -> Result<Tensor> {
        let ConvolutionShape {
            input, width, kernel, ..
        } = self.sizes;
        let images = x.dim(0)?;
        let (places, depth) = (rows * width, input * kernel * kernel);
        let (columns, step_weight, step_image) = match layout {
            PatchLayout::ImageFirst => (empty_like((images, depth, places), x)?, places, depth * places),
            PatchLayout::WeightFirst => (empty_like((depth, images * places), x)?, images * places, places),
        };
        let (values, _) = vector_width(width, &[Some(x)]);
        if values > 1 && (kernel, self.stride, self.padding) == (3, 1, 1) {
            let packs = places / values;
            let args = [
                Arg::Tensor(&columns),
                Arg::Tensor(x),
                Arg::U32(input),
                Arg::U32(self.from.0),
                Arg::U32(self.from.1),
                Arg::U32(row),
                Arg::U32(packs),
                Arg::U64(step_weight),
                Arg::U64(step_image),
            ];
            let grid = LaunchGrid::new((packs.div_ceil(128), input, images), (128, 1, 1));
            launch_typed(x, "im2col_3x3", "", grid, &args)?;
            return Ok(columns);
        }
        let grid = LaunchGrid::new((places.div_ceil(256), input, images), (256, 1, 1));
        let args = [
            Arg::Tensor(&columns),
            Arg::Tensor(x),
            Arg::U32(input),
            Arg::U32(self.from.0),
            Arg::U32(self.from.1),
            Arg::U32(width),
            Arg::U32(row),
            Arg::U32(places),
            Arg::U32(kernel),
            Arg::U32(self.stride),
            Arg::U32(self.padding),
            Arg::U64(step_weight),
            Arg::U64(step_image),
        ];
        launch_typed(x, "im2col", "", grid, &args)?;
        Ok(columns)
    }
}

/// Turns `(channels, images x places)` into `(images, channels, places)`.
fn planes_of_rows(x: &Tensor, channels: usize, images: usize) -> Result<Tensor> {
    let places = x.elem_count() / (channels * images);
    let y = empty_like((images, channels, places), x)?;
    let (values, suffix) = vector_width(places, &[Some(x)]);
    let packs = x.elem_count() / values;
    let args = [
        Arg::Tensor(&y),
        Arg::Tensor(x),
        Arg::U32(packs),
        Arg::U32(places / values),
        Arg::U32(channels),
        Arg::U32(images),
    ];
    launch_typed(x, "planes_of_rows", suffix, LaunchGrid::each(packs), &args)?;
    Ok(y)
}
