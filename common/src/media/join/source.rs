//! The audio track as the user gave it, read packet by packet.

use std::path::Path;

use ffmpeg_next::codec::Parameters;
use ffmpeg_next::format::context;
use ffmpeg_next::{Error, Packet, Rational, Rescale, decoder, frame, media};

use crate::media::MediaError;
use crate::media::container;

/// The best audio track of a file, from its first packet.
pub(super) struct AudioSource {
    pub(super) path: std::path::PathBuf,
    input: context::Input,
    track: usize,
    pub(super) time_base: Rational,
    pub(super) parameters: Parameters,
    pub(super) rate_hz: u32,
}

/// Where the presented samples of a track begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Timestamp of the first packet, in ticks of the source.
    pub(super) first_pts: i64,
    /// Samples between the first packet's start and the first presented sample.
    pub(super) skip: i64,
}

impl AudioSource {
    pub(super) fn open(path: &Path) -> Result<Self, MediaError> {
        let input = container::open_input(path)?;
        let (track, time_base, parameters) = {
            let stream = input
                .streams()
                .best(media::Type::Audio)
                .ok_or_else(|| MediaError::bad_input(path, "it has no audio track"))?;
            let parameters = container::portable_parameters(&stream.parameters(), None);
            (stream.index(), stream.time_base(), parameters)
        };
        let mut source = Self {
            path: path.to_owned(),
            input,
            track,
            time_base,
            parameters,
            rate_hz: 0,
        };
        source.rate_hz = source.decoder()?.rate();
        if source.rate_hz == 0 {
            return Err(MediaError::bad_input(
                path,
                "its audio track states no sample rate",
            ));
        }
        Ok(source)
    }

    pub(super) fn decoder(&self) -> Result<decoder::Audio, MediaError> {
        container::audio_decoder(self.parameters.clone(), self.time_base, &self.path)
    }

    /// Seconds per sample.
    pub(super) fn sample_base(&self) -> Rational {
        Rational(1, i32::try_from(self.rate_hz).unwrap_or(i32::MAX))
    }

    /// The next packet of the track that holds anything.
    pub(super) fn next_packet(&mut self) -> Result<Option<Packet>, MediaError> {
        loop {
            match container::read_packet_of(self.track, &mut self.input, &self.path)? {
                Some(packet) if packet.size() == 0 => {}
                packet => return Ok(packet),
            }
        }
    }

    /// Decodes up to the first presented sample: only the decoder knows all that is thrown away before it.
    pub(super) fn measure_head(mut self) -> Result<Head, MediaError> {
        let mut decoder = self.decoder()?;
        let mut samples = frame::Audio::empty();
        let mut first_pts = None;
        let mut consumed = 0_i64;
        loop {
            let Some(packet) = self.next_packet()? else {
                return Err(MediaError::bad_input(
                    &self.path,
                    "no sound could be decoded from its audio track",
                ));
            };
            first_pts = first_pts.or(packet.pts());
            consumed += packet.duration();
            match decoder.send_packet(&packet) {
                Ok(()) | Err(Error::InvalidData) => {}
                Err(error) => return Err(MediaError::ffmpeg("decode the audio of", &self.path)(error)),
            }
            if decoder.receive_frame(&mut samples).is_ok() {
                break;
            }
        }
        let first_pts = first_pts.unwrap_or(0);
        let by_clock = samples.pts().map_or(0, |pts| {
            (pts - first_pts).rescale(self.time_base, self.sample_base())
        });
        // Where the clock is coarse, what went in less what came out is exact.
        let by_count = consumed.rescale(self.time_base, self.sample_base())
            - i64::try_from(samples.samples()).unwrap_or(i64::MAX);
        let tick = 1 + 1_i64.rescale(self.time_base, self.sample_base());
        let skip = if (by_clock - by_count).abs() <= tick {
            by_count
        } else {
            by_clock
        };
        Ok(Head {
            first_pts,
            skip: skip.max(0),
        })
    }
}
