//! The error of input files that cannot be turned into a job.

use std::io;
use std::path::PathBuf;

use latentfarm_common::audio::SAMPLE_RATE_HZ;
use latentfarm_common::error::FileError;
use latentfarm_common::media::MediaError;

use super::request::MIN_SPEECH_SAMPLES;
use super::timeline::TableError;

#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    #[error(transparent)]
    Media(#[from] MediaError),
    #[error("cannot compute the frame table of `{}`", path.display())]
    Table {
        path: PathBuf,
        #[source]
        source: TableError,
    },
    #[error("`{}` states no usable frame rate: give one with --fps N", path.display())]
    NoRate { path: PathBuf },
    #[error(
        "the sound in `{}` lasts {:.3} s, which is too short to move a mouth: give at least {:.2} s",
        path.display(), seconds(*samples), seconds(MIN_SPEECH_SAMPLES)
    )]
    ShortSpeech { path: PathBuf, samples: u64 },
    #[error(
        "`{}` was changed while it was read: give the same command again when nothing writes to the file",
        path.display()
    )]
    Changed { path: PathBuf },
    #[error("cannot record that the video has been cut")]
    Record {
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    File(#[from] FileError),
}

impl IngestError {
    /// Returns whether the cause is in the user's files or options, and not in this machine.
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Media(error) => matches!(error, MediaError::BadInput { .. }),
            Self::Table { .. } | Self::NoRate { .. } | Self::ShortSpeech { .. } | Self::Changed { .. } => {
                true
            }
            Self::Record { .. } | Self::File(_) => false,
        }
    }
}

/// Returns the length of speech samples in seconds.
fn seconds(samples: u64) -> f64 {
    samples as f64 / f64::from(SAMPLE_RATE_HZ)
}
