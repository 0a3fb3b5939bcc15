//! Verifies a rendered segment against its done record: its digest, its frames and, in a lossless job, every
//! pixel.

use std::path::{Path, PathBuf};

use latentfarm_common::digest::Digest;
use latentfarm_common::error::FileError;
use latentfarm_common::frame::{FrameHash, Picture, PictureFormat};
use latentfarm_common::media::{self, MediaError, SegmentInfo};
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::blob::BlobRef;

/// The reason for which a segment is unusable.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(
        "`{}` has {found_bytes} bytes and digest {found} instead of {} bytes and digest {}",
        path.display(), expected.bytes, expected.digest
    )]
    Content {
        path: PathBuf,
        expected: BlobRef,
        found: Digest,
        found_bytes: u64,
    },
    #[error("its video is damaged or has the wrong frames")]
    Media(#[source] MediaError),
    #[error("frame {frame} does not decode to the picture that was rendered")]
    Picture { frame: u64 },
    #[error("there are {found} frame hashes for frames {range}")]
    HashCount { range: FrameRange, found: usize },
}

/// Checks the segment of a done record that has just arrived: its digest must be the record's, and decoding
/// must give exactly the frames of `range`.
pub fn check_segment(path: &Path, blob: &BlobRef, range: FrameRange) -> Result<SegmentInfo, SegmentError> {
    check_content(path, blob)?;
    media::verify_segment(path, range).map_err(SegmentError::Media)
}

/// As [`check_segment`], and hands the number and the picture of each frame to `sink`, in order: also those before a frame
/// that is wrong.
pub fn check_segment_pictures(
    path: &Path,
    blob: &BlobRef,
    range: FrameRange,
    format: &PictureFormat,
    sink: &mut dyn FnMut(u64, Picture),
) -> Result<SegmentInfo, SegmentError> {
    check_content(path, blob)?;
    media::verify_pictures(path, range, format, sink).map_err(SegmentError::Media)
}

/// Returns the part of a job's frame hashes that belongs to `range`. It is shorter than `range` if the job
/// has too few.
pub(super) fn hashes_of(hashes: &[FrameHash], range: FrameRange) -> &[FrameHash] {
    let place = |frame: u64| usize::try_from(frame).unwrap_or(usize::MAX).min(hashes.len());
    &hashes[place(range.start)..place(range.end)]
}

/// Checks a segment again before it is joined: its digest, because the disk may have failed meanwhile, and in
/// a lossless job every picture. The final file is decoded as a whole afterwards.
pub(super) fn check_rendered(
    path: &Path,
    blob: &BlobRef,
    range: FrameRange,
    hashes: Option<&[FrameHash]>,
) -> Result<(), SegmentError> {
    check_content(path, blob)?;
    hashes.map_or(Ok(()), |hashes| check_pictures(path, range, hashes))
}

/// Checks that a file has the size and digest of its blob.
pub(super) fn check_content(path: &Path, expected: &BlobRef) -> Result<(), SegmentError> {
    let (found, found_bytes) = Digest::of_file(path).map_err(FileError::at("read", path))?;
    if (found, found_bytes) == (expected.digest, expected.bytes) {
        return Ok(());
    }
    Err(SegmentError::Content {
        path: path.to_owned(),
        expected: *expected,
        found,
        found_bytes,
    })
}

fn check_pictures(path: &Path, range: FrameRange, hashes: &[FrameHash]) -> Result<(), SegmentError> {
    let found = hashes.len();
    if found as u64 != range.len() {
        return Err(SegmentError::HashCount { range, found });
    }
    let mut expected = range.frames().zip(hashes);
    let mut wrong = None;
    let frames = media::decode_hashes(path, &mut |number, hash| {
        let agrees = expected
            .next()
            .is_some_and(|(frame, wanted)| (frame, *wanted) == (number, hash));
        if !agrees && wrong.is_none() {
            wrong = Some(number);
        }
    })
    .map_err(SegmentError::Media)?;
    match wrong {
        Some(frame) => Err(SegmentError::Picture { frame }),
        None if frames != range.len() => Err(SegmentError::Picture {
            frame: range.start + frames,
        }),
        None => Ok(()),
    }
}
