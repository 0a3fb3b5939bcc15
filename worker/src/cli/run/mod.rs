//! `latentfarm-worker run` is the supervisor: for each device it joins the farm as a worker, and it renders
//! until a signal ends it.

mod access;
mod args;
mod duty;
mod round;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use latentfarm_common::ids::WorkerId;
use latentfarm_common::limits::{self, Needs};
use latentfarm_common::shutdown;
use latentfarm_common::tags::Tags;

use super::caches::user_caches;
use super::engine_program::{ensure_installed, thread_count};
use super::exit::{EXIT_CANNOT_WORK, block_on, failed, usage_error};
use crate::machine::weights_cache::WeightsCache;
use crate::supervise::WeightsSource;
use access::Access;
use latentsync::Checkpoint;
use round::FarmWorker;

pub(super) use args::RunArgs;

pub(super) fn main(args: RunArgs) -> ExitCode {
    let access = match Access::from_args(&args) {
        Ok(access) => access,
        Err(error) => return usage_error(error.as_ref()),
    };
    let tags = match access.tags(&args) {
        Ok(tags) => tags,
        Err(error) => return usage_error(&error),
    };
    match block_on(run(args, access, tags)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(error.as_ref(), EXIT_CANNOT_WORK),
    }
}

async fn run(args: RunArgs, access: Access, tags: Tags) -> anyhow::Result<()> {
    let worker = match &access {
        Access::Joined(join) => join.name.clone(),
        Access::Named { .. } => worker_id(args.name.as_deref())?,
    };
    let (scratch, _removed_at_the_end) = if let Some(dir) = &args.scratch {
        (dir.clone(), None)
    } else {
        let dir = tempfile::tempdir().context("cannot make a scratch folder")?;
        (dir.path().to_owned(), Some(dir))
    };
    let weights = weights_source(&args)?;
    // Unusable weights are reported now rather than with the first task.
    let checkpoint = match &weights {
        WeightsSource::Folder(dir) => Some(Checkpoint::open(dir)?),
        WeightsSource::Store(_) => None,
    };
    // The engine maps the weights, and about 2 GiB before it uses any.
    limits::check(Needs {
        address_space_mib: 2560
            + checkpoint
                .as_ref()
                .map_or(0, |checkpoint| checkpoint.bytes() >> 20),
        open_files: 64,
        threads: 8 + 2 * thread_count(args.threads) as u64,
    })?;
    if let Some(checkpoint) = &checkpoint {
        checkpoint.check_tensors()?;
    }
    let engines = args.devices.engines()?;
    ensure_installed(&engines.host)?;
    let (off_hours, _watcher) = duty::follow(args.hours.clone());
    let farm_worker = FarmWorker {
        access,
        off_hours,
        own_program: std::env::current_exe().context("cannot find out where this program lies")?,
        weights,
        probe: args.devices.probe(),
        worker,
        tags,
        scratch,
        args,
    };
    let (trigger, shutdown, drain) = shutdown::channel();
    shutdown::on_signals(trigger).context("cannot listen for signals")?;
    // A round ends when a GPU that could not be used can be: the next one uses it.
    while shutdown.is_running() && farm_worker.round(engines.clone(), &shutdown).await? {}
    drop(shutdown);
    let _in_time = drain.finished(Duration::from_secs(5)).await;
    Ok(())
}

/// Returns where the weights come from. A folder of the name `auto` is `./auto`.
fn weights_source(args: &RunArgs) -> anyhow::Result<WeightsSource> {
    if args.weights != Path::new("auto") {
        let dir = std::path::absolute(&args.weights).context("cannot resolve the weights folder")?;
        return Ok(WeightsSource::Folder(dir));
    }
    let dir = match &args.weights_cache {
        Some(dir) => std::path::absolute(dir).context("cannot resolve the folder for weights")?,
        None => user_caches()
            .context("there is no place for weights, since neither XDG_CACHE_HOME nor HOME is an absolute path: give --weights-cache")?
            .join("weights"),
    };
    let limit_bytes = args.weights_cache_limit << 30;
    Ok(WeightsSource::Store(WeightsCache::new(dir, limit_bytes)))
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
