//! The speech track. It is resampled once into a scratch file, from which the audio windows are then cut.

use std::fs::File;
use std::io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use latentfarm_common::audio::mel::MelMax;
use latentfarm_common::audio::silence::{LevelMeter, Levels};
use latentfarm_common::audio::windows;
use latentfarm_common::digest::{Digest, DigestWriter};
use latentfarm_common::error::FileError;
use latentfarm_common::media::Sound;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::job::AudioWindows;

use super::error::IngestError;
use super::request::MIN_SPEECH_SAMPLES;
use super::sink::BlobSink;

const SAMPLE_BYTES: u64 = 2;

/// Speech whose loudest sample is below this is as good as silent: 60 dB below full scale.
const QUIET: u16 = 33;

/// A decoded speech track: 16 kHz, mono.
pub(super) struct SpeechTrack {
    /// The samples as s16le. The file has no name and disappears when it is closed.
    pcm: File,
    /// The audio file of the user.
    path: PathBuf,
    /// Digest of the whole track as s16le.
    pub(super) digest: Digest,
    /// Number of samples, at least [`MIN_SPEECH_SAMPLES`].
    pub(super) samples: u64,
    /// Maximum of the track's log10 mel power, by which Whisper normalises every window.
    pub(super) log_mel_max: f32,
    /// Loudness over time, from which silent frames are found.
    pub(super) levels: Levels,
    /// The largest sample, without its sign.
    peak: u16,
}

impl SpeechTrack {
    /// Resamples the decoded sound of `path` into a file in the folder `scratch`.
    pub(super) fn resample(sound: &mut Sound, path: &Path, scratch: &Path) -> Result<Self, IngestError> {
        let file =
            tempfile::tempfile_in(scratch).map_err(FileError::at("make a scratch file in", scratch))?;
        let mut pcm = BufWriter::new(file);
        let mut digest = DigestWriter::new();
        let mut mel_max = MelMax::default();
        let mut levels = LevelMeter::default();
        let mut peak = 0;
        let mut bytes = Vec::new();
        let samples = sound.speech(&mut |samples| {
            peak = samples
                .iter()
                .map(|sample| sample.unsigned_abs())
                .fold(peak, u16::max);
            bytes.clear();
            bytes.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
            digest.update(&bytes);
            mel_max.push(samples);
            levels.push(samples);
            pcm.write_all(&bytes)
        })?;
        if samples < MIN_SPEECH_SAMPLES {
            return Err(IngestError::ShortSpeech {
                path: path.to_owned(),
                samples,
            });
        }
        let pcm = pcm.into_inner().map_err(io::IntoInnerError::into_error);
        Ok(Self {
            pcm: pcm.map_err(FileError::at("write the speech to", scratch))?,
            path: path.to_owned(),
            digest: digest.finish().0,
            samples,
            log_mel_max: mel_max.finish(),
            levels: levels.finish(),
            peak,
        })
    }

    /// Returns a sentence for the user if nothing can be heard.
    pub(super) fn silence_note(&self) -> Option<String> {
        let how = match self.peak {
            0 => "silent",
            1..QUIET => "nearly silent (below -60 dB)",
            _ => return None,
        };
        Some(format!(
            "the sound of `{}` is {how}: the mouth has nothing to follow",
            self.path.display()
        ))
    }

    /// Stores the PCM of each audio window with its margins, and returns the blobs in order.
    pub(super) fn store_windows(
        &mut self,
        layout: AudioWindows,
        sink: &mut dyn BlobSink,
    ) -> Result<Vec<BlobRef>, IngestError> {
        let mut blobs = Vec::new();
        for index in 0..windows::count(self.samples, layout) {
            let stored = self
                .read(windows::pcm_range(index, self.samples, layout))
                .and_then(|bytes| sink.put_bytes(&bytes));
            blobs.push(stored.map_err(FileError::at("store the speech of", &self.path))?);
        }
        Ok(blobs)
    }

    fn read(&mut self, samples: Range<u64>) -> io::Result<Vec<u8>> {
        let length = (samples.end - samples.start) * SAMPLE_BYTES;
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.pcm.seek(SeekFrom::Start(samples.start * SAMPLE_BYTES))?;
        self.pcm.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}
