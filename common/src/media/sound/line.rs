//! The timeline that decoded sound is laid on and written along.

use std::path::{Path, PathBuf};

use super::convert::Converter;
use super::pcm::PcmWriter;
use super::place::{LongGap, Placer};
use crate::media::MediaError;

/// Interleaved samples of a frame.
pub(super) struct FrameSamples {
    pub(super) values: Vec<f32>,
    /// Number of samples that remain if this is the last frame, whose end may be padding.
    pub(super) presented: u64,
}

/// The timeline, once the first samples have shown its rate.
pub(super) struct Line {
    pub(super) placer: Placer<FrameSamples>,
    pub(super) writer: PcmWriter,
    pub(super) converter: Converter,
    /// What is added to a time stamp in samples.
    pub(super) shift: i64,
    /// The folder that the samples are written to.
    pub(super) scratch: PathBuf,
}

impl Line {
    /// Writes the pieces that have a place.
    pub(super) fn drain(&mut self, ended: bool, path: &Path) -> Result<(), MediaError> {
        let form = self.writer.form();
        let too_long = |gap: LongGap| {
            let seconds = |samples: u64| samples as f64 / f64::from(form.rate_hz);
            let cause = format!(
                "the time stamps of its sound leave a gap of {:.0} s at {:.2} s; to play the parts one after the other, \
                 convert it first: ffmpeg -i IN -vn -af asetpts=N/SR/TB OUT.wav",
                seconds(gap.length),
                seconds(gap.at)
            );
            MediaError::bad_input(path, cause)
        };
        while let Some(mut placed) = self.placer.next(ended).map_err(too_long)? {
            let skip = as_values(placed.skip, form.channels);
            let written = self.writer.silence(placed.silence);
            written
                .and_then(|()| self.writer.push(&mut placed.sound.values[skip..]))
                .map_err(MediaError::io("write the decoded sound to", &self.scratch))?;
        }
        Ok(())
    }
}

/// Returns the number of values of so many samples.
pub(super) fn as_values(samples: u64, channels: usize) -> usize {
    usize::try_from(samples)
        .unwrap_or(usize::MAX)
        .saturating_mul(channels)
}
