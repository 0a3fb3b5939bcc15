//! Compares every kernel with the reference backend on the device. An engine does so when it opens the
//! device, and `latentfarm-engine check kernels` does. If a kernel is wrong, the reference backend serves, so
//! that it costs speed and never a picture.

use candle_core::{DType, Device, Result, Tensor};

use super::attention::attention;
use super::availability::disable_kernels;
use super::build_info::cuda_dtypes;
use super::conv2d::conv2d;
use super::elementwise::{add_to_frames, geglu, gelu, transpose};
use super::epilogue::{Epilogue, add_epilogue_to_rows};
use super::norm::{group_norm, layer_norm};
use crate::kernels::reference::{self, NormSpec};
use crate::noise::{DrawPurpose, normals};
use crate::slices::SliceLimits;

/// The result of comparing one kernel in one number type.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct KernelCheck {
    /// The operation and its shapes.
    pub case: String,
    /// The number type, such as `f16`.
    pub dtype: String,
    /// Norm of the difference from the reference in `f32`, divided by the norm of the reference.
    pub distance: f64,
    /// Largest distance with which the kernel passes.
    pub limit: f64,
}

impl KernelCheck {
    /// Returns whether the distance is within the limit.
    pub fn passed(&self) -> bool {
        // The comparison is written so that NaN fails.
        self.distance <= self.limit
    }
}

/// Compares every kernel with the reference backend on `device`, in every number type of this build. If any fails, all
/// kernels are disabled in this process, see [`cuda_kernels_enabled`](super::cuda_kernels_enabled).
///
/// # Errors
/// Fails if an operation cannot run at all; all kernels are disabled then, too.
pub fn check_kernels(device: &Device) -> Result<Vec<KernelCheck>> {
    let mut checks = Vec::new();
    for &dtype in cuda_dtypes() {
        let mut checker = KernelChecker {
            device,
            dtype,
            checks: Vec::new(),
        };
        checker.run().inspect_err(|_error| disable_kernels())?;
        checks.append(&mut checker.checks);
    }
    if !checks.iter().all(KernelCheck::passed) {
        disable_kernels();
    }
    Ok(checks)
}

/// Returns the norm of the difference of two tensors divided by the norm of `expected`, computed on the host
/// in `f64`. It is infinite if the tensors do not have the same number of values.
///
/// # Errors
/// Fails if the values cannot be copied to the host.
pub fn relative_distance(ours: &Tensor, expected: &Tensor) -> Result<f64> {
    let list = |x: &Tensor| on_host(x)?.flatten_all()?.to_vec1::<f32>();
    let (ours, expected) = (list(ours)?, list(expected)?);
    if ours.len() != expected.len() {
        return Ok(f64::INFINITY);
    }
    let square = |x: f64| x * x;
    let pairs = ours.iter().zip(&expected);
    let apart: f64 = pairs.map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    let size: f64 = expected.iter().map(|&b| square(f64::from(b))).sum();
    Ok((apart / size).sqrt())
}

/// Copies `x` to the host, in `f32`.
fn on_host(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F32)?.to_device(&Device::Cpu)
}

/// Compares the kernels in one number type.
struct KernelChecker<'a> {
    device: &'a Device,
    dtype: DType,
    /// The results of the comparisons so far.
    checks: Vec<KernelCheck>,
}

impl KernelChecker<'_> {
    /// Returns random values, rounded to the number type; equal `stream` and shape give equal values.
    fn values(&self, shape: impl Into<candle_core::Shape>, stream: u64) -> Result<Tensor> {
        let shape = shape.into();
        let values = normals(20_26, DrawPurpose::InitLatents, stream, shape.elem_count());
        Tensor::from_vec(values, shape, &Device::Cpu)?
            .to_dtype(self.dtype)?
            .to_device(self.device)
    }

    /// Adds a result: the distance of `ours` from `expected`, which was computed in `f32`.
    fn compare(&mut self, case: String, ours: &Tensor, expected: &Tensor) -> Result<()> {
        let limit = match self.dtype {
            DType::F16 => 2e-3,
            DType::BF16 => 1.6e-2,
            // cuBLAS sums in another order than the CPU.
            _ => 1e-5,
        };
        self.checks.push(KernelCheck {
            case,
            dtype: self.dtype.as_str().to_owned(),
            distance: relative_distance(ours, expected)?,
            limit,
        });
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        self.convolutions()?;
        self.norms()?;
        self.attentions()?;
        self.rows()
    }

    fn convolutions(&mut self) -> Result<()> {
        for (images, input, channels, side, kernel, stride, padding) in [
            (1, 3, 8, 32, 3, 1, 1),
            (2, 16, 24, 32, 3, 1, 1),
            (4, 8, 12, 5, 3, 1, 1),
            (3, 8, 8, 17, 3, 2, 0),
            (4, 40, 8, 8, 1, 1, 0),
            (2, 12, 8, 20, 1, 1, 0),
            (1, 320, 320, 32, 3, 1, 1),
            (3, 8, 16, 16, 3, 1, 1),
            (5, 6, 8, 8, 3, 1, 1),
        ] {
            let x = self.values((images, input, side, side), 1)?;
            let weight = (self.values((channels, input, kernel, kernel), 2)? * 0.1)?;
            let bias = self.values(channels, 3)?;
            let shift = self.values((images, channels), 4)?;
            let plain = reference::conv2d(
                SliceLimits::DEFAULT,
                &on_host(&x)?,
                &on_host(&weight)?,
                &on_host(&bias)?,
                stride,
                padding,
            )?;
            let residual = self.values(plain.shape(), 5)?;
            let expected = (plain.broadcast_add(&on_host(&shift)?.reshape((images, channels, 1, 1))?)?
                + on_host(&residual)?)?;
            let epilogue = Epilogue {
                bias: Some(&bias),
                shift: Some(&shift),
                residual: Some(&residual),
            };
            let ours = conv2d(SliceLimits::DEFAULT, &x, &weight, epilogue, stride, padding)?;
            let case = format!(
                "convolution {images} x {input} to {channels}, {side} px, {kernel} x {kernel} / {stride}"
            );
            self.compare(case, &ours, &expected)?;
        }
        Ok(())
    }

    fn norms(&mut self) -> Result<()> {
        for (total, images, channels, groups, h, w) in [
            (1, 1, 4, 2, 3, 5),
            (6, 3, 32, 8, 7, 9),
            (16, 16, 320, 32, 32, 32),
            (1, 1, 64, 32, 128, 128),
        ] {
            let x = ((self.values((total, channels, h, w), 1)? * 2.0)? + 1.5)?;
            let (weight, bias) = (self.values(channels, 2)?, self.values(channels, 3)?);
            let (wide_x, wide_weight, wide_bias) = (on_host(&x)?, on_host(&weight)?, on_host(&bias)?);
            for silu in [false, true] {
                let spec = |affine| NormSpec {
                    images,
                    groups,
                    eps: 1e-5,
                    affine,
                    silu,
                };
                let expected =
                    reference::group_norm(SliceLimits::DEFAULT, &wide_x, spec((&wide_weight, &wide_bias)))?;
                let ours = group_norm(&x, spec((&weight, &bias)))?;
                let case = format!("group norm {total} / {images} x {channels} x {h} x {w}, SiLU {silu}");
                self.compare(case, &ours, &expected)?;
            }
        }
        for (rows, width) in [(1, 1), (3, 5), (70, 320), (9, 1280), (5, 2304)] {
            let x = self.values((rows, width), 1)?;
            let (weight, bias) = (self.values(width, 2)?, self.values(width, 3)?);
            let expected =
                candle_nn::ops::layer_norm_slow(&on_host(&x)?, &on_host(&weight)?, &on_host(&bias)?, 1e-5)?;
            let ours = layer_norm(&x, &weight, &bias, 1e-5)?;
            if width > 1 {
                self.compare(format!("layer norm {rows} x {width}"), &ours, &expected)?;
            }
        }
        Ok(())
    }

    fn attentions(&mut self) -> Result<()> {
        for (outer, rows, queries, keys, width, heads, across) in [
            (1, 3, 30, 50, 16, 2, false),
            (1, 64, 16, 16, 320, 8, true),
            (2, 9, 16, 16, 40, 8, true),
            (1, 1, 70, 1024, 80, 1, false),
            (1, 1, 3, 4096, 64, 1, false),
            (1, 1, 5, 9001, 8, 1, false),
            (1, 2, 6, 700, 40, 2, false),
            (1, 2, 256, 256, 320, 8, false),
        ] {
            let make = |tokens: usize, stream| {
                if across {
                    self.values((outer, tokens, rows, width), stream)?.transpose(1, 2)
                } else {
                    self.values((outer, rows, tokens, width), stream)
                }
            };
            let (q, k, v) = (make(queries, 1)?, make(keys, 2)?, make(keys, 3)?);
            let flat = |x: &Tensor| {
                let tokens = x.dim(2)?;
                on_host(x)?.contiguous()?.reshape((outer * rows, tokens, width))
            };
            let expected =
                reference::attention(SliceLimits::DEFAULT, &flat(&q)?, &flat(&k)?, &flat(&v)?, heads)?;
            let ours = attention(SliceLimits::DEFAULT, [&q, &k, &v], heads)?;
            let case = format!(
                "attention {outer} x {rows}, {queries} to {keys}, width {width}, {heads} heads, across {across}"
            );
            self.compare(case, &ours, &expected)?;
        }
        Ok(())
    }

    fn rows(&mut self) -> Result<()> {
        for (rows, width) in [(1, 2), (7, 10), (130, 640)] {
            let x = self.values((rows, 2 * width), 1)?;
            let expected = reference::geglu(&on_host(&x)?)?;
            self.compare(format!("GEGLU {rows} x {width}"), &geglu(&x)?, &expected)?;
            let expected = on_host(&x)?.gelu_erf()?;
            self.compare(format!("GELU {rows} x {width}"), &gelu(&x)?, &expected)?;

            let (y, bias) = (self.values((rows, width), 4)?, self.values(width, 5)?);
            let residual = self.values((rows, width), 6)?;
            let expected = (on_host(&y)?.broadcast_add(&on_host(&bias)?)? + on_host(&residual)?)?;
            let epilogue = Epilogue {
                bias: Some(&bias),
                shift: None,
                residual: Some(&residual),
            };
            add_epilogue_to_rows(&y, epilogue)?;
            let case = format!("bias and residual {rows} x {width}");
            self.compare(case, &y, &expected)?;
        }
        for (samples, frames, rows, width) in [(1, 16, 9, 40), (2, 3, 5, 7)] {
            let (x, table) = (
                self.values((samples, frames, rows, width), 1)?,
                self.values((frames, width), 2)?,
            );
            let expected = on_host(&x)?.broadcast_add(&on_host(&table)?.reshape((1, frames, 1, width))?)?;
            let ours = add_to_frames(&x, &table)?;
            let case = format!("positions {samples} x {frames} x {rows} x {width}");
            self.compare(case, &ours, &expected)?;
        }
        for (images, rows, columns) in [(1, 1, 1), (2, 33, 65), (3, 320, 64)] {
            let (x, residual) = (
                self.values((images, rows, columns), 1)?,
                self.values((images, columns, rows), 2)?,
            );
            let expected = (on_host(&x)?.transpose(1, 2)? + on_host(&residual)?)?;
            let ours = transpose(&x, Some(&residual))?;
            let case = format!("transposition {images} x {rows} x {columns}");
            self.compare(case, &ours, &expected)?;
        }
        Ok(())
    }
}
