//! A render on an existing farm: a job that is submitted, watched and fetched.

use latentfarm_common::shutdown::{Phase, Shutdown};
use std::time::Instant;

use super::client::ClientError;
use super::fetch::{FetchError, fetch};
use super::messages::{JobOutcome, JobPhase, JobView};
use super::records::{self, RecordError};
use super::submit::{SubmitError, SubmitOptions, Then, submit};
use crate::dispatch::{Ending, Farm, JobReport};
use crate::job::manifest;
use crate::render::{Observer, RenderError, RenderJob, RenderReport};

/// Why a job of the farm has no output.
#[derive(Debug, thiserror::Error)]
pub enum FarmRenderError {
    #[error(transparent)]
    Submit(#[from] SubmitError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Records(#[from] RecordError),
    /// The job ended before any worker could do anything.
    #[error("{reason}")]
    Failed { reason: String },
}

impl FarmRenderError {
    /// Whether the inputs, the options or the request were refused.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Submit(error) => error.is_refusal(),
            Self::Fetch(error) => error.is_refusal(),
            Self::Records(_) | Self::Failed { .. } => false,
        }
    }
}

impl From<RenderError> for FarmRenderError {
    fn from(error: RenderError) -> Self {
        Self::Submit(error.into())
    }
}

impl From<ClientError> for FarmRenderError {
    fn from(error: ClientError) -> Self {
        Self::Submit(error.into())
    }
}

/// Submits a job, watches it until it is over, and writes its output if it is complete. Returns `None` if a signal
/// came first: the farm goes on with the job, and the same call waits for it again.
pub async fn render(
    job: RenderJob,
    farm: &Farm,
    options: SubmitOptions,
    observer: &Observer,
    mut shutdown: Shutdown,
) -> Result<Option<RenderReport>, FarmRenderError> {
    let started = Instant::now();
    let target = job.preflight().settings.target.clone();
    let submitting = submit(job, farm, options, Then::Watch, observer, shutdown.clone());
    let Some(view) = submitting.await? else {
        return Ok(None);
    };
    let (outcome, spec) = (
        outcome(farm, &view).await?,
        manifest::read_from_farm(&farm.connection, view.job).await,
    );
    let spec = spec.map_err(RenderError::from)?;
    let spec = spec.ok_or(FetchError::Gone { job: view.job })?;
    let written = if view.record.phase == JobPhase::Complete {
        // The first signal lets the output be finished, the second ends the command.
        tokio::select! {
            written = fetch(farm, &view, &target, observer) => Some(written?),
            () = shutdown.reached(Phase::Stopping) => {
                target.remove_partial();
                return Ok(None);
            }
        }
    } else {
        None
    };
    Ok(Some(RenderReport {
        ending: outcome.ending,
        spec,
        job: outcome.report,
        written,
        elapsed: started.elapsed(),
        resumed_chunks: 0,
    }))
}

/// Returns how a job that is over ended.
async fn outcome(farm: &Farm, view: &JobView) -> Result<JobOutcome, FarmRenderError> {
    let without_figures = |ending| JobOutcome {
        ending,
        report: JobReport::default(),
    };
    if view.record.phase == JobPhase::Cancelled {
        return Ok(without_figures(Ending::Cancelled));
    }
    let found = records::outcome(&farm.connection, view.job).await?;
    found.map_or_else(
        || match &view.record.reason {
            // The figures of a complete job may be gone.
            _ if view.record.phase == JobPhase::Complete => Ok(without_figures(Ending::Complete)),
            reason => Err(FarmRenderError::Failed {
                reason: reason
                    .clone()
                    .unwrap_or_else(|| format!("the job is {}", view.record.phase)),
            }),
        },
        Ok,
    )
}
