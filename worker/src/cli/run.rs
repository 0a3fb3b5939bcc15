//! `latentfarm-worker run`: the supervisor.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use latentfarm_common::error::one_line;
use latentfarm_common::ids::WorkerId;
use latentfarm_common::nats::Role;
use latentfarm_common::nats::connect::{self, Identity, Patience, SEED_VARIABLE};
use latentfarm_common::shutdown::{self, Shutdown};
use latentfarm_common::wire::memory::WARN_GIB;

use super::devices::{DeviceArgs, worker_names};
use super::engine;
use super::exit::{EXIT_UNFIT, run_here};
use crate::consume::{self, Vitals};
use crate::machine::claims::Claims;
use crate::machine::probe::{Device, Probe};
use crate::supervise::{ChildCommand, Runner, RunnerSettings};
use latentfarm_engine::Precision;
use latentsync::Checkpoint;

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
    #[command(flatten)]
    devices: DeviceArgs,
    /// What the engine computes in (default: f32 on the CPU, f16 on CUDA)
    #[arg(long, value_enum, value_name = "TYPE")]
    precision: Option<Precision>,
    /// Threads of the engine and of the media process (default: all cores)
    #[arg(long, value_name = "N")]
    threads: Option<u32>,
    /// Folder for temporary files (default: a new one, removed at the end)
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// A process that says nothing for so many seconds is taken for hung and killed; known work for five times as
    /// long as it was ever silent on this device, and a minute at least
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    silence_limit: u64,
    /// Uses of memory, in GiB, that are warned of when they are crossed; 90 % of a device always is
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = WARN_GIB)]
    warn_gib: Vec<u64>,
    /// How often the engine gives memory back to the device: the more often, the more other programs find free
    #[arg(long, value_name = "WHEN", value_parser = ["strict", "step", "window", "task"])]
    cleanup: Option<String>,
    /// Passed on to the engine
    #[arg(long, value_name = "ARG", hide = true, allow_hyphen_values = true)]
    engine_arg: Vec<String>,
}

pub(super) fn main(args: RunArgs) -> ExitCode {
    match run_here(run(args)) {
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
    let engines = args.devices.engines()?;
    engine::check_program(&engines.host)?;
    let probe = args.devices.probe();
    let (chosen, _) = args.devices.choose(&probe, &engines);
    let mut chosen = chosen?;
    if let Some(note) = chosen.note {
        tracing::info!("{note}");
    }
    let nkey_seed = std::env::var(SEED_VARIABLE).ok();
    if nkey_seed.is_some() && args.devices.is_auto() {
        keep_emptiest(&mut chosen.devices, &probe);
    }
    let names = worker_names(&worker, &chosen.devices)?;
    ensure_one_key_each(nkey_seed.is_some(), &names)?;
    let own = std::env::current_exe().context("cannot find out where this program lies")?;
    let threads = engine::threads(args.threads).max(1);
    let weights_dir = std::path::absolute(&args.weights).context("cannot resolve the weights folder")?;
    let settings = |device: &Device, name: &WorkerId| {
        let (program, text, envs) = engines.command(device);
        let mut engine_args = vec!["--device".to_owned(), text];
        engine_args.extend(
            args.precision
                .iter()
                .flat_map(|dtype| ["--dtype".to_owned(), dtype.to_string()]),
        );
        engine_args.extend(
            args.cleanup
                .iter()
                .flat_map(|when| ["--cleanup".to_owned(), when.clone()]),
        );
        engine_args.extend(args.engine_arg.iter().cloned());
        let child = |name, program: &Path, args: Vec<String>, envs| ChildCommand {
            name,
            program: program.to_owned(),
            args: args.into_iter().map(Into::into).collect(),
            envs,
            threads,
        };
        RunnerSettings {
            weights_dir: weights_dir.clone(),
            media: child("media", &own, vec!["media".to_owned()], Vec::new()),
            engine: child("engine", program, engine_args, envs),
            device: device.clone(),
            scratch: scratch.join(name.as_str()),
            limits: args.devices.limits(),
            warn_gib: args.warn_gib.clone(),
            claims: Claims::usual_root(),
            silence_limit: Duration::from_secs(args.silence_limit),
        }
    };
    let workers = names.iter().zip(&chosen.devices);
    let workers: Vec<_> = workers
        .map(|(name, device)| (name.clone(), settings(device, name)))
        .collect();

    let (trigger, shutdown, drain) = shutdown::channel();
    shutdown::on_signals(trigger).context("cannot listen for signals")?;
    let serving = workers.into_iter().map(|(name, settings)| {
        let identity = Identity {
            role: Role::Worker(name.clone()),
            nkey_seed: nkey_seed.clone(),
            name: name.to_string(),
        };
        serve(
            name,
            settings,
            probe.clone(),
            &args.nats,
            identity,
            shutdown.clone(),
        )
    });
    let served = futures::future::try_join_all(serving).await;
    drop(shutdown);
    served?;
    let _in_time = drain.finished(Duration::from_secs(5)).await;
    Ok(())
}

/// Takes tasks for one device until told to stop.
async fn serve(
    name: WorkerId,
    settings: RunnerSettings,
    probe: Probe,
    nats: &str,
    identity: Identity,
    shutdown: Shutdown,
) -> Result<(), Unfit> {
    let mut leaving = shutdown.clone();
    let connection = tokio::select! {
        connection = connect::connect(nats, &identity, Patience::Forever) => connection?,
        () = leaving.reached(shutdown::Phase::Draining) => return Ok(()),
    };
    drop(leaving);
    let vitals = Vitals::new(name.clone(), settings.device.to_string());
    tracing::info!(worker = %name, device = %settings.device, "computes");
    let mut runner = Runner::new(settings, probe, vitals.clone());
    let loop_settings = consume::Settings::new(name);
    consume::serve(&connection, &loop_settings, &mut runner, &vitals, shutdown).await?;
    runner.close().await;
    connection.close().await;
    Ok(())
}

/// One key is one worker, so that `auto` takes one GPU: the one with the most free memory.
fn keep_emptiest(devices: &mut Vec<Device>, probe: &Probe) {
    if devices.len() > 1 {
        let free = |device: &Device| probe.read(device).map_or(0, |reading| reading.free_mib);
        devices.sort_by_key(|device| std::cmp::Reverse(free(device)));
        devices.truncate(1);
        tracing::warn!(device = %devices[0], "LATENTFARM_NKEY_SEED is the key of one worker: uses one of several GPUs");
    }
}

/// A key lets one worker in, by its name.
fn ensure_one_key_each(has_key: bool, names: &[WorkerId]) -> anyhow::Result<()> {
    anyhow::ensure!(
        !has_key || names.len() == 1,
        "LATENTFARM_NKEY_SEED is the key of one worker, and {} devices would be {} workers: start one worker for each \
         device, with --device and a key of its own",
        names.len(),
        names.len()
    );
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
