//! Why the input files cannot be made into a job.

use std::io;
use std::path::{Path, PathBuf};

use latentfarm_common::media::MediaError;

use super::timeline::TableError;

#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// Names the file and the cause itself.
    #[error(transparent)]
    Media(MediaError),
    #[error("cannot lay out the frames of `{}`", path.display())]
    Table {
        path: PathBuf,
        #[source]
        source: TableError,
    },
    #[error("`{}` states no usable frame rate: give one with --fps", path.display())]
    NoRate { path: PathBuf },
    #[error("cannot {action} `{}`", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl IngestError {
    /// Whether the user's files or options are at fault, rather than this machine.
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Media(error) => matches!(error, MediaError::BadInput { .. }),
            Self::Table { .. } | Self::NoRate { .. } => true,
            Self::Io { .. } => false,
        }
    }

    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
