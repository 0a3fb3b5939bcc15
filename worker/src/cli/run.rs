//! `latentfarm-worker run` is the supervisor: for each device it joins the farm as a worker, and it renders
//! until a signal ends it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use latentfarm_common::backoff::RetryLimit;
use latentfarm_common::ids::WorkerId;
use latentfarm_common::limits::{self, Needs};
use latentfarm_common::nats::Role;
use latentfarm_common::nats::connect::{self, Identity, SEED_VARIABLE};
use latentfarm_common::numeric_kind::NumericKind;
use latentfarm_common::shutdown::{self, Shutdown};
use latentfarm_common::wire::memory::WARN_GIB;

use super::device_args::{DeviceArgs, worker_names};
use super::engine_program::{ensure_installed, thread_count};
use super::exit::{EXIT_CANNOT_WORK, block_on, failed};
use crate::consume::{self, HeartbeatState};
use crate::machine::probe::{Device, Probe};
use crate::machine::reservations::Reservations;
use crate::supervise::{ChildCommand, Runner, RunnerSettings};
use latentfarm_engine::{Precision, numerics_fingerprint};
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
    /// Number type that the engine computes in (default: f32 on the CPU, f16 on CUDA)
    #[arg(long, value_enum, value_name = "TYPE")]
    precision: Option<Precision>,
    /// Threads of the engine and of the media process (default: all cores)
    #[arg(long, value_name = "N")]
    threads: Option<u32>,
    /// Folder for temporary files (default: a new one that is removed at the end)
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Seconds without a message after which an engine or media process counts as hung and is killed; for
    /// work that this device has done before, the limit is five times its longest silence so far, and at
    /// least one minute
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    silence_limit: u64,
    /// Amounts of used memory, in GiB, whose crossing is logged as a warning; 90 % of a device always is
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = WARN_GIB)]
    warn_gib: Vec<u64>,
    /// When the engine gives unused memory back to the device; the more often it does, the more other
    /// programs find free
    #[arg(long, value_name = "WHEN", value_parser = ["strict", "step", "window", "task"])]
    cleanup: Option<String>,
    /// Argument to pass on to the engine
    #[arg(long, value_name = "ARG", hide = true, allow_hyphen_values = true)]
    engine_arg: Vec<String>,
}

pub(super) fn main(args: RunArgs) -> ExitCode {
    match block_on(run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(error.as_ref(), EXIT_CANNOT_WORK),
    }
}

async fn run(args: RunArgs) -> anyhow::Result<()> {
    let worker = worker_id(args.name.as_deref())?;
    let (scratch, _removed_at_the_end) = if let Some(dir) = args.scratch {
        (dir, None)
    } else {
        let dir = tempfile::tempdir().context("cannot make a scratch folder")?;
        (dir.path().to_owned(), Some(dir))
    };
    // Unusable weights are reported now rather than with the first task.
    let checkpoint = Checkpoint::open(&args.weights)?;
    // The engine maps the weights, and about 2 GiB before it uses any.
    limits::check(Needs {
        address_space_mib: 2560 + (checkpoint.bytes() >> 20),
        open_files: 64,
        threads: 8 + 2 * thread_count(args.threads) as u64,
    })?;
    checkpoint.check_tensors()?;
    let engines = args.devices.engines()?;
    ensure_installed(&engines.host)?;
    let probe = args.devices.probe();
    let (selected, _) = args.devices.select(&probe, &engines);
    let mut selected = selected?;
    if let Some(note) = selected.note {
        tracing::info!("{note}");
    }
    let nkey_seed = std::env::var(SEED_VARIABLE).ok();
    if nkey_seed.is_some() && args.devices.is_auto() {
        keep_emptiest(&mut selected.devices, &probe);
    }
    let names = worker_names(&worker, &selected.devices)?;
    ensure_one_key_each(nkey_seed.is_some(), &names)?;
    let own = std::env::current_exe().context("cannot find out where this program lies")?;
    let threads = thread_count(args.threads).max(1);
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
            reservations_dir: Reservations::usual_root(),
            silence_limit: Duration::from_secs(args.silence_limit),
        }
    };
    let workers = names.iter().zip(&selected.devices);
    let workers: Vec<_> = workers
        .map(|(name, device)| (name.clone(), settings(device, name)))
        .collect();

    let (trigger, shutdown, drain) = shutdown::channel();
    shutdown::on_signals(trigger).context("cannot listen for signals")?;
    let serving = workers.into_iter().map(|(name, settings)| {
        let kind = numeric_kind(&settings.device, args.precision, &probe);
        let identity = Identity {
            nkey_seed: nkey_seed.clone(),
            ..Identity::from_environment(Role::Worker(name.clone()), name.to_string())
        };
        serve(
            consume::Settings {
                kind: Some(kind),
                ..consume::Settings::new(name)
            },
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

/// Pulls and renders tasks on one device, as one worker, until the shutdown begins.
async fn serve(
    loop_settings: consume::Settings,
    settings: RunnerSettings,
    probe: Probe,
    nats: &str,
    identity: Identity,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let mut leaving = shutdown.clone();
    let connection = tokio::select! {
        connection = connect::connect(nats, &identity, RetryLimit::Forever) => connection?,
        () = leaving.reached(shutdown::Phase::Draining) => return Ok(()),
    };
    drop(leaving);
    let name = loop_settings.worker.clone();
    let heartbeat_state = HeartbeatState::new(name.clone(), settings.device.to_string());
    tracing::info!(worker = %name, device = %settings.device, "the worker has joined the farm");
    let mut runner = Runner::new(settings, probe, heartbeat_state.clone());
    let serving = consume::serve(
        &connection,
        &loop_settings,
        &mut runner,
        &heartbeat_state,
        shutdown,
    );
    // The future is large: without the box it would be part of this one.
    Box::pin(serving).await?;
    runner.close().await;
    connection.close().await;
    Ok(())
}

/// Returns the numeric kind of a device: two devices with the same answer render the same bits.
fn numeric_kind(device: &Device, precision: Option<Precision>, probe: &Probe) -> NumericKind {
    let (computes_as, usual) = match device {
        // A simulated GPU computes on the CPU.
        Device::Cpu | Device::Simulated(_) => ("cpu".to_owned(), Precision::F32),
        Device::Cuda { gpu, .. } => {
            let driver = probe.driver_version().unwrap_or_default();
            (format!("cuda {}, driver {driver}", gpu.name), Precision::F16)
        }
    };
    let dtype = precision.unwrap_or(usual).dtype();
    NumericKind::of(&numerics_fingerprint(&computes_as, dtype))
}

/// Reduces `auto` to the GPU with the most free memory, since one key admits only one worker.
fn keep_emptiest(devices: &mut Vec<Device>, probe: &Probe) {
    if devices.len() > 1 {
        let free = |device: &Device| probe.read(device).map_or(0, |reading| reading.free_mib);
        devices.sort_by_key(|device| std::cmp::Reverse(free(device)));
        devices.truncate(1);
        tracing::warn!(device = %devices[0], "LATENTFARM_NKEY_SEED is the key of one worker: only one of several GPUs is used");
    }
}

/// Refuses several devices with one key, which admits only the worker that it names.
fn ensure_one_key_each(has_key: bool, names: &[WorkerId]) -> anyhow::Result<()> {
    anyhow::ensure!(
        !has_key || names.len() == 1,
        "LATENTFARM_NKEY_SEED is the key of one worker, and {} devices would be {} workers: start one worker for each \
         device, with --device and its own key",
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
            "the host's name `{}` cannot be made a worker name; give --name",
            host.display()
        )
    })
}
