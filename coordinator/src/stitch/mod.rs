//! Joins the rendered segments to the output file and verifies it. `render` calls [`assemble`] when all
//! chunks are done and [`Assembled::commit`] after it has checked its lease; the dispatcher calls
//! [`check_segment`] for each result.
//!
//! ```text
//! ranges tile 0..frames ─▶ every segment: digest, decoded frames ─▶ join into a temporary name beside the output
//!     ─▶ decode the result from end to end ─▶ `Assembled` ─▶ `commit`: rename into place, fsync the folder
//! ```
//!
//! Only a whole, verified file ever appears under the final name; on every error path the guard removes the
//! temporary file. The functions block, so they run on a thread of their own.

mod error;
mod output;
mod partial;
#[cfg(test)]
mod tests;
mod tiling;
mod verify;

use std::path::PathBuf;

use latentfarm_common::frame::{FrameHash, PictureFormat};
use latentfarm_common::media::{self, AudioLength, FinalReport, JoinRequest};
use latentfarm_common::time::{FrameRange, FrameRate};
use latentfarm_common::wire::blob::BlobRef;

pub use self::error::StitchError;
pub use self::output::{OutputError, OutputTarget};
use self::partial::PartialFile;
pub use self::tiling::{TilingError, check_tiling};
pub use self::verify::{SegmentError, check_segment, check_segment_pictures};

/// Everything that determines the final file.
#[derive(Clone, Debug)]
pub struct StitchRequest {
    /// Each chunk's frames, the local copy of its segment, and the blob that its done record names; in the
    /// order of the frames.
    pub segments: Vec<(FrameRange, PathBuf, BlobRef)>,
    pub picture: PictureFormat,
    pub rate: FrameRate,
    pub frames: u64,
    /// The local copy of the sound that ingest made, and its blob.
    pub sound: (PathBuf, BlobRef),
    /// The length that the audio must have compared to the video.
    pub audio_length: AudioLength,
    /// In a lossless job the hashes of all composited frames, in order: the segments must decode to them.
    pub lossless: Option<Vec<FrameHash>>,
    /// Keys and values of the container's metadata; players show `comment`.
    pub metadata: Vec<(String, String)>,
    pub output: OutputTarget,
}

/// A step of [`assemble`], which reports each to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StitchStep {
    /// The segments of the first `frames` frames have been checked.
    Checked { frames: u64 },
    /// The first `frames` frames have been written to the new file.
    Joined { frames: u64 },
    /// The new file is now decoded from end to end.
    Verifying,
}

/// A whole, verified file that still has its temporary name; dropping it removes the file.
#[must_use = "dropping the assembled file removes it"]
#[derive(Debug)]
pub struct Assembled {
    partial: PartialFile,
    output: OutputTarget,
    report: FinalReport,
}

impl Assembled {
    /// Moves the file to its final name. The caller makes sure beforehand that it still holds its lease.
    pub fn commit(self) -> Result<FinalReport, StitchError> {
        self.output.check_free()?;
        let (from, to) = (self.partial.path().to_owned(), self.output.path().to_owned());
        self.partial
            .rename_to(&to)
            .map_err(|source| StitchError::Rename { from, to, source })?;
        Ok(self.report)
    }
}

/// Checks the segments, joins them with the audio under a temporary name, and verifies the result.
pub fn assemble(
    request: &StitchRequest,
    progress: &mut dyn FnMut(StitchStep),
) -> Result<Assembled, StitchError> {
    let ranges: Vec<FrameRange> = request.segments.iter().map(|(range, ..)| *range).collect();
    check_tiling(&ranges, request.frames)?;
    let hashes_wanted = request.lossless.as_deref();
    for (index, (range, path, blob)) in request.segments.iter().enumerate() {
        let hashes = hashes_wanted.map(|hashes| verify::hashes_of(hashes, *range));
        verify::check_rendered(path, blob, *range, hashes).map_err(|source| StitchError::Segment {
            index,
            range: *range,
            source: Box::new(source),
        })?;
        progress(StitchStep::Checked { frames: range.end });
    }

    let (sound, blob) = &request.sound;
    verify::check_content(sound, blob).map_err(|source| StitchError::Sound {
        source: Box::new(source),
    })?;

    let partial = PartialFile::beside(request.output.path());
    let segments: Vec<PathBuf> = request.segments.iter().map(|(_, path, _)| path.clone()).collect();
    let join = JoinRequest {
        segments: &segments,
        picture: &request.picture,
        rate: request.rate,
        frames: request.frames,
        sound: &request.sound.0,
        metadata: &request.metadata,
        output: partial.path(),
        container: request.output.container(),
    };
    media::join(&join, &mut |frames| progress(StitchStep::Joined { frames }))
        .map_err(|source| join_error(request, source))?;
    progress(StitchStep::Verifying);
    let report = media::verify_output(partial.path(), request.rate, request.frames, request.audio_length)
        .map_err(|source| StitchError::Output {
            path: request.output.path().to_owned(),
            source,
        })?;
    Ok(Assembled {
        partial,
        output: request.output.clone(),
        report,
    })
}

/// Attributes a failed join to the segment whose path the error names, or else to the output.
fn join_error(request: &StitchRequest, source: media::MediaError) -> StitchError {
    let mut places = request.segments.iter().enumerate();
    match places.find(|(_, (_, path, _))| source.path() == path) {
        Some((index, (range, ..))) => StitchError::Segment {
            index,
            range: *range,
            source: Box::new(SegmentError::Media(source)),
        },
        None => StitchError::Output {
            path: request.output.path().to_owned(),
            source,
        },
    }
}
