//! Decodes a video track picture by picture; every decoding error is fatal.

use std::path::{Path, PathBuf};

use ffmpeg_next::codec::{context::Context, threading};
use ffmpeg_next::decoder::{self, Check};
use ffmpeg_next::format::{Pixel, context};
use ffmpeg_next::{Rational, frame, media};

use crate::frame::FrameHash;
use crate::media::MediaError;
use crate::media::{container, ffi};

/// Decodes the best video track of a file.
pub(super) struct PictureReader {
    path: PathBuf,
    input: context::Input,
    track: usize,
    time_base: Rational,
    decoder: decoder::Video,
    draining: bool,
}

impl PictureReader {
    pub(super) fn open(path: &Path) -> Result<Self, MediaError> {
        let input = container::open_input(path)?;
        let (track, time_base, parameters) = {
            let stream = input
                .streams()
                .best(media::Type::Video)
                .ok_or_else(|| MediaError::rejected(path, "it has no video track"))?;
            (stream.index(), stream.time_base(), stream.parameters())
        };
        let open_decoder = || {
            let mut opening = Context::from_parameters(parameters)?.decoder();
            opening.check(Check::CRC | Check::BITSTREAM | Check::BUFFER | Check::EXPLODE);
            opening.set_threading(threading::Config {
                kind: threading::Type::Frame,
                count: 2,
                ..Default::default()
            });
            opening.set_packet_time_base(time_base);
            opening.video()
        };
        let decoder = open_decoder().map_err(MediaError::ffmpeg("open the decoder of", path))?;
        Ok(Self {
            path: path.to_owned(),
            input,
            track,
            time_base,
            decoder,
            draining: false,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the duration of a tick of the timestamps, in seconds.
    pub(super) fn time_base(&self) -> Rational {
        self.time_base
    }

    /// Returns the frame rate that the codec header states. It is known only after a picture was decoded.
    pub(super) fn frame_rate(&self) -> Option<Rational> {
        self.decoder.frame_rate().filter(|rate| rate.0 > 0 && rate.1 > 0)
    }

    pub(super) fn codec_header(&self) -> Vec<u8> {
        self.input
            .stream(self.track)
            .map_or_else(Vec::new, |stream| ffi::codec_header(&stream.parameters()))
    }

    /// Returns the next picture in presentation order with its timestamp, or `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(i64, frame::Video)>, MediaError> {
        let mut picture = frame::Video::empty();
        loop {
            match self.decoder.receive_frame(&mut picture) {
                Ok(()) => return self.checked(picture).map(Some),
                Err(ffmpeg_next::Error::Eof) => return Ok(None),
                Err(error) if container::is_again_or_eof(error) => self.feed()?,
                Err(error) => return Err(MediaError::ffmpeg("decode", &self.path)(error)),
            }
        }
    }

    fn feed(&mut self) -> Result<(), MediaError> {
        if self.draining {
            return Err(MediaError::rejected(
                &self.path,
                "the decoder requests data past the end of the track",
            ));
        }
        let packet = container::read_packet_of(self.track, &mut self.input, &self.path)?;
        let fed = if let Some(packet) = packet {
            self.decoder.send_packet(&packet)
        } else {
            self.draining = true;
            self.decoder.send_eof()
        };
        fed.map_err(MediaError::ffmpeg("decode", &self.path))
    }

    fn checked(&self, picture: frame::Video) -> Result<(i64, frame::Video), MediaError> {
        let pts = picture
            .pts()
            .ok_or_else(|| MediaError::rejected(&self.path, "a picture has no timestamp"))?;
        if picture.is_corrupt() || picture.has_decode_errors() {
            let cause = format!("the picture at timestamp {pts} is damaged");
            return Err(MediaError::rejected(&self.path, cause));
        }
        Ok((pts, picture))
    }
}

/// Hashes the planes without the decoder's row padding; an equal [`Picture`](crate::frame::Picture) has the
/// same hash.
pub(super) fn hash(picture: &frame::Video) -> FrameHash {
    debug_assert!(matches!(picture.format(), Pixel::YUV420P | Pixel::YUVJ420P));
    FrameHash::of((0..3).flat_map(|plane| rows(picture, plane)))
}

/// Returns the luma plane without the decoder's row padding.
pub(super) fn luma(picture: &frame::Video) -> Vec<u8> {
    rows(picture, 0).collect::<Vec<&[u8]>>().concat()
}

fn rows(picture: &frame::Video, plane: usize) -> impl Iterator<Item = &[u8]> {
    let row = picture.plane_width(plane) as usize;
    let lines = picture.data(plane).chunks(picture.stride(plane));
    lines.map(move |line| &line[..row])
}
