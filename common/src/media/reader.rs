//! Pictures by source frame number, out of segment files.

use std::collections::VecDeque;
use std::path::Path;

use ffmpeg_next as ffmpeg;

use super::MediaError;
use super::decode::{VideoDecoder, flaw, to_picture};
use super::packets::PacketReader;
use crate::frame::{Picture, PictureFormat};
use crate::wire::job::SourceSpec;
use crate::wire::media::LocalSlice;

/// Pictures kept, so that a window of 16 frames played backwards is decoded once.
const KEPT_PICTURES: usize = 16;

/// Random access by source frame number. Reads forward where it can; for an earlier frame it starts again at the
/// keyframe before it. Pictures are the same in whatever order they are asked for.
pub struct FrameReader {
    slices: Vec<LocalSlice>,
    format: PictureFormat,
    run: Option<Run>,
    /// The last pictures that were decoded, by PTS.
    kept: VecDeque<(i64, ffmpeg::frame::Video)>,
}

/// Decoding in progress.
struct Run {
    path: String,
    packets: PacketReader,
    decoder: VideoDecoder,
    ended: bool,
    /// PTS of the last picture that came out.
    last: Option<i64>,
}

impl FrameReader {
    pub fn new(slices: Vec<LocalSlice>, source: &SourceSpec) -> Self {
        Self {
            slices,
            format: source.picture,
            run: None,
            kept: VecDeque::new(),
        }
    }

    /// The picture of source frame `source_frame`. `BadInput` where no slice names it, or its segment does not
    /// yield it whole.
    pub fn frame(&mut self, source_frame: u64) -> Result<Picture, MediaError> {
        let found = self.slices.iter().find_map(|slice| {
            let at = usize::try_from(source_frame.checked_sub(slice.first)?).ok()?;
            Some((slice.path.clone(), *slice.pts.get(at)?))
        });
        let Some((path, pts)) = found else {
            let cause = format!("no segment for source frame {source_frame} was given");
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
        let (_, frame) = frame.ok_or_else(|| refuse("the segment does not hold it"))?;
        match flaw(frame, &self.format) {
            Some(flaw) => Err(refuse(&flaw)),
            None => Ok(to_picture(frame, &self.format)),
        }
    }

    fn decode_to(
        &mut self,
        path: &str,
        pts: i64,
        refuse: &dyn Fn(&str) -> MediaError,
    ) -> Result<(), MediaError> {
        let mut run = match self.run.take() {
            Some(run) if run.path == path && run.last.is_none_or(|last| last < pts) => run,
            _ => Run::open(path, pts, refuse)?,
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

impl Run {
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

    /// The next picture in output order, or `None` at the end.
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
