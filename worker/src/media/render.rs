//! Output frames of one chunk: decode, crop, wait for the rendered crops, paste back, encode.
//!
//! A window's crops are made and sent while the engine renders the window before it: the supervisor holds them
//! ready for the moment that the engine is done. So the engine waits for no picture as long as a window is
//! decoded, pasted and encoded faster than it is rendered, and never is more than one window ahead of it.

use std::io::{Read, Write};
use std::path::Path;

use latentfarm_common::frame::FrameHash;
use latentfarm_common::media::{FrameReader, SegmentEncoder, verify_segment};
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::media::{MediaReply, MediaRequest, MediaTimings, RenderRequest};
use latentfarm_common::wire::pipe::PipeError;

use super::error::JobError;
use super::pipes::Pipes;
use super::timed::timed;
use super::window::Window;

#[derive(Default)]
struct Micros {
    decode: u64,
    crop: u64,
    paste: u64,
    encode: u64,
}

pub(super) fn run<R: Read, W: Write>(
    request: &RenderRequest,
    pipes: &mut Pipes<R, W>,
) -> Result<MediaReply, JobError> {
    if request.frames.len() as u64 != request.range.len() || request.range.is_empty() {
        let text = format!(
            "{} frames are described for {}",
            request.frames.len(),
            request.range
        );
        return Err(JobError::Inconsistent(text));
    }
    let resolution = request.resolution_px as usize;
    let output = Path::new(&request.output);
    let mut micros = Micros::default();
    let mut reader = FrameReader::new(request.segments.clone(), &request.source);
    let mut encoder = SegmentEncoder::create(
        output,
        &request.source.picture,
        &request.encoder,
        request.range.start,
    )?;
    let mut done = Done {
        hashes: Vec::with_capacity(request.frames.len()),
        synced: 0,
    };
    let mut waiting: Option<Window> = None;
    for range in request.range.windows() {
        let (window, crops) = open(&mut reader, request, range, &mut micros)?;
        // The supervisor reads at all times, so that this waits for nobody.
        if let Some(faces) = crops {
            pipes.send(&MediaReply::Crops { window: range, faces })?;
        }
        let rendered = waiting
            .as_ref()
            .map(|window| synced_crops(window, resolution, pipes))
            .transpose()?;
        if let Some((previous, faces)) = waiting.replace(window).zip(rendered) {
            finish(
                previous,
                faces.as_deref(),
                resolution,
                &mut encoder,
                &mut done,
                &mut micros,
            )?;
            pipes.send(&MediaReply::Progress {
                frames_done: u32::try_from(done.hashes.len()).unwrap_or(0),
            })?;
        }
    }
    if let Some(last) = waiting {
        let faces = synced_crops(&last, resolution, pipes)?;
        finish(
            last,
            faces.as_deref(),
            resolution,
            &mut encoder,
            &mut done,
            &mut micros,
        )?;
    }
    timed(&mut micros.encode, || -> Result<(), JobError> {
        encoder.finish()?;
        verify_segment(output, request.range)?;
        Ok(())
    })?;
    let frames = u32::try_from(done.hashes.len()).unwrap_or(u32::MAX);
    Ok(MediaReply::Rendered {
        frame_hashes: done.hashes,
        synced: done.synced,
        passed: frames - done.synced,
        timings: MediaTimings {
            decode_ms: micros.decode / 1000,
            face_ms: micros.crop / 1000,
            paste_ms: micros.paste / 1000,
            encode_ms: micros.encode / 1000,
        },
    })
}

struct Done {
    hashes: Vec<FrameHash>,
    synced: u32,
}

/// Decodes a window and makes its crops, if any of it is to be rendered.
fn open(
    reader: &mut FrameReader,
    request: &RenderRequest,
    range: FrameRange,
    micros: &mut Micros,
) -> Result<(Window, Option<Vec<u8>>), JobError> {
    let mut frames = Vec::new();
    for output_frame in range.frames() {
        let index = usize::try_from(output_frame - request.range.start).unwrap_or(usize::MAX);
        let frame = request.frames[index];
        let picture = timed(&mut micros.decode, || reader.frame(frame.source))?;
        frames.push((frame, picture));
    }
    let window = Window { range, frames };
    let crops = window
        .is_rendered()
        .then(|| timed(&mut micros.crop, || window.crops(request.resolution_px as usize)));
    Ok((window, crops))
}

/// Pastes a window's rendered crops, if it has any, hashes and encodes its pictures.
fn finish(
    mut window: Window,
    faces: Option<&[u8]>,
    resolution: usize,
    encoder: &mut SegmentEncoder,
    done: &mut Done,
    micros: &mut Micros,
) -> Result<(), JobError> {
    if let Some(faces) = faces {
        done.synced += timed(&mut micros.paste, || window.paste(faces, resolution));
    }
    for (_, picture) in &window.frames {
        done.hashes.push(picture.hash());
        timed(&mut micros.encode, || encoder.push(picture))?;
    }
    Ok(())
}

/// Waits for a window's rendered crops; `None` at once for a window that is not rendered.
fn synced_crops<R: Read, W: Write>(
    window: &Window,
    resolution: usize,
    pipes: &mut Pipes<R, W>,
) -> Result<Option<Vec<u8>>, JobError> {
    if !window.is_rendered() {
        return Ok(None);
    }
    match pipes.receive()? {
        Some(MediaRequest::Synced {
            window: answered,
            faces,
        }) => {
            let expected = 16 * 3 * resolution * resolution;
            if answered == window.range && faces.len() == expected {
                Ok(Some(faces))
            } else {
                let got = faces.len();
                let text = format!(
                    "{got} bytes for {answered} where {expected} for {} were due",
                    window.range
                );
                Err(JobError::Inconsistent(text))
            }
        }
        Some(_) => Err(JobError::Inconsistent(
            "another request came in the middle of a render".to_owned(),
        )),
        None => Err(JobError::Pipe(PipeError::Io(
            std::io::ErrorKind::UnexpectedEof.into(),
        ))),
    }
}
