//! Where nobody speaks: the stretches of a track that are silent, on the grid of the output's frames.
//!
//! A pure function of the whole track and the output rate. Levels are taken once, 100 a second and a byte each,
//! while the track is decoded; how it came in pieces, and how the job is cut into chunks, does not show.
//!
//! ```text
//! level  ▁▁▁▂▆█▇▅▂▁▁▁▁▁▁▁▁▁▁▁▂▇█▅▁▁
//! speech     ├────┤           ├──┤      opens at one threshold, closes below a lower one
//! kept     ├─────────┤     ├────────┤   with its lead-in and hang-over
//! silent ──┤         ├─────┤        ├   where at least MIN_SILENCE long
//! ```
//! A mouth that stands still while someone speaks is worse than one that moves in noise: wherever the level
//! leaves room for doubt, it counts as speech.

use crate::audio::windows::WINDOW_MEL_FRAMES;
use crate::audio::{SAMPLE_RATE_HZ, mel};
use crate::digest::Digest;
use crate::time::{FrameRange, FrameRate};

/// Samples of one level: 10 ms.
const BLOCK_SAMPLES: usize = 160;
const BLOCKS_PER_SECOND: u64 = SAMPLE_RATE_HZ as u64 / BLOCK_SAMPLES as u64;

/// Half decibels below full scale that a level is stored in; digital silence is the last one.
type Level = u8;
const DIGITAL_SILENCE: Level = Level::MAX;
const STEPS_PER_DB: u8 = 2;

/// Speech is not quieter than this below full scale, whatever the rest of the track is: a track of room noise
/// alone is silent. Speech recorded so low would be inaudible beside any other sound.
const FLOOR_DB: u8 = 60;
/// The track's level is that of its loud vowels: the level that one in twenty of the blocks above the floor
/// exceeds. Single knocks do not move it, long pauses neither.
const LOUD_SHARE: usize = 20;
/// Speech begins less than this below the track's level. Unstressed vowels lie 10 to 20 dB below stressed ones.
const OPEN_BELOW_DB: u8 = 24;
/// Speech ends this far below the track's level, so that weak consonants between vowels do not end it.
const CLOSE_BELOW_DB: u8 = 30;
/// What opens and closes within less is a click.
const MIN_SPEECH_BLOCKS: usize = 3;
/// Kept before speech: lips part before a word is heard, and a weak first consonant lies below the threshold.
const LEAD_IN_BLOCKS: usize = 12;
/// Kept after speech: a word's last consonant lies below the threshold, and lips close after it.
const HANG_OVER_BLOCKS: usize = 15;
/// A shorter pause is part of speaking: closing the mouth for it would look like a twitch.
const MIN_SILENCE_BLOCKS: usize = 30;

/// Frames over which the rendered mouth gives way to the source picture at either end of a silent stretch.
pub const FADE_FRAMES: u64 = 3;
/// Share of a mouth that is wholly the rendered one.
pub const FULL_SHARE: u8 = u8::MAX;

/// Takes the levels of a track that comes in pieces.
#[derive(Debug, Default)]
pub struct LevelMeter {
    levels: Vec<Level>,
    /// Sum of squares of the block that is not full yet.
    energy: u64,
    samples: usize,
}

/// The levels of a whole track: 100 bytes for each second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels(Vec<Level>);

impl LevelMeter {
    pub fn new() -> Self {
        Self::default()
    }

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

    /// The levels of all that was pushed.
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

/// Level of a mean square, in steps below that of a full-scale square wave.
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
    /// The silent stretches of the first `frames` output frames, in order. A frame is silent if all of its time
    /// is; time past the track's end is as its last part.
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

    /// Silent stretches as (first block, end block).
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

    /// Stretches of speech as (first block, end block), without lead-in and hang-over.
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

    /// The track's level; `None` where all of it lies below the floor.
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

/// Share of the rendered mouth in frame `frame` of a silent stretch, of [`FULL_SHARE`]; 0 is the source
/// picture. The mouth fades inside the stretch, at those ends that have speech next to them.
pub fn mouth_share(frame: u64, stretch: FrameRange, speech_before: bool, speech_after: bool) -> u8 {
    debug_assert!(stretch.contains(frame), "frame {frame} is not in {stretch}");
    let from_start = (frame - stretch.start + 1) + if speech_before { 0 } else { FADE_FRAMES };
    let from_end = (stretch.end - frame) + if speech_after { 0 } else { FADE_FRAMES };
    let left = (FADE_FRAMES + 1).saturating_sub(from_start.min(from_end));
    u8::try_from(u64::from(FULL_SHARE) * left / (FADE_FRAMES + 1)).unwrap_or(FULL_SHARE)
}

/// Samples of the track of digital silence: one window of the audio encoder, so that it has a feature row for
/// every place that a row can have in a window.
pub const SILENT_TRACK_SAMPLES: u64 = WINDOW_MEL_FRAMES * mel::HOP;

/// Names the track of digital silence that is normalised like a track with this maximum.
pub fn silent_track(log_mel_max: f32) -> Digest {
    let mut name = b"digital silence, normalised by ".to_vec();
    name.extend_from_slice(&log_mel_max.to_bits().to_le_bytes());
    Digest::of(&name)
}

#[cfg(test)]
mod tests;
