//! The child process: it reads requests from standard input and answers each on standard output, until its input ends.

use std::io::{Read, Write};
use std::path::Path;

use latentfarm_common::error::one_line;
use latentfarm_common::media::{self, FrameReader, MediaError};
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::pipe::{self, PipeError};

use super::figures::{FrameFigures, measure};
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
            } => match stitch::check_segment(&path, &blob, range) {
                Ok(_info) => pictures.map_or(CheckReply::Good, |pictures| compare(&path, range, &pictures)),
                Err(error) => CheckReply::Broken(one_line(&error)),
            },
            CheckRequest::Compare { one, other } => match media::compare_first_pictures(&one, &other) {
                Ok(difference) => CheckReply::Compared(difference),
                Err(error) => CheckReply::Broken(one_line(&error)),
            },
        };
        pipe::write(&mut output, &reply)?;
    }
    Ok(())
}

fn compare(path: &Path, range: FrameRange, pictures: &LocalPictures) -> CheckReply {
    match figures(path, range, pictures) {
        Ok(Ok(figures)) => match judge::judge(&figures, pictures) {
            Ok(()) => CheckReply::Good,
            Err(reason) => CheckReply::Implausible(reason),
        },
        Ok(Err(source)) => CheckReply::NotCompared(one_line(&source)),
        Err(error) => CheckReply::Broken(one_line(&error)),
    }
}

/// Measures every picture of a segment. The inner error is one of the source video.
pub(super) fn figures(
    path: &Path,
    range: FrameRange,
    pictures: &LocalPictures,
) -> Result<Result<Vec<FrameFigures>, MediaError>, MediaError> {
    let mut reader = FrameReader::new(pictures.segments.clone(), &pictures.source);
    let (mut figures, mut failed) = (Vec::with_capacity(pictures.frames.len()), None);
    let mut frames = pictures.frames.iter();
    media::decode_segment(path, &pictures.source.picture, &mut |number, output| {
        let Some(frame) = frames.next().filter(|_| failed.is_none()) else {
            return;
        };
        match reader.frame(frame.source) {
            Ok(source) => figures.push(measure(number, frame, pictures.resolution_px, &source, &output)),
            Err(error) => failed = Some(error),
        }
    })?;
    debug_assert_eq!(figures.len() as u64, range.len(), "the range was checked before");
    Ok(failed.map_or(Ok(figures), Err))
}
