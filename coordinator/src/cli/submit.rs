//! `latentfarm submit` hands a job to the coordinator of a farm, and `latentfarm fetch` writes its output.

use std::ffi::OsStr;
use std::time::Duration;

use anyhow::Context as _;
use latentfarm_common::blob::Store;
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::topology::Topology;
use latentfarm_common::shutdown::{self, Phase, Shutdown};
use serde_json::json;

use super::args::{FetchArgs, SubmitArgs};
use super::exit::{CommandError, ExitStatus, runtime};
use super::jobs::{self, LOOK_EVERY};
use super::progress::{JobUi, SYNTHETIC};
use super::settings::JobSettings;
use crate::dispatch::Farm;
use crate::farm::{self, FarmClient, FetchError, JobPhase, JobView, SubmitError, SubmitOptions};
use crate::render::{FARM_STORE, Observer, RenderEvent, RenderJob};
use crate::stitch::OutputTarget;

/// How long the files of an interrupted command may take to be closed and removed.
const CLEAN_UP: Duration = Duration::from_secs(2);

impl From<SubmitError> for CommandError {
    fn from(error: SubmitError) -> Self {
        if error.is_refusal() {
            Self::refused(error)
        } else {
            Self::failed(error)
        }
    }
}

impl From<FetchError> for CommandError {
    fn from(error: FetchError) -> Self {
        if error.is_refusal() {
            Self::refused(error)
        } else {
            Self::failed(error)
        }
    }
}

pub(super) fn main(args: SubmitArgs) -> Result<ExitStatus, CommandError> {
    let runtime = runtime(2)?;
    let outcome = runtime.block_on(Box::pin(run(args)));
    runtime.shutdown_timeout(CLEAN_UP);
    outcome
}

async fn run(args: SubmitArgs) -> Result<ExitStatus, CommandError> {
    let (trigger, shutdown, _drain) = shutdown::channel();
    shutdown::on_signals(trigger).context("cannot listen for signals")?;
    let mut ui = JobUi::new(args.json);
    let file_name = args
        .job
        .output
        .file_name()
        .unwrap_or(OsStr::new("job"))
        .to_owned();
    let options = SubmitOptions {
        name: args
            .name
            .unwrap_or_else(|| file_name.to_string_lossy().into_owned()),
        submitter: submitter(),
        priority: args.priority,
    };
    let settings = JobSettings::new(args.job, 1).map_err(CommandError::refused)?;
    // A farm without a coordinator is found before the inputs are read.
    let connection = jobs::connection(&args.farm).await?;
    let client = FarmClient::new(&connection);
    client.list(farm::ListFilter::default()).await?;
    let target = settings.render.target.clone();
    let mut interrupted = shutdown.clone();
    let job = tokio::select! {
        job = RenderJob::check(settings.render) => job?,
        () = interrupted.reached(Phase::Draining) => return Ok(ExitStatus::Interrupted),
    };
    if job.preflight().model.synthetic {
        ui.line(SYNTHETIC);
    }
    for note in settings.rate_note.into_iter().chain(job.notes()) {
        ui.show(&RenderEvent::Note(note));
    }
    let id = job.preflight().job;
    ui.line(&format!("job {id}"));
    let farm = farm_at(connection)?;
    let (observer, mut events) = Observer::channel();
    let submitting = farm::submit(job, &farm, options, &observer, shutdown.clone());
    let mut submitting = Box::pin(submitting);
    let submitted = loop {
        tokio::select! {
            submitted = &mut submitting => break submitted?,
            Some(event) = events.recv() => ui.show(&event),
        }
    };
    while let Ok(event) = events.try_recv() {
        ui.show(&event);
    }
    ui.finish();
    let Some(view) = submitted else {
        ui.warn("stopped; what is stored is kept, and the same command goes on with the job");
        return Ok(ExitStatus::Interrupted);
    };
    if !args.wait {
        jobs::print(&view, args.json)?;
        return Ok(ExitStatus::Complete);
    }
    let Some(view) = wait(&client, view, &mut ui, shutdown.clone()).await? else {
        ui.warn(&format!(
            "no longer waiting for job {id}; the farm goes on with it, and the same command waits again"
        ));
        return Ok(ExitStatus::Interrupted);
    };
    if view.record.phase == JobPhase::Complete {
        write(&farm, &view, &target, &mut ui).await?;
    }
    jobs::print(&view, args.json)?;
    Ok(jobs::exit_status(view.record.phase))
}

pub(super) fn fetch(args: &FetchArgs) -> Result<ExitStatus, CommandError> {
    runtime(2)?.block_on(async {
        let mut ui = JobUi::new(args.json);
        let target = OutputTarget::check(&args.output, &[], args.force).map_err(CommandError::refused)?;
        let connection = jobs::connection(&args.farm).await?;
        let view = FarmClient::new(&connection).show(args.job).await?;
        if target.container().extension() != view.extension {
            return Err(CommandError::refused(anyhow::anyhow!(
                "job {} makes a .{} file: give such a name with -o",
                view.job,
                view.extension
            )));
        }
        write(&farm_at(connection)?, &view, &target, &mut ui).await?;
        jobs::print(&view, args.json)?;
        Ok(ExitStatus::Complete)
    })
}

/// Writes the output of a complete job.
async fn write(
    farm: &Farm,
    view: &JobView,
    target: &OutputTarget,
    ui: &mut JobUi,
) -> Result<(), CommandError> {
    let (observer, mut events) = Observer::channel();
    let mut fetching = Box::pin(farm::fetch(farm, view, target, &observer));
    let written = loop {
        tokio::select! {
            written = &mut fetching => break written?,
            Some(event) = events.recv() => ui.show(&event),
        }
    };
    ui.finish();
    ui.event(&json!({
        "event": "written",
        "job": view.job.to_string(),
        "output": written.path,
        "frames_digest": written.frames_digest,
        "sound": written.sound,
    }));
    ui.line(&format!("wrote `{}`", written.path.display()));
    Ok(())
}

/// Waits until a job is over. Returns `None` if a signal came first.
async fn wait(
    client: &FarmClient,
    mut view: JobView,
    ui: &mut JobUi,
    mut shutdown: Shutdown,
) -> Result<Option<JobView>, CommandError> {
    ui.begin("render", view.record.frames, "frames");
    let mut told = None;
    while !view.record.phase.is_over() {
        ui.advance(view.record.frames_done, &view.record.phase.to_string());
        ui.event(&jobs::to_json(&view));
        if told != view.waits_for {
            told.clone_from(&view.waits_for);
            if let Some(why) = &told {
                ui.warn(why);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = shutdown.reached(Phase::Draining) => return Ok(None),
        }
        view = match client.show(view.job).await {
            // The coordinator may be restarted; the connection reports an outage.
            Err(error) if error.may_pass() => continue,
            shown => shown?,
        };
    }
    ui.finish();
    Ok(Some(view))
}

fn farm_at(connection: Connection) -> Result<Farm, CommandError> {
    let store = Store::open(FARM_STORE, Some(&connection.client)).map_err(CommandError::failed)?;
    Ok(Farm {
        store,
        topology: Topology::default(),
        connection,
    })
}

/// Returns the user and the machine that submit a job.
fn submitter() -> String {
    let id = nix::unistd::geteuid();
    let user = nix::unistd::User::from_uid(id).ok().flatten();
    let user = user.map_or_else(|| id.to_string(), |user| user.name);
    let host = nix::unistd::gethostname().ok();
    let host = host.as_deref().and_then(OsStr::to_str).unwrap_or("unknown");
    format!("{user}@{host}")
}
