//! The fixed grid of windows in which the audio encoder takes a track, and the feature rows that each output
//! frame takes. All indices count from the track's first sample; nothing depends on the job's division into
//! chunks.
//!
//! The coordinator stores the samples of each window ([`pcm_range`]) and names in each task the windows that
//! its chunk needs ([`windows_for`]). The engine calls the other functions to compute the features of frames.
//!
//! The encoder takes 3000 mel frames (30 s) and returns 1500 feature rows, 50 a second: row `r` stands for
//! the mel frames `2r` and `2r + 1`. A window that reaches past the track's end is padded with 0 in the
//! normalised log-mel domain, as the reference does.
//!
//! | layout        | mel frames of window `k` | feature rows that are taken from it                        |
//! |---------------|--------------------------|------------------------------------------------------------|
//! | `Reference`   | `3000k .. 3000k + 3000`  | all: each 30 s is encoded alone                            |
//! | `Overlapping` | `2000k .. 2000k + 3000`  | its middle 20 s; the first also its start, the last its end |
//!
//! At the seam of two overlapping windows their rows are faded into each other over 2 s: the encoder adds a
//! table of positions that starts anew in each window, so that equal speech has other features in another
//! place.
//!
//! A track of up to 30 s is one window in either layout, with the same features.

use std::ops::Range;

use super::mel;
use crate::time::{FrameRange, FrameRate, WINDOW_FRAMES};
use crate::wire::job::AudioWindows;

/// Number of mel frames in one window of the audio encoder.
pub const WINDOW_MEL_FRAMES: u64 = 3000;
/// Number of feature rows per second of speech.
pub const ROWS_PER_SECOND: u64 = 50;
/// Number of feature rows that one output frame takes.
pub const ROWS_PER_FRAME: usize = 10;

/// Number of mel frames at either end of an overlapping window whose rows are taken from its neighbour, which
/// has more speech around them.
const MARGIN: u64 = 500;

/// Number of rows on either side of a seam over which two overlapping windows are faded into each other.
const FADE: u64 = 50;

/// The one or two encoder rows that a feature row of the track is blended from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RowBlend {
    /// The row in the window that is taken; near a seam, in the earlier of the two windows.
    pub earlier: WindowRow,
    /// Near a seam, the same row in the later window, and its share, within 0..1.
    pub later: Option<(WindowRow, f32)>,
}

/// A row of the encoder's output for one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowRow {
    /// Index of the window on the grid.
    pub window: u32,
    /// Index of the row inside that window, `0..1500`.
    pub row: u32,
}

/// Returns the number of mel frames from the start of one window to the start of the next.
fn stride(layout: AudioWindows) -> u64 {
    match layout {
        AudioWindows::Reference => WINDOW_MEL_FRAMES,
        AudioWindows::Overlapping => WINDOW_MEL_FRAMES - 2 * MARGIN,
    }
}

/// Returns the number of windows of a track, at least 1.
pub fn count(track_samples: u64, layout: AudioWindows) -> u32 {
    let past_first = mel::frame_count(track_samples).saturating_sub(WINDOW_MEL_FRAMES);
    u32::try_from(1 + past_first.div_ceil(stride(layout))).unwrap_or(u32::MAX)
}

/// Returns the mel frames of the track that window `index` takes: 3000, or fewer if the track ends before.
pub fn mel_range(index: u32, track_samples: u64, layout: AudioWindows) -> Range<u64> {
    let frames = mel::frame_count(track_samples);
    let start = u64::from(index) * stride(layout);
    start.min(frames)..(start + WINDOW_MEL_FRAMES).min(frames)
}

/// Returns the samples of the track that window `index` needs, with those around its first and last mel
/// frame.
pub fn pcm_range(index: u32, track_samples: u64, layout: AudioWindows) -> Range<u64> {
    mel::sample_range(&mel_range(index, track_samples, layout), track_samples)
}

/// Returns the number of feature rows of a track. It is at least 1: a track of under 20 ms has one row, of
/// silence.
pub fn row_count(track_samples: u64) -> u64 {
    (mel::frame_count(track_samples) / 2).max(1)
}

/// Returns the window that feature row `row` of the track is taken from, and the row inside it.
pub fn locate_row(row: u64, track_samples: u64, layout: AudioWindows) -> WindowRow {
    debug_assert!(row < row_count(track_samples), "row {row} lies past the track");
    let mel_frame = row * 2;
    let wanted = match layout {
        AudioWindows::Reference => mel_frame / stride(layout),
        AudioWindows::Overlapping => mel_frame.saturating_sub(MARGIN) / stride(layout),
    };
    let last = count(track_samples, layout) - 1;
    row_in_window(row, u32::try_from(wanted).unwrap_or(u32::MAX).min(last), layout)
}

/// Expresses feature row `row` of the track as a row of window `window`, which must begin at or before the
/// row.
fn row_in_window(row: u64, window: u32, layout: AudioWindows) -> WindowRow {
    let row = row - u64::from(window) * stride(layout) / 2;
    WindowRow {
        window,
        row: u32::try_from(row).unwrap_or(u32::MAX),
    }
}

/// Returns the encoder rows that feature row `row` of the track is blended from.
pub fn blend_of_row(row: u64, track_samples: u64, layout: AudioWindows) -> RowBlend {
    let nearest = locate_row(row, track_samples, layout);
    let alone = RowBlend {
        earlier: nearest,
        later: None,
    };
    if layout == AudioWindows::Reference {
        return alone;
    }
    let served = rows_served(nearest.window, track_samples, layout);
    let windows = count(track_samples, layout);
    let (later, seam) = if nearest.window > 0 && row < served.start + FADE {
        (nearest.window, served.start)
    } else if nearest.window + 1 < windows && row + FADE >= served.end {
        (nearest.window + 1, served.end)
    } else {
        return alone;
    };
    let into = row + FADE - seam;
    RowBlend {
        earlier: row_in_window(row, later - 1, layout),
        later: Some((
            row_in_window(row, later, layout),
            (into as f32 + 0.5) / (2 * FADE) as f32,
        )),
    }
}

/// Returns the feature rows of the track that window `index` contributes to: those of [`rows_served`], and
/// the fades beside them.
pub fn rows_kept(index: u32, track_samples: u64, layout: AudioWindows) -> Range<u64> {
    let served = rows_served(index, track_samples, layout);
    if layout == AudioWindows::Reference {
        return served;
    }
    let start = if index == 0 { 0 } else { served.start - FADE };
    start..(served.end + FADE).min(row_count(track_samples))
}

/// Returns the feature rows of the track that [`locate_row`] takes from window `index`. Every row belongs to
/// one window.
pub fn rows_served(index: u32, track_samples: u64, layout: AudioWindows) -> Range<u64> {
    let rows = row_count(track_samples);
    let bound = |index: u32| match layout {
        AudioWindows::Reference => u64::from(index) * stride(layout) / 2,
        AudioWindows::Overlapping if index == 0 => 0,
        AudioWindows::Overlapping => u64::from(index) * stride(layout) / 2 + MARGIN / 2,
    };
    let is_last = index + 1 >= count(track_samples, layout);
    let end = if is_last { rows } else { bound(index + 1).min(rows) };
    bound(index).min(end)..end
}

/// Returns the feature rows of output frame `frame`: `c - 4 ..= c + 5` around `c = floor(frame x 50 / rate)`,
/// each clamped to the track.
pub fn rows_of_frame(frame: u64, rate: FrameRate, track_samples: u64) -> [u64; ROWS_PER_FRAME] {
    let ticks = u128::from(frame) * u128::from(ROWS_PER_SECOND) * u128::from(rate.den());
    let centre = u64::try_from(ticks / u128::from(rate.num())).unwrap_or(u64::MAX / 2);
    let last = row_count(track_samples) - 1;
    std::array::from_fn(|i| (centre + i as u64).saturating_sub(4).min(last))
}

/// Returns the indices of the audio windows that the output frames `range` need. The range is first rounded
/// up to whole UNet windows of 16 frames, because a short last window is padded to 16.
pub fn windows_for(range: FrameRange, rate: FrameRate, track_samples: u64, layout: AudioWindows) -> Vec<u32> {
    if range.is_empty() {
        return Vec::new();
    }
    let last_frame = range.end.next_multiple_of(WINDOW_FRAMES) - 1;
    let first_row = rows_of_frame(range.start, rate, track_samples)[0];
    let last_row = rows_of_frame(last_frame, rate, track_samples)[ROWS_PER_FRAME - 1];
    let first = blend_of_row(first_row, track_samples, layout).earlier.window;
    let last = blend_of_row(last_row, track_samples, layout);
    let last = last.later.map_or(last.earlier, |(place, _)| place).window;
    (first..=last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LAYOUTS: [AudioWindows; 2] = [AudioWindows::Overlapping, AudioWindows::Reference];
    const SECOND: u64 = 16_000;

    #[test]
    fn short_track_is_one_window_in_either_layout() {
        for samples in [0, 1, 160, 320, 5 * SECOND, 30 * SECOND, 30 * SECOND + 159] {
            for layout in LAYOUTS {
                assert_eq!(count(samples, layout), 1);
                assert_eq!(mel_range(0, samples, layout), 0..samples / 160);
                assert!(pcm_range(0, samples, layout).end <= samples);
                let last = row_count(samples) - 1;
                let place = locate_row(last, samples, layout);
                assert_eq!((place.window, u64::from(place.row)), (0, last));
            }
        }
        assert_eq!(count(30 * SECOND + 160, AudioWindows::Overlapping), 2);
        assert_eq!(count(30 * SECOND + 160, AudioWindows::Reference), 2);
    }

    #[test]
    fn overlapping_windows_serve_their_middle() {
        let samples = 100 * SECOND;
        assert_eq!(count(samples, AudioWindows::Overlapping), 5);
        let place = |row| locate_row(row, samples, AudioWindows::Overlapping);
        assert_eq!(place(1249), WindowRow { window: 0, row: 1249 });
        assert_eq!(place(1250), WindowRow { window: 1, row: 250 });
        assert_eq!(place(2249), WindowRow { window: 1, row: 1249 });
        assert_eq!(place(2250), WindowRow { window: 2, row: 250 });
        assert_eq!(place(4999), WindowRow { window: 4, row: 999 });
    }

    #[test]
    fn seams_are_faded_over_two_seconds() {
        let samples = 100 * SECOND;
        let blend = |row| blend_of_row(row, samples, AudioWindows::Overlapping);
        assert_eq!(blend(1199).later, None);
        assert_eq!(blend(1200).earlier, WindowRow { window: 0, row: 1200 });
        assert_eq!(
            blend(1200).later,
            Some((WindowRow { window: 1, row: 200 }, 0.005))
        );
        assert_eq!(
            blend(1250).later,
            Some((WindowRow { window: 1, row: 250 }, 0.505))
        );
        assert_eq!(blend(1299).earlier, WindowRow { window: 0, row: 1299 });
        assert_eq!(
            blend(1299).later,
            Some((WindowRow { window: 1, row: 299 }, 0.995))
        );
        assert_eq!(blend(1300).earlier, WindowRow { window: 1, row: 300 });
        assert_eq!(blend(1300).later, None);
        assert_eq!(blend(4999).later, None);
        assert_eq!(rows_kept(0, samples, AudioWindows::Overlapping), 0..1300);
        assert_eq!(rows_kept(1, samples, AudioWindows::Overlapping), 1200..2300);
        assert_eq!(rows_kept(4, samples, AudioWindows::Overlapping), 4200..5000);
        assert_eq!(blend_of_row(1500, samples, AudioWindows::Reference).later, None);
    }

    #[test]
    fn windows_serve_every_row_once() {
        for samples in [
            100,
            10 * SECOND,
            30 * SECOND,
            31 * SECOND,
            36 * SECOND,
            100 * SECOND,
            101 * SECOND,
        ] {
            for layout in LAYOUTS {
                let mut next = 0;
                for index in 0..count(samples, layout) {
                    let served = rows_served(index, samples, layout);
                    assert_eq!(
                        served.start, next,
                        "window {index} of {samples} samples, {layout:?}"
                    );
                    next = served.end;
                }
                assert_eq!(next, row_count(samples));
            }
        }
    }

    #[test]
    fn reference_windows_abut() {
        let place = |row| locate_row(row, 100 * SECOND, AudioWindows::Reference);
        assert_eq!(place(1499), WindowRow { window: 0, row: 1499 });
        assert_eq!(place(1500), WindowRow { window: 1, row: 0 });
        assert_eq!(
            pcm_range(1, 100 * SECOND, AudioWindows::Reference),
            479_800..960_040
        );
    }

    #[test]
    fn frame_takes_ten_rows_around_its_time() {
        let samples = 2 * SECOND;
        assert_eq!(
            rows_of_frame(0, FrameRate::FPS_25, samples),
            [0, 0, 0, 0, 0, 1, 2, 3, 4, 5]
        );
        assert_eq!(
            rows_of_frame(10, FrameRate::FPS_25, samples),
            [16, 17, 18, 19, 20, 21, 22, 23, 24, 25]
        );
        assert_eq!(
            rows_of_frame(48, FrameRate::FPS_25, samples),
            [92, 93, 94, 95, 96, 97, 98, 99, 99, 99]
        );
        assert_eq!(rows_of_frame(9000, FrameRate::FPS_25, samples), [99; 10]);
        let ntsc = FrameRate::new(30_000, 1001).unwrap();
        assert_eq!(rows_of_frame(3, ntsc, samples)[4], 5);
    }

    fn layouts() -> impl Strategy<Value = AudioWindows> {
        prop_oneof![Just(AudioWindows::Overlapping), Just(AudioWindows::Reference)]
    }

    proptest! {
        #[test]
        fn every_row_lies_inside_the_mel_frames_of_its_window(
            samples in 320_u64..20_000_000, pick in 0.0_f64..1.0, layout in layouts()
        ) {
            let rows = row_count(samples);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a test's pick")]
            let row = ((rows as f64 * pick) as u64).min(rows - 1);
            let place = locate_row(row, samples, layout);
            prop_assert!(place.window < count(samples, layout));
            prop_assert!(rows_served(place.window, samples, layout).contains(&row));
            let blend = blend_of_row(row, samples, layout);
            for place in [Some(place), Some(blend.earlier), blend.later.map(|(place, _)| place)].into_iter().flatten() {
                let mel_frames = mel_range(place.window, samples, layout);
                prop_assert_eq!(mel_frames.start + 2 * u64::from(place.row), 2 * row);
                prop_assert!(2 * row + 1 < mel_frames.end, "row {} is past {:?}", row, mel_frames);
                prop_assert!(rows_kept(place.window, samples, layout).contains(&row));
            }
            if let Some((later, share)) = blend.later {
                prop_assert_eq!(later.window, blend.earlier.window + 1);
                prop_assert!(share > 0.0 && share < 1.0, "share {}", share);
            }
        }

        #[test]
        fn windows_of_a_range_are_those_of_its_frames(
            samples in 1_u64..10_000_000, start in 0_u64..40, len in 1_u64..400, layout in layouts()
        ) {
            let range = FrameRange::new(start * WINDOW_FRAMES, start * WINDOW_FRAMES + len);
            let mut expected = Vec::new();
            for frame in range.start..range.end.next_multiple_of(WINDOW_FRAMES) {
                for row in rows_of_frame(frame, FrameRate::FPS_25, samples) {
                    let blend = blend_of_row(row, samples, layout);
                    expected.push(blend.earlier.window);
                    expected.extend(blend.later.map(|(place, _)| place.window));
                }
            }
            expected.sort_unstable();
            expected.dedup();
            prop_assert_eq!(windows_for(range, FrameRate::FPS_25, samples, layout), expected);
        }
    }
}
