//! A render whose inputs have been checked, ready to run.

use latentfarm_common::shutdown::{Phase, Shutdown};
use tokio::task::spawn_blocking;

use super::error::RenderError;
use super::event::Observer;
use super::farm::PrivateFarm;
use super::preflight::Preflight;
use super::report::RenderReport;
use super::run::Run;
use super::settings::RenderSettings;
use crate::dispatch::{Ending, Farm};
use crate::ingest::ExaminedInputs;
use crate::job::folder::JobFolder;
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

    /// Opens the job folder, starts the farm, runs the render, closes the farm, and removes the folder if nothing
    /// in it is needed any more. Returns `None` if the render was interrupted: the same settings resume it.
    ///
    /// # Errors
    /// [`RenderError::NoWorkFolder`] if the settings name no job folder, and any other for its own reason.
    pub async fn run(
        self,
        farm: PrivateFarm,
        observer: &Observer,
        shutdown: Shutdown,
    ) -> Result<Option<RenderReport>, RenderError> {
        let work = self.preflight.settings.work.clone();
        let work = work.ok_or(RenderError::NoWorkFolder)?;
        let folder = JobFolder::open(&work.path, self.preflight.job, work.discard_other)?;
        let (farm, mut local) = farm.open(&folder).await?;
        // The inner future is large: without the box it would be part of this one.
        let outcome = Box::pin(self.run_on(&folder, &farm, &mut local, observer, shutdown)).await;
        farm.connection.close().await;
        local.close().await;
        let is_over = match &outcome {
            Ok(report) => {
                let report = report.as_ref();
                !work.keep && report.is_some_and(|report| report.ending == Ending::Complete)
            }
            // A refused job leaves no folder, unless the folder holds the work of an earlier run.
            Err(error) => error.is_refusal() && !folder.resumed(),
        };
        if is_over {
            folder.remove().map_err(RenderError::RemoveFolder)?;
        }
        outcome
    }

    async fn run_on(
        self,
        folder: &JobFolder,
        farm: &Farm,
        local: &mut LocalFarm,
        observer: &Observer,
        mut shutdown: Shutdown,
    ) -> Result<Option<RenderReport>, RenderError> {
        let run = Run {
            preflight: &self.preflight,
            folder,
            farm,
            observer,
        };
        let Some(inputs) = run.prepare(self.examined, &mut shutdown).await? else {
            return Ok(None);
        };
        let spec = inputs.spec.clone();
        // The future is large.
        let dispatching = Box::pin(run.dispatch(inputs, local, shutdown.clone()));
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
