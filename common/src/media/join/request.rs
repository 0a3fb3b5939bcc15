//! The request of [`join`](super::join).

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
    /// The file that [`Sound::write`](crate::media::Sound::write) made for this container.
    pub sound: &'a Path,
    /// Pairs of key and value to write into the file as metadata. MP4 has no free keys: there all but the
    /// usual ones go into the comment, as `key=value`.
    pub metadata: &'a [(String, String)],
    /// The path of the final file.
    pub output: &'a Path,
    /// Container of the output, whatever the extension of `output` is, which may be a temporary name.
    pub container: Container,
}
