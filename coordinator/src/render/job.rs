//! A render whose inputs have been checked, ready to run.

use latentfarm_common::shutdown::{Phase, Shutdown};
use tokio::task::spawn_blocking;

use super::error::RenderError;
use super::event::Observer;
use super::farm::{FarmChoice, ensure_storage};
use super::preflight::Preflight;
use super::report::RenderReport;
use super::run::Run;
use super::settings::RenderSettings;
use crate::dispatch::{Ending, Farm};
use crate::ingest::ExaminedInputs;
use crate::job::folder::JobFolder;
use crate::job::manifest;
use crate::local::LocalFarm;

/// One render, made by [`RenderJob::check`].
pub struct RenderJob {
    preflight: Preflight,
    examined: ExaminedInputs,
}

impl RenderJob {
    /// Checks inputs, weights and disk, and estimates the job. Nothing is written.
    pub async fn check(settings: RenderSettings) -> Result<Self, RenderError> {
        let (preflight, examined) = spawn_blocking(move || Preflight::check(settings)).await??;
        Ok(Self { preflight, examined })
    }

    pub fn preflight(&self) -> &Preflight {
        &self.preflight
    }

    /// Returns the description of the job, and its inputs, for a farm that the job is handed to.
    pub(crate) fn into_parts(self) -> (Preflight, ExaminedInputs) {
        (self.preflight, self.examined)
    }

    /// Returns sentences about the inputs that the user should read.
    pub fn notes(&self) -> Vec<String> {
        self.examined.notes()
    }

    /// Opens the job folder and the farm, runs the render, closes the farm, and removes the folder if nothing
    /// in it is needed any more. Returns `None` if the render was interrupted: the same settings resume it.
    pub async fn run_alone(
        self,
        choice: FarmChoice,
        observer: &Observer,
        shutdown: Shutdown,
    ) -> Result<Option<RenderReport>, RenderError> {
        let settings = &self.preflight.settings;
        let keep = settings.keep;
        let folder = JobFolder::open(&settings.work_dir, self.preflight.job, settings.discard_other)?;
        let (farm, mut local) = choice.open(&folder).await?;
        let is_new = manifest::read(folder.path())?.is_none();
        // What an unfinished job still has to store is not known.
        let checked = if local.is_none() && is_new {
            ensure_storage(&farm, self.preflight.estimate.store_bytes).await
        } else {
            Ok(())
        };
        let outcome = match checked {
            // The inner future is large: without the box it would be part of this one.
            Ok(()) => Box::pin(self.run(&folder, &farm, local.as_mut(), observer, shutdown)).await,
            Err(error) => Err(error),
        };
        farm.connection.close().await;
        if let Some(local) = local {
            local.close().await;
        }
        let is_over = match &outcome {
            Ok(report) => {
                !keep
                    && report
                        .as_ref()
                        .is_some_and(|report| report.ending == Ending::Complete)
            }
            // A refused job leaves no folder, unless the folder holds the work of an earlier run.
            Err(RenderError::Storage(_)) => is_new,
            Err(error) => error.is_refusal() && !folder.resumed(),
        };
        if is_over {
            folder.remove().map_err(RenderError::RemoveFolder)?;
        }
        outcome
    }

    /// Runs the render on a connected farm. Other renders may use the farm at the same time, unless it is
    /// this render's private `local` farm. Returns `None` if the render was interrupted.
    pub async fn run(
        self,
        folder: &JobFolder,
        farm: &Farm,
        local: Option<&mut LocalFarm>,
        observer: &Observer,
        mut shutdown: Shutdown,
    ) -> Result<Option<RenderReport>, RenderError> {
        let run = Run {
            preflight: &self.preflight,
            folder,
            farm,
            observer,
        };
        let Some(planned) = run.prepare(self.examined, &mut shutdown).await? else {
            return Ok(None);
        };
        let spec = planned.spec.clone();
        // The future is large.
        let dispatching = Box::pin(run.dispatch(planned, local, shutdown.clone()));
        let Some(dispatched) = dispatching.await? else {
            return Ok(None);
        };
        // The first signal lets the output be finished, the second ends the render.
        tokio::select! {
            report = run.finish(spec, dispatched) => report.map(Some),
            () = shutdown.reached(Phase::Stopping) => {
                self.preflight.settings.target.remove_partial();
                Ok(None)
            }
        }
    }
}
