//! Verifies files by decoding them. The coordinator checks each result of a worker, which must hold exactly
//! the expected frames, and the final file, which must play from the first frame to the last together with
//! the audio. Decoding errors are never concealed here.

mod output;
mod pictures;
#[cfg(test)]
mod tests;

use std::path::Path;

use ffmpeg_next::frame;

pub(super) use self::output::sound_ms;
pub use self::output::{AudioLength, FinalReport, verify_output};
use self::pictures::PictureReader;
use super::MediaError;
use super::{container, decode};
use crate::frame::{FrameHash, Picture, PictureDifference, PictureFormat};
use crate::time::FrameRange;

/// Properties of a segment that was decoded completely.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// The number of frames in the segment.
    pub frames: u64,
    /// The H.264 parameter sets of the segment; segments can be joined only if these are equal.
    pub codec_header: Vec<u8>,
}

/// Decodes a whole segment and checks that it holds exactly the frames `expected`, in order, without a gap.
///
/// # Errors
/// [`MediaError::Rejected`] if it does not.
pub fn verify_segment(path: &Path, expected: FrameRange) -> Result<SegmentInfo, MediaError> {
    verify_frames(path, expected, &mut |_, _| Ok(()))
}

/// As [`verify_segment`], and hands the number and the picture of each frame to `sink`, in order, as soon as it is decoded:
/// also those before a frame that is wrong.
///
/// # Errors
/// [`MediaError::Rejected`] also if a picture is not of the size and the pixel format of `format`.
pub fn verify_pictures(
    path: &Path,
    expected: FrameRange,
    format: &PictureFormat,
    sink: &mut dyn FnMut(u64, Picture),
) -> Result<SegmentInfo, MediaError> {
    verify_frames(path, expected, &mut |number, picture| {
        if let Some(defect) = decode::defect(picture, format) {
            return Err(MediaError::rejected(
                path,
                format!("frame {number} is unusable: {defect}"),
            ));
        }
        sink(number, decode::to_picture(picture, format));
        Ok(())
    })
}

fn verify_frames(
    path: &Path,
    expected: FrameRange,
    each: &mut dyn FnMut(u64, &frame::Video) -> Result<(), MediaError>,
) -> Result<SegmentInfo, MediaError> {
    let mut pictures = PictureReader::open(path)?;
    let mut next = expected.start;
    while let Some((number, picture)) = next_frame(&mut pictures)? {
        if number != next {
            let cause = format!("it has frame {number} in place of frame {next}");
            return Err(MediaError::rejected(path, cause));
        }
        each(number, &picture)?;
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
        codec_header: pictures.codec_header(),
    })
}

/// Decodes a whole segment and hands the number and hash of each output frame to `sink`, in order. Returns
/// the number of frames.
pub fn decode_hashes(path: &Path, sink: &mut dyn FnMut(u64, FrameHash)) -> Result<u64, MediaError> {
    let mut pictures = PictureReader::open(path)?;
    let mut frames = 0;
    while let Some((number, picture)) = next_frame(&mut pictures)? {
        sink(number, pictures::hash(&picture));
        frames += 1;
    }
    Ok(frames)
}

/// Decodes the first picture of each of two segments, and measures how much their luma differs.
///
/// # Errors
/// If one cannot be decoded, or if they are of different frames or sizes.
pub fn compare_first_pictures(one: &Path, other: &Path) -> Result<PictureDifference, MediaError> {
    let first = |path: &Path| {
        let mut pictures = PictureReader::open(path)?;
        let found = next_frame(&mut pictures)?;
        found.ok_or_else(|| MediaError::rejected(path, "it has no picture"))
    };
    let ((number, before), (other_number, after)) = (first(one)?, first(other)?);
    let sizes = [&before, &after].map(|picture| (picture.width(), picture.height()));
    if number != other_number || sizes[0] != sizes[1] {
        let cause = format!(
            "it begins with frame {other_number} of {:?} pixels in place of frame {number} of {:?}",
            sizes[1], sizes[0]
        );
        return Err(MediaError::rejected(other, cause));
    }
    Ok(PictureDifference::between(
        &pictures::luma(&before),
        &pictures::luma(&after),
    ))
}

/// Decodes the next picture of a segment and returns it with its output frame number; returns `None` at the
/// end.
fn next_frame(pictures: &mut PictureReader) -> Result<Option<(u64, frame::Video)>, MediaError> {
    let Some((pts, picture)) = pictures.next()? else {
        return Ok(None);
    };
    let rejected = |cause| MediaError::rejected(pictures.path(), cause);
    // The parameter sets state the rate exactly; the container's rate may be a guess.
    let rate = pictures
        .frame_rate()
        .ok_or_else(|| rejected("it states no frame rate".to_owned()))?;
    let number = container::frame_number(pts, pictures.time_base(), rate).ok_or_else(|| {
        rejected(format!(
            "timestamp {pts} is not on the grid of {rate} frames per second"
        ))
    })?;
    Ok(Some((number, picture)))
}
