//! Tries a device before a worker takes it: the device has been opened by now, which loads all kernels and runs each of
//! them, and this computes a product in each number type.

use std::io::Write;
use std::time::Instant;

use anyhow::ensure;
use candle_core::{DType, Device, Tensor};
use latentsync::cuda_dtypes;
use serde_json::json;

use super::print::print;
use crate::memory::device::EngineDevice;

/// The sides of the matrices. Each value of a product of ones is the inner side, which all number types hold exactly.
const SIDES: (usize, usize, usize) = (48, 64, 80);

/// Prints what the device is, once products in all number types are right.
///
/// # Errors
/// Fails if a product cannot be computed or is wrong.
pub(super) fn open(device: &EngineDevice, output: &mut impl Write) -> anyhow::Result<()> {
    let started = Instant::now();
    let on = &device.device;
    let dtypes: &[DType] = if on.is_cpu() { &[DType::F32] } else { cuda_dtypes() };
    for &dtype in dtypes {
        let worst = worst_of_product(on, dtype)?;
        ensure!(
            worst == 0.0,
            "a product of ones in {} is wrong by {worst}: the GPU or its memory is damaged",
            dtype.as_str()
        );
    }
    let dtypes: Vec<&str> = dtypes.iter().map(DType::as_str).collect();
    let facts = json!({
        "device": device.name,
        "computes_as": device.computes_as,
        "products_in": dtypes,
        "facts": device.memory.facts(),
        "total_mib": device.memory.reading().total >> 20,
    });
    print(
        output,
        "open",
        &facts,
        (device.opened_in + started.elapsed()).as_secs_f64(),
    )?;
    Ok(())
}

/// Returns the largest error of a product of ones.
fn worst_of_product(device: &Device, dtype: DType) -> candle_core::Result<f64> {
    let (rows, inner, columns) = SIDES;
    let left = Tensor::ones((rows, inner), dtype, device)?;
    let product = left.matmul(&Tensor::ones((inner, columns), dtype, device)?)?;
    let values = product.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let errors = values
        .iter()
        .map(|value| (f64::from(*value) - inner as f64).abs());
    // A value that is not a number must not be passed over.
    Ok(errors.fold(0.0, |worst, error| {
        if error > worst || error.is_nan() {
            error
        } else {
            worst
        }
    }))
}
