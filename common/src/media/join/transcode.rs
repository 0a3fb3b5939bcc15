//! Transcodes the audio track, cut at the exact sample: to AAC for MP4, to FLAC for Matroska.

use std::collections::VecDeque;

use ffmpeg_next::codec::{self, Id, Parameters, context::Context};
use ffmpeg_next::format::{Sample, sample};
use ffmpeg_next::{ChannelLayout, Error, Packet, Rational, Rescale, decoder, encoder, filter, frame};

use super::source::{AudioFeed, AudioSource, sample_base};
use crate::media::MediaError;
use crate::media::container::{self, Container};

/// Least AAC bit rate, in bits per second.
const AAC_BITS: usize = 192_000;
/// AAC bit rate for each channel, in bits per second, if that is more.
const AAC_BITS_PER_CHANNEL: usize = 96_000;
/// Sample rates that AAC defines.
const AAC_RATES_HZ: [u32; 12] = [
    96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000,
];

/// Decodes, filters and encodes the user's audio track.
pub(super) struct TranscodeFeed {
    source: AudioSource,
    decoder: decoder::Audio,
    graph: filter::Graph,
    encoder: encoder::audio::Encoder,
    /// Channel layout of the decoded samples, as the track states it or as their number suggests.
    layout: ChannelLayout,
    /// Sample rate of the decoded samples.
    decoded_hz: u32,
    /// Timestamp of the first decoded samples, in ticks of the track's time base.
    first_pts: Option<i64>,
    /// End of the samples decoded so far, counted in samples from the first.
    expected: i64,
    ready: VecDeque<Packet>,
    state: TranscodeState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum TranscodeState {
    Decoding,
    /// The track or the video has ended; the filters still hold samples.
    Ending,
    Done,
}

impl TranscodeFeed {
    /// Opens decoder, filters and encoder. `end` returns the end of the video in samples at a sample rate.
    pub(super) fn open(
        mut source: AudioSource,
        container: Container,
        end: &dyn Fn(u32) -> i64,
    ) -> Result<Self, MediaError> {
        let mut decoder = source.decoder()?;
        let mut first = source.decode_first(&mut decoder)?.samples;
        // Only decoded samples have the true rate and layout (SBR doubles the rate).
        let decoded_hz = first.rate();
        let layout = container::channel_layout(&first);
        let opening = |error| MediaError::ffmpeg("transcode the audio of", &source.path)(error);
        let encoder = open_encoder(container, &first, layout).map_err(opening)?;
        let graph = build_graph(&first, layout, &encoder, end(encoder.rate())).map_err(opening)?;
        let mut feed = Self {
            first_pts: first.pts(),
            source,
            decoder,
            graph,
            encoder,
            layout,
            decoded_hz,
            expected: 0,
            ready: VecDeque::new(),
            state: TranscodeState::Decoding,
        };
        feed.filter(&mut first)?;
        Ok(feed)
    }

    fn failed(&self, error: Error) -> MediaError {
        MediaError::ffmpeg("transcode the audio of", &self.source.path)(error)
    }

    /// Passes the next decoded samples to the filters, or sends a packet to the decoder if it has no samples.
    fn decode(&mut self) -> Result<(), MediaError> {
        let mut samples = frame::Audio::empty();
        match self.decoder.receive_frame(&mut samples) {
            Ok(()) => self.filter(&mut samples),
            // The timestamps show the gap, and the filters fill it with silence.
            Err(Error::InvalidData) => Ok(()),
            Err(Error::Eof) => {
                self.state = TranscodeState::Ending;
                Ok(())
            }
            Err(error) if container::is_again_or_eof(error) => self.feed(),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn feed(&mut self) -> Result<(), MediaError> {
        let fed = match self.source.next_packet()? {
            Some(packet) => self.decoder.send_packet(&packet),
            None => self.decoder.send_eof(),
        };
        match fed {
            Ok(()) | Err(Error::InvalidData) => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }

    fn filter(&mut self, samples: &mut frame::Audio) -> Result<(), MediaError> {
        let base = sample_base(self.decoded_hz);
        let tick = 1 + 1_i64.rescale(self.source.time_base, base);
        let stated = samples
            .pts()
            .zip(self.first_pts)
            .map(|(pts, first)| (pts - first).rescale(self.source.time_base, base))
            .filter(|stated| (stated - self.expected).abs() > tick);
        let start = stated.unwrap_or(self.expected);
        self.expected = start + i64::try_from(samples.samples()).unwrap_or(0);
        samples.set_pts(Some(start));
        samples.set_channel_layout(self.layout);
        let added = match self.graph.get("in") {
            Some(mut inlet) => inlet.source().add(samples),
            None => Err(Error::FilterNotFound),
        };
        match added {
            Ok(()) => self.drain_filter(),
            // The trim filter takes no samples after its end.
            Err(Error::Eof) => {
                self.state = TranscodeState::Ending;
                Ok(())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    fn drain_filter(&mut self) -> Result<(), MediaError> {
        loop {
            let mut samples = frame::Audio::empty();
            let pulled = match self.graph.get("out") {
                Some(mut outlet) => outlet.sink().frame(&mut samples),
                None => Err(Error::FilterNotFound),
            };
            match pulled {
                Ok(()) => {
                    self.encoder
                        .send_frame(&samples)
                        .map_err(|error| self.failed(error))?;
                    // One long packet of the track fills many frames, and the encoder takes one only if it has room.
                    self.drain_encoder()?;
                }
                Err(Error::Eof) => {
                    self.state = TranscodeState::Ending;
                    break;
                }
                Err(error) if container::is_again_or_eof(error) => break,
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(())
    }

    fn drain_encoder(&mut self) -> Result<(), MediaError> {
        loop {
            let mut packet = Packet::empty();
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => self.ready.push_back(packet),
                Err(error) if container::is_again_or_eof(error) => return Ok(()),
                Err(error) => return Err(self.failed(error)),
            }
        }
    }

    fn end(&mut self) -> Result<(), MediaError> {
        if let Some(mut inlet) = self.graph.get("in") {
            match inlet.source().flush() {
                Ok(()) | Err(Error::Eof) => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        self.drain_filter()?;
        self.encoder.send_eof().map_err(|error| self.failed(error))?;
        self.drain_encoder()?;
        self.state = TranscodeState::Done;
        Ok(())
    }
}

impl AudioFeed for TranscodeFeed {
    fn parameters(&self) -> Parameters {
        container::portable_parameters(&Parameters::from(&self.encoder), None)
    }

    fn time_base(&self) -> Rational {
        sample_base(self.encoder.rate())
    }

    fn next(&mut self) -> Result<Option<Packet>, MediaError> {
        loop {
            if let Some(packet) = self.ready.pop_front() {
                return Ok(Some(packet));
            }
            match self.state {
                TranscodeState::Done => return Ok(None),
                TranscodeState::Decoding => self.decode()?,
                TranscodeState::Ending => self.end()?,
            }
        }
    }
}

fn open_encoder(
    container: Container,
    first: &frame::Audio,
    layout: ChannelLayout,
) -> Result<encoder::audio::Encoder, Error> {
    let (id, format, rate_hz) = match container {
        Container::Mp4 => {
            let rate = AAC_RATES_HZ.iter().copied().find(|rate| *rate <= first.rate());
            let planar = Sample::F32(sample::Type::Planar);
            (Id::AAC, planar, rate.unwrap_or(8_000))
        }
        Container::Matroska => {
            let format = match first.format() {
                // FFmpeg encodes 24-bit samples from the upper bits of 32-bit ones.
                Sample::I32(_) | Sample::I64(_) => Sample::I32(sample::Type::Packed),
                _ => Sample::I16(sample::Type::Packed),
            };
            (Id::FLAC, format, first.rate())
        }
    };
    let codec = encoder::find(id).ok_or(Error::EncoderNotFound)?;
    let mut context = Context::new_with_codec(codec);
    context.set_flags(codec::Flags::GLOBAL_HEADER | codec::Flags::BITEXACT);
    let mut audio = context.encoder().audio()?;
    let channels = usize::try_from(layout.channels()).unwrap_or(2);
    if id == Id::AAC {
        audio.set_bit_rate(AAC_BITS.max(AAC_BITS_PER_CHANNEL * channels));
    }
    audio.set_rate(i32::try_from(rate_hz).map_err(|_| Error::InvalidData)?);
    audio.set_format(format);
    audio.set_channel_layout(layout);
    audio.set_time_base(sample_base(rate_hz));
    audio.open()
}

fn build_graph(
    first: &frame::Audio,
    layout: ChannelLayout,
    encoder: &encoder::audio::Encoder,
    end_sample: i64,
) -> Result<filter::Graph, Error> {
    let find = |name: &str| filter::find(name).ok_or(Error::FilterNotFound);
    let mut graph = filter::Graph::new();
    let input = format!(
        "time_base=1/{rate}:sample_rate={rate}:sample_fmt={}:channel_layout=0x{:x}",
        first.format().name(),
        layout.bits(),
        rate = first.rate(),
    );
    graph.add(&find("abuffer")?, "in", &input)?;
    graph.add(&find("abuffersink")?, "out", "")?;
    let spec = format!(
        "aresample=async=1:first_pts=0,aformat=sample_fmts={}:sample_rates={}:channel_layouts=0x{:x},\
         atrim=end_sample={end_sample},asetnsamples=n={}:p=0",
        encoder.format().name(),
        encoder.rate(),
        layout.bits(),
        encoder.frame_size().max(1),
    );
    graph.output("in", 0)?.input("out", 0)?.parse(&spec)?;
    graph.validate()?;
    Ok(graph)
}
