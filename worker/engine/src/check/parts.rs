//! Compares every network on the device, in each number type, with the CPU in `f32` on the same inputs.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use latentfarm_common::wire::memory::MemoryPlan;
use serde_json::json;

use super::print::{all_passed, print};
use crate::bench::{BenchSettings, Part, Sizes, measure};
use latentsync::{cuda_dtypes, relative_distance};

/// The number types, each with the largest distance from the CPU's `f32` that passes, in units of the
/// output's norm. The limits of the half types are those of the CPU's own tests.
const TYPES: [(DType, f64); 3] = [(DType::F32, 1e-4), (DType::F16, 8e-3), (DType::BF16, 8e-2)];

/// Prints one line for each network and number type.
///
/// # Errors
/// Fails if a network cannot run, or any result is too far off.
pub(super) fn parts(
    weights: &Path,
    (device, device_name): (&Device, &str),
    output: &mut impl Write,
) -> anyhow::Result<()> {
    let (mut failed, mut total) = (0, 0);
    for part in [Part::Whisper, Part::VaeEncode, Part::VaeDecode, Part::Unet] {
        let run = |device: &Device, name: &str, dtype: DType| -> anyhow::Result<Tensor> {
            let saved = tempfile::tempdir()?;
            measure(
                &BenchSettings {
                    weights: weights.to_owned(),
                    part,
                    sizes: Sizes {
                        resolution: None,
                        frames: 16,
                        steps: 1,
                        repeat: 1,
                        plan: MemoryPlan::default(),
                    },
                    save: Some(saved.path().to_owned()),
                    device: device.clone(),
                    device_name: name.to_owned(),
                    dtype,
                },
                None,
            )?;
            let path = saved.path().join(format!("{}.safetensors", part.name()));
            let mut tensors = candle_core::safetensors::load(path, &Device::Cpu)?;
            let missing = || candle_core::Error::Msg(format!("{} has no output", part.name()));
            let tensor = tensors.remove("output").ok_or_else(missing)?;
            Ok(tensor)
        };
        let expected = run(&Device::Cpu, "cpu", DType::F32)?;
        let computed = |(dtype, _): &(DType, f64)| cuda_dtypes().contains(dtype);
        for (dtype, limit) in TYPES.into_iter().filter(computed) {
            let started = Instant::now();
            let distance = relative_distance(&run(device, device_name, dtype)?, &expected)?;
            total += 1;
            // The comparison is written so that NaN fails.
            let passed = distance <= limit;
            failed += usize::from(!passed);
            let result = json!({
                "part": part.name(), "dtype": dtype.as_str(), "distance": distance, "limit": limit, "passed": passed,
            });
            print(output, "part", &result, started.elapsed().as_secs_f64())?;
        }
    }
    all_passed(failed, total)
}
