//! `latentfarm-worker run`: the supervisor.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use latentfarm_common::ids::WorkerId;
use latentfarm_common::nats::connect::{self, Identity, Patience};
use latentfarm_common::nats::subjects;
use latentfarm_common::{error::one_line, shutdown};

use super::EXIT_UNFIT;
use crate::consume::{self, Vitals};
use crate::engine::Precision;
use crate::latentsync::Checkpoint;
use crate::supervise::{ChildCommand, Runner, RunnerSettings};

#[derive(clap::Args, Debug)]
pub(super) struct RunArgs {
    /// URL of the farm's NATS server
    #[arg(long, value_name = "URL")]
    nats: String,
    /// Name of this worker, unique on the farm: 1 to 40 of a-z, 0-9 and - (default: the host's name)
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Folder with the model weights
    #[arg(long, value_name = "DIR", env = "LATENTFARM_WEIGHTS")]
    weights: PathBuf,
    /// Where the engine computes: `cpu`, or `cuda:N` with a CUDA engine
    #[arg(long, default_value = "cpu")]
    device: String,
    /// What the engine computes in (default: f32 on the CPU, f16 on CUDA)
    #[arg(long, value_enum, value_name = "TYPE")]
    precision: Option<Precision>,
    /// Threads of the engine and of the media process (default: all cores)
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Host memory that is never used, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    reserve: u64,
    /// Folder for temporary files (default: a new one, removed at the end)
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Engine program (default: latentfarm-engine beside this program)
    #[arg(long, value_name = "PATH")]
    engine: Option<PathBuf>,
    /// A process that says nothing for so many seconds is taken for hung and killed
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    silence_limit: u64,
}

pub(super) fn main(args: RunArgs) -> ExitCode {
    // On one thread, which lives as long as the process: the kernel kills the children when it ends.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(args)),
        Err(error) => Err(Unfit(
            anyhow::Error::new(error).context("cannot start the runtime"),
        )),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Unfit(error)) => {
            tracing::error!("{}", one_line(error.as_ref()));
            ExitCode::from(EXIT_UNFIT)
        }
    }
}

/// This machine cannot work, and would not after a restart.
struct Unfit(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Unfit {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

async fn run(args: RunArgs) -> Result<(), Unfit> {
    let worker = worker_id(args.name.as_deref())?;
    let own_scratch = match &args.scratch {
        Some(_) => None,
        None => Some(tempfile::tempdir().context("cannot make a scratch folder")?),
    };
    let scratch = own_scratch
        .as_ref()
        .map(|dir| dir.path().to_owned())
        .or(args.scratch)
        .unwrap_or_default();
    // Weights that cannot be used are better found now than with the first task.
    let checkpoint = Checkpoint::open(&args.weights)?;
    checkpoint.check_tensors()?;
    let own = std::env::current_exe().context("cannot find out where this program lies")?;
    let engine = args
        .engine
        .unwrap_or_else(|| own.with_file_name("latentfarm-engine"));
    check_program(&engine)?;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = args.threads.unwrap_or(cores).max(1);
    let child = |name, program: &Path, args: &[&str]| ChildCommand {
        name,
        program: program.to_owned(),
        args: args.iter().map(Into::into).collect(),
        threads,
    };
    let precision = args.precision.map(|precision| precision.to_string());
    let mut engine_args = vec!["--device", args.device.as_str()];
    engine_args.extend(precision.iter().flat_map(|precision| ["--dtype", precision]));
    let vitals = Vitals::new(worker.clone(), args.device.clone());
    let settings = RunnerSettings {
        weights_dir: std::path::absolute(&args.weights).context("cannot resolve the weights folder")?,
        media: child("media", &own, &["media"]),
        engine: child("engine", &engine, &engine_args),
        device: args.device,
        scratch: scratch.join("task"),
        reserve_mib: args.reserve,
        silence_limit: Duration::from_secs(args.silence_limit),
    };

    let (trigger, shutdown, drain) = shutdown::channel();
    shutdown::on_signals(trigger).context("cannot listen for signals")?;
    let identity = Identity {
        nkey_seed: std::env::var("LATENTFARM_NKEY_SEED").ok(),
        inbox_prefix: subjects::worker_inbox(&worker),
        name: worker.to_string(),
    };
    let mut leaving = shutdown.clone();
    let connection = tokio::select! {
        connection = connect::connect(&args.nats, &identity, Patience::Forever) => connection?,
        () = leaving.reached(shutdown::Phase::Draining) => return Ok(()),
    };
    drop(leaving);
    let mut runner = Runner::new(settings, vitals.clone());
    consume::serve(
        &connection,
        &consume::Settings::new(worker),
        &mut runner,
        &vitals,
        shutdown,
    )
    .await?;
    runner.close().await;
    connection.close().await;
    let _in_time = drain.finished(Duration::from_secs(5)).await;
    Ok(())
}

fn worker_id(name: Option<&str>) -> anyhow::Result<WorkerId> {
    if let Some(name) = name {
        return Ok(name.parse()?);
    }
    let host = nix::unistd::gethostname().context("cannot find out the host's name; give --name")?;
    let mut text: String = host
        .to_string_lossy()
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    text.truncate(40);
    text.parse().with_context(|| {
        format!(
            "the host's name `{}` gives no worker name; give --name",
            host.display()
        )
    })
}

pub(super) fn check_program(path: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(
        path.is_file(),
        "the engine `{}` is missing: give --engine",
        path.display()
    );
    Ok(())
}
