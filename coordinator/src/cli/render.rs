//! `latentfarm render`: turns a video and a speech file into one lip-synced video. It checks the inputs,
//! prints the estimate, runs the job, shows its events, and prints the report.

use std::time::Duration;

use anyhow::Context as _;
use latentfarm_common::limits::{self, Needs};
use latentfarm_common::nats::server::locate;
use latentfarm_common::queues::DEFAULT_PRIORITY;
use latentfarm_common::shutdown::{self, Phase};
use serde_json::json;

use super::args::RenderArgs;
use super::exit::{CommandError, ExitStatus, runtime};
use super::progress::JobUi;
use super::report;
use super::settings::RenderCommand;
use super::submit;
use crate::dispatch::{Ending, Farm};
use crate::farm::{self, SubmitOptions};
use crate::render::{Observer, PrivateFarm, RenderEvent, RenderJob};

/// How long the files of an interrupted render may take to be closed and removed.
const CLEAN_UP: Duration = Duration::from_secs(2);

pub(super) fn main(args: RenderArgs) -> Result<ExitStatus, CommandError> {
    let settings = RenderCommand::new(args).map_err(CommandError::refused)?;
    limits::check(needs(&settings)).map_err(CommandError::refused)?;
    let runtime = runtime(2)?;
    let outcome = runtime.block_on(run(settings));
    // An interrupted render does not wait until its files have been read to their ends.
    runtime.shutdown_timeout(CLEAN_UP);
    outcome
}

/// Returns what the render and the programs that it starts need of the limited resources.
fn needs(settings: &RenderCommand) -> Needs {
    if settings.nats.is_some() {
        return Needs {
            address_space_mib: 1024,
            open_files: 64,
            threads: 16,
        };
    }
    let per_worker = 16 + 2 * settings.threads_per_worker as u64;
    Needs {
        // nats-server and the engine map about 2 GiB before they use any.
        address_space_mib: 3072,
        open_files: 64,
        threads: 40 + per_worker * settings.workers.len() as u64,
    }
}

async fn run(settings: RenderCommand) -> Result<ExitStatus, CommandError> {
    let (trigger, shutdown, _drain) = shutdown::channel();
    shutdown::on_signals(trigger).context("cannot listen for signals")?;
    let mut ui = JobUi::new(settings.json);
    let place = match &settings.nats {
        Some(url) => Place::Farm(Box::new(submit::coordinated_farm(url).await?)),
        None => Place::Here(PrivateFarm {
            server: locate(settings.nats_server.as_deref())
                .await
                .map_err(CommandError::refused)?,
            workers: settings.workers,
            threads: settings.threads_per_worker,
        }),
    };
    let mut interrupted = shutdown.clone();
    let job = tokio::select! {
        job = RenderJob::check(settings.render) => job?,
        () = interrupted.reached(Phase::Draining) => return Ok(ExitStatus::Interrupted),
    };
    drop(interrupted);
    for note in settings.notes {
        ui.show(&RenderEvent::Note(note));
    }
    announce(&mut ui, &job, place.workers());
    if settings.dry_run {
        return Ok(ExitStatus::Complete);
    }
    let (observer, events) = Observer::channel();
    let preflight = job.preflight();
    let (report, kept, stopped) = match place {
        Place::Here(farm) => {
            let work = preflight.settings.work.as_ref();
            let kept = work.map_or_else(String::new, |work| format!("in `{}`", work.path.display()));
            let stopped =
                format!("stopped; finished chunks are kept {kept}: the same command resumes the job");
            let running = Box::pin(job.run(farm, &observer, shutdown));
            (ui.show_while(events, running).await?, kept, stopped)
        }
        Place::Farm(farm) => {
            let stopped = submit::no_longer_waiting(preflight.job);
            let options = SubmitOptions {
                name: submit::name_of(preflight.settings.target.path()),
                submitter: submit::submitter(),
                priority: DEFAULT_PRIORITY,
                after: None,
                deadline: None,
                deliver: None,
            };
            let running = Box::pin(farm::render(job, &farm, options, &observer, shutdown));
            (
                ui.show_while(events, running).await?,
                "on the farm".to_owned(),
                stopped,
            )
        }
    };
    let Some(report) = report else {
        ui.warn(&stopped);
        return Ok(ExitStatus::Interrupted);
    };
    let status = conclude(&ui, &report.ending, &kept);
    ui.event(&report::to_json(&report));
    ui.result(&report::to_text(&report));
    Ok(status)
}

/// Where a job is rendered.
enum Place {
    /// On a private farm of this machine.
    Here(PrivateFarm),
    /// On a farm that has a coordinator.
    Farm(Box<Farm>),
}

impl Place {
    /// Returns the number of workers that the render itself starts.
    fn workers(&self) -> usize {
        match self {
            Self::Here(farm) => farm.workers.len(),
            Self::Farm(_) => 0,
        }
    }
}

/// Tells why a job is not complete, if it is not, and returns the exit status. `kept` says where its finished
/// chunks are kept.
fn conclude(ui: &JobUi, ending: &Ending, kept: &str) -> ExitStatus {
    match ending {
        Ending::Complete => ExitStatus::Complete,
        Ending::NoFace => {
            ui.warn(
                "no face was found in the whole video, so nothing was written: with --allow-no-face the unchanged \
                 video is written",
            );
            ExitStatus::Incomplete
        }
        Ending::Failed { quarantined } => {
            let cause = quarantined.first().map_or("", |chunk| chunk.reason.as_str());
            ui.warn(&format!(
                "no chunk could be rendered, so nothing was written: {cause}; the same command tries again"
            ));
            ExitStatus::Incomplete
        }
        Ending::Incomplete { quarantined } => {
            let cause = quarantined.first().map_or("", |chunk| chunk.reason.as_str());
            ui.warn(&format!(
                "incomplete: {} chunks were given up, so nothing was written: {cause}; finished chunks are kept \
                 {kept}, and the same command tries the others again",
                quarantined.len()
            ));
            ExitStatus::Incomplete
        }
        Ending::NoVideo { reason } => {
            ui.warn(&format!("the video cannot be cut to its end: {reason}"));
            ExitStatus::Failed
        }
        Ending::NoWorker { reason } => {
            ui.warn(&format!(
                "incomplete: {reason}; finished chunks are kept {kept}, and the same command goes on with the job"
            ));
            ExitStatus::Incomplete
        }
        Ending::Cancelled => {
            ui.warn("the job was cancelled, so nothing was written");
            ExitStatus::Incomplete
        }
        Ending::Interrupted { .. } => ExitStatus::Interrupted,
    }
}

/// Prints the estimate and the notes about the inputs, before any work starts.
fn announce(ui: &mut JobUi, job: &RenderJob, workers: usize) {
    let preflight = job.preflight();
    let estimate = &preflight.estimate;
    if let Some(notice) = preflight.model.weights_kind.notice() {
        ui.line(&notice);
    }
    for note in job.notes() {
        ui.show(&RenderEvent::Note(note));
    }
    ui.line(&format!("job {}: {estimate}", preflight.job));
    ui.event(&json!({
        "event": "estimate",
        "job": preflight.job.to_string(),
        "frames": estimate.frames,
        "rate": preflight.encoder.rate.to_string(),
        "chunks": estimate.chunks,
        "seconds": estimate.seconds,
        "disk_bytes": estimate.disk_bytes,
        "worker_mib": estimate.worker_mib,
        "workers": workers,
        "weights_kind": preflight.model.weights_kind,
    }));
}
