//! The audio track of the final file: copied or transcoded, from time 0 to the end of the video.

use std::path::Path;

use ffmpeg_next::codec::{Id, Parameters, context::Context};
use ffmpeg_next::format::context;
use ffmpeg_next::{Error, Packet, Rational, Rescale, decoder, frame, media};

use super::copy::CopyFeed;
use super::transcode::TranscodeFeed;
use super::{AudioTreatment, JoinRequest};
use crate::media::MediaError;
use crate::media::container::{self, Container};
use crate::time::FrameRate;

/// Audio packets in presentation order; timestamps and durations in samples.
pub(super) struct AudioFeed {
    packets: Packets,
    treatment: AudioTreatment,
}

enum Packets {
    Copied(CopyFeed),
    Transcoded(Box<TranscodeFeed>),
}

impl AudioFeed {
    pub(super) fn open(request: &JoinRequest<'_>) -> Result<Self, MediaError> {
        let source = AudioSource::open(request.audio)?;
        let head = source.measure_head()?;
        let end = |rate_hz: u32| samples_within(request.frames, request.rate, rate_hz);
        let source = AudioSource::open(request.audio)?;
        if let Some(reason) = reason_to_transcode(request, &source, &head) {
            let feed = TranscodeFeed::open(source, request.container, &end)?;
            return Ok(Self {
                packets: Packets::Transcoded(Box::new(feed)),
                treatment: AudioTreatment::Transcoded { reason },
            });
        }
        let limit = end(source.rate_hz);
        Ok(Self {
            packets: Packets::Copied(CopyFeed::new(source, &head, limit, request.container)),
            treatment: AudioTreatment::Copied,
        })
    }

    pub(super) fn parameters(&self) -> Parameters {
        match &self.packets {
            Packets::Copied(feed) => feed.parameters(),
            Packets::Transcoded(feed) => feed.parameters(),
        }
    }

    /// Seconds per sample.
    pub(super) fn time_base(&self) -> Rational {
        match &self.packets {
            Packets::Copied(feed) => feed.time_base(),
            Packets::Transcoded(feed) => feed.time_base(),
        }
    }

    pub(super) fn next(&mut self) -> Result<Option<Packet>, MediaError> {
        match &mut self.packets {
            Packets::Copied(feed) => feed.next(),
            Packets::Transcoded(feed) => feed.next(),
        }
    }

    pub(super) fn into_treatment(self) -> AudioTreatment {
        self.treatment
    }
}

/// Samples that fit into the video, to the nearest.
pub(super) fn samples_within(frames: u64, rate: FrameRate, rate_hz: u32) -> i64 {
    let numerator = u128::from(frames) * u128::from(rate.den()) * u128::from(rate_hz);
    let denominator = u128::from(rate.num());
    i64::try_from((numerator + denominator / 2) / denominator).unwrap_or(i64::MAX)
}

fn reason_to_transcode(request: &JoinRequest<'_>, source: &AudioSource, head: &Head) -> Option<String> {
    let (codec, container) = (source.parameters.id(), request.container.extension());
    if request.exact_audio {
        return Some("the audio is cut at the exact sample".to_owned());
    }
    if !can_carry(request.container, codec, source.rate_hz) {
        return Some(format!("{container} cannot carry {}", codec.name()));
    }
    if request.container == Container::Matroska && head.skip > 0 && codec != Id::OPUS {
        let name = codec.name();
        return Some(format!(
            "{container} cannot mark the {} samples that {name} needs cut from its start",
            head.skip
        ));
    }
    None
}

/// What players of the container can be expected to play.
fn can_carry(container: Container, codec: Id, rate_hz: u32) -> bool {
    match container {
        // Below 16 kHz MP3 is MPEG-2.5, which MP4 does not know.
        Container::Mp4 if codec == Id::MP3 => rate_hz >= 16_000,
        Container::Mp4 => matches!(
            codec,
            Id::AAC | Id::AC3 | Id::EAC3 | Id::ALAC | Id::OPUS | Id::FLAC
        ),
        Container::Matroska => matches!(
            codec,
            Id::AAC
                | Id::MP2
                | Id::MP3
                | Id::AC3
                | Id::EAC3
                | Id::DTS
                | Id::ALAC
                | Id::OPUS
                | Id::VORBIS
                | Id::FLAC
                | Id::PCM_U8
                | Id::PCM_S16LE
                | Id::PCM_S24LE
                | Id::PCM_S32LE
                | Id::PCM_F32LE
        ),
    }
}

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
        let open = || {
            let mut opening = Context::from_parameters(self.parameters.clone())?.decoder();
            opening.set_packet_time_base(self.time_base);
            opening.audio()
        };
        open().map_err(MediaError::ffmpeg("open the audio decoder of", &self.path))
    }

    /// Seconds per sample.
    pub(super) fn sample_base(&self) -> Rational {
        Rational(1, i32::try_from(self.rate_hz).unwrap_or(i32::MAX))
    }

    /// The next packet of the track that holds anything.
    pub(super) fn next_packet(&mut self) -> Result<Option<Packet>, MediaError> {
        loop {
            match container::read_packet(&mut self.input, &self.path)? {
                Some(packet) if packet.stream() == self.track && packet.size() > 0 => {
                    return Ok(Some(packet));
                }
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    /// Decodes up to the first presented sample: only the decoder knows all that is thrown away before it.
    fn measure_head(mut self) -> Result<Head, MediaError> {
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
