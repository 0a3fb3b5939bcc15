//! The operations of the face networks on f32 values in the order (height, width, channel); `network` calls
//! them.
//!
//! Each runs on one thread and adds in a fixed order: equal inputs give equal bits on one instruction set,
//! whatever the number of threads.

use super::tflite::{Padding, Striding};

/// Height, width and number of channels of an image.
pub(super) type ImageShape = [usize; 3];

/// A convolution with its weights and a fused bias.
#[derive(Debug)]
pub(super) struct ConvLayer {
    /// Shape of the input image.
    pub(super) shape: ImageShape,
    /// Weights, `(kernel height x kernel width x channels) x out channels`, without the last axis if
    /// depthwise.
    pub(super) weight: Vec<f32>,
    /// One value for each output channel.
    pub(super) bias: Vec<f32>,
    /// Height and width of the kernel.
    pub(super) kernel: [usize; 2],
    pub(super) striding: Striding,
    /// Whether `relu` is applied to its output.
    pub(super) relu: bool,
}

/// Returns the output size and the leading padding along one axis. With `Same`, an odd pixel of padding comes
/// last, as in TensorFlow.
pub(super) fn output_axis(size: usize, kernel: usize, stride: usize, padding: Padding) -> (usize, usize) {
    match padding {
        Padding::Valid => ((size + stride).saturating_sub(kernel) / stride, 0),
        Padding::Same => {
            let out = size.div_ceil(stride);
            let total = ((out - 1) * stride + kernel).saturating_sub(size);
            (out, total / 2)
        }
    }
}

/// Returns the taps of one output position that lie inside the image: the first, and the one past the last.
fn taps(position: usize, stride: usize, pad: usize, kernel: usize, size: usize) -> (usize, usize) {
    let start = position * stride;
    (
        pad.saturating_sub(start),
        kernel.min((size + pad).saturating_sub(start)),
    )
}

/// Computes `out[m][n] += sum over k of a[m][k] * b[k][n]`; all matrices are row-major.
fn multiply_add(a: &[f32], b: &[f32], out: &mut [f32], [m, n, k]: [usize; 3]) {
    assert!(
        a.len() == m * k && b.len() == k * n && out.len() == m * n,
        "matrix sizes disagree"
    );
    let stride = |value: usize| isize::try_from(value).unwrap_or(isize::MAX);
    #[expect(unsafe_code, reason = "gemm's only entry point takes pointers")]
    // SAFETY: the assertion above checks that the three slices hold m x k, k x n and m x n values; with these
    // strides gemm touches nothing else, and `out` is borrowed alone.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            stride(n),
            true,
            a.as_ptr(),
            1,
            stride(k),
            b.as_ptr(),
            1,
            stride(n),
            1.0_f32,
            1.0_f32,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Convolves an image, without the activation.
pub(super) fn conv2d(input: &[f32], layer: &ConvLayer) -> Vec<f32> {
    let ([h, w, c], [kernel_h, kernel_w]) = (layer.shape, layer.kernel);
    let ConvLayer {
        weight,
        bias,
        striding,
        ..
    } = layer;
    let (out_h, pad_h) = output_axis(h, kernel_h, striding.stride[0], striding.padding);
    let (out_w, pad_w) = output_axis(w, kernel_w, striding.stride[1], striding.padding);
    let (pixels, depth, channels) = (out_h * out_w, kernel_h * kernel_w * c, bias.len());
    let mut out = bias.repeat(pixels);
    let sizes = [pixels, channels, depth];
    if (kernel_h, kernel_w) == (1, 1) && striding.stride == [1, 1] {
        multiply_add(input, weight, &mut out, sizes);
        return out;
    }
    let mut columns = vec![0.0_f32; pixels * depth];
    for (position, column) in columns.chunks_exact_mut(depth).enumerate() {
        let (y, x) = (position / out_w, position % out_w);
        let (first_y, past_y) = taps(y, striding.stride[0], pad_h, kernel_h, h);
        let (first_x, past_x) = taps(x, striding.stride[1], pad_w, kernel_w, w);
        let run = (past_x - first_x) * c;
        for tap_y in first_y..past_y {
            let row = y * striding.stride[0] + tap_y - pad_h;
            let from = (row * w + x * striding.stride[1] + first_x - pad_w) * c;
            let to = (tap_y * kernel_w + first_x) * c;
            column[to..to + run].copy_from_slice(&input[from..from + run]);
        }
    }
    multiply_add(&columns, weight, &mut out, sizes);
    out
}

/// Convolves each channel of an image with its own kernel, without the activation.
pub(super) fn depthwise(input: &[f32], layer: &ConvLayer) -> Vec<f32> {
    const LANES: usize = 8;
    let ([h, w, c], [kernel_h, kernel_w]) = (layer.shape, layer.kernel);
    let ConvLayer {
        weight,
        bias,
        striding,
        ..
    } = layer;
    let (out_h, pad_h) = output_axis(h, kernel_h, striding.stride[0], striding.padding);
    let (out_w, pad_w) = output_axis(w, kernel_w, striding.stride[1], striding.padding);
    let mut out = bias.repeat(out_h * out_w);
    for (position, pixel) in out.chunks_exact_mut(c).enumerate() {
        let (y, x) = (position / out_w, position % out_w);
        let (first_y, past_y) = taps(y, striding.stride[0], pad_h, kernel_h, h);
        let (first_x, past_x) = taps(x, striding.stride[1], pad_w, kernel_w, w);
        let from = |tap_y: usize, tap_x: usize| {
            let row = y * striding.stride[0] + tap_y - pad_h;
            (row * w + x * striding.stride[1] + tap_x - pad_w) * c
        };
        let whole = c - c % LANES;
        for lane in (0..whole).step_by(LANES) {
            let mut sums = [0.0_f32; LANES];
            sums.copy_from_slice(&pixel[lane..lane + LANES]);
            for tap_y in first_y..past_y {
                for tap_x in first_x..past_x {
                    let values = &input[from(tap_y, tap_x) + lane..][..LANES];
                    let factors = &weight[(tap_y * kernel_w + tap_x) * c + lane..][..LANES];
                    for i in 0..LANES {
                        sums[i] += values[i] * factors[i];
                    }
                }
            }
            pixel[lane..lane + LANES].copy_from_slice(&sums);
        }
        for tap_y in first_y..past_y {
            for tap_x in first_x..past_x {
                let values = &input[from(tap_y, tap_x) + whole..][..c - whole];
                let factors = &weight[(tap_y * kernel_w + tap_x) * c + whole..][..c - whole];
                for ((sum, value), factor) in pixel[whole..].iter_mut().zip(values).zip(factors) {
                    *sum += value * factor;
                }
            }
        }
    }
    out
}

/// Takes the largest value under the kernel in each channel; pixels outside the image do not count.
pub(super) fn max_pool(
    input: &[f32],
    [h, w, c]: ImageShape,
    kernel: [usize; 2],
    striding: Striding,
) -> Vec<f32> {
    let (out_h, pad_h) = output_axis(h, kernel[0], striding.stride[0], striding.padding);
    let (out_w, pad_w) = output_axis(w, kernel[1], striding.stride[1], striding.padding);
    let mut out = vec![f32::NEG_INFINITY; out_h * out_w * c];
    for (position, pixel) in out.chunks_exact_mut(c).enumerate() {
        let (y, x) = (position / out_w, position % out_w);
        let (first_y, past_y) = taps(y, striding.stride[0], pad_h, kernel[0], h);
        let (first_x, past_x) = taps(x, striding.stride[1], pad_w, kernel[1], w);
        for tap_y in first_y..past_y {
            for tap_x in first_x..past_x {
                let row = y * striding.stride[0] + tap_y - pad_h;
                let from = (row * w + x * striding.stride[1] + tap_x - pad_w) * c;
                for (best, value) in pixel.iter_mut().zip(&input[from..from + c]) {
                    *best = best.max(*value);
                }
            }
        }
    }
    out
}

/// Multiplies negative values by the slope of their channel.
pub(super) fn prelu(mut values: Vec<f32>, slope: &[f32]) -> Vec<f32> {
    for pixel in values.chunks_exact_mut(slope.len()) {
        for (value, slope) in pixel.iter_mut().zip(slope) {
            *value = if *value < 0.0 { *value * slope } else { *value };
        }
    }
    values
}

/// Replaces negative values by 0.
pub(super) fn relu(mut values: Vec<f32>) -> Vec<f32> {
    for value in &mut values {
        *value = value.max(0.0);
    }
    values
}

/// Appends zero channels: `from` channels become `to`.
pub(super) fn pad_channels(input: &[f32], from: usize, to: usize) -> Vec<f32> {
    let mut out = vec![0.0; input.len() / from * to];
    for (wide, narrow) in out.chunks_exact_mut(to).zip(input.chunks_exact(from)) {
        wide[..from].copy_from_slice(narrow);
    }
    out
}

/// Resizes an image bilinearly to a height and width. Pixel centres are at halves, and edge pixels are
/// repeated.
pub(super) fn resize_bilinear(input: &[f32], [h, w, c]: ImageShape, [out_h, out_w]: [usize; 2]) -> Vec<f32> {
    let axis = |size: usize, out: usize| -> Vec<(usize, usize, f32)> {
        let scale = size as f32 / out as f32;
        let place = |i: usize| {
            let at = ((i as f32 + 0.5) * scale - 0.5).max(0.0);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "at is 0..size"
            )]
            let low = (at as usize).min(size - 1);
            (low, (low + 1).min(size - 1), at - low as f32)
        };
        (0..out).map(place).collect()
    };
    let (rows, columns) = (axis(h, out_h), axis(w, out_w));
    let mut out = Vec::with_capacity(out_h * out_w * c);
    for &(top, bottom, dy) in &rows {
        for &(left, right, dx) in &columns {
            let pixel = |y: usize, x: usize| &input[(y * w + x) * c..][..c];
            let upper = pixel(top, left).iter().zip(pixel(top, right));
            let lower = pixel(bottom, left).iter().zip(pixel(bottom, right));
            out.extend(upper.zip(lower).map(|((a, b), (c, d))| {
                let (upper, lower) = (a * (1.0 - dx) + b * dx, c * (1.0 - dx) + d * dx);
                upper * (1.0 - dy) + lower * dy
            }));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_odd_pixel_of_padding_comes_last() {
        assert_eq!(output_axis(192, 3, 2, Padding::Same), (96, 0));
        assert_eq!(output_axis(96, 3, 1, Padding::Same), (96, 1));
        assert_eq!(output_axis(3, 3, 1, Padding::Valid), (1, 0));
    }

    #[test]
    fn convolution_agrees_with_the_definition() {
        let (h, w, c, n) = (5_usize, 6_usize, 3_usize, 4_usize);
        let value = |i: usize| ((i * 37 + 11) % 29) as f32 / 7.0 - 2.0;
        let input: Vec<f32> = (0..h * w * c).map(value).collect();
        let weight: Vec<f32> = (0..9 * c * n).map(|i| value(i + 5)).collect();
        let bias: Vec<f32> = (0..n).map(value).collect();
        let layer = ConvLayer {
            shape: [h, w, c],
            weight,
            bias,
            kernel: [3, 3],
            striding: Striding {
                padding: Padding::Same,
                stride: [2, 2],
            },
            relu: false,
        };
        let out = conv2d(&input, &layer);
        let (weight, bias) = (&layer.weight, &layer.bias);
        // 5 rows: (3 - 1) * 2 + 3 = 7, pads 1 and 1; 6 columns: (3 - 1) * 2 + 3 = 7, pads 0 and 1.
        for (y, x, o) in [(0_usize, 0_usize, 1_usize), (1, 2, 3), (2, 2, 0)] {
            let mut want = bias[o];
            for ky in 0..3_usize {
                for kx in 0..3 {
                    let (row, column) = ((2 * y + ky).wrapping_sub(1), 2 * x + kx);
                    if row < h && column < w {
                        for i in 0..c {
                            want +=
                                input[(row * w + column) * c + i] * weight[((ky * 3 + kx) * c + i) * n + o];
                        }
                    }
                }
            }
            let got = out[(y * 3 + x) * n + o];
            assert!((got - want).abs() < 1e-4, "({y}, {x}, {o}): {got} and not {want}");
        }
    }
}
