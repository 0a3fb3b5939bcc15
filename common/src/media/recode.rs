//! Decodes a stretch that has no safe cut and encodes it again without loss, in parts of bounded length.

use std::io;
use std::path::{Path, PathBuf};

use ffmpeg_next as ffmpeg;
use ffmpeg_next::codec::Context;

use super::MediaError;
use super::decode::{VideoDecoder, flaw};
use super::index::Scanned;
use super::packets::{PacketWriter, StreamHeader};
use super::probe::VideoCodec;
use super::segment::{SegmentFile, segment_path};
use crate::frame::PictureFormat;

/// Distance of the keyframes: what a step backwards costs at most.
const KEYFRAME_EVERY: &str = "32";
/// Part of the coded bytes, hence fixed.
const THREADS: &str = "4";

/// What is being encoded anew.
pub(super) struct Stretch<'a> {
    /// The source file, for messages.
    pub(super) source: &'a Path,
    pub(super) out_dir: &'a Path,
    pub(super) picture: &'a PictureFormat,
    /// Number of the stretch's first source frame.
    pub(super) first: u64,
    /// PTS of its source frames.
    pub(super) pts: &'a [i64],
    pub(super) part_frames: u64,
}

/// Takes the packets of one stretch, yields segment files.
pub(super) struct Recoder<'a> {
    stretch: Stretch<'a>,
    decoder: VideoDecoder,
    /// Frames encoded so far.
    done: usize,
    part: Option<Part>,
}

/// The segment being written.
struct Part {
    encoder: ffmpeg::encoder::Video,
    writer: PacketWriter,
    path: PathBuf,
    /// Index of its first frame in the stretch.
    start: usize,
}

type Emit<'a> = &'a mut dyn FnMut(SegmentFile) -> Result<(), MediaError>;

impl<'a> Recoder<'a> {
    pub(super) fn start(stretch: Stretch<'a>, header: &StreamHeader) -> Result<Self, MediaError> {
        let decoder = VideoDecoder::open(header).map_err(MediaError::ffmpeg("decode", stretch.source))?;
        Ok(Self {
            stretch,
            decoder,
            done: 0,
            part: None,
        })
    }

    pub(super) fn push(&mut self, packet: &Scanned, emit: Emit) -> Result<(), MediaError> {
        self.decoder
            .send(packet.pts, packet.key, packet.data)
            .map_err(|error| self.undecodable(&error.to_string()))?;
        self.drain(emit)
    }

    /// The stretch is complete. Every frame of it must have come out.
    pub(super) fn finish(mut self, emit: Emit) -> Result<(), MediaError> {
        self.decoder
            .send_end()
            .map_err(|error| self.undecodable(&error.to_string()))?;
        self.drain(emit)?;
        if self.done < self.stretch.pts.len() {
            return Err(self.undecodable("the decoder gave no picture for it"));
        }
        self.close_part(emit)
    }

    fn drain(&mut self, emit: Emit) -> Result<(), MediaError> {
        while let Some(mut frame) = self
            .decoder
            .receive()
            .map_err(|error| self.undecodable(&error.to_string()))?
        {
            let Some(&expected) = self.stretch.pts.get(self.done) else {
                continue;
            };
            match frame.pts() {
                Some(pts) if pts == expected => {}
                Some(pts) if pts > expected => {
                    return Err(self.undecodable("the decoder gave no picture for it"));
                }
                _ => continue,
            }
            if let Some(flaw) = flaw(&frame, self.stretch.picture) {
                return Err(self.undecodable(&flaw));
            }
            self.encode(&mut frame, emit)?;
        }
        Ok(())
    }

    fn encode(&mut self, frame: &mut ffmpeg::frame::Video, emit: Emit) -> Result<(), MediaError> {
        if self
            .part
            .as_ref()
            .is_some_and(|part| (self.done - part.start) as u64 == self.stretch.part_frames)
        {
            self.close_part(emit)?;
        }
        let part = match &mut self.part {
            Some(part) => part,
            None => self.part.insert(Part::create(&self.stretch, self.done)?),
        };
        // Range is no matter of the planes; the picture's type is the encoder's to choose.
        frame.set_format(ffmpeg::format::Pixel::YUV420P);
        frame.set_kind(ffmpeg::picture::Type::None);
        frame.set_pts(i64::try_from(self.done - part.start).ok());
        part.encoder
            .send_frame(frame)
            .map_err(MediaError::ffmpeg("encode", &part.path))?;
        self.done += 1;
        part.drain(self.stretch.pts)
    }

    fn close_part(&mut self, emit: Emit) -> Result<(), MediaError> {
        let Some(mut part) = self.part.take() else {
            return Ok(());
        };
        part.encoder
            .send_eof()
            .map_err(MediaError::ffmpeg("encode", &part.path))?;
        part.drain(self.stretch.pts)?;
        part.writer
            .finish()
            .map_err(MediaError::io("write", &part.path))?;
        emit(SegmentFile {
            path: part.path,
            first: self.stretch.first + part.start as u64,
            frames: (self.done - part.start) as u64,
            reencoded: true,
        })
    }

    fn undecodable(&self, cause: &str) -> MediaError {
        let frame = self.stretch.first + self.done as u64;
        let cause = format!("frame {frame} cannot be decoded: {cause}");
        MediaError::bad_input(self.stretch.source, cause)
    }
}

impl Part {
    fn create(stretch: &Stretch, start: usize) -> Result<Self, MediaError> {
        let path = segment_path(stretch.out_dir, stretch.first + start as u64);
        let header = StreamHeader {
            codec: VideoCodec::H264,
            reorder: 0,
            extradata: Vec::new(),
        };
        let encoder = open_encoder(stretch.picture).map_err(MediaError::ffmpeg("encode", &path))?;
        let writer = PacketWriter::create(&path, &header).map_err(MediaError::io("write", &path))?;
        Ok(Self {
            encoder,
            writer,
            path,
            start,
        })
    }

    fn drain(&mut self, pts: &[i64]) -> Result<(), MediaError> {
        let mut packet = ffmpeg::Packet::empty();
        while self.encoder.receive_packet(&mut packet).is_ok() {
            let at = packet.pts().and_then(|at| usize::try_from(at).ok());
            let pts = at.and_then(|at| pts.get(self.start + at).copied());
            let written = pts.ok_or_else(|| io::Error::other("the encoder lost a time stamp"));
            written
                .and_then(|pts| {
                    if packet.is_key() {
                        self.writer.entry(pts);
                    }
                    let data = packet.data().unwrap_or_default();
                    self.writer.packet(Some(pts), packet.is_key(), data)
                })
                .map_err(MediaError::io("write", &self.path))?;
        }
        Ok(())
    }
}

/// libx264 without loss: no B-frames, so that packets come in output order, and every keyframe an IDR.
fn open_encoder(picture: &PictureFormat) -> Result<ffmpeg::encoder::Video, ffmpeg::Error> {
    let codec = ffmpeg::encoder::find_by_name("libx264").ok_or(ffmpeg::Error::EncoderNotFound)?;
    let mut encoder = Context::new_with_codec(codec).encoder().video()?;
    encoder.set_width(picture.width);
    encoder.set_height(picture.height);
    encoder.set_format(ffmpeg::format::Pixel::YUV420P);
    encoder.set_time_base(ffmpeg::Rational(1, 25));
    let mut options = ffmpeg::Dictionary::new();
    for (key, value) in [
        ("preset", "superfast"),
        ("qp", "0"),
        ("bf", "0"),
        ("g", KEYFRAME_EVERY),
        ("sc_threshold", "0"),
        ("threads", THREADS),
    ] {
        options.set(key, value);
    }
    encoder.open_as_with(codec, options)
}
