//! Why a render fails. The phases of [`super::run`] return these errors, and the command line chooses the
//! exit code by [`RenderError::is_refusal`].

use std::io;
use std::path::PathBuf;

use latentfarm_common::blob::BlobError;
use latentfarm_common::error::FileError;
use latentfarm_common::wire::WireError;
use tokio::task::JoinError;

use super::room::NoRoom;
use super::weights::WeightsError;
use crate::dispatch::{DispatchError, FarmError};
use crate::ingest::IngestError;
use crate::job::folder::FolderError;
use crate::job::manifest::ManifestError;
use crate::job::segment_log::SegmentLogError;
use crate::local::{LocalFarmError, ToolError};
use crate::stitch::StitchError;

/// An error of a render, by the phase that it arose in.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// A program that the render starts is missing or too old.
    #[error(transparent)]
    Tools(#[from] ToolError),
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// VIDEO or AUDIO cannot be decoded, cut or stored.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// An input file cannot be opened.
    #[error(transparent)]
    Input(#[from] FileError),
    #[error("cannot compute the id of the job")]
    Identity(#[from] serde_json::Error),
    #[error("cannot write to the temporary folder `{}`: set TMPDIR to one that can be written", path.display())]
    Scratch {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A place that the render writes to has too little room.
    #[error(transparent)]
    Room(#[from] NoRoom),
    #[error(
        "no space left in `{}`: {} MiB are free, and the whole job needs about {} MiB; finished chunks are kept: remove \
         something there, and give the same command again",
        path.display(), free_bytes >> 20, need_bytes.div_ceil(1 << 20)
    )]
    DiskFull {
        path: PathBuf,
        free_bytes: u64,
        need_bytes: u64,
    },
    #[error("a render on a private farm needs a job folder")]
    NoWorkFolder,
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The output is complete and in its place; only the job folder is left over.
    #[error("the output is complete, but its job folder cannot be removed")]
    RemoveFolder(#[source] FolderError),
    #[error(transparent)]
    Farm(#[from] FarmError),
    #[error(transparent)]
    Local(#[from] LocalFarmError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Store(#[from] BlobError),
    #[error(transparent)]
    Timeline(#[from] WireError),
    /// The records of the video's segments cannot be read.
    #[error(transparent)]
    SegmentLog(#[from] SegmentLogError),
    #[error("cannot start a thread to cut the video")]
    CutThread(#[source] io::Error),
    #[error("cannot dispatch the job")]
    Dispatch(#[from] DispatchError),
    /// The segments could not be joined, or the joined file did not pass verification.
    #[error(
        "cannot stitch the result; all chunks are kept: when the cause is mended, give the same command again"
    )]
    Stitch(#[source] StitchError),
    /// Another coordinator has the lease on the farm.
    #[error(
        "another coordinator has taken this farm's lease; finished chunks are kept: when its job has ended, give the same \
         command again"
    )]
    LeaseLost,
    /// The verified file could not be moved to the output's name.
    #[error(
        "cannot write the output; all chunks are kept: when the cause is mended, give the same command again"
    )]
    Commit(#[source] StitchError),
    #[error("a task of the coordinator panicked")]
    Task(#[from] JoinError),
}

impl RenderError {
    /// Returns whether the inputs, the options or this machine's set-up were refused. A video may be refused
    /// while its first chunks are rendered.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Ingest(error) => error.is_bad_input(),
            other => matches!(
                other,
                Self::Tools(_)
                    | Self::Weights(_)
                    | Self::Input(_)
                    | Self::Scratch { .. }
                    | Self::Room(_)
                    | Self::Folder(_)
            ),
        }
    }
}
