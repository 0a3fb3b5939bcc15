//! Correlation of lip openings with the loudness of the speech, at any shift in time.

use super::opening::LipOpening;

/// The openings of consecutive frames, `None` where no mouth is seen, with the loudness of the speech in the
/// same frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair<'a> {
    pub(super) openings: &'a [Option<LipOpening>],
    pub(super) loudness: &'a [u8],
}

/// Which loudness belongs to a frame.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// That of the frame `lag` frames earlier; frames without one do not count.
    Lag(i64),
    /// As `Lag`, in speech that begins `start` frames later and is continued by its own beginning.
    Turned { start: i64, lag: i64 },
    /// As `Turned`, in speech that is played backwards.
    Reversed { start: i64, lag: i64 },
}

impl Place {
    fn index(self, frame: i64, frames: i64) -> Option<usize> {
        let index = match self {
            Self::Lag(lag) => frame - lag,
            Self::Turned { start, lag } => (frame + start - lag).rem_euclid(frames),
            Self::Reversed { start, lag } => (frames - 1 - frame - start + lag).rem_euclid(frames),
        };
        usize::try_from(index).ok()
    }
}

impl Pair<'_> {
    /// Returns the number of frames.
    pub(super) fn frames(&self) -> i64 {
        i64::try_from(self.loudness.len()).unwrap_or(i64::MAX)
    }

    /// Returns Pearson's correlation over all frames whose mouth is seen, 0 if either does not vary.
    pub(super) fn correlation(&self, place: Place) -> f64 {
        let frames = self.frames();
        let mut sums = Sums::default();
        for (frame, opening) in (0_i64..).zip(self.openings) {
            let index = place.index(frame, frames);
            let loudness = index.and_then(|index| self.loudness.get(index));
            if let (Some(opening), Some(loudness)) = (opening, loudness) {
                sums.add(f64::from(opening.0), f64::from(*loudness));
            }
        }
        sums.correlation()
    }

    /// Returns the lag within `-limit..=limit` at which the correlation is highest, with all correlations in
    /// order of the lag. Of equal ones the smallest lag counts.
    pub(super) fn best_lag(&self, limit: i64) -> (i64, Vec<f64>) {
        let all: Vec<f64> = (-limit..=limit)
            .map(|lag| self.correlation(Place::Lag(lag)))
            .collect();
        let by_size = |a: &(i64, f64), b: &(i64, f64)| a.1.total_cmp(&b.1).then(b.0.abs().cmp(&a.0.abs()));
        let best = (-limit..=limit).zip(all.iter().copied()).max_by(by_size);
        (best.map_or(0, |(lag, _)| lag), all)
    }
}

/// The sums that a correlation is computed from.
#[derive(Default)]
struct Sums {
    count: f64,
    x: f64,
    y: f64,
    xx: f64,
    yy: f64,
    xy: f64,
}

impl Sums {
    fn add(&mut self, x: f64, y: f64) {
        self.count += 1.0;
        self.x += x;
        self.y += y;
        self.xx += x * x;
        self.yy += y * y;
        self.xy += x * y;
    }

    fn correlation(&self) -> f64 {
        // The sums are of whole numbers and therefore exact.
        let x_spread = self.count * self.xx - self.x * self.x;
        let y_spread = self.count * self.yy - self.y * self.y;
        if x_spread <= 0.0 || y_spread <= 0.0 {
            return 0.0;
        }
        (self.count * self.xy - self.x * self.y) / (x_spread.sqrt() * y_spread.sqrt())
    }
}
