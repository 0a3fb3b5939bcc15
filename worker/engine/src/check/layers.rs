//! Compares single layers of the published widths on the device, in each number type, with the CPU in `f32`.

use std::io::Write;
use std::time::Instant;

use candle_core::Device;
use latentsync::cuda_dtypes;
use latentsync::layer_check::check_layers;
use serde_json::json;

use super::print::{all_passed, print};

/// Prints one line for each layer and number type. `shrink` divides the sides of images and the numbers of
/// tokens, but not the widths.
///
/// # Errors
/// Fails if a layer cannot run, or any result is too far off.
pub(super) fn layers(device: &Device, shrink: usize, output: &mut impl Write) -> anyhow::Result<()> {
    let (mut failed, mut total) = (0, 0);
    for &dtype in cuda_dtypes() {
        let mut started = Instant::now();
        check_layers(device, dtype, shrink, &mut |check| {
            total += 1;
            failed += usize::from(!check.passed());
            let written = print(output, "layer", &json!(check), started.elapsed().as_secs_f64());
            started = Instant::now();
            written.map_err(candle_core::Error::wrap)
        })?;
    }
    all_passed(failed, total)
}
