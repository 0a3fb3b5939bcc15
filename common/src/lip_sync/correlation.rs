//! Correlation of lip openings with the loudness of the speech, at any shift in time.

use super::opening::LipOpening;

/// The openings of consecutive frames, `None` where no mouth is seen, with the loudness of the speech in the
/// same frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair<'a> {
    pub(super) openings: &'a [Option<LipOpening>],
    pub(super) loudness: &'a [u8],
}

/// The correlations at all lags of a search.
pub(super) struct LagSearch {
    limit: i64,
    /// The lag with the highest correlation; of equal ones the smallest.
    pub(super) best: i64,
    /// The correlations in order of the lag.
    correlations: Vec<f64>,
}

impl LagSearch {
    /// Returns the correlation at a lag that was searched.
    pub(super) fn at(&self, lag: i64) -> Option<f64> {
        let index = usize::try_from(lag + self.limit).ok()?;
        self.correlations.get(index).copied()
    }

    /// Returns the highest correlation.
    pub(super) fn highest(&self) -> f64 {
        self.at(self.best).unwrap_or(0.0)
    }
}

impl Pair<'_> {
    /// Returns the number of frames.
    pub(super) fn frames(&self) -> i64 {
        i64::try_from(self.loudness.len()).unwrap_or(i64::MAX)
    }

    /// Correlates the openings with the loudness `lag` frames earlier, for all lags in `-limit..=limit`. Frames
    /// without such a loudness do not count.
    pub(super) fn search(&self, limit: i64) -> LagSearch {
        let at = |lag: i64| {
            let skipped = |frames: i64| usize::try_from(frames).unwrap_or(0);
            let openings = self.openings.iter().skip(skipped(lag));
            correlation(openings.zip(self.loudness.iter().skip(skipped(-lag))))
        };
        let correlations: Vec<f64> = (-limit..=limit).map(at).collect();
        let by_size = |a: &(i64, f64), b: &(i64, f64)| a.1.total_cmp(&b.1).then(b.0.abs().cmp(&a.0.abs()));
        let best = (-limit..=limit).zip(correlations.iter().copied()).max_by(by_size);
        LagSearch {
            limit,
            best: best.map_or(0, |(lag, _)| lag),
            correlations,
        }
    }

    /// Returns the correlation with speech that begins `start` frames later and is continued by its own
    /// beginning.
    pub(super) fn turned(&self, start: i64) -> f64 {
        let start = usize::try_from(start.rem_euclid(self.frames().max(1))).unwrap_or(0);
        let (beginning, rest) = self.loudness.split_at(start);
        correlation(self.openings.iter().zip(rest.iter().chain(beginning)))
    }
}

/// Returns Pearson's correlation over all frames whose mouth is seen, 0 if either does not vary.
fn correlation<'a>(pairs: impl Iterator<Item = (&'a Option<LipOpening>, &'a u8)>) -> f64 {
    let mut sums = Sums::default();
    for (opening, loudness) in pairs {
        if let Some(opening) = opening {
            sums.add(f64::from(opening.0), f64::from(*loudness));
        }
    }
    sums.correlation()
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
