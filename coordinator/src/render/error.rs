//! Why a render came to no end.

use std::path::PathBuf;

use latentfarm_common::blob::BlobError;
use latentfarm_common::error::FileError;
use latentfarm_common::wire::WireError;
use tokio::task::JoinError;

use super::weights::WeightsProblem;
use crate::dispatch::DispatchError;
use crate::ingest::IngestError;
use crate::job::folder::FolderError;
use crate::job::store::ManifestError;
use crate::local::{FarmError, ToolError};
use crate::stitch::StitchError;

#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    #[error(transparent)]
    Tools(#[from] ToolError),
    #[error(transparent)]
    Weights(#[from] WeightsProblem),
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// An input file cannot be looked at.
    #[error(transparent)]
    Input(#[from] FileError),
    #[error("cannot describe the job")]
    Identity(#[from] serde_json::Error),
    #[error(
        "the job needs {} MiB on disk and `{}` has {} free: free some, or choose another --work-dir",
        need_bytes >> 20, path.display(), free_bytes >> 20
    )]
    Disk {
        path: PathBuf,
        need_bytes: u64,
        free_bytes: u64,
    },
    /// The job folder cannot be used for this job.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The job folder cannot be removed after the job.
    #[error(transparent)]
    PutAway(FolderError),
    #[error(transparent)]
    Farm(#[from] FarmError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Store(#[from] BlobError),
    #[error(transparent)]
    Timeline(#[from] WireError),
    #[error("cannot dispatch the job")]
    Dispatch(#[from] DispatchError),
    #[error("cannot stitch the result")]
    Stitch(#[source] StitchError),
    #[error("another coordinator took over: it finishes the job")]
    LeaseLost,
    #[error("cannot give the result its name")]
    Name(#[source] StitchError),
    #[error("a task broke off")]
    Task(#[from] JoinError),
}

impl RenderError {
    /// Whether the user can mend it, by other inputs or options.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Ingest(error) => error.is_bad_input(),
            other => matches!(
                other,
                Self::Tools(_) | Self::Weights(_) | Self::Input(_) | Self::Disk { .. } | Self::Folder(_)
            ),
        }
    }
}
