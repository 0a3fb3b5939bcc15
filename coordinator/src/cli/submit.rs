//! `latentfarm submit` hands a job to the coordinator of a farm, `latentfarm watch` shows what happens to it, and
//! `latentfarm fetch` writes its output.

use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use latentfarm_common::host;
use latentfarm_common::ids::JobId;
use latentfarm_common::nats::Connection;
use latentfarm_common::shutdown::{self, Phase, Shutdown};
use serde_json::json;

use super::args::{ControlArgs, FetchArgs, SubmitArgs, SubmittedArgs, SubmittedJob};
use super::argument_error::ArgumentError;
use super::exit::{CommandError, ExitStatus, runtime};
use super::jobs;
use super::progress::JobUi;
use super::settings::JobSettings;
use crate::dispatch::Farm;
use crate::farm::{self, FarmClient, JobPhase, JobView, SubmitOptions, Then};
use crate::render::{Observer, RenderEvent, RenderJob, RenderSettings};
use crate::stitch::OutputTarget;

/// How long the files of an interrupted command may take to be closed and removed.
const CLEAN_UP: Duration = Duration::from_secs(2);

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
    let mut submitter = Submitter {
        ui: JobUi::new(args.json),
        farm: coordinated_farm(&args.farm.nats).await?,
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
        let then = if is_waiting { Then::Watch } else { Then::Return };
        let Some(view) = self.hand_over(job, options, then).await? else {
            return Ok(ExitStatus::Interrupted);
        };
        if is_waiting {
            return self.write(&view, &target).await;
        }
        jobs::print(&view, self.json)?;
        Ok(ExitStatus::Complete)
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
        if let Some(notice) = job.preflight().model.weights_kind.notice() {
            self.ui.line(&notice);
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
        then: Then,
    ) -> Result<Option<JobView>, CommandError> {
        let (observer, events) = Observer::channel();
        let submitting = farm::submit(job, &self.farm, options, then, &observer, self.shutdown.clone());
        let submitted = self.ui.show_while(events, Box::pin(submitting)).await?;
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
        let Some(view) = follow(&mut self.ui, &self.farm.connection, view, shutdown).await? else {
            self.ui.warn(&no_longer_waiting(id));
            return Ok(ExitStatus::Interrupted);
        };
        self.write(&view, target).await
    }

    /// Writes the output of a job that is over, if it is complete, and prints the job.
    async fn write(&mut self, view: &JobView, target: &OutputTarget) -> Result<ExitStatus, CommandError> {
        if view.record.phase == JobPhase::Complete {
            write(&self.farm, view, target, &mut self.ui).await?;
        }
        jobs::print(view, self.json)?;
        Ok(jobs::exit_status(view.record.phase))
    }
}

/// What is said when a signal ends the wait for a job.
pub(super) fn no_longer_waiting(job: JobId) -> String {
    format!(
        "no longer waiting for job {job}; the farm goes on with it: the same command waits again, `latentfarm cancel \
         {job}` ends the job"
    )
}

/// Connects to a farm that has a coordinator.
pub(super) async fn coordinated_farm(url: &str) -> Result<Farm, CommandError> {
    let farm = Farm::connect(url, &jobs::operator())
        .await
        .map_err(CommandError::failed)?;
    // A farm without a coordinator is found before the inputs are read.
    FarmClient::new(&farm.connection)
        .list(farm::ListFilter::default())
        .await?;
    Ok(farm)
}

/// Returns the validated options of one job.
pub(super) fn settings_of(job: SubmittedJob) -> Result<(SubmitOptions, JobSettings), ArgumentError> {
    let options = SubmitOptions {
        name: job.name.unwrap_or_else(|| name_of(&job.job.output)),
        submitter: submitter(),
        priority: job.priority,
        after: job.after,
        deadline: job.deadline,
        deliver: job.deliver,
    };
    let settings = JobSettings::new(job.job, || Err(ArgumentError::NoWeights))?;
    Ok((options, settings))
}

pub(super) fn watch(args: &ControlArgs) -> Result<ExitStatus, CommandError> {
    runtime(2)?.block_on(async {
        let (trigger, shutdown, _drain) = shutdown::channel();
        shutdown::on_signals(trigger).context("cannot listen for signals")?;
        let mut ui = JobUi::new(args.json);
        let connection = jobs::connection(&args.farm.nats).await?;
        let view = FarmClient::new(&connection).show(args.job).await?;
        let Some(view) = follow(&mut ui, &connection, view, shutdown).await? else {
            return Ok(ExitStatus::Interrupted);
        };
        jobs::print(&view, args.json)?;
        Ok(jobs::exit_status(view.record.phase))
    })
}

/// Shows what happens to a job until it is over. Returns `None` if a signal came first.
async fn follow(
    ui: &mut JobUi,
    connection: &Connection,
    view: JobView,
    shutdown: Shutdown,
) -> Result<Option<JobView>, CommandError> {
    if view.record.phase.is_over() {
        return Ok(Some(view));
    }
    let (observer, events) = Observer::channel();
    ui.show(&RenderEvent::DispatchBegins {
        frames: view.record.frames,
    });
    let watching = farm::watch(connection, view, &observer, shutdown);
    Ok(ui.show_while(events, Box::pin(watching)).await?)
}

pub(super) fn fetch(args: &FetchArgs) -> Result<ExitStatus, CommandError> {
    runtime(2)?.block_on(async {
        let mut ui = JobUi::new(args.json);
        let target = OutputTarget::check(&args.output, &[], args.force).map_err(CommandError::refused)?;
        let farm = coordinated_farm(&args.farm.nats).await?;
        let view = FarmClient::new(&farm.connection).show(args.job).await?;
        if target.container().extension() != view.extension {
            return Err(CommandError::refused(anyhow::anyhow!(
                "job {} makes a .{} file: give such a name with -o",
                view.job,
                view.extension
            )));
        }
        write(&farm, &view, &target, &mut ui).await?;
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
    let (observer, events) = Observer::channel();
    let fetching = Box::pin(farm::fetch(farm, view, target, &observer));
    let written = ui.show_while(events, fetching).await?;
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

/// Returns the name of a job whose submitter gives it none.
pub(super) fn name_of(output: &Path) -> String {
    let name = output.file_name().unwrap_or(OsStr::new("job"));
    name.to_string_lossy().into_owned()
}

/// Returns the user and the machine that submit a job.
pub(super) fn submitter() -> String {
    let id = nix::unistd::geteuid();
    let user = nix::unistd::User::from_uid(id).ok().flatten();
    let user = user.map_or_else(|| id.to_string(), |user| user.name);
    let host = host::name().unwrap_or_else(|| "unknown".to_owned());
    format!("{user}@{host}")
}
