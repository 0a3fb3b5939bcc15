//! An audio track as the model hears it: 16 kHz, mono, s16.

use std::io;
use std::path::Path;

use ffmpeg_next as ffmpeg;
use ffmpeg_next::format::Sample;
use ffmpeg_next::format::sample::Type as SampleType;
use ffmpeg_next::software::resampling;

use super::MediaError;
use super::container::is_dry;
use super::ffi;
use super::probe::{audio_stream, open_input};

/// Samples per second of decoded speech.
pub const SPEECH_RATE_HZ: u32 = 16_000;

/// A hole in the time stamps of at least this is filled with silence, so that the speech keeps its place in a
/// track that is copied to the output. Smaller ones are rounding of the container.
const FILLED_HOLE_MS: i128 = 100;
/// A larger hole is taken for damage.
const MAX_HOLE_S: u64 = 600;

type Sink<'a> = &'a mut dyn FnMut(&[i16]) -> io::Result<()>;

/// Decodes the audio track of `path` once, from its first presented sample (encoder priming is skipped), and
/// gives `sink` consecutive samples. Returns their number: the ceiling of duration x 16 kHz, at least 1.
pub fn decode_speech(path: &Path, sink: Sink) -> Result<u64, MediaError> {
    let mut input = open_input(path)?;
    let stream = audio_stream(&input, path)?;
    let (track, time_base) = (stream.index(), stream.time_base());
    let open = || {
        let mut decoder = ffmpeg::codec::Context::from_parameters(stream.parameters())?.decoder();
        decoder.set_packet_time_base(time_base);
        decoder.audio()
    };
    let mut decoder = open().map_err(MediaError::ffmpeg("decode the audio of", path))?;
    let mut speech = Speech {
        path,
        time_base,
        resampler: None,
        taken: 0,
        given: 0,
        first_pts: None,
        waiting: None,
        buffer: Vec::new(),
        sink,
    };
    let refuse = |error: ffmpeg::Error, taken: u64| {
        let cause = format!(
            "its audio cannot be decoded: the file is truncated or damaged after sample {taken} ({error})"
        );
        MediaError::bad_input(path, cause)
    };
    loop {
        let mut packet = ffmpeg::Packet::empty();
        match packet.read(&mut input) {
            Ok(()) if packet.stream() != track || packet.size() == 0 => continue,
            Ok(()) if packet.is_corrupt() => return Err(refuse(ffmpeg::Error::InvalidData, speech.taken)),
            Ok(()) => decoder.send_packet(&packet),
            Err(ffmpeg::Error::Eof) => break,
            Err(error) => return Err(refuse(error, speech.taken)),
        }
        .map_err(|error| refuse(error, speech.taken))?;
        speech.drain(&mut decoder)?;
    }
    decoder.send_eof().map_err(|error| refuse(error, speech.taken))?;
    speech.drain(&mut decoder)?;
    speech.finish()
}

/// Counts and resamples.
struct Speech<'a> {
    path: &'a Path,
    time_base: ffmpeg::Rational,
    resampler: Option<resampling::Context>,
    /// Samples that went in, at the track's rate; filled holes included.
    taken: u64,
    /// Samples handed to the sink, at 16 kHz.
    given: u64,
    first_pts: Option<i64>,
    /// The frame that came out last: if it is the track's last, its end may be padding.
    waiting: Option<ffmpeg::frame::Audio>,
    buffer: Vec<i16>,
    sink: Sink<'a>,
}

impl Speech<'_> {
    fn drain(&mut self, decoder: &mut ffmpeg::decoder::Audio) -> Result<(), MediaError> {
        loop {
            let mut frame = ffmpeg::frame::Audio::empty();
            match decoder.receive_frame(&mut frame) {
                Ok(()) => {
                    if let Some(earlier) = self.waiting.replace(frame) {
                        self.take(&earlier)?;
                    }
                }
                Err(error) if is_dry(error) => return Ok(()),
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
                "its audio changes its rate or channels after {} samples; convert it first: ffmpeg -i IN OUT.wav",
                self.taken
            );
            return Err(MediaError::bad_input(self.path, cause));
        }
        self.fill_hole(frame)?;
        self.taken += frame.samples() as u64;
        self.feed(Some(frame))
    }

    /// MP4 says by the last packet's duration how much of it is sound.
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

    /// Inserts silence where the time stamps leave a hole.
    fn fill_hole(&mut self, frame: &ffmpeg::frame::Audio) -> Result<(), MediaError> {
        let Some(pts) = frame.pts() else { return Ok(()) };
        let first = *self.first_pts.get_or_insert(pts);
        let rate = i128::from(frame.rate());
        let ticks = i128::from(pts) - i128::from(first);
        let (num, den) = (self.time_base.numerator(), self.time_base.denominator());
        let place = ticks * i128::from(num) * rate / i128::from(den.max(1));
        let missing = place - i128::from(self.taken);
        if missing * 1000 < rate * FILLED_HOLE_MS {
            return Ok(());
        }
        let mut missing = u64::try_from(missing).unwrap_or(u64::MAX);
        if missing > MAX_HOLE_S * u64::from(frame.rate()) {
            let cause = format!(
                "its audio has a hole of over {MAX_HOLE_S} s after {} samples",
                self.taken
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
            self.taken += length;
            missing -= length;
            self.feed(Some(&silence))?;
        }
        Ok(())
    }

    fn feed(&mut self, frame: Option<&ffmpeg::frame::Audio>) -> Result<(), MediaError> {
        if let Some(resampler) = &mut self.resampler {
            ffi::resample(resampler, frame, &mut self.buffer)
                .map_err(MediaError::ffmpeg("resample the audio of", self.path))?;
        }
        if frame.is_some() {
            self.give()?;
        }
        Ok(())
    }

    fn give(&mut self) -> Result<(), MediaError> {
        if !self.buffer.is_empty() {
            (self.sink)(&self.buffer).map_err(MediaError::io("store the audio of", self.path))?;
        }
        self.given += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Flushes the resampler, and settles the length to the sample: its tail may be one short or a few long.
    fn finish(mut self) -> Result<u64, MediaError> {
        if let Some(mut last) = self.waiting.take() {
            self.trim(&mut last);
            self.take(&last)?;
        }
        let rate = self.resampler.as_ref().map(|resampler| resampler.input().rate);
        let Some(rate) = rate.filter(|_| self.taken > 0) else {
            return Err(MediaError::bad_input(self.path, "its audio has zero length"));
        };
        self.feed(None)?;
        let wanted = (u128::from(self.taken) * u128::from(SPEECH_RATE_HZ)).div_ceil(u128::from(rate));
        let wanted = u64::try_from(wanted).unwrap_or(u64::MAX);
        let left = wanted.saturating_sub(self.given);
        self.buffer.resize(usize::try_from(left).unwrap_or(usize::MAX), 0);
        self.give()?;
        Ok(self.given)
    }
}

/// Sample format, channel layout (the usual one for the count where the track states none) and rate of a frame.
fn shape(frame: &ffmpeg::frame::Audio) -> (Sample, ffmpeg::ChannelLayout, u32) {
    let channels = i32::from(frame.channels());
    let stated = frame.channel_layout();
    let layout = if stated.channels() == channels {
        stated
    } else {
        ffmpeg::ChannelLayout::default(channels)
    };
    (frame.format(), layout, frame.rate())
}
