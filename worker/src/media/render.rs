//! Renders the output frames of one chunk: decodes, crops, waits for the rendered crops, pastes them back,
//! encodes.
//!
//! The crops of a window are made and sent while the engine renders the window before it, and the supervisor
//! holds them until the engine is ready. So the engine waits for no pictures as long as a window is decoded,
//! pasted and encoded faster than it is rendered, and this process is never more than one window ahead of the
//! engine.

use std::io::{Read, Write};
use std::path::Path;

use latentfarm_common::frame::FrameHash;
use latentfarm_common::lip_sync::LipOpening;
use latentfarm_common::media::{FrameReader, SegmentEncoder, verify_segment};
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::media::{MediaReply, MediaRequest, MediaTimings, RenderRequest};
use latentfarm_common::wire::pipe::PipeError;

use super::error::RequestError;
use super::pipes::Pipes;
use super::timed::timed;
use super::window::Window;
use latentfarm_face::FaceAnalyzer;

/// Microseconds spent on each kind of work.
#[derive(Default)]
struct StageMicros {
    decode: u64,
    crop: u64,
    paste: u64,
    encode: u64,
    lips: u64,
}

/// One render request in progress.
struct ChunkRender<'a, R, W> {
    analyzer: &'a FaceAnalyzer,
    request: &'a RenderRequest,
    /// Side of a crop in pixels.
    resolution: usize,
    pipes: &'a mut Pipes<R, W>,
    reader: FrameReader,
    encoder: SegmentEncoder,
    /// Hashes of the pictures that were encoded so far.
    frame_hashes: Vec<FrameHash>,
    /// How far the mouths in those pictures are open, `None` where none was rendered or seen.
    lips: Vec<Option<LipOpening>>,
    /// Number of those pictures that show a rendered mouth.
    synced: u32,
    micros: StageMicros,
}

/// Answers a render request; between its windows it sends `Crops` and `Progress` and receives `Synced`.
pub(super) fn run<R: Read, W: Write>(
    analyzer: &FaceAnalyzer,
    request: &RenderRequest,
    pipes: &mut Pipes<R, W>,
) -> Result<MediaReply, RequestError> {
    if request.frames.len() as u64 != request.range.len() || request.range.is_empty() {
        let text = format!(
            "{} frames are described for {}",
            request.frames.len(),
            request.range
        );
        return Err(RequestError::Inconsistent(text));
    }
    let output = Path::new(&request.output);
    let encoder = SegmentEncoder::create(
        output,
        &request.source.picture,
        &request.encoder,
        request.range.start,
    )?;
    let mut render = ChunkRender {
        analyzer,
        request,
        resolution: request.resolution_px as usize,
        pipes,
        reader: FrameReader::new(request.segments.clone(), &request.source),
        encoder,
        frame_hashes: Vec::with_capacity(request.frames.len()),
        lips: Vec::with_capacity(request.frames.len()),
        synced: 0,
        micros: StageMicros::default(),
    };
    let mut waiting: Option<Window> = None;
    for range in request.range.windows() {
        let window = render.decode_and_crop(range)?;
        if let Some(previous) = waiting.replace(window) {
            render.paste_and_encode(previous)?;
            let frames_done = u32::try_from(render.frame_hashes.len()).unwrap_or(0);
            render.pipes.send(&MediaReply::Progress { frames_done })?;
        }
    }
    if let Some(last) = waiting {
        render.paste_and_encode(last)?;
    }
    let ChunkRender {
        encoder,
        frame_hashes,
        lips,
        synced,
        mut micros,
        ..
    } = render;
    timed(&mut micros.encode, || -> Result<(), RequestError> {
        encoder.finish()?;
        verify_segment(output, request.range)?;
        Ok(())
    })?;
    let frames = u32::try_from(frame_hashes.len()).unwrap_or(u32::MAX);
    Ok(MediaReply::Rendered {
        frame_hashes,
        synced,
        passed: frames - synced,
        lips,
        timings: MediaTimings {
            decode_ms: micros.decode / 1000,
            face_ms: (micros.crop + micros.lips) / 1000,
            paste_ms: micros.paste / 1000,
            encode_ms: micros.encode / 1000,
        },
    })
}

impl<R: Read, W: Write> ChunkRender<'_, R, W> {
    /// Decodes a window, and makes and sends its crops if any of its frames is to be rendered.
    fn decode_and_crop(&mut self, range: FrameRange) -> Result<Window, RequestError> {
        let mut frames = Vec::new();
        for output_frame in range.frames() {
            let index = usize::try_from(output_frame - self.request.range.start).unwrap_or(usize::MAX);
            let frame = self.request.frames[index];
            let picture = timed(&mut self.micros.decode, || self.reader.frame(frame.source))?;
            frames.push((frame, picture));
        }
        let window = Window { range, frames };
        if window.is_rendered() {
            let faces = timed(&mut self.micros.crop, || window.crops(self.resolution));
            // The supervisor reads at all times, so this does not block.
            self.pipes.send(&MediaReply::Crops { window: range, faces })?;
        }
        Ok(window)
    }

    /// Waits for the rendered crops of a window, if it has any, pastes them, and hashes, measures and encodes
    /// the pictures.
    fn paste_and_encode(&mut self, mut window: Window) -> Result<(), RequestError> {
        if window.is_rendered() {
            let faces = self.receive_synced(window.range)?;
            self.synced += timed(&mut self.micros.paste, || window.paste(&faces, self.resolution));
        }
        let mut meter = self.analyzer.lip_meter();
        for (frame, picture) in &window.frames {
            self.frame_hashes.push(picture.hash());
            let lips = timed(&mut self.micros.lips, || {
                let face = frame.face.filter(|_| frame.is_rendered());
                let Some(to_face) = face else { return Ok(None) };
                meter.measure(picture, &to_face, self.request.resolution_px)
            })?;
            self.lips.push(lips);
            timed(&mut self.micros.encode, || self.encoder.push(picture))?;
        }
        Ok(())
    }

    /// Receives the rendered crops of the window `due`.
    fn receive_synced(&mut self, due: FrameRange) -> Result<Vec<u8>, RequestError> {
        let expected = 16 * 3 * self.resolution * self.resolution;
        match self.pipes.receive()? {
            Some(MediaRequest::Synced { window, faces }) if window == due && faces.len() == expected => {
                Ok(faces)
            }
            Some(MediaRequest::Synced { window, faces }) => Err(RequestError::Inconsistent(format!(
                "expected {expected} bytes for {due}, got {} for {window}",
                faces.len()
            ))),
            Some(_) => Err(RequestError::Inconsistent(
                "another request came in the middle of a render".to_owned(),
            )),
            None => Err(RequestError::Pipe(PipeError::Io(
                std::io::ErrorKind::UnexpectedEof.into(),
            ))),
        }
    }
}
