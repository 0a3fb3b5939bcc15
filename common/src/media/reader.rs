//! Reads source pictures by frame number from segment files, for the worker's media child.

use std::collections::VecDeque;
use std::path::Path;

use ffmpeg_next as ffmpeg;

use super::MediaError;
use super::decode::{VideoDecoder, defect, to_picture};
use super::packets::PacketReader;
use crate::frame::{Picture, PictureFormat};
use crate::wire::job::SourceSpec;
use crate::wire::media::LocalSlice;

/// Number of decoded pictures that are kept, so that a window of 16 frames is decoded once even if it is read
/// backwards.
const KEPT_PICTURES: usize = 16;

/// Gives random access to source frames by number. It decodes forwards if it can; for an earlier frame it
/// starts again at the keyframe before that frame. The order of the requests does not change the pictures.
pub struct FrameReader {
    slices: Vec<LocalSlice>,
    format: PictureFormat,
    run: Option<DecodeRun>,
    /// The last pictures that were decoded, each with its PTS.
    kept: VecDeque<(i64, ffmpeg::frame::Video)>,
}

/// Decodes one segment from a keyframe on.
struct DecodeRun {
    path: String,
    packets: PacketReader,
    decoder: VideoDecoder,
    ended: bool,
    /// PTS of the last picture that was decoded.
    last: Option<i64>,
}

impl FrameReader {
    /// Makes a reader of the frames that `slices` hold; `source` describes the whole video.
    pub fn new(slices: Vec<LocalSlice>, source: &SourceSpec) -> Self {
        Self {
            slices,
            format: source.picture,
            run: None,
            kept: VecDeque::new(),
        }
    }

    /// Returns the picture of source frame `source_frame`.
    ///
    /// # Errors
    /// [`MediaError::BadInput`] if no slice has the frame, or if its segment does not yield an undamaged
    /// picture of it.
    pub fn frame(&mut self, source_frame: u64) -> Result<Picture, MediaError> {
        let found = self.slices.iter().find_map(|slice| {
            let at = usize::try_from(source_frame.checked_sub(slice.first)?).ok()?;
            Some((slice.path.clone(), *slice.pts.get(at)?))
        });
        let Some((path, pts)) = found else {
            let cause = format!("the task has no segment with source frame {source_frame}");
            return Err(MediaError::bad_input(Path::new(""), cause));
        };
        let refuse = |cause: &str| {
            let cause = format!("source frame {source_frame} (pts {pts}) cannot be decoded: {cause}");
            MediaError::bad_input(Path::new(&path), cause)
        };
        if !self.kept.iter().any(|&(kept, _)| kept == pts) {
            self.decode_to(&path, pts, &refuse)?;
        }
        let frame = self.kept.iter().find(|&&(kept, _)| kept == pts);
        let (_, frame) = frame.ok_or_else(|| refuse("the segment does not contain it"))?;
        match defect(frame, &self.format) {
            Some(defect) => Err(refuse(&defect)),
            None => Ok(to_picture(frame, &self.format)),
        }
    }

    /// Decodes forwards until the picture at `pts` is kept.
    fn decode_to(
        &mut self,
        path: &str,
        pts: i64,
        refuse: &dyn Fn(&str) -> MediaError,
    ) -> Result<(), MediaError> {
        let mut run = match self.run.take() {
            Some(run) if run.path == path && run.last.is_none_or(|last| last < pts) => run,
            _ => DecodeRun::open(path, pts, refuse)?,
        };
        while run.last.is_none_or(|last| last < pts) {
            let Some(frame) = run.next(refuse)? else { break };
            let Some(shown) = frame.pts() else { continue };
            run.last = run.last.max(Some(shown));
            if self.kept.len() == KEPT_PICTURES {
                self.kept.pop_front();
            }
            self.kept.push_back((shown, frame));
        }
        self.run = Some(run);
        Ok(())
    }
}

impl DecodeRun {
    fn open(path: &str, pts: i64, refuse: &dyn Fn(&str) -> MediaError) -> Result<Self, MediaError> {
        let file = Path::new(path);
        let failed = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof => refuse(&error.to_string()),
            _ => MediaError::io("read", file)(error),
        };
        let mut packets = PacketReader::open(file).map_err(failed)?;
        packets.seek(pts).map_err(failed)?;
        let decoder = VideoDecoder::open(packets.header()).map_err(MediaError::ffmpeg("decode", file))?;
        Ok(Self {
            path: path.to_owned(),
            packets,
            decoder,
            ended: false,
            last: None,
        })
    }

    /// Returns the next picture in output order, or `None` at the end.
    fn next(
        &mut self,
        refuse: &dyn Fn(&str) -> MediaError,
    ) -> Result<Option<ffmpeg::frame::Video>, MediaError> {
        let undecodable = |error: ffmpeg::Error| refuse(&error.to_string());
        loop {
            if let Some(frame) = self.decoder.receive().map_err(undecodable)? {
                return Ok(Some(frame));
            }
            if self.ended {
                return Ok(None);
            }
            let next = self.packets.next().map_err(|error| refuse(&error.to_string()))?;
            let sent = if let Some(packet) = next {
                self.decoder.send(packet.pts, packet.key, &packet.data)
            } else {
                self.ended = true;
                self.decoder.send_end()
            };
            sent.map_err(undecodable)?;
        }
    }
}
