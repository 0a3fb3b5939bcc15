//! Runs the dispatcher beside the workers, and tells the operator what happens.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use latentfarm_common::blob::Store;
use latentfarm_common::error::one_line;
use latentfarm_common::ids::Work;
use latentfarm_common::nats::lease::Contention;
use latentfarm_common::shutdown::{Phase, Shutdown};
use latentfarm_common::wire::job::{JobSpec, Timeline};
use latentfarm_common::wire::outcome::DoneRecord;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::CommandError;
use super::events;
use super::farm::{LocalFarm, local_copy};
use super::preflight::Preflight;
use super::progress::Ui;
use super::settings::Settings;
use crate::dispatch::{self, Check, DispatchSettings, JobEvent, JobResult};
use crate::local::{JobFolder, LocalNotice, LocalWorkers};
use crate::stitch;

/// A job that the dispatcher is through with.
pub(super) struct FinishedJob {
    pub(super) spec: JobSpec,
    pub(super) result: JobResult,
    /// Chunks that an earlier run had finished.
    pub(super) resumed_chunks: usize,
}

/// How watching ended.
pub(super) enum Watched {
    Finished(Box<FinishedJob>),
    Interrupted,
}

#[expect(
    clippy::too_many_arguments,
    reason = "everything that one render is made of comes together here"
)]
pub(super) async fn run_job(
    settings: &Settings,
    preflight: &Preflight,
    folder: &JobFolder,
    farm: &LocalFarm,
    ui: &mut Ui,
    mut notices: mpsc::UnboundedReceiver<LocalNotice>,
    mut shutdown: Shutdown,
    spec: JobSpec,
    timeline: Timeline,
) -> Result<Watched, CommandError> {
    let workers = farm
        .start_workers(settings, preflight, folder)
        .map_err(CommandError::failed)?;
    let mut dispatch = DispatchSettings::new(folder.path().to_owned(), preflight.needs);
    dispatch.allow_no_face = settings.allow_no_face;
    dispatch.cpu_fallback = settings.cpu_fallback;
    dispatch.unplaceable_wait = settings.unplaceable_wait;
    if farm.is_private() {
        dispatch.contention = Contention::Seize;
    }
    let (observer, mut job_events) = mpsc::unbounded_channel();
    let check = segment_check(&farm.farm.store, folder.scratch());
    let job = dispatch::run_job(
        &farm.farm,
        spec.clone(),
        timeline,
        dispatch,
        check,
        observer,
        shutdown.clone(),
    );
    tokio::pin!(job);
    ui.begin("render", spec.frames, "frames");
    let mut view = View {
        resumed_chunks: 0,
        working: workers.as_ref().map(|_| settings.workers.len()),
    };
    let mut draining = false;
    let mut stopping = shutdown.clone();
    let result = loop {
        tokio::select! {
            result = &mut job => break result,
            Some(event) = job_events.recv() => view.show(&event, ui),
            Some(notice) = notices.recv() => {
                view.tell(&notice, ui);
                let fatal = match &notice {
                    LocalNotice::ServerLost { why } => Some(anyhow::anyhow!("the private nats-server is lost: {why}")),
                    _ if view.working == Some(0) => Some(anyhow::anyhow!("no worker is left to render the job")),
                    _ => None,
                };
                if let Some(error) = fatal {
                    stop(workers).await;
                    return Err(CommandError::failed(error));
                }
            }
            () = shutdown.reached(Phase::Draining), if !draining => {
                draining = true;
                ui.warn("draining: the chunks in hand are finished first; Ctrl-C again stops at once");
                if let Some(workers) = &workers {
                    workers.drain();
                }
            }
            () = stopping.reached(Phase::Stopping), if draining => {
                stop(workers).await;
                return Ok(Watched::Interrupted);
            }
        }
    };
    // What the dispatcher said last is still to be told.
    while let Ok(event) = job_events.try_recv() {
        view.show(&event, ui);
    }
    stop(workers).await;
    ui.finish();
    let result = result
        .context("cannot dispatch the job")
        .map_err(CommandError::failed)?;
    if matches!(result.ending, dispatch::Ending::Interrupted { .. }) {
        result.lease.release().await;
        return Ok(Watched::Interrupted);
    }
    let resumed_chunks = view.resumed_chunks;
    Ok(Watched::Finished(Box::new(FinishedJob {
        spec,
        result,
        resumed_chunks,
    })))
}

async fn stop(workers: Option<LocalWorkers>) {
    if let Some(workers) = workers {
        workers.stop().await;
    }
}

/// Verifies a render record's segment before it counts: its digest, and every decoded frame.
fn segment_check(store: &Store, scratch: PathBuf) -> Check {
    let store = store.clone();
    let runtime = Handle::current();
    // Called on a thread of its own, where waiting for the store blocks nobody.
    Arc::new(move |record: &DoneRecord, range| {
        let path = runtime
            .block_on(local_copy(&store, &record.artifact, &scratch))
            .map_err(|error| one_line(&error))?;
        stitch::check_segment(&path, &record.artifact, range)
            .map(|_info| ())
            .map_err(|error| one_line(&error))
    })
}

/// What has been shown so far.
struct View {
    resumed_chunks: usize,
    /// Workers of this machine that have not been given up.
    working: Option<usize>,
}

impl View {
    fn show(&mut self, event: &JobEvent, ui: &mut Ui) {
        if let Some(value) = events::to_json(event) {
            ui.event(&value);
        }
        match event {
            JobEvent::Progress(progress) => {
                let done = progress.render.frames_done + progress.frames_under_way;
                let analyzed = progress.analyze.frames_done;
                let mut text = match progress.workers {
                    1 => format!("1 worker, {analyzed}/{} analysed", progress.analyze.frames),
                    n => format!("{n} workers, {analyzed}/{} analysed", progress.analyze.frames),
                };
                if let Some(shortage) = &progress.shortage {
                    let waiting = progress.waiting_for_memory;
                    // Writing to a text cannot fail.
                    let _written = write!(text, ", {waiting} waiting for memory ({shortage})");
                }
                ui.advance(done, &text);
            }
            JobEvent::Resumed { records } => {
                self.resumed_chunks = *records;
                ui.line(&event.to_string());
            }
            JobEvent::Heartbeat(_) => {}
            // Every chunk begins; only what is done, or did not go well, is worth a line.
            JobEvent::ChunkStarted { chunk, .. } if chunk.work == Work::Analyze => {}
            _ => ui.line(&event.to_string()),
        }
    }

    fn tell(&mut self, notice: &LocalNotice, ui: &Ui) {
        match notice {
            LocalNotice::WorkerDied {
                worker,
                how,
                restarts_in,
            } => {
                let seconds = restarts_in.as_secs_f32();
                ui.line(&format!(
                    "worker {worker} ended ({how}); started again in {seconds:.1} s"
                ));
                ui.event(&json!({ "event": "worker_died", "worker": worker.as_str(), "how": how }));
            }
            LocalNotice::WorkerGivenUp { worker, why } => {
                ui.warn(&format!("worker {worker} is given up: {why}"));
                ui.event(&json!({ "event": "worker_given_up", "worker": worker.as_str(), "why": why }));
                self.working = self.working.map(|working| working.saturating_sub(1));
            }
            LocalNotice::ServerRestarted { how } => {
                ui.line(&format!(
                    "the private nats-server ended ({how}) and was started again"
                ));
                ui.event(&json!({ "event": "server_restarted", "how": how }));
            }
            // Ends the job with an error that says as much.
            LocalNotice::ServerLost { .. } => {}
        }
    }
}
