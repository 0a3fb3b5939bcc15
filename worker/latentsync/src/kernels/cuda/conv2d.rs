//! Convolution: the inputs laid out under the weights, a product of cuBLAS, and what follows it.

use candle_core::{Result, Tensor, bail};

use super::finish::{Finish, finish_planes};
use super::launch::{Arg, Grid, output, pack, start};
use crate::kernels::Whole;
use crate::slices::{Convolution, Limits, pieces};

/// Fewer places than this in a picture are convolved together with those of all pictures: one product instead of many small
/// ones.
const PLACES_APART: usize = 256;

/// A square convolution of `(images, input, h, w)`, and what follows it.
pub(crate) fn conv2d(
    limits: Limits,
    x: &Tensor,
    weight: &Tensor,
    finish: Finish,
    stride: usize,
    padding: usize,
) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (images, input, h, w) = x.dims4()?;
    let (channels, _, kernel, _) = weight.dims4()?;
    let reach = |side: usize| (side + 2 * padding - kernel) / stride + 1;
    let sizes = Convolution {
        images,
        input,
        output: channels,
        height: reach(h),
        width: reach(w),
        kernel,
    };
    let Some(step) = sizes.step(limits) else {
        bail!("one row of a convolution is more than a launch can hold: {sizes:?}");
    };
    let depth = input * kernel * kernel;
    let weight = weight.reshape((channels, depth))?;
    let patches = Patches {
        sizes,
        from: (h, w),
        stride,
        padding,
    };
    let mut whole = Whole::new((images, channels, sizes.height, sizes.width));
    for (first, count) in pieces(images, step.images) {
        let some = x.narrow(0, first, count)?;
        for (row, rows) in pieces(sizes.height, step.rows) {
            let places = rows * sizes.width;
            let y = if places < PLACES_APART && count > 1 {
                let columns = patches.laid_out(&some, row, rows, Order::WeightFirst)?;
                planes_of_rows(&weight.matmul(&columns)?, channels, count)?
            } else {
                let columns = if (kernel, stride, padding) == (1, 1, 0) && rows == sizes.height {
                    some.reshape((count, depth, places))?
                } else {
                    patches.laid_out(&some, row, rows, Order::ImageFirst)?
                };
                weight.broadcast_as((count, channels, depth))?.matmul(&columns)?
            };
            let y = y.reshape((count, channels, rows, sizes.width))?;
            whole.put(y, |whole| whole.narrow(0, first, count), (2, row))?;
        }
    }
    let whole = whole.finish(&x)?;
    finish_planes(&whole, finish)?;
    Ok(whole)
}

/// The inputs under the weights of a convolution.
struct Patches {
    sizes: Convolution,
    /// Height and width of the input.
    from: (usize, usize),
    stride: usize,
    padding: usize,
}

/// How patches lie: `(images, weights, places)`, or `(weights, images x places)`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    ImageFirst,
    WeightFirst,
}

impl Patches {
    /// Those of `rows` rows of the result, from `row` on.
    fn laid_out(&self, x: &Tensor, row: usize, rows: usize, order: Order) -> Result<Tensor> {
        let Convolution {
            input, width, kernel, ..
        } = self.sizes;
        let images = x.dim(0)?;
        let (places, depth) = (rows * width, input * kernel * kernel);
        let (columns, step_weight, step_image) = match order {
            Order::ImageFirst => (output((images, depth, places), x)?, places, depth * places),
            Order::WeightFirst => (output((depth, images * places), x)?, images * places, places),
        };
        let (values, _) = pack(width, &[Some(x)]);
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
            let grid = Grid {
                blocks: (packs.div_ceil(128), input, images),
                threads: (128, 1, 1),
            };
            start(x, "im2col_3x3", "", grid, &args)?;
            return Ok(columns);
        }
        let grid = Grid {
            blocks: (places.div_ceil(256), input, images),
            threads: (256, 1, 1),
        };
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
        start(x, "im2col", "", grid, &args)?;
        Ok(columns)
    }
}

/// `(channels, images x places)` to `(images, channels, places)`.
fn planes_of_rows(x: &Tensor, channels: usize, images: usize) -> Result<Tensor> {
    let places = x.elem_count() / (channels * images);
    let y = output((images, channels, places), x)?;
    let (values, ending) = pack(places, &[Some(x)]);
    let packs = x.elem_count() / values;
    let args = [
        Arg::Tensor(&y),
        Arg::Tensor(x),
        Arg::U32(packs),
        Arg::U32(places / values),
        Arg::U32(channels),
        Arg::U32(images),
    ];
    start(x, "planes_of_rows", ending, Grid::each(packs), &args)?;
    Ok(y)
}
