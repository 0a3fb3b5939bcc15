//! Re-encodes a stretch of source video that is too long without a safe cut: decodes it and encodes it
//! without loss, in parts of bounded length.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use ffmpeg_next as ffmpeg;
use ffmpeg_next::codec::Context;

use super::MediaError;
use super::decode::{VideoDecoder, defect};
use super::index::Scanned;
use super::packets::{PacketWriter, StreamHeader};
use super::probe::VideoCodec;
use super::segment::{Emit, SegmentFile, segment_path};
use crate::frame::PictureFormat;

/// Distance of the keyframes, which bounds the number of frames that a step backwards decodes again.
const KEYFRAME_EVERY: &str = "32";
/// The number of encoder threads, which is fixed because it changes the coded bytes.
const THREADS: &str = "4";

/// Cause of an error if the decoder skipped a frame.
const NO_PICTURE: &str = "the decoder returned no picture for it";

/// The stretch of source video to re-encode.
pub(super) struct Stretch<'a> {
    /// The source file, which errors name.
    pub(super) source: &'a Path,
    /// Directory of the segment files.
    pub(super) out_dir: &'a Path,
    pub(super) picture: &'a PictureFormat,
    /// Number of the stretch's first source frame.
    pub(super) first: u64,
    /// PTS of the stretch's source frames.
    pub(super) pts: &'a [i64],
    /// Number of frames in each segment but the last.
    pub(super) part_frames: u64,
}

/// Takes the packets of one stretch in decode order and writes segment files.
pub(super) struct Reencoder<'a> {
    stretch: Stretch<'a>,
    decoder: VideoDecoder,
    /// Number of frames encoded so far.
    done: usize,
    part: Option<Part>,
}

/// The segment that is being written.
struct Part {
    encoder: ffmpeg::encoder::Video,
    writer: PacketWriter,
    path: PathBuf,
    /// Index of the segment's first frame in the stretch.
    start: usize,
}

impl<'a> Reencoder<'a> {
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
            .map_err(|error| self.undecodable(error))?;
        self.drain(emit)
    }

    /// Ends the stretch and the last segment. Fails if the decoder did not return every frame of it.
    pub(super) fn finish(mut self, emit: Emit) -> Result<(), MediaError> {
        self.decoder.send_end().map_err(|error| self.undecodable(error))?;
        self.drain(emit)?;
        if self.done < self.stretch.pts.len() {
            return Err(self.undecodable(NO_PICTURE));
        }
        self.close_part(emit)
    }

    fn drain(&mut self, emit: Emit) -> Result<(), MediaError> {
        while let Some(mut frame) = self.decoder.receive().map_err(|error| self.undecodable(error))? {
            let Some(&expected) = self.stretch.pts.get(self.done) else {
                continue;
            };
            match frame.pts() {
                Some(pts) if pts == expected => {}
                Some(pts) if pts > expected => {
                    return Err(self.undecodable(NO_PICTURE));
                }
                _ => continue,
            }
            if let Some(defect) = defect(&frame, self.stretch.picture) {
                return Err(self.undecodable(defect));
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
        // The planes are the same in either range, and the encoder chooses the picture's type.
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

    fn undecodable(&self, cause: impl Display) -> MediaError {
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
            let written = pts.ok_or_else(|| io::Error::other("the encoder lost a timestamp"));
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

/// Opens a libx264 encoder for lossless coding. There are no B-frames, so that packets come in output order,
/// and every keyframe is an IDR.
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
