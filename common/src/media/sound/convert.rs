//! Brings decoded frames into the form of the first one, as interleaved floats.

use ffmpeg_next::format::{Sample, sample};
use ffmpeg_next::software::resampling;
use ffmpeg_next::{Error, frame};

use super::pcm::PcmForm;
use crate::media::ffi;

/// Converts the frames of a track whose rate or channels may change.
pub(super) struct Converter {
    form: PcmForm,
    /// The resampler of frames with another rate or other channels, and the form that it is for.
    other: Option<(PcmForm, resampling::Context)>,
    was_used: bool,
}

impl Converter {
    /// Makes a converter to the form of the first frame.
    pub(super) fn new(form: PcmForm) -> Self {
        Self {
            form,
            other: None,
            was_used: false,
        }
    }

    /// Whether any frame had another form.
    pub(super) fn was_used(&self) -> bool {
        self.was_used
    }

    /// Returns the interleaved samples of a frame, after those that an earlier frame left in the resampler; true marks what
    /// begins at the frame's own time stamp.
    pub(super) fn convert(&mut self, samples: &frame::Audio) -> Result<Vec<(Vec<f32>, bool)>, Error> {
        let form = PcmForm::of(samples);
        let same = |other: &PcmForm| {
            (other.rate_hz, other.channels, other.layout) == (form.rate_hz, form.channels, form.layout)
        };
        let mut converted = Vec::new();
        if self.other.as_ref().is_some_and(|(other, _)| !same(other)) {
            converted.push((self.finish()?, false));
        }
        let mut values = Vec::new();
        ffi::interleave(samples, &mut values)?;
        if same(&self.form) {
            converted.push((values, true));
            return Ok(converted);
        }
        self.was_used = true;
        if self.other.is_none() {
            let (Some(from), Some(to)) = (form.layout, self.form.layout) else {
                return Err(Error::InvalidData);
            };
            let float = Sample::F32(sample::Type::Packed);
            let resampler =
                resampling::Context::get(float, from, form.rate_hz, float, to, self.form.rate_hz)?;
            self.other = Some((form, resampler));
        }
        if let (Some((_, resampler)), Some(layout)) = (&mut self.other, form.layout) {
            let mut block = frame::Audio::new(Sample::F32(sample::Type::Packed), samples.samples(), layout);
            for (target, value) in block.data_mut(0).chunks_exact_mut(4).zip(&values) {
                target.copy_from_slice(&value.to_le_bytes());
            }
            let mut resampled = Vec::new();
            ffi::resample(resampler, Some(&block), self.form.channels, &mut resampled)?;
            converted.push((resampled, true));
        }
        Ok(converted)
    }

    /// Returns what the resampler still holds.
    pub(super) fn finish(&mut self) -> Result<Vec<f32>, Error> {
        let mut rest = Vec::new();
        if let Some((_, mut resampler)) = self.other.take() {
            ffi::resample(&mut resampler, None, self.form.channels, &mut rest)?;
        }
        Ok(rest)
    }
}
