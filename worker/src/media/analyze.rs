//! Finds the faces in a range of source frames, one 16-frame unit at a time.

use std::io::{Read, Write};

use latentfarm_common::frame::Rgb;
use latentfarm_common::media::FrameReader;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::job::SourceSpec;
use latentfarm_common::wire::media::{LocalSlice, MediaReply, MediaTimings};
use latentfarm_common::wire::outcome::FaceObservations;

use super::error::RequestError;
use super::pipes::Pipes;
use super::timed::timed;
use latentfarm_face::{FaceAnalyzer, colour};

/// Answers an analysis request, with a `Progress` after each unit.
pub(super) fn run<R: Read, W: Write>(
    analyzer: &FaceAnalyzer,
    source: &SourceSpec,
    range: FrameRange,
    segments: Vec<LocalSlice>,
    pipes: &mut Pipes<R, W>,
) -> Result<MediaReply, RequestError> {
    let mut decode_us = 0;
    let mut face_us = 0;
    let mut reader = FrameReader::new(segments, source);
    let mut read = |frame: u64| -> Result<Rgb, RequestError> {
        timed(&mut decode_us, || Ok(colour::to_rgb(&reader.frame(frame)?)))
    };
    // The frame before the range serves cut detection only; the first frame of the track begins a shot
    // anyway.
    let mut previous = match range.start.checked_sub(1) {
        Some(lead_in) if !range.is_empty() => Some(read(lead_in)?),
        _ => None,
    };
    let mut frames = Vec::new();
    for unit in range.windows() {
        let pictures = unit.frames().map(&mut read).collect::<Result<Vec<_>, _>>()?;
        frames.extend(timed(&mut face_us, || {
            analyzer.analyze_unit(previous.as_ref(), &pictures)
        })?);
        previous = pictures.into_iter().next_back();
        let frames_done = u32::try_from(unit.end - range.start).unwrap_or(u32::MAX);
        pipes.send(&MediaReply::Progress { frames_done })?;
    }
    let timings = MediaTimings {
        decode_ms: decode_us / 1000,
        face_ms: face_us / 1000,
        ..MediaTimings::default()
    };
    Ok(MediaReply::Analyzed {
        observations: FaceObservations { frames },
        timings,
    })
}
