//! The request and the result of [`join`](super::join).

use std::fmt;
use std::path::{Path, PathBuf};

use crate::frame::PictureFormat;
use crate::media::container::Container;
use crate::time::FrameRate;

/// The inputs of the final file, and how it is to be written.
#[derive(Clone, Copy, Debug)]
pub struct JoinRequest<'a> {
    /// Paths of the encoded segments in order; together the segments hold the frames `0..frames`.
    pub segments: &'a [PathBuf],
    /// Picture format of the video; every segment must have this size.
    pub picture: &'a PictureFormat,
    /// Frame rate of the video.
    pub rate: FrameRate,
    /// Number of frames of the video.
    pub frames: u64,
    /// The audio file that the user gave.
    pub audio: &'a Path,
    /// Whether the audio is cut at the exact sample, which requires transcoding, instead of within its last
    /// packet.
    pub exact_audio: bool,
    /// Pairs of key and value to write into the file as metadata. MP4 has no free keys: there all but the
    /// usual ones go into the comment, as `key=value`.
    pub metadata: &'a [(String, String)],
    /// The path of the final file.
    pub output: &'a Path,
    /// Container of the output, whatever the extension of `output` is, which may be a temporary name.
    pub container: Container,
}

/// What was done to the audio track.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AudioTreatment {
    /// The packets of the track were copied.
    Copied,
    /// The track was decoded and encoded again.
    Transcoded {
        /// The reason why its packets could not be copied.
        reason: String,
    },
}

impl fmt::Display for AudioTreatment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Copied => f.write_str("copied"),
            Self::Transcoded { reason } => write!(f, "transcoded: {reason}"),
        }
    }
}
