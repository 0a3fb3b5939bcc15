use candle_core::{DType, Device, Tensor};

use super::*;
use crate::kernels::reference;
use crate::tensors::Values;

fn ramp(shape: (usize, usize, usize, usize)) -> Tensor {
    let count = shape.0 * shape.1 * shape.2 * shape.3;
    let values: Vec<f32> = (0..count)
        .map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0)
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn largest(difference: &Tensor) -> f32 {
    difference.abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

/// The layers that are tested: images, input, h, w, output, kernel, stride, padding.
const LAYERS: [[usize; 8]; 13] = [
    [1, 3, 32, 40, 8, 3, 1, 1],
    [16, 4, 8, 8, 5, 3, 1, 1],
    [5, 4, 6, 10, 7, 3, 2, 1],
    [2, 3, 33, 33, 6, 3, 2, 0],
    [3, 8, 20, 20, 4, 1, 1, 0],
    [7, 2, 1, 1, 3, 3, 1, 1],
    [1, 1, 2, 600, 2, 3, 1, 1],
    // These are computed by Winograd's algorithm: even and odd sides, several bands, one pixel, many
    // channels.
    [2, 16, 8, 8, 16, 3, 1, 1],
    [3, 17, 9, 11, 21, 3, 1, 1],
    [1, 16, 1, 1, 16, 3, 1, 1],
    [2, 20, 70, 66, 18, 3, 1, 1],
    [5, 33, 4, 5, 330, 3, 1, 1],
    [1, 16, 3, 1100, 16, 3, 1, 1],
];

#[test]
fn every_kind_of_layer_agrees_with_candle() {
    for [images, input, h, w, output, kernel, stride, padding] in LAYERS {
        let x = ramp((images, input, h, w));
        let weight = ramp((output, input, kernel, kernel));
        let bias = ramp((1, output, 1, 1)).flatten_all().unwrap();
        let plain = reference::conv2d(
            crate::slices::SliceLimits::DEFAULT,
            &x,
            &weight,
            &bias,
            stride,
            padding,
        )
        .unwrap();
        let (_, _, out_h, out_w) = plain.dims4().unwrap();
        let residual = ramp((images, output, out_h, out_w));
        let per_image = ramp((images, output, 1, 1));
        let with_all = ((&plain
            - bias
                .reshape((1, output, 1, 1))
                .unwrap()
                .broadcast_as(plain.shape())
                .unwrap())
        .unwrap()
        .broadcast_add(&per_image)
        .unwrap()
            + &residual)
            .unwrap();
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            // The values are multiples of 1/64 below 1 and so the same in all three types.
            let weight = Weight::resident(weight.to_dtype(dtype).unwrap());
            let run = |bias: &Tensor, residual: Option<&Tensor>| {
                let op = CpuConv2d {
                    weight: &weight,
                    bias,
                    residual,
                    stride,
                    padding,
                };
                x.apply_op1_no_bwd(&op).unwrap()
            };
            let what = format!("{images} x {input} x {h} x {w}, stride {stride}, {dtype:?}");
            let ours = run(&bias, None);
            assert_eq!(ours.dims(), plain.dims());
            assert!(largest(&(ours - &plain).unwrap()) < 1e-4, "{what}");
            let ours = run(&per_image.reshape((images, output)).unwrap(), Some(&residual));
            assert!(largest(&(ours - &with_all).unwrap()) < 1e-4, "{what}, all added");
        }
    }
}

#[test]
fn both_algorithms_are_chosen() {
    let sizes = |input, output, kernel, stride, padding| Sizes {
        images: 1,
        input,
        height: 8,
        width: 8,
        output,
        kernel,
        stride,
        padding,
        out_height: 8,
        out_width: 8,
    };
    assert!(winograd::suits(sizes(320, 320, 3, 1, 1)));
    assert!(winograd::suits(sizes(32, 16, 3, 1, 1)));
    assert!(!winograd::suits(sizes(13, 320, 3, 1, 1)));
    assert!(!winograd::suits(sizes(320, 4, 3, 1, 1)));
    assert!(!winograd::suits(sizes(320, 320, 3, 2, 1)));
    assert!(!winograd::suits(sizes(320, 320, 1, 1, 0)));
}

#[test]
fn bands_and_parts_change_nothing() {
    let sizes = Sizes {
        images: 3,
        input: 16,
        height: 7,
        width: 10,
        output: 19,
        kernel: 3,
        stride: 1,
        padding: 1,
        out_height: 7,
        out_width: 10,
    };
    let values = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let (x, weights) = (values(ramp((3, 16, 7, 10))), values(ramp((19, 16, 3, 3))));
    let bias = values(ramp((1, 19, 1, 1)));
    let run = |tiles, kernels| {
        let mut out = vec![0.0; 3 * 19 * 7 * 10];
        let addends = Addends {
            bias: &bias,
            images_per_bias: 3,
            residual: None,
        };
        let limits = winograd::WorkingSetLimits { tiles, kernels };
        winograd::convolve(&x, Values::F32(&weights), addends, sizes, limits, &mut out);
        out
    };
    let whole = run(1000, 1 << 20);
    assert!(whole.iter().any(|value| value.abs() > 0.1));
    for (tiles, kernels) in [
        (5, 1 << 20),
        (1, 1 << 20),
        (1000, 16 * 16 * 4),
        (12, 16 * 16 * 7),
        (1, 1),
    ] {
        let cut = run(tiles, kernels);
        for (a, b) in whole.iter().zip(&cut) {
            assert!((a - b).abs() < 1e-5, "{tiles} tiles, {kernels} kernels");
        }
    }
}
