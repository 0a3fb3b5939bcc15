//! The decoded sound, as 32-bit float samples in a file without a name. The 16 kHz speech and the sound of the output
//! are both made from it.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _, Write as _};
use std::path::Path;

use ffmpeg_next::format::{Sample, sample};
use ffmpeg_next::{ChannelLayout, frame};

use super::channels::{ChannelMeter, MonoMix};

/// Number of samples (of each channel) that are read at a time.
const BLOCK_SAMPLES: usize = 4096;
/// Samples beyond this are damage; 1 is full scale, and float sound may exceed it.
const LOUDEST: f32 = 8.0;
/// Most channels that FFmpeg's layouts by default name.
const LAYOUT_CHANNELS: usize = 8;

/// The form of decoded sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PcmForm {
    pub(super) rate_hz: u32,
    pub(super) channels: usize,
    /// The layout of the channels, the usual one for their number if the track states none; `None` if there is none.
    pub(super) layout: Option<ChannelLayout>,
    /// Whether the track states the layout, or it has at most two channels, so that there is no doubt.
    pub(super) layout_is_known: bool,
    /// Whether the decoder returns integers of more than 16 bits.
    pub(super) is_deep: bool,
}

impl PcmForm {
    /// Returns the form of a decoded frame.
    pub(super) fn of(samples: &frame::Audio) -> Self {
        let channels = usize::from(samples.channels()).max(1);
        let count = i32::from(samples.channels());
        let stated = samples.channel_layout();
        let stated = (stated.channels() == count).then_some(stated);
        let usual = || {
            let usual = ChannelLayout::default(count);
            (channels <= LAYOUT_CHANNELS && usual.channels() == count).then_some(usual)
        };
        Self {
            rate_hz: samples.rate(),
            channels,
            layout: stated.filter(|_| channels <= LAYOUT_CHANNELS).or_else(usual),
            layout_is_known: channels <= 2 || channels <= LAYOUT_CHANNELS && stated.is_some(),
            is_deep: matches!(samples.format(), Sample::I32(_) | Sample::I64(_)),
        }
    }
}

/// Writes decoded sound.
pub(super) struct PcmWriter {
    file: BufWriter<File>,
    form: PcmForm,
    meter: ChannelMeter,
    /// Number of samples that were written.
    samples: u64,
    /// Number of values that were no numbers or far beyond full scale.
    damaged_values: u64,
}

impl PcmWriter {
    pub(super) fn create(scratch: &Path, form: PcmForm) -> io::Result<Self> {
        Ok(Self {
            file: BufWriter::new(tempfile::tempfile_in(scratch)?),
            form,
            meter: ChannelMeter::new(form.rate_hz, form.channels),
            samples: 0,
            damaged_values: 0,
        })
    }

    /// Writes interleaved samples. Values that are no numbers become silence.
    pub(super) fn push(&mut self, interleaved: &mut [f32]) -> io::Result<()> {
        for value in &mut *interleaved {
            if !value.is_finite() || value.abs() > LOUDEST {
                *value = 0.0;
                self.damaged_values += 1;
            }
        }
        self.meter.push(interleaved);
        for value in &*interleaved {
            self.file.write_all(&value.to_le_bytes())?;
        }
        self.samples += (interleaved.len() / self.form.channels) as u64;
        Ok(())
    }

    pub(super) fn silence(&mut self, mut samples: u64) -> io::Result<()> {
        let mut zeros = vec![0.0; BLOCK_SAMPLES * self.form.channels];
        while samples > 0 {
            let length = usize::try_from(samples).unwrap_or(usize::MAX).min(BLOCK_SAMPLES);
            self.push(&mut zeros[..length * self.form.channels])?;
            samples -= length as u64;
        }
        Ok(())
    }

    pub(super) fn form(&self) -> PcmForm {
        self.form
    }

    pub(super) fn damaged_values(&self) -> u64 {
        self.damaged_values
    }

    pub(super) fn finish(self) -> io::Result<Pcm> {
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(Pcm {
            reader: BufReader::new(file),
            form: self.form,
            mono: self.meter.finish(self.form.layout_is_known),
            samples: self.samples,
        })
    }
}

/// The decoded sound of a whole track.
#[derive(Debug)]
pub(super) struct Pcm {
    reader: BufReader<File>,
    pub(super) form: PcmForm,
    /// The channels of the model's speech.
    pub(super) mono: MonoMix,
    /// Number of samples of each channel.
    pub(super) samples: u64,
}

impl Pcm {
    /// Goes back to the first sample.
    pub(super) fn rewind(&mut self) -> io::Result<()> {
        self.reader.rewind()
    }

    /// Returns the next samples with all channels, or those of `mix` in one; `None` at the end. The sound must have a
    /// layout if it is not mixed.
    pub(super) fn next(&mut self, mix: &MonoMix) -> io::Result<Option<frame::Audio>> {
        let sample_bytes = 4 * self.form.channels;
        let at = self.reader.stream_position()? / sample_bytes as u64;
        let left = usize::try_from(self.samples.saturating_sub(at)).unwrap_or(usize::MAX);
        if left == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; left.min(BLOCK_SAMPLES) * sample_bytes];
        self.reader.read_exact(&mut bytes)?;
        let (channels, layout): (Option<&[usize]>, _) = match mix {
            MonoMix::Layout => (None, self.form.layout.unwrap_or(ChannelLayout::MONO)),
            MonoMix::Mean(channels) => (Some(channels), ChannelLayout::MONO),
            MonoMix::Single(channel) => (Some(std::slice::from_ref(channel)), ChannelLayout::MONO),
        };
        if let Some(channels) = channels {
            bytes = mean(&bytes, sample_bytes, channels);
        }
        let samples = bytes.len() / (4 * usize::try_from(layout.channels()).unwrap_or(1));
        let mut block = frame::Audio::new(Sample::F32(sample::Type::Packed), samples, layout);
        block.set_rate(self.form.rate_hz);
        block.data_mut(0)[..bytes.len()].copy_from_slice(&bytes);
        Ok(Some(block))
    }
}

/// Returns the mean of some channels of interleaved samples.
fn mean(bytes: &[u8], sample_bytes: usize, channels: &[usize]) -> Vec<u8> {
    let value = |sample: &[u8], channel: usize| {
        let bytes = sample.get(4 * channel..4 * channel + 4);
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0.0, f32::from_le_bytes)
    };
    let mean = |sample: &[u8]| {
        let sum: f32 = channels.iter().map(|&channel| value(sample, channel)).sum();
        (sum / channels.len().max(1) as f32).to_le_bytes()
    };
    bytes.chunks_exact(sample_bytes).flat_map(mean).collect()
}
