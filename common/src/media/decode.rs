//! The decoders of source video: the one of [`FrameReader`](super::FrameReader), which reads what has been
//! checked, and the one that checks and re-encodes when the video is cut. They always run one thread with the
//! same settings, so that a picture is the same on every machine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ffmpeg_next as ffmpeg;
use ffmpeg_next::codec::{Compliance, Context, threading};
use ffmpeg_next::decoder::Check;

use super::container::is_again_or_eof;
use super::ffi;
use super::packets::StreamHeader;
use super::{MediaError, VideoCodec};
use crate::frame::{Picture, PictureFormat};

/// Decodes packets to pictures in output order.
pub(super) struct VideoDecoder {
    inner: ffmpeg::decoder::Video,
}

impl VideoDecoder {
    pub(super) fn open(header: &StreamHeader) -> Result<Self, ffmpeg::Error> {
        Self::open_with(header, Check::empty())
    }

    fn open_with(header: &StreamHeader, checks: Check) -> Result<Self, ffmpeg::Error> {
        super::init();
        let parameters =
            ffi::decoder_parameters(header.codec.id(), &header.extradata, i32::from(header.reorder))?;
        let mut context = Context::from_parameters(parameters)?;
        // If an H.264 stream does not state its reordering, the decoder takes the bound of the stream's
        // level. Without this it would start with a guess and drop the first pictures that contradict it.
        context.compliance(Compliance::Strict);
        context.set_threading(threading::Config::count(1));
        let mut opening = context.decoder();
        opening.check(checks);
        Ok(Self {
            inner: opening.video()?,
        })
    }

    /// Sends one packet to the decoder. The picture of a packet without PTS has no PTS.
    pub(super) fn send(&mut self, pts: Option<i64>, key: bool, data: &[u8]) -> Result<(), ffmpeg::Error> {
        if data.is_empty() {
            return Ok(());
        }
        let mut packet = ffmpeg::Packet::copy(data);
        packet.set_pts(pts);
        if key {
            packet.set_flags(ffmpeg::packet::Flags::KEY);
        }
        self.inner.send_packet(&packet)
    }

    /// Ends the input, so that the decoder returns the pictures that it still holds.
    pub(super) fn send_end(&mut self) -> Result<(), ffmpeg::Error> {
        self.inner.send_eof()
    }

    /// Returns the next picture, or `None` if the decoder needs more packets or has returned all pictures.
    pub(super) fn receive(&mut self) -> Result<Option<ffmpeg::frame::Video>, ffmpeg::Error> {
        let mut frame = ffmpeg::frame::Video::empty();
        match self.inner.receive_frame(&mut frame) {
            Ok(()) => Ok(Some(frame)),
            Err(error) if is_again_or_eof(error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// A picture that [`TolerantDecoder`] returns.
pub(super) struct Decoded {
    pub(super) picture: ffmpeg::frame::Video,
    /// Whether FFmpeg concealed damage in it.
    pub(super) is_damaged: bool,
}

/// A decoder that goes on after damaged packets. A packet that it cannot decode may give a picture all the
/// same, which is then marked as damaged.
pub(super) struct TolerantDecoder {
    inner: VideoDecoder,
    /// The file that errors name.
    source: PathBuf,
    /// PTS of the packets that raised an error and whose picture has not come.
    lost: BTreeSet<i64>,
    /// PTS of the packet that was sent last.
    sent: Option<i64>,
}

impl TolerantDecoder {
    /// Opens the decoder of a stretch of the video file `source`.
    pub(super) fn open(header: &StreamHeader, source: &Path) -> Result<Self, ffmpeg::Error> {
        let checks = match header.codec {
            // The H.264 decoder marks the pictures in which it concealed errors.
            VideoCodec::H264 => Check::empty(),
            // The HEVC decoder does not mark them, but can report the error itself.
            VideoCodec::Hevc => Check::EXPLODE,
        };
        Ok(Self {
            inner: VideoDecoder::open_with(header, checks)?,
            source: source.to_owned(),
            lost: BTreeSet::new(),
            sent: None,
        })
    }

    /// Sends one packet to the decoder. The picture of a packet without PTS has no PTS.
    pub(super) fn send(&mut self, pts: Option<i64>, key: bool, data: &[u8]) -> Result<(), MediaError> {
        self.sent = pts;
        self.inner
            .send(pts, key, data)
            .or_else(|error| self.note_lost(error))
    }

    /// Ends the input, so that the decoder returns the pictures that it still holds.
    pub(super) fn send_end(&mut self) -> Result<(), MediaError> {
        self.sent = None;
        self.inner.send_end().or_else(|error| self.note_lost(error))
    }

    /// Returns the next picture, or `None` if the decoder needs more packets or has returned all pictures.
    pub(super) fn receive(&mut self) -> Result<Option<Decoded>, MediaError> {
        loop {
            match self.inner.receive() {
                Ok(None) => return Ok(None),
                Ok(Some(picture)) => {
                    let was_lost = picture.pts().is_some_and(|pts| self.lost.remove(&pts));
                    let is_damaged = was_lost || picture.is_corrupt() || picture.has_decode_errors();
                    return Ok(Some(Decoded { picture, is_damaged }));
                }
                Err(error) => self.note_lost(error)?,
            }
        }
    }

    /// Whether a packet so far raised an error and has given no picture yet.
    pub(super) fn has_lost_packets(&self) -> bool {
        !self.lost.is_empty()
    }

    /// Notes that the last packet cannot be decoded. Only a lack of memory is not the packet's fault.
    fn note_lost(&mut self, error: ffmpeg::Error) -> Result<(), MediaError> {
        let is_out_of_memory = error
            == ffmpeg::Error::Other {
                errno: ffmpeg::error::ENOMEM,
            };
        if is_out_of_memory {
            return Err(MediaError::ffmpeg("decode", &self.source)(error));
        }
        self.lost.extend(self.sent);
        Ok(())
    }
}

/// Returns the reason why a decoded picture cannot be used, or `None` if it can.
pub(super) fn defect(frame: &ffmpeg::frame::Video, format: &PictureFormat) -> Option<String> {
    use ffmpeg::format::Pixel;
    if frame.is_corrupt() || frame.has_decode_errors() {
        return Some("its data is damaged".into());
    }
    if !matches!(frame.format(), Pixel::YUV420P | Pixel::YUVJ420P) {
        return Some("its pixel format differs from the track's".into());
    }
    if (frame.width(), frame.height()) != (format.width, format.height) {
        return Some(format!(
            "it is {}x{} in a track of {}x{}",
            frame.width(),
            frame.height(),
            format.width,
            format.height
        ));
    }
    None
}

/// Copies a picture that has no [`defect`] out of FFmpeg's buffers, row by row.
pub(super) fn to_picture(frame: &ffmpeg::frame::Video, format: &PictureFormat) -> Picture {
    let (width, height) = (format.width as usize, format.height as usize);
    let plane = |index: usize, width: usize, height: usize| {
        let stride = frame.stride(index);
        let rows = frame.data(index).chunks(stride).take(height);
        let mut plane = Vec::with_capacity(width * height);
        rows.for_each(|row| plane.extend_from_slice(&row[..width]));
        debug_assert_eq!(plane.len(), width * height, "plane {index} is short");
        plane
    };
    Picture {
        format: *format,
        y: plane(0, width, height),
        u: plane(1, width / 2, height / 2),
        v: plane(2, width / 2, height / 2),
    }
}
