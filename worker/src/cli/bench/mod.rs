//! `latentfarm-worker bench`: how fast the model is on this machine, and what memory it takes.
//!
//! Each part is measured in an engine process of its own, started as `run` starts it, so that what one part
//! leaves behind neither helps nor hurts the next.

mod table;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context as _;
use clap::ValueEnum as _;
use latentfarm_common::child::die_with_parent;

use super::engine;
use super::exit::refuse;
use latentfarm_engine::bench::{EngineReport, Machine, Part, Report, Sizes};
use latentfarm_engine::environment;
use latentsync::Checkpoint;
use latentsync::synth::{self, Size};

#[derive(clap::Args, Debug)]
pub(super) struct BenchArgs {
    /// Folder with the model weights (default: small synthetic ones, made for this run)
    #[arg(long, value_name = "DIR", env = "LATENTFARM_WEIGHTS")]
    weights: Option<PathBuf>,
    /// Threads to compute with (default: all cores)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: Option<u32>,
    /// What to measure (default: everything)
    #[arg(long, value_delimiter = ',', value_name = "PART,...")]
    parts: Vec<Part>,
    #[command(flatten)]
    sizes: Sizes,
    /// Where to compute: `cpu`, or `cuda:N` with a CUDA engine
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Engine program (default: latentfarm-engine beside this program)
    #[arg(long, value_name = "PATH")]
    engine: Option<PathBuf>,
    /// Earlier report in JSON, of this program or of bench-pytorch, to set beside this run
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Existing folder for the inputs and outputs of each part, to be checked by another implementation
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// One JSON object in place of the table
    #[arg(long)]
    json: bool,
}

pub(super) fn main(args: &BenchArgs) -> ExitCode {
    let prepared = match Prepared::new(args) {
        Ok(prepared) => prepared,
        Err(error) => return refuse(error.as_ref()),
    };
    let printed = prepared.run(args).and_then(|report| {
        let text = if args.json {
            serde_json::to_string_pretty(&report)?
        } else {
            table::render(&report, prepared.compare.as_ref())
        };
        Ok(writeln!(std::io::stdout(), "{}", text.trim_end())?)
    });
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{}", latentfarm_common::error::Chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Everything that the user can get wrong, found out before the first measurement.
struct Prepared {
    weights: PathBuf,
    /// Where the weights are made for this run: removed with it.
    _made: Option<tempfile::TempDir>,
    engine: PathBuf,
    threads: usize,
    parts: Vec<Part>,
    compare: Option<Report>,
}

impl Prepared {
    fn new(args: &BenchArgs) -> anyhow::Result<Self> {
        let engine = engine::beside(args.engine.as_deref(), "latentfarm-engine")?;
        engine::check_program(&engine)?;
        if let Some(dir) = &args.save {
            anyhow::ensure!(dir.is_dir(), "`{}` is no folder: make it first", dir.display());
        }
        let compare = args.compare.as_deref().map(read_report).transpose()?;
        let (weights, made) = if let Some(dir) = &args.weights {
            (dir.clone(), None)
        } else {
            let dir = tempfile::tempdir().context("cannot make a folder for synthetic weights")?;
            tracing::info!("no weights given: making small synthetic ones");
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
            engine,
            threads: engine::threads(args.threads),
            parts,
            compare,
        })
    }

    fn run(&self, args: &BenchArgs) -> anyhow::Result<Report> {
        let mut report = Report {
            threads: self.threads,
            frames: args.sizes.frames,
            steps: args.sizes.steps,
            machine: Machine::here(),
            ..Report::default()
        };
        for &part in &self.parts {
            let measured = self.measure(part, args)?;
            report.software = measured.numerics_fingerprint;
            report.resolution_px = measured.resolution_px;
            report.plan = measured.plan;
            report.weights = measured.weights;
            report.parts.push(measured.part);
        }
        Ok(report)
    }

    /// Its log goes to where ours goes.
    fn measure(&self, part: Part, args: &BenchArgs) -> anyhow::Result<EngineReport> {
        let Sizes {
            resolution,
            frames,
            steps,
            repeat,
            plan,
        } = args.sizes;
        let mut command = Command::new(&self.engine);
        command
            .args([
                "--device",
                &args.device,
                "bench",
                "--part",
                part.name(),
                "--weights",
            ])
            .arg(&self.weights)
            .args(["--frames", &frames.to_string()])
            .args(["--steps", &steps.to_string()])
            .args(["--repeat", &repeat.to_string()])
            .args(["--plan", plan.into()])
            .envs(environment(self.threads))
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
            .with_context(|| format!("cannot start the engine `{}`", self.engine.display()))?;
        anyhow::ensure!(
            output.status.success(),
            "the engine could not measure `{}` ({}): its log above says why",
            part.name(),
            output.status
        );
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("`{}` printed something else than a report", self.engine.display()))
    }
}

fn read_report(path: &Path) -> anyhow::Result<Report> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read the report `{}`", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("`{}` is not a report in JSON", path.display()))
}
