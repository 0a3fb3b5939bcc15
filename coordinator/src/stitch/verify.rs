//! Whether a segment is what its done record says.

use std::path::{Path, PathBuf};

use latentfarm_common::digest::Digest;
use latentfarm_common::error::FileError;
use latentfarm_common::frame::FrameHash;
use latentfarm_common::media::{self, MediaError, SegmentInfo};
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::blob::BlobRef;

#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("`{}` is {found_bytes} bytes with digest {found}, the record says {} and {}", path.display(), expected.bytes, expected.digest)]
    Content {
        path: PathBuf,
        expected: BlobRef,
        found: Digest,
        found_bytes: u64,
    },
    #[error("its video is not as it should be")]
    Media {
        #[source]
        source: MediaError,
    },
    #[error("frame {frame} does not decode to the composited picture")]
    Picture { frame: u64 },
    #[error("there are {found} frame hashes for frames {range}")]
    HashCount { range: FrameRange, found: usize },
}

/// For a done record that just came in: the digest is the record's, and decoding gives exactly the frames of
/// `range`.
pub fn check_segment(path: &Path, blob: &BlobRef, range: FrameRange) -> Result<SegmentInfo, SegmentError> {
    check_content(path, blob)?;
    media::verify_segment(path, range).map_err(|source| SegmentError::Media { source })
}

/// The part of a job's frame hashes that belongs to `range`; shorter where the job has too few.
pub(super) fn hashes_of(hashes: &[FrameHash], range: FrameRange) -> &[FrameHash] {
    let place = |frame: u64| usize::try_from(frame).unwrap_or(usize::MAX).min(hashes.len());
    &hashes[place(range.start)..place(range.end)]
}

/// Before joining: the digest again (a disk may have failed since), and in a lossless job every picture. The
/// final file is decoded as a whole afterwards.
pub(super) fn check_rendered(
    path: &Path,
    blob: &BlobRef,
    range: FrameRange,
    hashes: Option<&[FrameHash]>,
) -> Result<(), SegmentError> {
    check_content(path, blob)?;
    hashes.map_or(Ok(()), |hashes| check_pictures(path, range, hashes))
}

fn check_content(path: &Path, expected: &BlobRef) -> Result<(), SegmentError> {
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
    .map_err(|source| SegmentError::Media { source })?;
    match wrong {
        Some(frame) => Err(SegmentError::Picture { frame }),
        None if frames != range.len() => Err(SegmentError::Picture {
            frame: range.start + frames,
        }),
        None => Ok(()),
    }
}
