//! Writes the output of a complete job: joins the segments that the farm has stored, as a render on this machine
//! does with its own.

use std::path::Path;

use latentfarm_common::blob::BlobError;
use latentfarm_common::error::{FileError, one_line};
use latentfarm_common::ids::JobId;

use super::client::FarmClient;
use super::messages::{FarmRequest, JobPhase, JobView};
use super::result::{self, StoredResult};
use crate::dispatch::Farm;
use crate::render::{Join, Observer, RenderError, Written};
use crate::stitch::OutputTarget;

/// Why the output of a job could not be written.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("job {} is {}, so it has no output: `latentfarm status` says more", view.job, view.record.phase)]
    NotComplete { view: Box<JobView> },
    #[error(
        "the farm no longer has all of the result of job {job}: `latentfarm retry` has what is missing rendered again, \
         and so does submitting the job again, which stores its inputs again too"
    )]
    Gone { job: JobId },
    #[error(
        "a part of the result of job {job} is damaged or gone: `latentfarm retry` has it rendered again, and so does \
         submitting the job again, which stores its inputs again too"
    )]
    Damaged { job: JobId, source: BlobError },
    #[error(transparent)]
    Render(#[from] RenderError),
}

impl FetchError {
    /// Whether the request was refused, so that another one may succeed.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::NotComplete { .. } | Self::Gone { .. } | Self::Damaged { .. } => true,
            Self::Render(error) => error.is_refusal(),
        }
    }
}

/// Writes the output of a complete job to `target`. Only a whole, verified file appears under that name.
pub async fn fetch(
    farm: &Farm,
    view: &JobView,
    target: &OutputTarget,
    observer: &Observer,
) -> Result<Written, FetchError> {
    if view.record.phase != JobPhase::Complete {
        return Err(FetchError::NotComplete {
            view: Box::new(view.clone()),
        });
    }
    let job = view.job;
    let stored = result::read(farm, job).await?;
    let StoredResult { spec, records } = stored.ok_or(FetchError::Gone { job })?;
    // The copies of the segments are as large as the output, so they are on its disk.
    let folder = target
        .path()
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let scratch = tempfile::Builder::new().prefix(".latentfarm-").tempdir_in(folder);
    let scratch = scratch.map_err(|error| RenderError::from(FileError::at("write to", folder)(error)))?;
    let join = Join {
        farm,
        spec: &spec,
        records: &records,
        scratch: scratch.path(),
        target,
        keeps_tail: view.keeps_tail,
    };
    let assembled = join.assemble(observer).await.map_err(|error| match error {
        RenderError::Store(source) if !source.may_pass() => FetchError::Damaged { job, source },
        error => error.into(),
    })?;
    let written = join.commit(assembled).await?;
    // The farm may need the room. A farm that does not receive this keeps the results for their time.
    let recorded = FarmClient::new(&farm.connection)
        .job(&FarmRequest::Fetched { job })
        .await;
    if let Err(error) = recorded {
        tracing::debug!(%job, error = one_line(&error), "the coordinator does not know that the job is fetched");
    }
    Ok(written)
}
