//! The sound of a job. At ingest the chosen track is decoded once, onto one timeline, and from these samples come both the
//! 16 kHz speech of the model ([`Sound::speech`]) and the sound of the output ([`Sound::write`]): what is seen
//! and what is heard cannot differ. The user's file is not read again.
//!
//! The packets of the track are copied into the output if the container can carry the codec, can mark the samples that a
//! decoder has to drop at the start, and the time stamps are regular from 0 on. Otherwise the decoded samples are encoded:
//! to AAC in MP4, to FLAC in Matroska.

mod carry;
mod channels;
mod convert;
mod copy;
mod damage;
mod decode;
mod encode;
mod lengths;
mod line;
mod origin;
mod pcm;
mod place;
mod request;
mod source;
mod speech;
mod track;
mod write;

use std::fs::File;
use std::io::{self, Seek as _};
use std::path::{Path, PathBuf};

pub use self::carry::AudioTreatment;
pub use self::request::{AudioOffset, InvalidOffset, SoundOrigin, SoundRequest};
pub use self::speech::SPEECH_RATE_HZ;
pub use self::track::TrackChoice;

pub(super) use self::carry::samples_within;
pub(super) use self::copy::{CopiedTrack, PacketCopier};
#[cfg(feature = "fuzzing")]
pub(super) use self::lengths::true_header;
pub(super) use self::source::AudioSource;

use self::channels::MonoMix;
use self::decode::{Decoded, decode_track};
use self::encode::EncodeFeed;
use self::pcm::Pcm;
use self::write::SoundWriter;
use super::MediaError;
use super::container::{self, Container};
use super::probe::{open_input, refuse_truncated};
use crate::time::FrameRate;

/// The decoded sound of a job.
#[derive(Debug)]
pub struct Sound {
    path: PathBuf,
    container: Container,
    pcm: Pcm,
    /// The packets of the track in the output's container, or the reason why the sound must be encoded.
    copy: Result<File, String>,
    notes: Vec<String>,
}

/// Decodes the audio track of a file that the request chooses.
///
/// # Errors
/// [`MediaError::BadInput`] if there is no such track, or none that can be decoded; [`MediaError::Io`] or
/// [`MediaError::Ffmpeg`] if this machine fails.
pub fn decode_sound(request: &SoundRequest<'_>) -> Result<Sound, MediaError> {
    let path = request.path;
    let opened = open_input(path);
    let repaired = match lengths::repaired(path, request.scratch) {
        // What cannot be read cannot be opened either, and that error says more.
        Err(_) if opened.is_err() => None,
        repaired => repaired.map_err(MediaError::io("read", path))?,
    };
    let input = match &repaired {
        Some(copy) => open_input(copy).map_err(|error| error.about(path))?,
        None => opened?,
    };
    refuse_truncated(&input, path)?;
    let tracks = track::audio_tracks(&input);
    drop(input);
    let candidates = track::candidates(&tracks, request.track, path)?;
    let readable = repaired.as_deref().unwrap_or(path);
    let mut notes = Vec::new();
    let mut first_error = None;
    for chosen in &candidates {
        let decoded = if chosen.is_known {
            decode_track(request, readable, chosen.index)
        } else {
            let cause =
                format!("its audio track {chosen}: this FFmpeg has no decoder for it, or it is empty");
            Err(MediaError::bad_input(path, cause))
        };
        match decoded {
            Ok(decoded) => {
                if tracks.len() > 1 {
                    let file = path.display();
                    notes.push(format!(
                        "the sound of `{file}` is track {chosen}; {}: --audio-track chooses another",
                        track::listed(&tracks)
                    ));
                }
                return Ok(Sound::new(request, decoded, notes));
            }
            Err(error @ MediaError::BadInput { .. }) => {
                first_error = first_error.or(Some(error.about(path)));
            }
            Err(error) => return Err(error.about(path)),
        }
    }
    Err(first_error.unwrap_or_else(|| MediaError::bad_input(path, "it has no audio track")))
}

impl Sound {
    fn new(request: &SoundRequest<'_>, decoded: Decoded, mut notes: Vec<String>) -> Self {
        let file = request.path.display();
        let rate = f64::from(decoded.pcm.form.rate_hz);
        let seconds = |samples: u64| samples as f64 / rate;
        let found = &decoded.irregularities;
        let lead = seconds(found.lead.unsigned_abs());
        if found.lead > 0 && lead >= 0.001 {
            notes.push(format!(
                "the sound of `{file}` begins {lead:.3} s after the start: silence stands before it"
            ));
        } else if found.lead < 0 && lead >= 0.001 {
            notes.push(format!(
                "the first {lead:.3} s of the sound of `{file}` lie before the start and are left out"
            ));
        }
        if let Some(&(at, _)) = found.gaps.first() {
            let total = seconds(found.gaps.iter().map(|&(_, length)| length).sum());
            notes.push(format!(
                "the sound of `{file}` has gaps of {total:.2} s in all, the first at {:.2} s: silence stands there",
                seconds(at)
            ));
        }
        if let Some(&(at, _)) = found.overlaps.first() {
            let total = seconds(found.overlaps.iter().map(|&(_, length)| length).sum());
            notes.push(format!(
                "parts of the sound of `{file}` overlap by {total:.2} s in all, the first at {:.2} s: each is played once",
                seconds(at)
            ));
        }
        if let Some(&at) = found.restarts.first() {
            let more = match found.restarts.len() {
                1 => String::new(),
                times => format!(" and {} times more", times - 1),
            };
            notes.push(format!(
                "the time stamps of the sound of `{file}` start anew at {:.2} s{more}: its parts are played one after the \
                 other",
                seconds(at)
            ));
        }
        if !decoded.damage.is_none() {
            notes.push(format!(
                "the sound of `{file}` is damaged {}",
                decoded.damage.times()
            ));
        }
        if decoded.damaged_values > 0 {
            notes.push(format!(
                "{} values in the sound of `{file}` are no numbers or far too large: they are silent",
                decoded.damaged_values
            ));
        }
        if let MonoMix::Single(channel) = decoded.pcm.mono {
            notes.push(format!(
                "the channels of `{file}` cancel each other: the mouth follows channel {} alone",
                channel + 1
            ));
        }
        Self {
            path: request.path.to_owned(),
            container: request.container,
            pcm: decoded.pcm,
            copy: decoded.copy,
            notes,
        }
    }

    /// Returns the most bytes that the sound of the output can have.
    pub fn output_bytes(&self) -> u64 {
        let form = &self.pcm.form;
        match (&self.copy, self.container) {
            (Ok(copy), _) => copy.metadata().map_or(0, |found| found.len()),
            (Err(_), Container::Mp4) => {
                let seconds = self.pcm.samples / u64::from(form.rate_hz.max(1)) + 1;
                seconds * encode::aac_bits(form.channels) as u64 / 8
            }
            (Err(_), Container::Matroska) => {
                self.pcm.samples * form.channels as u64 * if form.is_deep { 3 } else { 2 }
            }
        }
    }

    /// Returns sentences that the user should read.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Hands consecutive samples at [`SPEECH_RATE_HZ`] to `sink`, the speech of the model. Returns their number: the duration
    /// times the rate, rounded up.
    pub fn speech(&mut self, sink: &mut dyn FnMut(&[i16]) -> io::Result<()>) -> Result<u64, MediaError> {
        speech::resample(&mut self.pcm, &self.path, sink)
    }

    /// Writes the sound of an output of `frames` frames to the file `output`, for [`join`](super::join).
    pub fn write(
        &mut self,
        output: &Path,
        frames: u64,
        rate: FrameRate,
    ) -> Result<AudioTreatment, MediaError> {
        let reason = match &mut self.copy {
            Ok(copy) => {
                let copied = copy.rewind().and_then(|()| {
                    let mut target = File::create(output)?;
                    io::copy(copy, &mut target)?;
                    target.sync_all()
                });
                copied.map_err(MediaError::io("write", output))?;
                return Ok(AudioTreatment::Copied);
            }
            Err(reason) => reason.clone(),
        };
        let end = |rate_hz: u32| samples_within(frames, rate, rate_hz);
        self.encode(output, &end)
            .map_err(|error| self.cannot_encode(error))?;
        Ok(AudioTreatment::Transcoded { reason })
    }

    fn encode(&mut self, output: &Path, end: &dyn Fn(u32) -> i64) -> Result<(), MediaError> {
        let mut feed = EncodeFeed::open(&mut self.pcm, &self.path, self.container, end)?;
        let mut writer = SoundWriter::create(output, self.container, feed.parameters(), feed.time_base())?;
        while let Some(packet) = feed.next()? {
            writer.write(packet)?;
        }
        writer.finish()?;
        container::sync_file(output)
    }

    /// Makes a failure of the encoder an error about the user's file, unless this machine failed.
    fn cannot_encode(&self, error: MediaError) -> MediaError {
        if error.is_of_machine() {
            return error;
        }
        let cause = std::error::Error::source(&error).map_or_else(String::new, |cause| format!(" ({cause})"));
        let cause = format!(
            "its sound cannot be encoded for {}{cause}; convert it first: ffmpeg -i IN -vn -ac 2 -ar 48000 OUT.wav",
            self.container.extension()
        );
        MediaError::bad_input(&self.path, cause)
    }
}
