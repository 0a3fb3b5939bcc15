//! `latentfarm-engine`: the model behind a pipe. Started by `latentfarm-worker`, not by hand.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use latentfarm_common::error::Chain;
use latentfarm_common::telemetry::{self, LogFormat};
use latentfarm_engine::bench::{self, Part, Sizes};
use latentfarm_engine::check::{Check, check};
use latentfarm_engine::memory::counting::Counting;
use latentfarm_engine::memory::device;
use latentfarm_engine::memory::fault::{Fault, Faults};
use latentfarm_engine::memory::guard::Cleanup;
use latentfarm_engine::{EXIT_POISONED, EngineSettings, Precision, ServeError};
use mimalloc::MiMalloc;

/// Large tensors come and go at every step; the system allocator maps and faults each of them anew. Counted, so that
/// what a window leaves behind is known to the byte.
#[global_allocator]
static ALLOCATOR: Counting<MiMalloc> = Counting(MiMalloc);

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
    /// Most host memory in use, in MiB, that a window may come to (default: no bound)
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..1 << 40))]
    budget: Option<u64>,
    /// When memory that is not in use goes back to the system
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    cleanup: Cleanup,
    /// Fail on purpose, for tests: KIND@STAGE, KIND@STAGE#N or leak=BYTES
    #[arg(long, hide = true, value_name = "SPEC")]
    fault: Vec<Fault>,
    /// A fault comes only where this file is not there yet, and makes it
    #[arg(long, hide = true, value_name = "FILE", requires = "fault")]
    fault_once: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Check that a device is right and what it needs, without a worker; prints JSON lines
    Check {
        #[command(subcommand)]
        check: Check,
    },
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
    // This thread computes too, so that no layer waits for a hand-over between threads.
    if let Err(error) = rayon::ThreadPoolBuilder::new()
        .use_current_thread()
        .build_global()
    {
        tracing::error!("the threads to compute with cannot be started: {error}");
        return ExitCode::from(3);
    }
    let device = match device::open(&args.device, args.budget.map(|mib| mib << 20)) {
        Ok(device) => device,
        Err(error) => {
            tracing::error!("{}", Chain(&error));
            return ExitCode::from(3);
        }
    };
    let precision = args.dtype.unwrap_or_else(|| Precision::usual_for(&device.device));
    let settings = |device| EngineSettings {
        device,
        dtype: precision.dtype(),
        cleanup: args.cleanup,
        faults: Faults::new(args.fault, args.fault_once),
    };
    let outcome = match args.command {
        None => return serve(settings(device)),
        Some(Command::Check { check: what }) => check(what, settings(device), &mut std::io::stdout().lock()),
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
            device: device.device,
            device_name: device.computes_as,
            dtype: precision.dtype(),
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

fn serve(settings: EngineSettings) -> ExitCode {
    match latentfarm_engine::serve(settings, std::io::stdin().lock(), std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", Chain(&error));
            ExitCode::from(match error {
                ServeError::Poisoned => EXIT_POISONED,
                ServeError::Pipe(_) => 1,
            })
        }
    }
}
