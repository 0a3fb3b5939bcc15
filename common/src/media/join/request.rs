//! What the caller of [`join`](super::join) gives and gets.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::frame::PictureFormat;
use crate::media::container::Container;
use crate::time::FrameRate;

/// What to join, and into what.
#[derive(Clone, Copy, Debug)]
pub struct JoinRequest<'a> {
    /// In order; together they hold the frames `0..frames`.
    pub segments: &'a [PathBuf],
    /// Every segment must have this size.
    pub picture: &'a PictureFormat,
    pub rate: FrameRate,
    pub frames: u64,
    /// The audio file as the user gave it.
    pub audio: &'a Path,
    /// Cut the audio at the exact sample, which means transcoding, instead of within its last packet.
    pub exact_audio: bool,
    /// MP4 has no free keys: there all but the usual ones go into the comment, as `key=value`.
    pub metadata: &'a [(String, String)],
    pub output: &'a Path,
    /// Given explicitly, because `output` may be a temporary name.
    pub container: Container,
}

/// What became of the audio track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AudioTreatment {
    Copied,
    Transcoded { reason: String },
}

impl fmt::Display for AudioTreatment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copied => f.write_str("copied"),
            Self::Transcoded { reason } => write!(f, "transcoded: {reason}"),
        }
    }
}
