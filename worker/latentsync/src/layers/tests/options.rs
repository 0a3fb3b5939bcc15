//! Compares layers under the options of the memory plans with the same layers without them.

use candle_core::{DType, Tensor};

use super::traps::{feed_forward, layer, noise};
use crate::layers::GroupNorm;
use crate::options::ExecutionOptions;
use crate::run::Run;
use crate::slices::SliceLimits;

const TYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

fn with<R>(limits: SliceLimits, reference_kernels: bool, work: impl FnOnce(&Run) -> R) -> R {
    let options = ExecutionOptions {
        limits,
        reference_kernels,
        ..ExecutionOptions::default()
    };
    work(&Run::new(options))
}

fn values(x: &Tensor) -> Vec<f32> {
    let x = x.to_dtype(DType::F32).unwrap();
    x.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn feed_forward_in_slices_is_the_same_bit_for_bit_on_the_cpu() {
    // The tiles of each product have 320 columns and 512 or 1024 rows. In these cases the tiles of the two
    // products are equal, nested, and overlapping. A single row would take another path through the matrix
    // kernels.
    for (width, rows) in [
        (24, 1),
        (24, 65),
        (24, 1024),
        (24, 2600),
        (328, 1500),
        (328, 2048),
        (328, 2100),
    ] {
        let ff = feed_forward(ExecutionOptions::default(), width, DType::F32);
        let (x, residual) = (noise(&[1, rows, width], 1), noise(&[1, rows, width], 6));
        let run = |hidden| {
            let limits = SliceLimits {
                hidden,
                ..SliceLimits::DEFAULT
            };
            values(&with(limits, false, |run| {
                ff.forward_add(run, &x, &residual).unwrap()
            }))
        };
        let whole = run(usize::MAX);
        for hidden in [1, 8 * width * 600, 8 * width * 1030] {
            assert!(
                run(hidden) == whole,
                "{rows} rows of {width}, {hidden} values at once"
            );
        }
    }
}

#[test]
fn reference_feed_forward_in_slices_is_close() {
    let (width, rows) = (24, 333);
    for (dtype, allowed) in [(DType::F32, 1e-6), (DType::F16, 1e-3), (DType::BF16, 1e-2)] {
        // Only the CPU's own operations use weights where they are mapped.
        let options = ExecutionOptions {
            reference_kernels: true,
            ..ExecutionOptions::default()
        };
        let ff = feed_forward(options, width, dtype);
        let input = |seed| noise(&[rows, width], seed).to_dtype(dtype).unwrap();
        let (x, residual) = (input(1), input(6));
        let run = |hidden| {
            let limits = SliceLimits {
                hidden,
                ..SliceLimits::DEFAULT
            };
            values(&with(limits, true, |run| {
                ff.forward_add(run, &x, &residual).unwrap()
            }))
        };
        let whole = run(usize::MAX);
        let largest = whole.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
        for hidden in [1, 8 * width * 10, 8 * width * 100] {
            for (a, b) in run(hidden).iter().zip(&whole) {
                assert!((a - b).abs() <= allowed * largest, "{a} and {b} as {dtype:?}");
            }
        }
    }
}

#[test]
fn group_norm_in_slices_is_the_same_bit_for_bit() {
    // (images, together, channels, groups, h, w)
    for (images, together, channels, groups, h, w) in [
        (6, 3, 32, 8, 7, 9),
        (4, 4, 6, 3, 1, 1),
        (1, 1, 16, 16, 12, 10),
        (3, 1, 8, 1, 5, 5),
    ] {
        let (weight, bias) = (noise(&[channels], 2), noise(&[channels], 3));
        for dtype in TYPES {
            let norm = layer(&[("weight", &weight), ("bias", &bias)], dtype, |vb| {
                GroupNorm::load(vb, groups, channels, 1e-5)
            });
            let x = noise(&[images, channels, h, w], 1).to_dtype(dtype).unwrap();
            let run = |normed| {
                let limits = SliceLimits {
                    normed,
                    ..SliceLimits::DEFAULT
                };
                let (plain, silu) = with(limits, true, |run| {
                    (
                        norm.forward(run, &x, together).unwrap(),
                        norm.forward_silu(run, &x, together).unwrap(),
                    )
                });
                assert_eq!(plain.dims(), [images, channels, h, w]);
                assert_eq!(plain.dtype(), dtype);
                (values(&plain), values(&silu))
            };
            let whole = run(usize::MAX);
            let per_image = channels * h * w;
            // The limits are one group, two groups, one image and two images.
            for normed in [1, 2 * per_image / groups, per_image, 2 * per_image] {
                assert!(
                    run(normed) == whole,
                    "{images} x {channels} as {dtype:?}, {normed} at once"
                );
            }
        }
    }
}
