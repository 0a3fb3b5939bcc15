//! `latentfarm-engine`: the model behind a pipe. Started by `latentfarm-worker`, not by hand.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use candle_core::Device;
use clap::{Parser, Subcommand};
use latentfarm_common::error::Chain;
use latentfarm_common::telemetry::{self, LogFormat};
use latentfarm_worker::bench::{self, Part, Sizes};
use latentfarm_worker::engine::{self, EngineSettings, Precision};

/// Large tensors come and go at every step; the system allocator maps and faults each of them anew.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs LatentSync for one latentfarm-worker: requests on standard input, answers on standard output.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Where to compute: `cpu`, or `cuda:N` in a CUDA build.
    #[arg(long, default_value = "cpu", global = true)]
    device: String,
    /// What the networks compute in (default: f32 on the CPU, f16 on CUDA).
    #[arg(long, value_enum, value_name = "TYPE", global = true)]
    dtype: Option<Precision>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Measure one part of the model and print a JSON object; `latentfarm-worker bench` starts this
    Bench {
        /// Folder with the model weights
        #[arg(long, value_name = "DIR")]
        weights: PathBuf,
        #[arg(long)]
        part: Part,
        #[command(flatten)]
        sizes: Sizes,
        /// Existing folder for the inputs and the output as PART.safetensors
        #[arg(long, value_name = "DIR")]
        save: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = telemetry::init(LogFormat::Human, "info") {
        eprintln!("error: {}", Chain(&error));
        return ExitCode::from(3);
    }
    let settings = match settings(&args.device, args.dtype) {
        Ok(settings) => settings,
        Err(error) => {
            tracing::error!("cannot use device `{}`: {error}", args.device);
            return ExitCode::from(3);
        }
    };
    let outcome = match args.command {
        None => engine::serve(settings, std::io::stdin().lock(), std::io::stdout().lock())
            .map_err(anyhow::Error::new),
        Some(Command::Bench {
            weights,
            part,
            sizes,
            save,
        }) => measure(&bench::Settings {
            weights,
            part,
            sizes,
            save,
            device: settings.device,
            device_name: settings.device_name,
            dtype: settings.dtype,
        }),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", Chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn measure(settings: &bench::Settings) -> anyhow::Result<()> {
    let report = bench::measure(settings)?;
    writeln!(std::io::stdout(), "{}", serde_json::to_string(&report)?)?;
    Ok(())
}

fn settings(device_name: &str, precision: Option<Precision>) -> candle_core::Result<EngineSettings> {
    let device = match device_name.strip_prefix("cuda:") {
        None => Device::Cpu,
        Some(ordinal) => {
            let ordinal = ordinal.parse().map_err(candle_core::Error::wrap)?;
            // A stream of its own: the default one is per thread and unsynchronised.
            Device::new_cuda_with_stream(ordinal)?
        }
    };
    let precision = precision.unwrap_or_else(|| Precision::usual_for(&device));
    Ok(EngineSettings {
        device,
        device_name: device_name.to_owned(),
        dtype: precision.dtype(),
    })
}
