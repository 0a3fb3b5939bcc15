//! When the jobs of a farm will be done, from the rates at which they are rendered now.

use std::collections::BTreeMap;
use std::time::Duration;

use latentfarm_common::ids::JobId;

/// A job that is not over.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenJob {
    pub(super) job: JobId,
    /// Number of frames that are still to be rendered.
    pub(super) frames_left: u64,
    /// Frames that are rendered in a second, if any were since the job came to the dispatcher.
    pub(super) rate: Option<f64>,
}

/// When each of the open jobs will be done. None of them has a time before frames were rendered.
#[derive(Debug, Default)]
pub(super) struct Forecast(BTreeMap<JobId, Duration>);

impl Forecast {
    /// Extrapolates: a job that is rendered goes on at its own rate, and those that wait for their turn, here in that
    /// order, follow each other at the rate of all together.
    pub(super) fn new(rendered: &[OpenJob], waiting: &[OpenJob]) -> Self {
        let rate: f64 = rendered.iter().filter_map(|job| job.rate).sum();
        if rate <= 0.0 {
            return Self::default();
        }
        let own = |job: &OpenJob| Some((job.job, time(job.frames_left, job.rate?)));
        let mut times: BTreeMap<JobId, Duration> = rendered.iter().filter_map(own).collect();
        let mut ahead: u64 = rendered.iter().map(|job| job.frames_left).sum();
        for job in waiting {
            ahead += job.frames_left;
            times.insert(job.job, time(ahead, rate));
        }
        Self(times)
    }

    /// The time until the job is done.
    pub(super) fn of(&self, job: JobId) -> Option<Duration> {
        self.0.get(&job).copied()
    }
}

/// Returns how long so many frames take at a rate in frames a second.
fn time(frames: u64, rate: f64) -> Duration {
    Duration::try_from_secs_f64(frames as f64 / rate).unwrap_or(Duration::MAX)
}
