//! `latentfarm-engine`: the model behind a pipe. `latentfarm-worker` starts it; operators run only its
//! subcommands.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use git_version::git_version;
use latentfarm_common::console::tell;
use latentfarm_common::error::Chain;
use latentfarm_common::telemetry;
use latentfarm_engine::bench::{self, Part, Sizes};
use latentfarm_engine::check::{Check, check};
use latentfarm_engine::memory::cleanup::CleanupPolicy;
use latentfarm_engine::memory::counting::CountingAllocator;
use latentfarm_engine::memory::device::{self, EngineMemory};
use latentfarm_engine::memory::fault_injection::{FaultInjector, InjectedFault};
use latentfarm_engine::{EXIT_POISONED, EngineSettings, Precision, ServeError};
use mimalloc::MiMalloc;

/// Version and commit, for `--version`. It is here and not in the library so that a new commit compiles this file alone.
const VERSION: &str = git_version!(
    args = ["--always", "--dirty", "--abbrev=10", "--exclude=*"],
    prefix = concat!(env!("CARGO_PKG_VERSION"), " (commit "),
    suffix = ")",
    fallback = env!("CARGO_PKG_VERSION")
);

/// mimalloc, because large tensors are allocated and freed at every step and the system allocator maps and
/// faults each of them anew. It is counted, so that what a window leaves behind is known to the byte.
#[global_allocator]
static ALLOCATOR: CountingAllocator<MiMalloc> = CountingAllocator(MiMalloc);

/// Runs LatentSync for one latentfarm-worker: requests on standard input, answers on standard output.
#[derive(Parser)]
#[command(name = "latentfarm-engine", version = VERSION)]
struct Args {
    /// Where to compute: `cpu`, `cuda:N` in a CUDA build, or `sim:PATH`.
    #[arg(long, default_value = "cpu", global = true)]
    device: String,
    /// Number type that the networks compute in (default: f32 on the CPU, f16 on CUDA)
    #[arg(long, value_enum, value_name = "TYPE", global = true)]
    dtype: Option<Precision>,
    /// Most host memory, in MiB, that a window may use (default: no limit)
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..1 << 40))]
    budget: Option<u64>,
    /// When memory that is not in use is returned to the system
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    cleanup: CleanupPolicy,
    /// Inject a fault, for tests: KIND@STAGE, KIND@STAGE#N or leak=BYTES
    #[arg(long, hide = true, value_name = "SPEC")]
    fault: Vec<InjectedFault>,
    /// Inject a fault only if this file does not exist yet, and create it then
    #[arg(long, hide = true, value_name = "FILE", requires = "fault")]
    fault_once: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Check, without a worker, that a device computes correctly and what memory it needs; prints JSON lines
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
        /// Existing folder to write the inputs and the output to, as PART.safetensors
        #[arg(long, value_name = "DIR")]
        save: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = telemetry::init("info") {
        tell(format_args!("error: {}", Chain(&error)));
        return ExitCode::from(3);
    }
    // This thread computes too, so that no layer waits for a hand-over between threads.
    if let Err(error) = rayon::ThreadPoolBuilder::new()
        .use_current_thread()
        .build_global()
    {
        tracing::error!("cannot start the computing threads: {error}");
        return ExitCode::from(3);
    }
    let device = match device::open(&args.device, args.budget.map(|mib| mib << 20)) {
        Ok(device) => device,
        Err(error) => {
            tracing::error!("{}", Chain(&error));
            return ExitCode::from(3);
        }
    };
    let precision = args
        .dtype
        .unwrap_or_else(|| Precision::default_for(&device.device));
    let settings = |device| EngineSettings {
        device,
        dtype: precision.dtype(),
        cleanup: args.cleanup,
        faults: FaultInjector::new(args.fault, args.fault_once),
    };
    let outcome = match args.command {
        None => return serve(settings(device)),
        Some(Command::Check { check: what }) => check(what, settings(device), &mut std::io::stdout().lock()),
        Some(Command::Bench {
            weights,
            part,
            sizes,
            save,
        }) => measure(
            device.memory,
            &bench::BenchSettings {
                weights,
                part,
                sizes,
                save,
                device: device.device,
                device_name: device.computes_as,
                dtype: precision.dtype(),
            },
        ),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", Chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn measure(mut memory: Box<dyn EngineMemory>, settings: &bench::BenchSettings) -> anyhow::Result<()> {
    let on_gpu = !settings.device.is_cpu();
    let report = bench::measure(settings, on_gpu.then_some(&mut *memory))?;
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
