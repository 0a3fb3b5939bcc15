//! `latentfarm submit` hands a job to the coordinator of a farm, and `latentfarm fetch` writes its output.

use std::ffi::OsStr;
use std::time::Duration;

use anyhow::Context as _;
use latentfarm_common::blob::Store;
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::topology::Topology;
use latentfarm_common::shutdown::{self, Phase, Shutdown};
use latentfarm_common::waiting::WaitReporter;
use serde_json::json;

use super::args::{FetchArgs, SubmitArgs, SubmittedArgs, SubmittedJob};
use super::exit::{CommandError, ExitStatus, runtime};
use super::jobs::{self, LOOK_EVERY};
use super::progress::{JobUi, SYNTHETIC};
use super::settings::{ArgumentError, JobSettings};
use crate::dispatch::Farm;
use crate::farm::{self, FarmClient, FetchError, JobPhase, JobView, SubmitError, SubmitOptions};
use crate::render::{FARM_STORE, Observer, RenderEvent, RenderJob, RenderSettings};
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
    // A farm without a coordinator is found before the inputs are read.
    let connection = jobs::connection(&args.farm).await?;
    let client = FarmClient::new(&connection);
    client.list(farm::ListFilter::default()).await?;
    let mut submitter = Submitter {
        ui: JobUi::new(args.json),
        farm: farm_at(connection)?,
        client,
        shutdown,
        json: args.json,
    };
    match args.what {
        SubmittedArgs::One(job) => submitter.submit_one(*job, args.wait).await,
        SubmittedArgs::Batch(batch) => submitter.submit_batch(batch, args.wait).await,
    }
}

/// The command that submits jobs: its output, the farm, and its end.
pub(super) struct Submitter {
    pub(super) ui: JobUi,
    pub(super) farm: Farm,
    pub(super) client: FarmClient,
    pub(super) shutdown: Shutdown,
    pub(super) json: bool,
}

impl Submitter {
    async fn submit_one(&mut self, job: SubmittedJob, is_waiting: bool) -> Result<ExitStatus, CommandError> {
        let (options, settings) = settings_of(job).map_err(CommandError::refused)?;
        let target = settings.render.target.clone();
        let Some(job) = self.check_and_tell(settings).await? else {
            return Ok(ExitStatus::Interrupted);
        };
        let id = job.preflight().job;
        self.ui.line(&format!("job {id}"));
        let Some(view) = self.hand_over(job, options).await? else {
            return Ok(ExitStatus::Interrupted);
        };
        let status = if is_waiting {
            self.wait_and_write(view, &target).await?
        } else {
            jobs::print(&view, self.json)?;
            ExitStatus::Complete
        };
        Ok(status)
    }

    /// Checks a job's inputs. Returns `None` if a signal came first.
    pub(super) async fn check(
        &mut self,
        settings: RenderSettings,
    ) -> Result<Option<RenderJob>, CommandError> {
        tokio::select! {
            job = RenderJob::check(settings) => Ok(Some(job?)),
            () = self.shutdown.reached(Phase::Draining) => Ok(None),
        }
    }

    /// Checks a job's inputs, and shows what is to be known of them. Returns `None` if a signal came first.
    pub(super) async fn check_and_tell(
        &mut self,
        settings: JobSettings,
    ) -> Result<Option<RenderJob>, CommandError> {
        let Some(job) = self.check(settings.render).await? else {
            return Ok(None);
        };
        if job.preflight().model.synthetic {
            self.ui.line(SYNTHETIC);
        }
        for note in settings.rate_note.into_iter().chain(job.notes()) {
            self.ui.show(&RenderEvent::Note(note));
        }
        Ok(Some(job))
    }

    /// Hands a job over to the farm. Returns `None` if a signal came first.
    pub(super) async fn hand_over(
        &mut self,
        job: RenderJob,
        options: SubmitOptions,
    ) -> Result<Option<JobView>, CommandError> {
        let (observer, mut events) = Observer::channel();
        let submitting = farm::submit(job, &self.farm, options, &observer, self.shutdown.clone());
        let mut submitting = Box::pin(submitting);
        let submitted = loop {
            tokio::select! {
                submitted = &mut submitting => break submitted?,
                Some(event) = events.recv() => self.ui.show(&event),
            }
        };
        while let Ok(event) = events.try_recv() {
            self.ui.show(&event);
        }
        self.ui.finish();
        if submitted.is_none() {
            self.ui
                .warn("stopped; what is stored is kept, and the same command goes on with the job");
        }
        Ok(submitted)
    }

    /// Waits until a job is over, writes its output if it is complete, and prints the job.
    pub(super) async fn wait_and_write(
        &mut self,
        view: JobView,
        target: &OutputTarget,
    ) -> Result<ExitStatus, CommandError> {
        let id = view.job;
        let shutdown = self.shutdown.clone();
        let Some(view) = wait(&self.client, view, &mut self.ui, shutdown).await? else {
            self.ui.warn(&format!(
                "no longer waiting for job {id}; the farm goes on with it, and the same command waits again"
            ));
            return Ok(ExitStatus::Interrupted);
        };
        if view.record.phase == JobPhase::Complete {
            write(&self.farm, &view, target, &mut self.ui).await?;
        }
        jobs::print(&view, self.json)?;
        Ok(jobs::exit_status(view.record.phase))
    }
}

/// Returns the validated options of one job.
pub(super) fn settings_of(job: SubmittedJob) -> Result<(SubmitOptions, JobSettings), ArgumentError> {
    let file_name = job.job.output.file_name().unwrap_or(OsStr::new("job"));
    let file_name = file_name.to_string_lossy().into_owned();
    let options = SubmitOptions {
        name: job.name.unwrap_or(file_name),
        submitter: submitter(),
        priority: job.priority,
        after: job.after,
    };
    Ok((options, JobSettings::new(job.job, 1)?))
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
    let (mut told, mut reporter) = (None, WaitReporter::default());
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
        view = jobs::look(client, view, &mut reporter, |text| ui.warn(&text)).await?;
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
