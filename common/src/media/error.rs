//! The error of all media operations. A message names the file, the frame if it is known, the cause, and a
//! remedy if there is one.

use std::path::{Path, PathBuf};

/// Why a media operation failed, and on which file.
#[derive(Debug, thiserror::Error)]
pub enum MediaError {
    /// The input file cannot be used. It would fail on any other worker too.
    #[error("cannot use `{}`", path.display())]
    BadInput {
        /// The input file that cannot be used.
        path: PathBuf,
        /// The defect of the file.
        #[source]
        source: BadMedia,
    },
    /// A file that this program wrote is not as it should be and must be written again.
    #[error("cannot accept `{}`", path.display())]
    Rejected {
        /// The file that was rejected.
        path: PathBuf,
        /// The defect of the file.
        #[source]
        source: BadMedia,
    },
    /// FFmpeg failed on a file that this program wrote, or for lack of resources.
    #[error("cannot {action} `{}`", path.display())]
    Ffmpeg {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file that was read or written.
        path: PathBuf,
        /// The error that FFmpeg returned.
        #[source]
        source: ffmpeg_next::Error,
    },
    /// The operating system failed to read or write a file.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The file that was read or written.
        path: PathBuf,
        /// The error that the operating system returned.
        #[source]
        source: std::io::Error,
    },
}

/// The defect of a media file, as a text for the user who owns it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadMedia(pub String);

impl MediaError {
    /// Makes the error for an input file that cannot be used, because of `cause`.
    pub fn bad_input(path: &Path, cause: impl Into<String>) -> Self {
        Self::BadInput {
            path: path.to_owned(),
            source: BadMedia(cause.into()),
        }
    }

    /// Returns whether this machine is at fault (a full disk, a file that cannot be read) and not the content of a file.
    pub fn is_of_machine(&self) -> bool {
        match self {
            Self::Io { .. } => true,
            Self::Ffmpeg { source, .. } => {
                let invalid = ffmpeg_next::Error::Other {
                    errno: ffmpeg_next::error::EINVAL,
                };
                is_system_error(*source) && *source != invalid
            }
            Self::BadInput { .. } | Self::Rejected { .. } => false,
        }
    }

    /// Makes an error about a copy of a file one about `path`, the file that the user gave.
    pub(super) fn about(self, path: &Path) -> Self {
        match self {
            Self::BadInput { source, .. } => Self::bad_input(path, source.0),
            Self::Ffmpeg { action, source, .. } => Self::ffmpeg(action, path)(source),
            other => other,
        }
    }

    /// Returns the file that the error is about.
    pub fn path(&self) -> &Path {
        match self {
            Self::BadInput { path, .. }
            | Self::Rejected { path, .. }
            | Self::Ffmpeg { path, .. }
            | Self::Io { path, .. } => path,
        }
    }

    /// Makes the error for a file of this program that has to be written again, because of `cause`.
    pub fn rejected(path: &Path, cause: impl Into<String>) -> Self {
        Self::Rejected {
            path: path.to_owned(),
            source: BadMedia(cause.into()),
        }
    }

    /// Returns the conversion of an FFmpeg error to [`MediaError::Ffmpeg`], for `map_err`.
    pub fn ffmpeg(action: &'static str, path: &Path) -> impl FnOnce(ffmpeg_next::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Ffmpeg { action, path, source }
    }

    /// Returns the conversion of an I/O error to [`MediaError::Io`], for `map_err`.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// Whether FFmpeg passed on an error of the operating system. A demuxer may also return a number of a damaged file as if it
/// were one; the system's own are below 4096.
pub(super) fn is_system_error(error: ffmpeg_next::Error) -> bool {
    matches!(error, ffmpeg_next::Error::Other { errno } if (1..4096).contains(&errno))
}
