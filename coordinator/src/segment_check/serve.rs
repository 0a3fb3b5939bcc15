//! The child process: it reads requests from standard input and answers each on standard output, until its input ends.

use std::io::{Read, Write};
use std::path::Path;

use latentfarm_common::error::one_line;
use latentfarm_common::media::{self, FrameReader};
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::media::LocalSlice;
use latentfarm_common::wire::pipe::{self, PipeError};

use super::figures::measure;
use super::finding::{BadSegment, Finding};
use super::judge;
use super::messages::{CheckReply, CheckRequest, LocalPictures};
use crate::stitch;

/// Serves requests until the input ends.
///
/// # Errors
/// If a message cannot be read or written. Anything that is wrong with a segment is a reply.
pub fn serve(mut input: impl Read, mut output: impl Write) -> Result<(), PipeError> {
    media::init();
    while let Some(request) = pipe::read::<CheckRequest>(&mut input)? {
        let reply = match request {
            CheckRequest::Check {
                path,
                blob,
                range,
                pictures,
            } => {
                let checked = match &pictures {
                    Some(pictures) => compare(&path, &blob, range, pictures),
                    None => stitch::check_segment(&path, &blob, range).map(|_info| Finding::Good),
                };
                let broken = |error| Finding::Bad(BadSegment::Broken(one_line(&error)));
                CheckReply::Checked(checked.unwrap_or_else(broken))
            }
            CheckRequest::Compare { one, other } => {
                let compared = media::compare_first_pictures(&one, &other);
                CheckReply::Compared(compared.map_err(|error| one_line(&error)))
            }
        };
        pipe::write(&mut output, &reply)?;
    }
    Ok(())
}

/// Measures every picture of a segment, and judges them if it is whole.
fn compare(
    path: &Path,
    blob: &BlobRef,
    range: FrameRange,
    pictures: &LocalPictures,
) -> Result<Finding, stitch::SegmentError> {
    let LocalPictures { expected, segments } = pictures;
    let slices = expected.input.segments.iter().zip(segments);
    let slices = slices.map(|(slice, path)| LocalSlice::of(slice, path.clone()));
    let mut reader = FrameReader::new(slices.collect(), &expected.source);
    let (mut figures, mut failed) = (Vec::new(), None);
    let mut frames = expected.input.frames.iter();
    stitch::check_segment_pictures(
        path,
        blob,
        range,
        &expected.source.picture,
        &mut |number, output| {
            let Some(frame) = frames.next().filter(|_| failed.is_none()) else {
                return;
            };
            match reader.frame(frame.source) {
                Ok(source) => figures.push(measure(number, frame, expected.resolution_px, &source, &output)),
                Err(error) => failed = Some(error),
            }
        },
    )?;
    Ok(match failed {
        // The segment is whole; a file of the source is not.
        Some(error) => Finding::NotCompared(one_line(&error)),
        None => match judge::judge(&figures, expected) {
            Ok(()) => Finding::Good,
            Err(reason) => Finding::Bad(BadSegment::Implausible(reason)),
        },
    })
}
