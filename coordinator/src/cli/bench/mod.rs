//! `latentfarm bench`: measures how fast this machine does everything but the model: decoding, encoding,
//! stitching, and passing chunks through the queue.

mod figures;
mod media;
mod queue;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use latentfarm_common::media::MediaError;
use latentfarm_common::nats::server::{ServerBinary, locate};
use latentfarm_common::shutdown::{self, Phase, Shutdown};
use tokio::task::spawn_blocking;

use super::args::BenchArgs;
use super::exit::{CommandError, ExitStatus, runtime};
use super::stdout::print_result;
use crate::local::worker_program;
use figures::{BenchHost, BenchReport};

pub(super) fn main(args: BenchArgs) -> Result<ExitStatus, CommandError> {
    let scratch = match &args.work_dir {
        // A render makes its folder too.
        Some(folder) => std::fs::create_dir_all(folder).and_then(|()| tempfile::tempdir_in(folder)),
        None => tempfile::tempdir(),
    };
    let scratch = scratch
        .context("cannot make a scratch folder; --work-dir names another place")
        .map_err(CommandError::refused)?;
    let runtime = runtime(2)?;
    let outcome = runtime.block_on(run(args, scratch.path()));
    // Threads that still write into the scratch folder must end before it is removed.
    drop(runtime);
    outcome
}

async fn run(args: BenchArgs, scratch: &Path) -> Result<ExitStatus, CommandError> {
    let (trigger, mut shutdown, _drain) = shutdown::channel();
    shutdown::on_signals(trigger).context("cannot listen for signals")?;
    let server = locate(args.nats_server.as_deref())
        .await
        .map_err(CommandError::refused)?;
    let worker = worker_program().map_err(CommandError::refused)?;
    let folder = std::path::absolute(scratch).context("cannot resolve the scratch folder")?;
    // The server and the worker are killed when `measured` is dropped, on every way out.
    let watched = shutdown.clone();
    let measured = measure(&args, &folder, server, worker, &watched);
    let bench = tokio::select! {
        bench = measured => bench?,
        () = shutdown.reached(Phase::Draining) => return Ok(ExitStatus::Interrupted),
    };
    let text = if args.json {
        bench.to_json().to_string()
    } else {
        bench.to_string()
    };
    print_result(text)?;
    Ok(ExitStatus::Complete)
}

async fn measure(
    args: &BenchArgs,
    folder: &Path,
    server: ServerBinary,
    worker: PathBuf,
    shutdown: &Shutdown,
) -> Result<BenchReport, CommandError> {
    let host = BenchHost::here(folder);
    let (video, seconds) = (args.video.clone(), args.seconds);
    let (scratch, watch) = (folder.to_owned(), shutdown.clone());
    let media = spawn_blocking(move || media::measure(video.as_deref(), seconds, &scratch, &watch))
        .await
        .context("the media measurement panicked")?;
    let media = media.map_err(|error| {
        if matches!(error.downcast_ref(), Some(MediaError::BadInput { .. })) {
            CommandError::refused(error)
        } else {
            CommandError::failed(error)
        }
    })?;
    let queue = queue::measure(args.chunks, folder, server, &worker).await?;
    Ok(BenchReport { host, media, queue })
}
