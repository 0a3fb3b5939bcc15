//! Measures lag, correlation and confidence, by stretch of time too, and the lips in silence.

use serde::{Deserialize, Serialize};

use super::correlation::Pair;
use super::opening::LipOpening;
use crate::time::{FrameRange, FrameRate};

/// Frames with a mouth in at least so many seconds are needed for a measurement.
pub const MIN_SECONDS: f64 = 2.0;
/// The largest lag that is searched, either way.
const MAX_LAG_SECONDS: f64 = 0.6;
/// The length of a stretch.
const STRETCH_SECONDS: f64 = 10.0;
/// The most places of the speech that the fit is compared with, in each direction.
const MOST_PLACES: i64 = 100;
/// The fewest other places that say anything: with one in twenty by chance, a confidence of 0.95 needs so many.
const FEWEST_PLACES: usize = 19;
/// A fit that is better than at this share of the other places is no chance.
const CONFIDENT: f32 = 0.95;
/// A lag is no fault up to one frame or this time, whichever is longer. Viewers notice from 45 ms on
/// (ITU-R BT.1359), and a row of the model's audio features covers 20 ms.
const TOLERANCE_MS: f64 = 40.0;
/// Silence is measured if there is this much of it.
const MIN_SILENT_SECONDS: f64 = 1.0;
/// Nobody speaks while the loudness is 0 for at least this long, but for the time at either end in which lips still
/// close or part already.
const MIN_PAUSE_SECONDS: f64 = 0.4;
const PAUSE_EDGE_SECONDS: f64 = 0.12;
/// Lips move in silence if they move more than this share of what they move in speech, from frame to frame,
/// and by more than face meshes tremble.
const SILENT_MOVEMENT_SHARE: f32 = 0.5;
const TREMBLE: f32 = 0.004;

/// How the lips of one face fit the speech.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LipSync {
    /// Number of frames whose mouth was measured.
    pub frames: u64,
    /// The number of frames by which the lips are later than the speech; negative if they are earlier. It is
    /// where the correlation is highest.
    pub lag_frames: i32,
    /// The same in milliseconds, interpolated between frames.
    pub lag_ms: i32,
    /// Whether the lag is within one frame, or 40 ms if that is longer.
    pub is_on_time: bool,
    /// Pearson's correlation of opening and loudness at that lag.
    pub correlation: f32,
    /// The correlation without a shift.
    pub correlation_at_zero: f32,
    /// The share of other places of the speech, forward and reversed, at which the lips fit it less well, with
    /// the same freedom of lag; `None` for speech of less than about eight seconds, which has too few of them.
    pub confidence: Option<f32>,
    /// The openings that one in twenty frames remain below and exceed, as shares of the eyes' distance.
    pub opening: [f32; 2],
    /// The lips while nobody speaks, if that is for at least a second.
    pub silence: Option<SilentLips>,
    /// The same figures for stretches of ten seconds, in order.
    pub stretches: Vec<Stretch>,
}

/// The lips while nobody speaks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SilentLips {
    /// Number of silent frames whose mouth was measured.
    pub frames: u64,
    /// The opening that one in twenty of them exceeds, as a share of the eyes' distance.
    pub opening: f32,
    /// The mean change of the opening from frame to frame.
    pub movement: f32,
    /// The same for all other frames.
    pub movement_in_speech: f32,
}

/// The fit in a stretch of time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stretch {
    /// The frames.
    pub range: FrameRange,
    /// The best lag of this stretch alone, in frames.
    pub lag_frames: i32,
    /// The correlation at that lag.
    pub correlation: f32,
    /// The correlation at the lag of the whole.
    pub correlation_at_overall_lag: f32,
}

/// What a measurement says in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The lips follow the speech, on time.
    Follows,
    /// The lips follow the speech, but too early or too late.
    Shifted,
    /// The lips fit other places of the speech as well.
    Unclear,
    /// The speech is too short to tell a fit from chance.
    TooShort,
}

impl LipSync {
    /// Returns what the figures say.
    pub fn verdict(&self) -> Verdict {
        match self.confidence {
            Some(confidence) if confidence >= CONFIDENT && self.is_on_time => Verdict::Follows,
            Some(confidence) if confidence >= CONFIDENT => Verdict::Shifted,
            Some(_) => Verdict::Unclear,
            None => Verdict::TooShort,
        }
    }
}

impl SilentLips {
    /// Whether the lips move although nobody speaks.
    pub fn is_moving(&self) -> bool {
        self.movement > TREMBLE && self.movement > SILENT_MOVEMENT_SHARE * self.movement_in_speech
    }
}

/// Measures how the openings of a mouth, one for each frame and `None` where it is not seen, fit the loudness
/// of the speech in the same frames, 0 to 255. Returns `None` for less than [`MIN_SECONDS`] of mouths.
pub fn measure(openings: &[Option<LipOpening>], loudness: &[u8], rate: FrameRate) -> Option<LipSync> {
    let frames = openings.len().min(loudness.len());
    let pair = Pair {
        openings: &openings[..frames],
        loudness: &loudness[..frames],
    };
    let seen = pair.openings.iter().flatten().count();
    if (seen as f64) < MIN_SECONDS * rate.as_f64() {
        return None;
    }
    let limit = frames_in(MAX_LAG_SECONDS, rate).max(1);
    let search = pair.search(limit);
    let (lag, correlation) = (search.best, search.highest());
    let frame_ms = 1000.0 / rate.as_f64();
    let off_ms = (lag as f64).abs() * frame_ms;
    Some(LipSync {
        frames: seen as u64,
        lag_frames: i32::try_from(lag).unwrap_or(0),
        lag_ms: rounded(
            (lag as f64 + vertex(search.at(lag - 1), correlation, search.at(lag + 1))) * frame_ms,
        ),
        is_on_time: lag.abs() <= 1 || off_ms <= TOLERANCE_MS,
        correlation: narrow(correlation),
        correlation_at_zero: narrow(search.at(0).unwrap_or(0.0)),
        confidence: confidence(pair, limit, correlation),
        opening: [0.05, 0.95].map(|share| quantile(pair.openings.iter().flatten(), share)),
        silence: silent_lips(pair, rate),
        stretches: stretches(pair, limit, lag, rate),
    })
}

/// Returns the share of other places of the speech at which the lips fit less well than `correlation`.
fn confidence(pair: Pair, limit: i64, correlation: f64) -> Option<f32> {
    let frames = pair.frames();
    // Turned speech must be so far from its true place that the search does not reach back to it.
    let (first, end) = (2 * limit + 1, frames - 2 * limit);
    let step = ((end - first) / MOST_PLACES).max(limit);
    let best = |pair: Pair, start: i64| {
        let lags = -limit..=limit;
        lags.map(|lag| pair.turned(start - lag)).fold(f64::MIN, f64::max)
    };
    let starts = |from: i64, to: i64| (from..to).step_by(usize::try_from(step).unwrap_or(1));
    let backwards: Vec<u8> = pair.loudness.iter().rev().copied().collect();
    let reversed = Pair {
        loudness: &backwards,
        ..pair
    };
    let turned = starts(first, end).map(|start| best(pair, start));
    let reversed = starts(0, frames).map(|start| best(reversed, start));
    let others: Vec<f64> = turned.chain(reversed).collect();
    let worse = others.iter().filter(|other| **other < correlation).count();
    // The true place counts as one more, so that few places cannot give certainty.
    (others.len() >= FEWEST_PLACES).then(|| narrow(worse as f64 / (others.len() + 1) as f64))
}

fn stretches(pair: Pair, limit: i64, overall: i64, rate: FrameRate) -> Vec<Stretch> {
    let length = usize::try_from(frames_in(STRETCH_SECONDS, rate).max(1)).unwrap_or(usize::MAX);
    let frames = pair.loudness.len();
    // A rest of less than half a stretch belongs to the last one.
    let count = ((frames + length / 2) / length).max(1);
    let bounds = (0..count).map(|index| {
        let end = if index + 1 == count {
            frames
        } else {
            (index + 1) * length
        };
        (index * length, end)
    });
    bounds
        .map(|(start, end)| {
            let part = Pair {
                openings: &pair.openings[start..end],
                loudness: &pair.loudness[start..end],
            };
            let search = part.search(limit);
            Stretch {
                range: FrameRange::new(start as u64, end as u64),
                lag_frames: i32::try_from(search.best).unwrap_or(0),
                correlation: narrow(search.highest()),
                correlation_at_overall_lag: narrow(search.at(overall).unwrap_or(0.0)),
            }
        })
        .collect()
}

/// Returns for each frame whether nobody speaks.
fn silent_frames(loudness: &[u8], rate: FrameRate) -> Vec<bool> {
    let at_least = |seconds: f64| usize::try_from(frames_in(seconds, rate)).unwrap_or(0);
    let (shortest, edge) = (at_least(MIN_PAUSE_SECONDS), at_least(PAUSE_EDGE_SECONDS));
    let mut silent = vec![false; loudness.len()];
    let mut start = 0;
    for pause in loudness.chunk_by(|a, b| (*a == 0) == (*b == 0)) {
        let end = start + pause.len();
        if pause[0] == 0 && pause.len() >= shortest.max(2 * edge) {
            silent[start + edge..end - edge].fill(true);
        }
        start = end;
    }
    silent
}

fn silent_lips(pair: Pair, rate: FrameRate) -> Option<SilentLips> {
    let openings = pair.openings;
    let quiet = silent_frames(pair.loudness, rate);
    let of = |wanted: bool| {
        openings
            .iter()
            .zip(&quiet)
            .filter(move |(_, quiet)| **quiet == wanted)
    };
    let shown: Vec<LipOpening> = of(true).filter_map(|(opening, _)| *opening).collect();
    if (shown.len() as f64) < MIN_SILENT_SECONDS * rate.as_f64() {
        return None;
    }
    let movement = |wanted: bool| {
        let (mut sum, mut count) = (0.0, 0.0);
        for index in 1..openings.len() {
            if let (true, true, Some(before), Some(now)) = (
                quiet[index] == wanted,
                quiet[index - 1] == wanted,
                openings[index - 1],
                openings[index],
            ) {
                sum += (now.share() - before.share()).abs();
                count += 1.0;
            }
        }
        if count > 0.0 { sum / count } else { 0.0 }
    };
    Some(SilentLips {
        frames: shown.len() as u64,
        opening: quantile(shown.iter(), 0.95),
        movement: movement(true),
        movement_in_speech: movement(false),
    })
}

/// Returns how far from the middle one the vertex of the parabola through three neighbours lies, within half a
/// step.
fn vertex(before: Option<f64>, middle: f64, after: Option<f64>) -> f64 {
    let (Some(before), Some(after)) = (before, after) else {
        return 0.0;
    };
    let bend = before - 2.0 * middle + after;
    if bend < 0.0 {
        (0.5 * (before - after) / bend).clamp(-0.5, 0.5)
    } else {
        0.0
    }
}

/// Returns the opening that `share` of all do not exceed.
fn quantile<'a>(openings: impl Iterator<Item = &'a LipOpening>, share: f64) -> f32 {
    let mut sorted: Vec<LipOpening> = openings.copied().collect();
    sorted.sort_unstable();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index within the list"
    )]
    let index = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(index).map_or(0.0, |opening| opening.share())
}

fn frames_in(seconds: f64, rate: FrameRate) -> i64 {
    i64::from(rounded(seconds * rate.as_f64()))
}

fn rounded(value: f64) -> i32 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "at most a few thousand frames or milliseconds"
    )]
    let whole = value.round() as i32;
    whole
}

fn narrow(value: f64) -> f32 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "correlations and shares are within -1..=1"
    )]
    let narrow = value as f32;
    narrow
}
