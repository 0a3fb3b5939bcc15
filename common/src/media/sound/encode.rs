//! Encodes the decoded sound, cut at the exact sample: to AAC for MP4, to FLAC for Matroska.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use ffmpeg_next::codec::{self, Id, Parameters, context::Context};
use ffmpeg_next::format::{Sample, sample};
use ffmpeg_next::{ChannelLayout, Error, Packet, Rational, encoder, filter, frame};

use super::channels::MonoMix;
use super::pcm::{Pcm, PcmForm};
use super::source::sample_base;
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
/// The rate of FLAC for sound whose own rate it cannot state.
const FLAC_RATE_HZ: u32 = 192_000;
/// FLAC states rates up to this in Hz, and multiples of 10 Hz up to ten times as much.
const FLAC_MAX_HZ: u32 = 65_535;

/// Encodes the whole sound, or its beginning.
pub(super) struct EncodeFeed<'a> {
    /// The file that the sound comes from, for errors.
    path: PathBuf,
    pcm: &'a mut Pcm,
    /// The channels that are encoded.
    mix: MonoMix,
    graph: filter::Graph,
    encoder: encoder::audio::Encoder,
    /// Number of samples that were passed to the filters.
    passed: i64,
    ready: VecDeque<Packet>,
    state: EncodeState,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum EncodeState {
    Reading,
    /// The sound or the video has ended; the filters still hold samples.
    Ending,
    Done,
}

impl<'a> EncodeFeed<'a> {
    /// Opens filters and encoder. `end` returns the end of the video in samples at a sample rate.
    pub(super) fn open(
        pcm: &'a mut Pcm,
        path: &Path,
        container: Container,
        end: &dyn Fn(u32) -> i64,
    ) -> Result<Self, MediaError> {
        let opening = |error| MediaError::ffmpeg("encode the sound of", path)(error);
        pcm.rewind()
            .map_err(MediaError::io("read the decoded sound of", path))?;
        // Sound without a layout cannot be encoded with all its channels: it becomes the mono mix that the model gets.
        let (mix, layout) = match pcm.form.layout {
            Some(layout) => (MonoMix::Layout, layout),
            None => (pcm.mono.clone(), ChannelLayout::MONO),
        };
        let encoder = open_encoder(container, &pcm.form, layout)
            .or_else(|_| open_encoder(container, &pcm.form, ChannelLayout::STEREO))
            .map_err(opening)?;
        let graph = build_graph(pcm.form.rate_hz, layout, &encoder, end(encoder.rate())).map_err(opening)?;
        Ok(Self {
            path: path.to_owned(),
            pcm,
            mix,
            graph,
            encoder,
            passed: 0,
            ready: VecDeque::new(),
            state: EncodeState::Reading,
        })
    }

    fn failed(&self, error: Error) -> MediaError {
        MediaError::ffmpeg("encode the sound of", &self.path)(error)
    }

    /// Passes the next samples to the filters.
    fn read(&mut self) -> Result<(), MediaError> {
        let block = self.pcm.next(&self.mix);
        let block = block.map_err(MediaError::io("read the decoded sound of", &self.path))?;
        let Some(mut samples) = block else {
            self.state = EncodeState::Ending;
            return Ok(());
        };
        samples.set_pts(Some(self.passed));
        self.passed += i64::try_from(samples.samples()).unwrap_or(0);
        let added = match self.graph.get("in") {
            Some(mut inlet) => inlet.source().add(&samples),
            None => Err(Error::FilterNotFound),
        };
        match added {
            Ok(()) => self.drain_filter(),
            // The trim filter takes no samples after its end.
            Err(Error::Eof) => {
                self.state = EncodeState::Ending;
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
                    self.state = EncodeState::Ending;
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
        self.state = EncodeState::Done;
        Ok(())
    }

    /// Returns the codec parameters for the muxer.
    pub(super) fn parameters(&self) -> Parameters {
        container::portable_parameters(&Parameters::from(&self.encoder), None)
    }

    /// Returns the duration of a sample in seconds, the unit of the packets' time stamps.
    pub(super) fn time_base(&self) -> Rational {
        sample_base(self.encoder.rate())
    }

    /// Returns the next packet, or `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Packet>, MediaError> {
        loop {
            if let Some(packet) = self.ready.pop_front() {
                return Ok(Some(packet));
            }
            match self.state {
                EncodeState::Done => return Ok(None),
                EncodeState::Reading => self.read()?,
                EncodeState::Ending => self.end()?,
            }
        }
    }
}

/// Returns the bit rate of AAC for so many channels.
pub(super) fn aac_bits(channels: usize) -> usize {
    AAC_BITS.max(AAC_BITS_PER_CHANNEL * channels)
}

fn open_encoder(
    container: Container,
    form: &PcmForm,
    layout: ChannelLayout,
) -> Result<encoder::audio::Encoder, Error> {
    let (id, format, rate_hz) = match container {
        Container::Mp4 => {
            let rate = AAC_RATES_HZ.iter().copied().find(|rate| *rate <= form.rate_hz);
            let planar = Sample::F32(sample::Type::Planar);
            (Id::AAC, planar, rate.unwrap_or(8_000))
        }
        Container::Matroska => {
            // FFmpeg encodes 24-bit samples from the upper bits of 32-bit ones.
            let format = if form.is_deep {
                Sample::I32(sample::Type::Packed)
            } else {
                Sample::I16(sample::Type::Packed)
            };
            let rate = form.rate_hz;
            let is_stated = rate <= FLAC_MAX_HZ || rate <= 10 * FLAC_MAX_HZ && rate.is_multiple_of(10);
            (Id::FLAC, format, if is_stated { rate } else { FLAC_RATE_HZ })
        }
    };
    let codec = encoder::find(id).ok_or(Error::EncoderNotFound)?;
    let mut context = Context::new_with_codec(codec);
    context.set_flags(codec::Flags::GLOBAL_HEADER | codec::Flags::BITEXACT);
    let mut audio = context.encoder().audio()?;
    let channels = usize::try_from(layout.channels()).unwrap_or(2);
    if id == Id::AAC {
        audio.set_bit_rate(aac_bits(channels));
    }
    audio.set_rate(i32::try_from(rate_hz).map_err(|_| Error::InvalidData)?);
    audio.set_format(format);
    audio.set_channel_layout(layout);
    audio.set_time_base(sample_base(rate_hz));
    audio.open()
}

fn build_graph(
    rate_hz: u32,
    layout: ChannelLayout,
    encoder: &encoder::audio::Encoder,
    end_sample: i64,
) -> Result<filter::Graph, Error> {
    let find = |name: &str| filter::find(name).ok_or(Error::FilterNotFound);
    let mut graph = filter::Graph::new();
    let input = format!(
        "time_base=1/{rate_hz}:sample_rate={rate_hz}:sample_fmt=flt:channel_layout=0x{:x}",
        layout.bits(),
    );
    graph.add(&find("abuffer")?, "in", &input)?;
    graph.add(&find("abuffersink")?, "out", "")?;
    let spec = format!(
        "aformat=sample_fmts={}:sample_rates={}:channel_layouts=0x{:x},\
         atrim=end_sample={end_sample},asetnsamples=n={}:p=0",
        encoder.format().name(),
        encoder.rate(),
        encoder.channel_layout().bits(),
        encoder.frame_size().max(1),
    );
    graph.output("in", 0)?.input("out", 0)?.parse(&spec)?;
    graph.validate()?;
    Ok(graph)
}
