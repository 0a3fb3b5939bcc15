//! The frame table: which source frame each output frame shows. The functions are pure, in exact rational
//! arithmetic; ingest calls [`frame_table`] once, when it examines the inputs.
//!
//! Output frames have the constant rate `r`. Output frame `n` of the first pass through the video shows what
//! the source shows in its middle: the last source frame `i` with `(pts_i - pts_0) x time base < (n + 1/2) /
//! r`. At the source's own rate that is the identity, whatever the container rounded. The pass has as many
//! output frames as have their middle before the end of the last source frame.

use clap::ValueEnum;
use latentfarm_common::audio::SAMPLE_RATE_HZ;
use latentfarm_common::time::{FrameRate, TimeBase};
use latentfarm_common::wire::job::OutputFrame;
use serde::Serialize;

/// A table of more output frames than this (8 days at 60 per second) is refused: the time stamps must be
/// broken.
const MAX_OUTPUT_FRAMES: u64 = 40_000_000;

/// What to do if the video ends before the speech. Each variant's comment is its help on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OnShort {
    // The first and the last frame are shown twice at each turn.
    /// Play it backwards and forwards in turn
    Bounce,
    /// Start it again from its beginning
    Loop,
    /// Hold its last frame to the end
    Hold,
    /// Cut the speech where the video ends
    Cut,
}

/// The times at which the source shows its frames.
#[derive(Clone, Copy, Debug)]
pub struct SourceClock<'a> {
    /// PTS of the source frames, strictly increasing, at least one.
    pub pts: &'a [i64],
    /// Ticks for which the last source frame is shown. If unknown, it is shown as long as the frame before
    /// it.
    pub last_duration: Option<i64>,
    pub time_base: TimeBase,
}

impl SourceClock<'_> {
    /// Returns the output frames of one pass through the video, at least 1. Time stamps beyond those of any
    /// real file saturate.
    pub fn output_frames(&self, rate: FrameRate) -> u64 {
        let frames = FrameGrid::new(self, rate).map_or(1, |grid| grid.frames_until(grid.end));
        u64::try_from(frames).map_or(u64::MAX / 4, |frames| frames.clamp(1, u64::MAX / 4))
    }
}

/// Returns the number of output frames of a job. One pass through the video has `video` frames, and the
/// speech needs `speech`.
pub fn total_frames(video: u64, speech: u64, on_short: OnShort, keep_tail: bool) -> u64 {
    let count = match on_short {
        OnShort::Cut => speech.min(video),
        OnShort::Bounce | OnShort::Loop | OnShort::Hold => speech,
    };
    if keep_tail { count.max(video) } else { count }
}

/// Everything that determines the frame table.
#[derive(Clone, Copy, Debug)]
pub struct TableRequest<'a> {
    pub source: SourceClock<'a>,
    pub rate: FrameRate,
    /// Length of the speech at 16 kHz, at least 1.
    pub speech_samples: u64,
    pub on_short: OnShort,
    /// Whether the part of the video after the speech is kept, unchanged, instead of being cut.
    pub keep_tail: bool,
}

/// The source frame that each output frame shows, with the lengths that it was computed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameTable {
    /// One entry for each output frame, at least one.
    pub outputs: Vec<OutputFrame>,
    /// Number of source frames that are needed: all from 0 to the last one shown.
    pub sources: u64,
    /// Output frames that cover the speech.
    pub speech_frames: u64,
    /// Output frames of one pass through the video.
    pub video_frames: u64,
}

/// The error of a video whose time stamps give no table.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TableError {
    #[error("the video has no frames")]
    NoFrames,
    #[error("the video would have {frames} frames at {rate} per second: its time stamps must be broken")]
    TooLong { frames: u64, rate: FrameRate },
}

/// Computes the frame table of a job.
pub fn frame_table(request: &TableRequest) -> Result<FrameTable, TableError> {
    let grid = FrameGrid::new(&request.source, request.rate).ok_or(TableError::NoFrames)?;
    let speech = request
        .rate
        .frames_covering(request.speech_samples, SAMPLE_RATE_HZ)
        .max(1);
    let video = request.source.output_frames(request.rate);
    // The length of the video matters only if it is the shorter one or its tail is kept.
    let count = total_frames(video, speech, request.on_short, request.keep_tail);
    if count > MAX_OUTPUT_FRAMES {
        let rate = request.rate;
        return Err(TableError::TooLong { frames: count, rate });
    }
    let pass = grid.pass(request.source.pts, count.min(video));
    let outputs: Vec<OutputFrame> = (0..count)
        .map(|n| OutputFrame {
            source: pass[usize::try_from(index_in_pass(n, video, request.on_short)).unwrap_or(usize::MAX)],
            synced: n < speech,
        })
        .collect();
    let last = outputs.iter().map(|output| output.source).max().unwrap_or(0);
    Ok(FrameTable {
        outputs,
        sources: u64::from(last) + 1,
        speech_frames: speech,
        video_frames: video,
    })
}

/// Returns the frame of the first pass, which has `video` frames, whose picture output frame `n` shows.
fn index_in_pass(n: u64, video: u64, on_short: OnShort) -> u64 {
    match on_short {
        OnShort::Bounce => {
            let phase = n % (2 * video);
            phase.min(2 * video - 1 - phase)
        }
        OnShort::Loop => n % video,
        OnShort::Hold | OnShort::Cut => n.min(video - 1),
    }
}

/// Compares the source's ticks with the middles of the output's frames: tick `t` is before the middle of
/// output frame `n` if `t x tick < (2n + 1) x half_frame`.
struct FrameGrid {
    /// PTS of the first source frame.
    first: i64,
    /// End of the last source frame, in ticks after the first one's start.
    end: i128,
    tick: i128,
    half_frame: i128,
}

impl FrameGrid {
    fn new(source: &SourceClock, rate: FrameRate) -> Option<Self> {
        let pts = source.pts;
        let (first, last) = (*pts.first()?, *pts.last()?);
        let before = pts.len().checked_sub(2).map(|at| pts[at]);
        let step = before.map(|before| i128::from(last) - i128::from(before));
        let stated = source.last_duration.filter(|&duration| duration > 0);
        let duration = stated.map(i128::from).or(step).unwrap_or(1);
        Some(Self {
            first,
            end: i128::from(last) - i128::from(first) + duration,
            tick: 2 * i128::from(rate.num()) * i128::from(source.time_base.num),
            half_frame: i128::from(rate.den()) * i128::from(source.time_base.den),
        })
    }

    /// Returns a PTS times `tick`, counted from the first frame. Time stamps beyond those of any real file
    /// saturate.
    fn start_of(&self, pts: i64) -> i128 {
        (i128::from(pts) - i128::from(self.first)).saturating_mul(self.tick)
    }

    /// Returns the number of output frames whose middle is before tick `end`.
    fn frames_until(&self, end: i128) -> u128 {
        // (2n + 1) x half_frame < end x tick
        let span = end.saturating_mul(self.tick).saturating_add(self.half_frame);
        u128::try_from(span).map_or(0, |span| (span - 1) / (2 * self.half_frame.unsigned_abs()))
    }

    /// Returns the source frame that each of the first `count` output frames of the pass shows.
    fn pass(&self, pts: &[i64], count: u64) -> Vec<u32> {
        let mut shown = 0;
        (0..count)
            .map(|n| {
                let middle = (2 * i128::from(n) + 1) * self.half_frame;
                let starts = |at: usize| pts.get(at).map(|&pts| self.start_of(pts));
                while starts(shown + 1).is_some_and(|start| start < middle) {
                    shown += 1;
                }
                u32::try_from(shown).unwrap_or(u32::MAX)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
