//! The form of decoded pictures, and their conversion to the form that the whole job has. A video may change
//! its size, pixel format or colours in the middle, as recordings of calls do; [`Restoration`] then converts
//! its pictures while the segments are cut.
//!
//! [`Restoration`]: super::restore::Restoration

use ffmpeg_next as ffmpeg;
use ffmpeg_next::color;
use ffmpeg_next::format::Pixel;
use ffmpeg_next::software::scaling;

use super::ffi;
use crate::frame::{ColourMatrix, ColourRange, PictureFormat};

/// The form of one decoded picture, as its own stream states it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// The pixel format; those of full range are replaced by their twins of limited range.
    pixel: Pixel,
    width: u32,
    height: u32,
    range: ColourRange,
    matrix: ColourMatrix,
}

impl Look {
    /// Reads the form of `frame`. A matrix that the stream does not state is the one of `format`.
    pub(super) fn of(frame: &ffmpeg::frame::Video, format: &PictureFormat) -> Self {
        let (pixel, is_full) = match frame.format() {
            Pixel::YUVJ420P => (Pixel::YUV420P, true),
            Pixel::YUVJ422P => (Pixel::YUV422P, true),
            Pixel::YUVJ444P => (Pixel::YUV444P, true),
            other => (other, frame.color_range() == color::Range::JPEG),
        };
        Self {
            pixel,
            width: frame.width(),
            height: frame.height(),
            range: if is_full {
                ColourRange::Full
            } else {
                ColourRange::Limited
            },
            matrix: match frame.color_space() {
                color::Space::BT709 => ColourMatrix::Bt709,
                color::Space::BT470BG | color::Space::SMPTE170M => ColourMatrix::Bt601,
                _ => format.colour.matrix,
            },
        }
    }

    /// Returns the form that all pictures of a job get whose first picture has this form.
    pub(super) fn of_job(self, format: &PictureFormat) -> Self {
        Self {
            pixel: Pixel::YUV420P,
            width: format.width,
            height: format.height,
            ..self
        }
    }

    /// The pixel format by which FFmpeg's scaler knows the range, too.
    fn scaler_format(self) -> Pixel {
        match (self.pixel, self.range) {
            (Pixel::YUV420P, ColourRange::Full) => Pixel::YUVJ420P,
            (Pixel::YUV422P, ColourRange::Full) => Pixel::YUVJ422P,
            (Pixel::YUV444P, ColourRange::Full) => Pixel::YUVJ444P,
            (pixel, _) => pixel,
        }
    }
}

/// Converts pictures of one form to another.
pub(super) struct Converter {
    from: Look,
    to: Look,
    scaler: scaling::Context,
}

impl Converter {
    pub(super) fn new(from: Look, to: Look) -> Result<Self, ffmpeg::Error> {
        // With these flags the result is the same on every processor.
        let flags = scaling::Flags::BICUBIC | scaling::Flags::ACCURATE_RND | scaling::Flags::BITEXACT;
        let mut scaler = scaling::Context::get(
            from.scaler_format(),
            from.width,
            from.height,
            to.scaler_format(),
            to.width,
            to.height,
            flags,
        )?;
        if from.matrix != to.matrix {
            ffi::set_scaler_colours(&mut scaler, (from.matrix, from.range), (to.matrix, to.range))?;
        }
        Ok(Self { from, to, scaler })
    }

    /// Whether this is the conversion from `from` to `to`.
    pub(super) fn is_between(&self, from: Look, to: Look) -> bool {
        (self.from, self.to) == (from, to)
    }

    /// Returns the converted picture with the PTS of `frame`.
    pub(super) fn convert(
        &mut self,
        frame: &mut ffmpeg::frame::Video,
    ) -> Result<ffmpeg::frame::Video, ffmpeg::Error> {
        frame.set_format(self.from.scaler_format());
        let mut converted = ffmpeg::frame::Video::empty();
        self.scaler.run(frame, &mut converted)?;
        converted.set_pts(frame.pts());
        Ok(converted)
    }
}
