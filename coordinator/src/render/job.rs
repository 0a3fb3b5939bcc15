//! A render that has been checked and may run.

use latentfarm_common::shutdown::Shutdown;
use tokio::task::spawn_blocking;

use super::error::RenderError;
use super::event::Observer;
use super::farm::FarmChoice;
use super::preflight::Preflight;
use super::report::RenderReport;
use super::run::Run;
use super::settings::RenderSettings;
use crate::dispatch::{Ending, Farm};
use crate::ingest::Examined;
use crate::job::folder::JobFolder;
use crate::local::LocalFarm;

/// One render, from two files to one. [`RenderJob::check`] makes it.
pub struct RenderJob {
    preflight: Preflight,
    examined: Examined,
}

impl RenderJob {
    /// Finds out what can be known before any work starts; nothing is written.
    pub async fn check(settings: RenderSettings) -> Result<Self, RenderError> {
        let (preflight, examined) = spawn_blocking(move || Preflight::check(settings)).await??;
        Ok(Self { preflight, examined })
    }

    pub fn preflight(&self) -> &Preflight {
        &self.preflight
    }

    /// What the user should know of the inputs, a sentence each.
    pub fn notes(&self) -> Vec<String> {
        self.examined.notes()
    }

    /// Opens the job folder and the farm, runs the render, leaves the farm, and removes the folder if nothing in it
    /// is needed any more. `None` if the render was interrupted: the same settings resume it.
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
        // Too large for this future's own frame.
        let outcome = Box::pin(self.run(&folder, &farm, local.as_mut(), observer, shutdown)).await;
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
            // Refused after all, and nothing of an earlier run is in it.
            Err(error) => error.is_refusal() && !folder.resumed(),
        };
        if is_over {
            folder.remove().map_err(RenderError::PutAway)?;
        }
        outcome
    }

    /// Runs the render on a connected farm, which other renders may use at the same time unless it is this one's own
    /// `local` farm. `None` if it was interrupted.
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
        let Some((spec, timeline)) = run.prepare(self.examined, &mut shutdown).await? else {
            return Ok(None);
        };
        let Some(dispatched) = run.dispatch(&spec, timeline, local, shutdown).await? else {
            return Ok(None);
        };
        run.finish(spec, dispatched).await.map(Some)
    }
}
