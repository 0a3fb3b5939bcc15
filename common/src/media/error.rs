//! Media errors name the file, the frame where known, the cause, and where there is one, the mend.

use std::path::{Path, PathBuf};

/// A media operation that did not work.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// The file itself is at fault: no other worker will fare better.
    #[error("cannot use `{}`", path.display())]
    BadInput {
        path: PathBuf,
        #[source]
        source: BadMedia,
    },
    /// A file that this program made is not what it should be: it must be made again.
    #[error("cannot accept `{}`", path.display())]
    Rejected {
        path: PathBuf,
        #[source]
        source: BadMedia,
    },
    /// FFmpeg refused an operation on a file that this program wrote, or for want of resources.
    #[error("cannot {action} `{}`", path.display())]
    Ffmpeg {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: ffmpeg_next::Error,
    },
    #[error("cannot {action} `{}`", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// What is wrong with a media file, in words for its owner.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadMedia(pub String);

impl MediaError {
    pub fn bad_input(path: &Path, cause: impl Into<String>) -> Self {
        Self::BadInput {
            path: path.to_owned(),
            source: BadMedia(cause.into()),
        }
    }

    /// The file that the error is about.
    pub fn path(&self) -> &Path {
        match self {
            Self::BadInput { path, .. }
            | Self::Rejected { path, .. }
            | Self::Ffmpeg { path, .. }
            | Self::Io { path, .. } => path,
        }
    }

    pub fn rejected(path: &Path, cause: impl Into<String>) -> Self {
        Self::Rejected {
            path: path.to_owned(),
            source: BadMedia(cause.into()),
        }
    }

    pub fn ffmpeg(action: &'static str, path: &Path) -> impl FnOnce(ffmpeg_next::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Ffmpeg { action, path, source }
    }

    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
