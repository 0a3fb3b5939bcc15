//! The decoder of source video, for [`FrameReader`](super::FrameReader) and for re-encoding. It always runs
//! one thread with the same settings, so that a picture is the same on every machine.

use ffmpeg_next as ffmpeg;
use ffmpeg_next::codec::{Compliance, Context, threading};

use super::container::is_again_or_eof;
use super::ffi;
use super::packets::StreamHeader;
use crate::frame::{Picture, PictureFormat};

/// Decodes packets to pictures in output order.
pub(super) struct VideoDecoder {
    inner: ffmpeg::decoder::Video,
}

impl VideoDecoder {
    pub(super) fn open(header: &StreamHeader) -> Result<Self, ffmpeg::Error> {
        super::init();
        let parameters =
            ffi::decoder_parameters(header.codec.id(), &header.extradata, i32::from(header.reorder))?;
        let mut context = Context::from_parameters(parameters)?;
        // If an H.264 stream does not state its reordering, the decoder takes the bound of the stream's
        // level. Without this it would start with a guess and drop the first pictures that contradict it.
        context.compliance(Compliance::Strict);
        context.set_threading(threading::Config::count(1));
        Ok(Self {
            inner: context.decoder().video()?,
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
