//! Decodes an audio track to what the model takes: 16 kHz, mono, signed 16 bit.

use std::io;
use std::path::Path;

use ffmpeg_next as ffmpeg;
use ffmpeg_next::format::Sample;
use ffmpeg_next::format::sample::Type as SampleType;
use ffmpeg_next::software::resampling;

use super::MediaError;
use super::container::{audio_decoder, channel_layout, is_again_or_eof};
use super::ffi;
use super::probe::{audio_track, open_input};

/// Sample rate of decoded speech.
pub const SPEECH_RATE_HZ: u32 = 16_000;

/// A gap in the timestamps of at least this length is filled with silence, so that the speech keeps its place
/// in a track that is copied to the output. Shorter gaps come from the container's rounding.
const FILLED_GAP_MS: i128 = 100;
/// A longer gap is taken for damage.
const MAX_GAP_S: u64 = 600;

type Sink<'a> = &'a mut dyn FnMut(&[i16]) -> io::Result<()>;

/// Decodes the audio track of `path` once, from its first presented sample (encoder priming is skipped), and
/// hands consecutive samples at [`SPEECH_RATE_HZ`] to `sink`. Returns their number: the duration times the
/// rate, rounded up, at least 1.
///
/// # Errors
/// [`MediaError::BadInput`] if the track cannot be decoded to its end; [`MediaError::Io`] if `sink` fails.
pub fn decode_speech(path: &Path, sink: Sink) -> Result<u64, MediaError> {
    let mut input = open_input(path)?;
    let stream = audio_track(&input, path)?;
    let (track, time_base) = (stream.index(), stream.time_base());
    let mut decoder = audio_decoder(stream.parameters(), time_base, path)?;
    let mut speech = SpeechResampler {
        path,
        time_base,
        resampler: None,
        samples_in: 0,
        samples_out: 0,
        first_pts: None,
        held_back: None,
        buffer: Vec::new(),
        sink,
    };
    let refuse = |error: ffmpeg::Error, samples_in: u64| {
        let cause = format!(
            "its audio cannot be decoded: the file is truncated or damaged after sample {samples_in} ({error})"
        );
        MediaError::bad_input(path, cause)
    };
    loop {
        let mut packet = ffmpeg::Packet::empty();
        match packet.read(&mut input) {
            Ok(()) if packet.stream() != track || packet.size() == 0 => continue,
            Ok(()) if packet.is_corrupt() => {
                return Err(refuse(ffmpeg::Error::InvalidData, speech.samples_in));
            }
            Ok(()) => decoder.send_packet(&packet),
            Err(ffmpeg::Error::Eof) => break,
            Err(error) => return Err(refuse(error, speech.samples_in)),
        }
        .map_err(|error| refuse(error, speech.samples_in))?;
        speech.drain(&mut decoder)?;
    }
    decoder
        .send_eof()
        .map_err(|error| refuse(error, speech.samples_in))?;
    speech.drain(&mut decoder)?;
    speech.finish()
}

/// Resamples decoded audio and counts the samples.
struct SpeechResampler<'a> {
    path: &'a Path,
    time_base: ffmpeg::Rational,
    resampler: Option<resampling::Context>,
    /// Number of samples that were resampled, at the track's rate; filled gaps are included.
    samples_in: u64,
    /// Number of samples handed to the sink, at 16 kHz.
    samples_out: u64,
    first_pts: Option<i64>,
    /// The last frame that was decoded. It is held back, because the end of the track's last frame may be
    /// padding.
    held_back: Option<ffmpeg::frame::Audio>,
    buffer: Vec<i16>,
    sink: Sink<'a>,
}

impl SpeechResampler<'_> {
    fn drain(&mut self, decoder: &mut ffmpeg::decoder::Audio) -> Result<(), MediaError> {
        loop {
            let mut frame = ffmpeg::frame::Audio::empty();
            match decoder.receive_frame(&mut frame) {
                Ok(()) => {
                    if let Some(earlier) = self.held_back.replace(frame) {
                        self.take(&earlier)?;
                    }
                }
                Err(error) if is_again_or_eof(error) => return Ok(()),
                Err(error) => return Err(MediaError::ffmpeg("decode the audio of", self.path)(error)),
            }
        }
    }

    fn take(&mut self, frame: &ffmpeg::frame::Audio) -> Result<(), MediaError> {
        if frame.samples() == 0 {
            return Ok(());
        }
        let fail = |error| MediaError::ffmpeg("resample the audio of", self.path)(error);
        let shape = shape(frame);
        if self.resampler.is_none() {
            let (format, layout, rate) = shape;
            let mono = Sample::I16(SampleType::Packed);
            let created = resampling::Context::get(
                format,
                layout,
                rate,
                mono,
                ffmpeg::ChannelLayout::MONO,
                SPEECH_RATE_HZ,
            );
            self.resampler = Some(created.map_err(fail)?);
        }
        let known = self.resampler.as_ref().map(|resampler| {
            let input = resampler.input();
            (input.format, input.channel_layout, input.rate)
        });
        if known != Some(shape) {
            let cause = format!(
                "the rate or channels of its audio change after {} samples; convert it first: ffmpeg -i IN OUT.wav",
                self.samples_in
            );
            return Err(MediaError::bad_input(self.path, cause));
        }
        self.fill_gap(frame)?;
        self.samples_in += frame.samples() as u64;
        self.feed(Some(frame))
    }

    /// Drops the padding at the end of the last frame. In MP4 the last packet's duration excludes it.
    fn trim(&self, last: &mut ffmpeg::frame::Audio) {
        let (num, den) = (self.time_base.numerator(), self.time_base.denominator());
        let counts_samples = num == 1 && u32::try_from(den) == Ok(last.rate());
        if let Ok(duration @ 1..) = usize::try_from(last.packet().duration)
            && counts_samples
            && duration < last.samples()
        {
            last.set_samples(duration);
        }
    }

    /// Inserts silence if the timestamps leave a gap before `frame`.
    fn fill_gap(&mut self, frame: &ffmpeg::frame::Audio) -> Result<(), MediaError> {
        let Some(pts) = frame.pts() else { return Ok(()) };
        let first = *self.first_pts.get_or_insert(pts);
        let rate = i128::from(frame.rate());
        let ticks = i128::from(pts) - i128::from(first);
        let (num, den) = (self.time_base.numerator(), self.time_base.denominator());
        let place = ticks * i128::from(num) * rate / i128::from(den.max(1));
        let missing = place - i128::from(self.samples_in);
        if missing * 1000 < rate * FILLED_GAP_MS {
            return Ok(());
        }
        let mut missing = u64::try_from(missing).unwrap_or(u64::MAX);
        if missing > MAX_GAP_S * u64::from(frame.rate()) {
            let cause = format!(
                "its audio has a gap of over {MAX_GAP_S} s after {} samples",
                self.samples_in
            );
            return Err(MediaError::bad_input(self.path, cause));
        }
        while missing > 0 {
            let length = missing.min(4096);
            let samples = usize::try_from(length).unwrap_or(4096);
            let (format, layout, rate) = shape(frame);
            let mut silence = ffmpeg::frame::Audio::new(format, samples, layout);
            silence.set_rate(rate);
            let floor = if matches!(format, Sample::U8(_)) { 0x80 } else { 0 };
            for plane in 0..silence.planes() {
                silence.data_mut(plane).fill(floor);
            }
            self.samples_in += length;
            missing -= length;
            self.feed(Some(&silence))?;
        }
        Ok(())
    }

    /// Sends a frame to the resampler, or the end of the track if `frame` is `None`.
    fn feed(&mut self, frame: Option<&ffmpeg::frame::Audio>) -> Result<(), MediaError> {
        if let Some(resampler) = &mut self.resampler {
            ffi::resample(resampler, frame, &mut self.buffer)
                .map_err(MediaError::ffmpeg("resample the audio of", self.path))?;
        }
        if frame.is_some() {
            self.emit()?;
        }
        Ok(())
    }

    /// Hands the resampled audio to the sink.
    fn emit(&mut self) -> Result<(), MediaError> {
        if !self.buffer.is_empty() {
            (self.sink)(&self.buffer).map_err(MediaError::io("store the audio of", self.path))?;
        }
        self.samples_out += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Flushes the resampler and adjusts the length to the exact sample, because the resampler may return one
    /// sample too few or a few too many.
    fn finish(mut self) -> Result<u64, MediaError> {
        if let Some(mut last) = self.held_back.take() {
            self.trim(&mut last);
            self.take(&last)?;
        }
        let rate = self.resampler.as_ref().map(|resampler| resampler.input().rate);
        let Some(rate) = rate.filter(|_| self.samples_in > 0) else {
            return Err(MediaError::bad_input(self.path, "its audio has zero length"));
        };
        self.feed(None)?;
        let wanted = (u128::from(self.samples_in) * u128::from(SPEECH_RATE_HZ)).div_ceil(u128::from(rate));
        let wanted = u64::try_from(wanted).unwrap_or(u64::MAX);
        let left = wanted.saturating_sub(self.samples_out);
        self.buffer.resize(usize::try_from(left).unwrap_or(usize::MAX), 0);
        self.emit()?;
        Ok(self.samples_out)
    }
}

/// Returns the sample format, channel layout and sample rate of a frame.
fn shape(frame: &ffmpeg::frame::Audio) -> (Sample, ffmpeg::ChannelLayout, u32) {
    (frame.format(), channel_layout(frame), frame.rate())
}
