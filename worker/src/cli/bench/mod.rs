//! `latentfarm-worker bench` measures how fast the model is on this machine and how much memory it takes.
//!
//! Each part is measured in its own engine process, which is started as `run` starts engines: what one part
//! leaves behind neither helps nor hurts the next.

mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context as _;
use clap::ValueEnum as _;
use latentfarm_common::child::die_with_parent;

use super::engine_program::{dtype_args, thread_count};
use super::exit::{EXIT_CANNOT_WORK, failed, print, usage_error};
use super::one_device::{DeviceEngine, OneDeviceArgs};
use latentfarm_engine::bench::{BenchMachine, BenchReport, EngineReport, Part, Sizes};
use latentfarm_engine::{Precision, environment};
use latentsync::Checkpoint;
use latentsync::synth::{self, Size};

#[derive(clap::Args, Debug)]
pub(super) struct BenchArgs {
    /// Folder with the model weights (default: small synthetic weights that are made for this run)
    #[arg(long, value_name = "DIR", env = "LATENTFARM_WEIGHTS")]
    weights: Option<PathBuf>,
    /// Number of threads to compute with (default: all cores)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// Parts to measure (default: all of them)
    #[arg(long, value_delimiter = ',', value_name = "PART,...")]
    parts: Vec<Part>,
    #[command(flatten)]
    sizes: Sizes,
    #[command(flatten)]
    device: OneDeviceArgs,
    /// Number type that the networks compute in (default: f32 on the CPU, f16 on CUDA)
    #[arg(long, value_enum, value_name = "TYPE")]
    precision: Option<Precision>,
    /// Earlier JSON report of this program or of bench-pytorch, to compare this run with
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Existing folder to save the inputs and outputs of each part in, for checking another implementation
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: &BenchArgs) -> ExitCode {
    let prepared = match Prepared::new(args) {
        Ok(prepared) => prepared,
        Err(error) => return usage_error(error.as_ref()),
    };
    let engine = match args.device.choose() {
        Ok(engine) => engine,
        Err(error) => return failed(error.as_ref(), EXIT_CANNOT_WORK),
    };
    let text = prepared.run(args, &engine).and_then(|report| {
        if args.json {
            return Ok(serde_json::to_string_pretty(&report)?);
        }
        Ok(table::render(&report, prepared.compare.as_ref()))
    });
    match text {
        Ok(text) => print(&text, ExitCode::SUCCESS),
        Err(error) => failed(error.as_ref(), 1),
    }
}

/// The checked arguments: whatever the user can get wrong is refused before the first measurement.
struct Prepared {
    weights: PathBuf,
    /// The folder of synthetic weights that were made for this run; dropping it removes them.
    _made: Option<tempfile::TempDir>,
    threads: usize,
    parts: Vec<Part>,
    compare: Option<BenchReport>,
}

impl Prepared {
    fn new(args: &BenchArgs) -> anyhow::Result<Self> {
        args.device.check()?;
        if let Some(dir) = &args.save {
            anyhow::ensure!(
                dir.is_dir(),
                "`{}` is not a folder: create it first",
                dir.display()
            );
        }
        let compare = args.compare.as_deref().map(read_report).transpose()?;
        let (weights, made) = if let Some(dir) = &args.weights {
            (dir.clone(), None)
        } else {
            let dir = tempfile::tempdir().context("cannot make a folder for synthetic weights")?;
            tracing::info!("no --weights given: making small synthetic weights");
            synth::synthesize(dir.path(), Size::Small, 0)?;
            (dir.path().to_owned(), Some(dir))
        };
        Checkpoint::open(&weights)?.check_tensors()?;
        let mut parts = args.parts.clone();
        if parts.is_empty() {
            parts = Part::value_variants().to_vec();
        }
        parts.sort_unstable();
        parts.dedup();
        Ok(Self {
            weights,
            _made: made,
            threads: thread_count(args.threads),
            parts,
            compare,
        })
    }

    fn run(&self, args: &BenchArgs, engine: &DeviceEngine) -> anyhow::Result<BenchReport> {
        let mut report = BenchReport {
            threads: self.threads,
            frames: args.sizes.frames,
            steps: args.sizes.steps,
            machine: BenchMachine::here(),
            ..BenchReport::default()
        };
        for &part in &self.parts {
            let measured = self.measure(part, args, engine)?;
            report.software = measured.numerics_fingerprint;
            report.resolution_px = measured.resolution_px;
            report.plan = measured.plan;
            report.weights = measured.weights;
            report.parts.push(measured.part);
        }
        Ok(report)
    }

    /// Measures one part in its own engine process, whose log goes to this process's standard error.
    fn measure(&self, part: Part, args: &BenchArgs, engine: &DeviceEngine) -> anyhow::Result<EngineReport> {
        let Sizes {
            resolution,
            frames,
            steps,
            repeat,
            plan,
        } = args.sizes;
        let mut command = Command::new(&engine.program);
        command
            .args(["--device", &engine.device])
            .args(dtype_args(args.precision))
            .args(["bench", "--part", part.name(), "--weights"])
            .arg(&self.weights)
            .args(["--frames", &frames.to_string()])
            .args(["--steps", &steps.to_string()])
            .args(["--repeat", &repeat.to_string()])
            .args(["--plan", plan.into()])
            .envs(environment(self.threads))
            .envs(engine.envs.iter().cloned())
            .stdin(Stdio::null())
            .stderr(Stdio::inherit());
        if let Some(side) = resolution {
            command.args(["--resolution", &side.to_string()]);
        }
        if let Some(dir) = &args.save {
            command.arg("--save").arg(dir);
        }
        die_with_parent(&mut command);
        let output = command
            .output()
            .with_context(|| format!("cannot start the engine `{}`", engine.program.display()))?;
        anyhow::ensure!(
            output.status.success(),
            "the engine could not measure `{}` ({}); its log is above",
            part.name(),
            output.status
        );
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("`{}` did not print a report", engine.program.display()))
    }
}

fn read_report(path: &Path) -> anyhow::Result<BenchReport> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the report `{}`", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("`{}` is not a JSON report", path.display()))
}
