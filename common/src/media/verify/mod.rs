//! Proof by decoding: that a segment holds exactly the frames it should, and that the final file plays from
//! the first frame to the last with the audio beside it. Decoding errors are never concealed here.

mod output;
mod pictures;
#[cfg(test)]
mod tests;

use std::path::Path;

pub use self::output::{AudioLength, FinalReport, verify_output};
use self::pictures::PictureReader;
use super::MediaError;
use super::container;
use crate::frame::FrameHash;
use crate::time::FrameRange;

/// What is known of a segment once all of it was decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    pub frames: u64,
    /// H.264 parameter sets; segments join only where these are equal.
    pub codec_header: Vec<u8>,
}

/// Decodes a whole segment and checks that it holds exactly the frames `expected`, in order, without a gap.
pub fn verify_segment(path: &Path, expected: FrameRange) -> Result<SegmentInfo, MediaError> {
    let mut reader = SegmentReader::open(path)?;
    let mut next = expected.start;
    while let Some((number, _picture)) = reader.next()? {
        if number != next {
            let cause = format!("frame {number} stands where frame {next} should");
            return Err(MediaError::rejected(path, cause));
        }
        next += 1;
    }
    if next != expected.end {
        let found = next - expected.start;
        let cause = format!(
            "it holds {found} frames instead of the {} of {expected}",
            expected.len()
        );
        return Err(MediaError::rejected(path, cause));
    }
    Ok(SegmentInfo {
        frames: expected.len(),
        codec_header: reader.pictures.codec_header(),
    })
}

/// Decodes a whole segment, giving each output frame's number and hash in order; returns the count.
pub fn decode_hashes(path: &Path, sink: &mut dyn FnMut(u64, FrameHash)) -> Result<u64, MediaError> {
    let mut reader = SegmentReader::open(path)?;
    let mut frames = 0;
    while let Some((number, picture)) = reader.next()? {
        sink(number, pictures::hash(&picture));
        frames += 1;
    }
    Ok(frames)
}

/// Pictures of a segment with their output frame numbers.
struct SegmentReader {
    pictures: PictureReader,
}

impl SegmentReader {
    fn open(path: &Path) -> Result<Self, MediaError> {
        PictureReader::open(path).map(|pictures| Self { pictures })
    }

    fn next(&mut self) -> Result<Option<(u64, ffmpeg_next::frame::Video)>, MediaError> {
        let Some((pts, picture)) = self.pictures.next()? else {
            return Ok(None);
        };
        let rejected = |cause| MediaError::rejected(self.pictures.path(), cause);
        // The parameter sets state the rate exactly; the container's may be a guess.
        let rate = self
            .pictures
            .frame_rate()
            .ok_or_else(|| rejected("it states no frame rate".to_owned()))?;
        let number = container::frame_number(pts, self.pictures.time_base(), rate).ok_or_else(|| {
            rejected(format!(
                "timestamp {pts} is not on the grid of {rate} frames per second"
            ))
        })?;
        Ok(Some((number, picture)))
    }
}
