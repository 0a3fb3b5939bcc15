//! Detects silence: it finds the stretches of a track in which nobody speaks, as ranges of output frames.
//! [`SilenceMode`](crate::wire::job::SilenceMode) chooses what such frames show: the source's own mouth, or a
//! mouth that the model renders from digital silence.
//!
//! The result is a pure function of the whole track and the output rate. The coordinator measures the levels
//! once, 100 a second and a byte each, while it decodes the track; neither the size of the pieces in which
//! the samples come nor the job's division into chunks changes the result.
//!
//! ```text
//! level  ▁▁▁▂▆█▇▅▂▁▁▁▁▁▁▁▁▁▁▁▂▇█▅▁▁
//! speech     ├────┤           ├──┤      opens at one threshold, closes below a lower one
//! kept     ├─────────┤     ├────────┤   speech with its lead-in and hang-over
//! silent ──┤         ├─────┤        ├   if at least MIN_SILENCE_BLOCKS long
//! ```
//! A mouth that stands still while someone speaks is worse than one that moves in noise: a doubtful level
//! counts as speech.

use crate::audio::windows::WINDOW_MEL_FRAMES;
use crate::audio::{SAMPLE_RATE_HZ, mel};
use crate::digest::Digest;
use crate::time::{FrameRange, FrameRate};

/// Number of samples that one level is measured over: 10 ms.
const BLOCK_SAMPLES: usize = 160;
const BLOCKS_PER_SECOND: u64 = SAMPLE_RATE_HZ as u64 / BLOCK_SAMPLES as u64;

/// A level in half decibels below full scale, so that a larger number is quieter; the last value is digital
/// silence.
type Level = u8;
const DIGITAL_SILENCE: Level = Level::MAX;
const STEPS_PER_DB: u8 = 2;

/// Anything quieter than this below full scale is silence, whatever the rest of the track is: a track of room
/// noise alone is silent. Speech recorded so quietly would be inaudible beside any other sound.
const FLOOR_DB: u8 = 60;
/// The track's level is that of its loud vowels: the level that one in twenty of the blocks above the floor
/// exceeds. Neither single knocks nor long pauses change it.
const LOUD_SHARE: usize = 20;
/// Speech begins if the level rises to less than this below the track's level. Unstressed vowels lie 10 to 20
/// dB below stressed ones.
const OPEN_BELOW_DB: u8 = 24;
/// Speech ends if the level falls this far below the track's level, so that weak consonants between vowels do
/// not end it.
const CLOSE_BELOW_DB: u8 = 30;
/// Speech that ends within fewer blocks is a click and does not count.
const MIN_SPEECH_BLOCKS: usize = 3;
/// These blocks before speech are kept: lips part before a word begins, and a weak first consonant lies below
/// the threshold.
const LEAD_IN_BLOCKS: usize = 12;
/// These blocks after speech are kept: a word's last consonant lies below the threshold, and lips close after
/// it.
const HANG_OVER_BLOCKS: usize = 15;
/// A shorter pause is part of speaking: closing the mouth for it would look like a twitch.
const MIN_SILENCE_BLOCKS: usize = 30;

/// The blocks over which [`Levels::loudness`] is smoothed: 120 ms, as jaws cannot follow faster changes.
const SMOOTHED_BLOCKS: u8 = 12;

/// Number of frames over which the rendered mouth is faded into the source picture at either end of a silent
/// stretch.
pub const FADE_FRAMES: u64 = 3;
/// The share of a mouth that is wholly rendered.
pub const FULL_SHARE: u8 = u8::MAX;

/// Measures the levels of a track that comes in pieces.
#[derive(Debug, Default)]
pub struct LevelMeter {
    levels: Vec<Level>,
    /// Sum of squares of the block that is not full yet.
    energy: u64,
    samples: usize,
}

/// The levels of a whole track; a second takes 100 bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels(Vec<Level>);

impl LevelMeter {
    /// Takes the next samples, at 16 kHz.
    pub fn push(&mut self, samples: &[i16]) {
        for &sample in samples {
            let magnitude = u64::from(sample.unsigned_abs());
            self.energy += magnitude * magnitude;
            self.samples += 1;
            if self.samples == BLOCK_SAMPLES {
                self.end_block();
            }
        }
    }

    /// Returns the levels of all samples that were pushed.
    pub fn finish(mut self) -> Levels {
        if self.samples > 0 {
            self.end_block();
        }
        Levels(self.levels)
    }

    fn end_block(&mut self) {
        self.levels.push(level(self.energy as f64 / self.samples as f64));
        self.energy = 0;
        self.samples = 0;
    }
}

/// Converts a mean square to a level, in steps below that of a full-scale square wave.
fn level(mean_square: f64) -> Level {
    let full_scale = f64::from(i16::MIN) * f64::from(i16::MIN);
    let decibels_below = -10.0 * (mean_square / full_scale).log10();
    let steps = (decibels_below * f64::from(STEPS_PER_DB)).round();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to the range of a level"
    )]
    let level = steps.clamp(0.0, f64::from(DIGITAL_SILENCE)) as Level;
    level
}

impl Levels {
    /// Returns the silent stretches of the first `frames` output frames, in order. A frame is silent if all
    /// of its time is silent; time past the track's end counts as the track's last part does.
    pub fn silent_frames(&self, rate: FrameRate, frames: u64) -> Vec<FrameRange> {
        let (num, per_block) = (
            u128::from(rate.num()),
            u128::from(rate.den()) * u128::from(BLOCKS_PER_SECOND),
        );
        let first_from = |block: usize| (block as u128 * num).div_ceil(per_block);
        let end_before = |block: usize| block as u128 * num / per_block;
        let frame = |frame: u128| u64::try_from(frame).unwrap_or(u64::MAX).min(frames);
        self.silent_blocks()
            .into_iter()
            .filter_map(|(start, end)| {
                let start = frame(first_from(start));
                let end = if end == self.0.len() {
                    frames
                } else {
                    frame(end_before(end))
                };
                (start < end).then(|| FrameRange::new(start, end))
            })
            .collect()
    }

    /// Returns how loud the speech is in the middle of each of the first `frames` output frames, for the sync
    /// meter: 255 at the track's level, linear in decibels down to 0 where speech ends, smoothed over a
    /// syllable's length. Time past the track's end is silent.
    pub fn loudness(&self, rate: FrameRate, frames: u64) -> Vec<u8> {
        let loud = f64::from(self.loud().unwrap_or(0));
        let range = f64::from(CLOSE_BELOW_DB * STEPS_PER_DB);
        let height = |&level: &Level| {
            let is_floor = level >= FLOOR_DB * STEPS_PER_DB;
            if is_floor {
                0.0
            } else {
                1.0 - ((f64::from(level) - loud) / range).clamp(0.0, 1.0)
            }
        };
        let heights: Vec<f64> = self.0.iter().map(height).collect();
        let value = |frame: u64| {
            let smoothed = f64::from(SMOOTHED_BLOCKS);
            let middle = (frame as f64 + 0.5) / rate.as_f64() * BLOCKS_PER_SECOND as f64;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "positions are not negative and within the track's length or past its end"
            )]
            let from = (middle - smoothed / 2.0).round().max(0.0) as usize;
            let part = heights.iter().skip(from).take(usize::from(SMOOTHED_BLOCKS));
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..=255")]
            let mean = (part.sum::<f64>() / smoothed * 255.0).round() as u8;
            mean
        };
        (0..frames).map(value).collect()
    }

    /// Returns the silent stretches as (first block, end block).
    fn silent_blocks(&self) -> Vec<(usize, usize)> {
        let mut silent = Vec::new();
        let mut spoken_to = 0;
        for (start, end) in self.speech_blocks() {
            let start = start.saturating_sub(LEAD_IN_BLOCKS);
            if start >= spoken_to + MIN_SILENCE_BLOCKS {
                silent.push((spoken_to, start));
            }
            spoken_to = (end + HANG_OVER_BLOCKS).min(self.0.len());
        }
        if self.0.len() >= spoken_to + MIN_SILENCE_BLOCKS {
            silent.push((spoken_to, self.0.len()));
        }
        silent
    }

    /// Returns the stretches of speech as (first block, end block), without lead-in and hang-over.
    fn speech_blocks(&self) -> Vec<(usize, usize)> {
        let Some(loud) = self.loud() else {
            return Vec::new();
        };
        let floor = FLOOR_DB * STEPS_PER_DB;
        // Levels count downwards: a larger one is quieter.
        let open = loud.saturating_add(OPEN_BELOW_DB * STEPS_PER_DB).min(floor);
        let close = loud.saturating_add(CLOSE_BELOW_DB * STEPS_PER_DB).min(floor);
        let mut speech = Vec::new();
        let mut begun = None;
        for (block, &level) in self.0.iter().enumerate() {
            match begun {
                None if level < open => begun = Some(block),
                Some(start) if level > close => {
                    speech.push((start, block));
                    begun = None;
                }
                None | Some(_) => {}
            }
        }
        speech.extend(begun.map(|start| (start, self.0.len())));
        speech.retain(|(start, end)| end - start >= MIN_SPEECH_BLOCKS);
        speech
    }

    /// Returns the track's level, or `None` if all of the track lies below the floor.
    fn loud(&self) -> Option<Level> {
        let mut counts = [0_usize; 256];
        let above_floor = self.0.iter().filter(|&&level| level < FLOOR_DB * STEPS_PER_DB);
        let mut total = 0;
        for &level in above_floor {
            counts[usize::from(level)] += 1;
            total += 1;
        }
        let mut louder = 0;
        (0..=DIGITAL_SILENCE).find(|&level| {
            louder += counts[usize::from(level)];
            louder > total / LOUD_SHARE
        })
    }
}

/// Returns the share of the rendered mouth in frame `frame` of a silent stretch, within `0..=FULL_SHARE`; at
/// 0 the frame shows the source picture. The mouth fades inside the stretch, at those ends that have speech
/// next to them.
pub fn mouth_share(frame: u64, stretch: FrameRange, speech_before: bool, speech_after: bool) -> u8 {
    debug_assert!(stretch.contains(frame), "frame {frame} is not in {stretch}");
    let from_start = (frame - stretch.start + 1) + if speech_before { 0 } else { FADE_FRAMES };
    let from_end = (stretch.end - frame) + if speech_after { 0 } else { FADE_FRAMES };
    let left = (FADE_FRAMES + 1).saturating_sub(from_start.min(from_end));
    u8::try_from(u64::from(FULL_SHARE) * left / (FADE_FRAMES + 1)).unwrap_or(FULL_SHARE)
}

/// Number of samples in the track of digital silence. It fills one window of the audio encoder, so that it
/// has a feature row for every place that a row can have in a window.
pub const SILENT_TRACK_SAMPLES: u64 = WINDOW_MEL_FRAMES * mel::HOP;

/// Returns a digest that names the track of digital silence, normalised like a track with this maximum. Such
/// a track has no file; the digest is its key in the engine's cache of audio features.
pub fn silent_track(log_mel_max: f32) -> Digest {
    let mut name = b"digital silence, normalised by ".to_vec();
    name.extend_from_slice(&log_mel_max.to_bits().to_le_bytes());
    Digest::of(&name)
}

#[cfg(test)]
mod tests;
