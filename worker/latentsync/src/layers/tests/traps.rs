//! Numerical pitfalls of half precision and of large shapes, each with a test that fails if a layer falls
//! into it. The layers are called as the networks call them.

use std::collections::HashMap;

use candle_core::cpu::erf::erf_f64;
use candle_core::{DType, Device, Result, Tensor};

use crate::kernels::reference::{COPY_OPS, attention_within, conv2d_within, scaled_dot_product};
use crate::layers::gelu::{geglu, gelu};
use crate::layers::{Conv1d, Conv2d, FeedForward, GroupNorm, Linear, attend};
use crate::options::ExecutionOptions;
use crate::run::Run;
use crate::slices::SliceLimits;
use crate::tensors::{LoadReport, TensorFile, VarBuilder};

const TYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Loads a layer from a file with the given tensors.
pub(super) fn layer<T>(
    tensors: &[(&str, &Tensor)],
    dtype: DType,
    load: impl Fn(&VarBuilder) -> Result<T>,
) -> T {
    layer_with(ExecutionOptions::default(), tensors, dtype, load)
}

/// Loads a layer for runs under `options`; see [`layer`].
pub(super) fn layer_with<T>(
    options: ExecutionOptions,
    tensors: &[(&str, &Tensor)],
    dtype: DType,
    load: impl Fn(&VarBuilder) -> Result<T>,
) -> T {
    let file = tempfile::Builder::new()
        .suffix(".safetensors")
        .tempfile()
        .unwrap();
    let named: HashMap<&str, Tensor> = tensors
        .iter()
        .map(|(name, tensor)| (*name, (*tensor).clone()))
        .collect();
    candle_core::safetensors::save(&named, file.path()).unwrap();
    let (tensors, report) = (TensorFile::open(file.path()).unwrap(), LoadReport::default());
    let layer =
        load(&VarBuilder::root(&tensors, &report, &Device::Cpu, dtype).with_options(options)).unwrap();
    report
        .finish(&tensors, "", file.path())
        .expect("the layer and the test agree on the weights");
    layer
}

pub(super) fn tensor(values: Vec<f32>, shape: &[usize]) -> Tensor {
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Loads a feed-forward with random weights.
pub(super) fn feed_forward(options: ExecutionOptions, width: usize, dtype: DType) -> FeedForward {
    let (proj, proj_bias) = (noise(&[8 * width, width], 2), noise(&[8 * width], 3));
    let (out, out_bias) = (noise(&[width, 4 * width], 4), noise(&[width], 5));
    let tensors = [
        ("net.0.proj.weight", &proj),
        ("net.0.proj.bias", &proj_bias),
        ("net.2.weight", &out),
        ("net.2.bias", &out_bias),
    ];
    layer_with(options, &tensors, dtype, |vb| FeedForward::load(vb, width))
}

/// Returns values of about -1..1 that look random and repeat only after a long time.
#[expect(clippy::cast_possible_truncation, reason = "a test's values")]
pub(super) fn noise(shape: &[usize], seed: usize) -> Tensor {
    let count = shape.iter().product::<usize>();
    let values = (0..count)
        .map(|i| (((i + seed) as f64 * 12.9898).sin() * 43_758.545_3).fract() as f32)
        .collect();
    tensor(values, shape)
}

fn values(x: &Tensor) -> Vec<f32> {
    let x = x.to_dtype(DType::F32).unwrap();
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// Returns the distance from 1 to the next number of a type.
fn epsilon(dtype: DType) -> f64 {
    match dtype {
        DType::F16 => 2.0_f64.powi(-10),
        DType::BF16 => 2.0_f64.powi(-7),
        _ => 2.0_f64.powi(-23),
    }
}

/// Returns one large value followed by small ones, and their sum. Each small one is lost if it is added to
/// the large one, but together they count.
fn large_and_small(depth: usize, dtype: DType) -> (Vec<f32>, f64) {
    let large = if dtype == DType::F16 { 4096.0 } else { 256.0 };
    let mut weights = vec![1.0 / 512.0; depth];
    weights[0] = large;
    (weights, f64::from(large) + (depth - 1) as f64 / 512.0)
}

#[test]
fn half_convolutions_and_products_are_summed_in_f32() {
    let depth = 9 * 512;
    for dtype in TYPES {
        let (weights, exact) = large_and_small(depth, dtype);
        let ones = |shape: &[usize]| Tensor::ones(shape, dtype, &Device::Cpu).unwrap();
        let zero = tensor(vec![0.0], &[1]);
        let check = |what: &str, value: f32| {
            let error = (f64::from(value) - exact).abs() / exact;
            assert!(
                error <= epsilon(dtype),
                "{what} as {dtype:?}: {value}, not {exact}"
            );
        };

        let kernel = tensor(weights.clone(), &[1, 512, 3, 3]);
        let conv = layer(&[("weight", &kernel), ("bias", &zero)], dtype, |vb| {
            Conv2d::load(vb, 512, 1, 3, 1, 0)
        });
        check(
            "conv2d",
            values(&conv.forward(&Run::default(), &ones(&[1, 512, 3, 3])).unwrap())[0],
        );

        let kernel = tensor(weights.clone(), &[1, depth, 1, 1]);
        let conv = layer(&[("weight", &kernel), ("bias", &zero)], dtype, |vb| {
            Conv2d::load(vb, depth, 1, 1, 1, 0)
        });
        check(
            "1x1 conv2d",
            values(&conv.forward(&Run::default(), &ones(&[1, depth, 2, 2])).unwrap())[3],
        );

        let rows = tensor(weights.clone(), &[1, depth]);
        let linear = layer(&[("weight", &rows)], dtype, |vb| {
            Linear::load_no_bias(vb, depth, 1)
        });
        check(
            "linear",
            values(&linear.forward(&Run::default(), &ones(&[3, depth])).unwrap())[2],
        );

        let kernel = tensor(weights, &[1, depth / 3, 3]);
        let conv = layer(&[("weight", &kernel), ("bias", &zero)], dtype, |vb| {
            Conv1d::load(vb, depth / 3, 1, 1)
        });
        check(
            "conv1d",
            values(&conv.forward(&Run::default(), &ones(&[3, depth / 3])).unwrap())[1],
        );
    }
}

#[test]
fn convolution_whose_sums_leave_the_range_of_f16_on_the_way_is_exact() {
    // 16 x 8 x 9 x 256 = 294,912 before the second half of the channels takes it all back.
    let channels = 512;
    let kernel: Vec<f32> = (0..channels * 9)
        .map(|i| if i < channels * 9 / 2 { 8.0 } else { -8.0 })
        .collect();
    let (kernel, bias) = (tensor(kernel, &[1, channels, 3, 3]), tensor(vec![1.0], &[1]));
    for dtype in TYPES {
        let conv = layer(&[("weight", &kernel), ("bias", &bias)], dtype, |vb| {
            Conv2d::load_3x3(vb, channels, 1)
        });
        let x = Tensor::full(16.0_f32, (1, channels, 4, 4), &Device::Cpu).unwrap();
        let y = conv
            .forward(&Run::default(), &x.to_dtype(dtype).unwrap())
            .unwrap();
        assert_eq!(y.dtype(), dtype);
        assert_eq!(values(&y), [1.0; 16], "{dtype:?}");
    }
}

#[test]
fn softmax_of_long_even_rows_adds_up_to_one() {
    // In the types themselves the sum of ones stands still at 2048 and 256.
    let keys = 5000;
    for dtype in TYPES {
        let zeros = |tokens| Tensor::zeros((1, 1, tokens, 8), dtype, &Device::Cpu).unwrap();
        let threes = (zeros(keys) + 3.0).unwrap();
        let mixed = attend(&Run::default(), &zeros(2), &zeros(keys), &threes, 1).unwrap();
        for value in values(&mixed) {
            assert!(
                (f64::from(value) - 3.0).abs() <= 3.0 * epsilon(dtype).max(1e-6),
                "{value} as {dtype:?}"
            );
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    // Unscaled scores would be 64 x 64 x 64 = 262,144.
    for dtype in TYPES {
        let even = Tensor::full(64.0_f32, (1, 1, 4, 64), &Device::Cpu)
            .unwrap()
            .to_dtype(dtype)
            .unwrap();
        let mixed = attend(&Run::default(), &even, &even, &even, 1).unwrap();
        assert!(
            values(&mixed).iter().all(|value| (value - 64.0).abs() < 0.5),
            "{dtype:?}"
        );
    }
}

#[test]
fn gelu_is_the_exact_one_in_every_type() {
    // Far from zero the tanh form is 10 % off at -3 and half of the value at -4.
    let inputs: Vec<f32> = (-64..=64_i16).map(|i| f32::from(i) / 16.0).collect();
    let count = inputs.len();
    for dtype in TYPES {
        let x = tensor(inputs.clone(), &[1, count]).to_dtype(dtype).unwrap();
        let plain = gelu(&Run::default(), &x).unwrap();
        let twos = (x.ones_like().unwrap() * 2.0).unwrap();
        let geglu = geglu(&Run::default(), &Tensor::cat(&[&twos, &x], 1).unwrap()).unwrap();
        for (factor, result) in [(1.0, plain), (2.0, geglu)] {
            assert_eq!(result.dims(), [1, count]);
            for (x, y) in inputs.iter().zip(values(&result)) {
                let x = f64::from(*x);
                let exact = factor * 0.5 * x * (1.0 + erf_f64(x * std::f64::consts::FRAC_1_SQRT_2));
                let allowed = exact.abs() * epsilon(dtype) + 1e-6;
                assert!(
                    (f64::from(y) - exact).abs() <= allowed,
                    "{factor} gelu(&Run::default(), {x}) = {y} as {dtype:?}"
                );
            }
        }
    }
}

fn group_norm(channels: usize, groups: usize, dtype: DType) -> GroupNorm {
    let (ones, zeros) = (
        tensor(vec![1.0; channels], &[channels]),
        tensor(vec![0.0; channels], &[channels]),
    );
    layer(&[("weight", &ones), ("bias", &zeros)], dtype, |vb| {
        GroupNorm::load(vb, groups, channels, 1e-6)
    })
}

#[test]
fn group_norm_takes_its_statistics_over_the_given_number_of_images() {
    // Two frames of one channel, all 0 and all 2: together mean 1 and deviation 1, apart no deviation at all.
    let frames = tensor([[0.0; 16], [2.0; 16]].concat(), &[2, 1, 4, 4]);
    for dtype in TYPES {
        let (norm, x) = (group_norm(1, 1, dtype), frames.to_dtype(dtype).unwrap());
        let together = values(&norm.forward(&Run::default(), &x, 2).unwrap());
        assert!(
            together[..16].iter().all(|v| (v + 1.0).abs() < 0.01),
            "{dtype:?}: {together:?}"
        );
        assert!(
            together[16..].iter().all(|v| (v - 1.0).abs() < 0.01),
            "{dtype:?}: {together:?}"
        );
        let apart = values(&norm.forward(&Run::default(), &x, 1).unwrap());
        assert!(apart.iter().all(|v| v.abs() < 0.01), "{dtype:?}: {apart:?}");
    }
}

#[test]
fn group_norm_of_large_means_neither_overflows_nor_cancels() {
    // As f16 the sum overflows after two values; a mean of squares minus a squared mean is lost even in f32.
    let inputs: Vec<f32> = (0..2048_u16)
        .map(|i| 60_000.0 + 32.0 * f32::from(i % 3))
        .collect();
    let mean = inputs.iter().map(|v| f64::from(*v)).sum::<f64>() / 2048.0;
    let variance = inputs.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / 2048.0;
    // In `bf16` these values are equal.
    for dtype in [DType::F32, DType::F16] {
        let x = tensor(inputs.clone(), &[2, 4, 16, 16]).to_dtype(dtype).unwrap();
        let y = group_norm(4, 1, dtype).forward(&Run::default(), &x, 2).unwrap();
        for (x, y) in inputs.iter().zip(values(&y)) {
            let exact = (f64::from(*x) - mean) / variance.sqrt();
            assert!(
                (f64::from(y) - exact).abs() < 2e-3,
                "{y}, not {exact} as {dtype:?}"
            );
        }
    }
}

#[test]
fn split_convolutions_stay_within_the_limit_and_give_the_same() {
    // (images, input, h, w, output, kernel, stride, padding)
    for (images, input, h, w, output, kernel, stride, padding) in [
        (5, 3, 12, 10, 4, 3, 1, 1),
        (3, 4, 13, 9, 5, 3, 2, 1),
        (2, 3, 11, 11, 4, 3, 2, 0),
        (4, 6, 7, 5, 3, 1, 1, 0),
    ] {
        let x = noise(&[images, input, h, w], 1);
        let weight = noise(&[output, input, kernel, kernel], 2);
        let bias = noise(&[output], 3);
        let width = (w + 2 * padding - kernel) / stride + 1;
        let per_row = (input * kernel * kernel).max(output) * width;
        let run = |columns: usize| {
            let launches = std::cell::Cell::new(0);
            let launch = |x: &Tensor, weight: &Tensor, padding: usize| {
                let y = x.conv2d(weight, padding, stride, 1, 1)?;
                let (n, _, rows, width) = y.dims4()?;
                assert!(
                    n * rows * width * input * kernel * kernel <= columns,
                    "a launch over the limit"
                );
                launches.set(launches.get() + 1);
                Ok(y)
            };
            let limits = SliceLimits {
                columns,
                ..SliceLimits::DEFAULT
            };
            let y = conv2d_within(limits, launch, &x, (&weight, &bias), stride, padding).unwrap();
            (y, launches.get())
        };
        let (whole, one) = run(1 << 28);
        assert_eq!(one, 1);
        let height = whole.dim(2).unwrap();
        for rows in [1, 2, 3, height, 2 * height - 1] {
            let (split, launches) = run(rows * per_row);
            assert!(launches > 1);
            assert_eq!(split.dims(), whole.dims());
            let difference = (&split - &whole).unwrap().abs().unwrap().max_all().unwrap();
            assert!(
                difference.to_scalar::<f32>().unwrap() < 1e-5,
                "{rows} rows of {h} x {w}, stride {stride}"
            );
        }
    }
}

#[test]
fn split_attention_stays_within_the_limit_and_gives_the_same() {
    let (rows, heads, queries, vb, width) = (3, 4, 10, 7, 16);
    let q = noise(&[rows, queries, width], 1);
    let (k, v) = (noise(&[rows, vb, width], 2), noise(&[rows, vb, width], 3));
    let run = |scores: usize| {
        let launches = std::cell::Cell::new(0);
        let launch = |q: &Tensor, k: &Tensor, v: &Tensor| {
            let (rows, heads, queries, _) = q.dims4()?;
            assert!(
                rows * heads * queries * k.dim(2)? <= scores,
                "a launch over the limit"
            );
            launches.set(launches.get() + 1);
            scaled_dot_product(q, k, v)
        };
        let limits = SliceLimits {
            scores,
            ..SliceLimits::DEFAULT
        };
        let y = attention_within(limits, launch, COPY_OPS, [&q, &k, &v], heads).unwrap();
        (values(&y), launches.get())
    };
    let (whole, one) = run(1 << 20);
    assert_eq!(one, 1);
    // All heads of two rows, of one; three heads; one head; four queries; one query.
    for (scores, launches) in [(560, 2), (280, 3), (210, 6), (70, 12), (28, 36), (7, 120)] {
        let (split, count) = run(scores);
        assert_eq!(count, launches, "{scores} scores at once");
        for (a, b) in split.iter().zip(&whole) {
            assert!((a - b).abs() < 1e-6, "{scores} scores at once: {a} and {b}");
        }
    }
}

#[test]
fn shape_that_no_split_can_bring_within_the_limit_is_an_error() {
    let limits = SliceLimits {
        scores: 6,
        columns: 100,
        ..SliceLimits::LOW_MEMORY
    };
    let q = noise(&[1, 2, 4], 1);
    let k = noise(&[1, 7, 4], 2);
    assert!(attention_within(limits, scaled_dot_product, COPY_OPS, [&q, &k, &k], 1).is_err());
    let launch = |_: &Tensor, _: &Tensor, _| unreachable!("more than the limit is launched");
    let (x, weight, bias) = (noise(&[1, 2, 8, 8], 1), noise(&[1, 2, 3, 3], 2), noise(&[1], 3));
    assert!(conv2d_within(limits, launch, &x, (&weight, &bias), 1, 1).is_err());
}
