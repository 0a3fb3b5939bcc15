//! `latentfarm-engine`: the model behind a pipe. Started by `latentfarm-worker`, not by hand.

use std::process::ExitCode;

use candle_core::{DType, Device};
use clap::Parser;
use latentfarm_common::error::Chain;
use latentfarm_common::telemetry::{self, LogFormat};
use latentfarm_worker::engine::{self, EngineSettings};

/// Large tensors come and go at every step; the system allocator maps and faults each of them anew.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs LatentSync for one latentfarm-worker: requests on standard input, answers on standard output.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Where to compute: `cpu`, or `cuda:N` in a CUDA build.
    #[arg(long, default_value = "cpu")]
    device: String,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = telemetry::init(LogFormat::Human, "info") {
        eprintln!("error: {}", Chain(&error));
        return ExitCode::from(3);
    }
    let settings = match settings(&args.device) {
        Ok(settings) => settings,
        Err(error) => {
            tracing::error!("cannot use device `{}`: {error}", args.device);
            return ExitCode::from(3);
        }
    };
    match engine::serve(settings, std::io::stdin().lock(), std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", Chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn settings(device_name: &str) -> candle_core::Result<EngineSettings> {
    let (device, dtype) = match device_name.strip_prefix("cuda:") {
        None => (Device::Cpu, DType::F32),
        Some(ordinal) => {
            let ordinal = ordinal.parse().map_err(candle_core::Error::wrap)?;
            // A stream of its own: the default one is per thread and unsynchronised.
            (Device::new_cuda_with_stream(ordinal)?, DType::F16)
        }
    };
    Ok(EngineSettings {
        device,
        device_name: device_name.to_owned(),
        dtype,
    })
}
