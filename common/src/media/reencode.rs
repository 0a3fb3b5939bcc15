//! Re-encodes a stretch of source video that is too long without a safe cut, or that is damaged: decodes it,
//! gives each frame a picture, and encodes it without loss, in parts of bounded length.

use std::io;
use std::path::{Path, PathBuf};

use ffmpeg_next as ffmpeg;
use ffmpeg_next::codec::Context;

use super::MediaError;
use super::decode::{Decoded, TolerantDecoder};
use super::index::VideoIndex;
use super::packets::{PacketWriter, StreamHeader};
use super::probe::VideoCodec;
use super::restore::Restoration;
use super::segment::{Emit, SegmentFile, segment_path};
use crate::frame::PictureFormat;

/// Distance of the keyframes, which bounds the number of frames that a step backwards decodes again.
const KEYFRAME_EVERY: &str = "32";
/// The number of encoder threads, which is fixed because it changes the coded bytes.
const THREADS: &str = "4";

/// The stretch of source video to re-encode.
#[derive(Clone, Copy)]
pub(super) struct Stretch<'a> {
    /// The whole video, which errors name.
    pub(super) index: &'a VideoIndex,
    /// Directory of the segment files.
    pub(super) out_dir: &'a Path,
    /// Number of the stretch's first source frame.
    pub(super) first: u64,
    /// PTS of the stretch's source frames.
    pub(super) pts: &'a [i64],
    /// Number of frames in each segment but the last.
    pub(super) part_frames: u64,
    /// Whether the segments are reported as re-encoded for want of a safe cut.
    pub(super) reencoded: bool,
}

/// Takes the packets of one stretch in decode order and writes segment files.
pub(super) struct Reencoder<'a, 'r> {
    stretch: Stretch<'a>,
    restoration: &'r mut Restoration<'a>,
    decoder: TolerantDecoder,
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

impl<'a, 'r> Reencoder<'a, 'r> {
    pub(super) fn start(
        stretch: Stretch<'a>,
        header: &StreamHeader,
        restoration: &'r mut Restoration<'a>,
    ) -> Result<Self, MediaError> {
        let decoder = TolerantDecoder::open(header, &stretch.index.path).map_err(|error| {
            let cause = format!("no decoder takes its video ({error})");
            stretch.index.refusal(stretch.first, &cause)
        })?;
        Ok(Self {
            stretch,
            restoration,
            decoder,
            done: 0,
            part: None,
        })
    }

    /// Takes the next packet of the stretch.
    pub(super) fn push(
        &mut self,
        pts: Option<i64>,
        key: bool,
        data: &[u8],
        emit: Emit,
    ) -> Result<(), MediaError> {
        self.decoder.send(pts, key, data)?;
        self.drain(emit)
    }

    /// Ends the stretch and the last segment.
    ///
    /// # Errors
    /// [`MediaError::BadInput`] if most of the video has no picture.
    pub(super) fn finish(mut self, emit: Emit) -> Result<(), MediaError> {
        self.decoder.send_end()?;
        self.drain(emit)?;
        while self.done < self.stretch.pts.len() {
            self.restoration.repeat(self.number())?;
            let picture = match self.restoration.last.take() {
                Some(picture) => picture,
                None => self.restoration.first_picture()?,
            };
            self.encode(picture, emit)?;
        }
        self.close_part(emit)
    }

    /// Number of the next source frame to encode.
    fn number(&self) -> u64 {
        self.stretch.first + self.done as u64
    }

    fn drain(&mut self, emit: Emit) -> Result<(), MediaError> {
        while let Some(Decoded { picture, is_damaged }) = self.decoder.receive()? {
            let at = picture.pts().map(|pts| self.stretch.pts.binary_search(&pts));
            // A picture that is not shown has no place; one that comes too late has lost it.
            let Some(Ok(at)) = at.filter(|at| at.is_ok_and(|at| at >= self.done)) else {
                continue;
            };
            for frame in self.done..at {
                self.restoration.repeat(self.stretch.first + frame as u64)?;
            }
            let number = self.stretch.first + at as u64;
            let picture = self.restoration.restore(number, picture, is_damaged)?;
            while self.done < at {
                let before = self.restoration.last.take();
                self.encode(before.unwrap_or_else(|| picture.clone()), emit)?;
            }
            self.encode(picture, emit)?;
        }
        Ok(())
    }

    /// Encodes the picture of the next frame, and keeps it for frames that have none.
    fn encode(&mut self, mut picture: ffmpeg::frame::Video, emit: Emit) -> Result<(), MediaError> {
        let full = |part: &Part| (self.done - part.start) as u64 == self.stretch.part_frames;
        if self.part.as_ref().is_some_and(full) {
            self.close_part(emit)?;
        }
        let part = match &mut self.part {
            Some(part) => part,
            None => self
                .part
                .insert(Part::create(&self.stretch, self.restoration.format, self.done)?),
        };
        // The planes are the same in either range, and the encoder chooses the picture's type.
        picture.set_format(ffmpeg::format::Pixel::YUV420P);
        picture.set_kind(ffmpeg::picture::Type::None);
        picture.set_pts(i64::try_from(self.done - part.start).ok());
        part.encoder
            .send_frame(&picture)
            .map_err(MediaError::ffmpeg("encode", &part.path))?;
        self.done += 1;
        self.restoration.last = Some(picture);
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
            reencoded: self.stretch.reencoded,
            defects: self.restoration.defects_before(self.number()),
        })
    }
}

impl Part {
    fn create(stretch: &Stretch, picture: &PictureFormat, start: usize) -> Result<Self, MediaError> {
        let path = segment_path(stretch.out_dir, stretch.first + start as u64);
        let header = StreamHeader {
            codec: VideoCodec::H264,
            reorder: 0,
            extradata: Vec::new(),
        };
        let encoder = open_encoder(picture).map_err(MediaError::ffmpeg("encode", &path))?;
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
