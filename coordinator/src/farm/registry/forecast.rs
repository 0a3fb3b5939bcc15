//! When the jobs of a farm will be done, from the rates at which they are rendered now.

use std::collections::BTreeMap;
use std::time::Duration;

use latentfarm_common::ids::{JobId, WorkerId};
use latentfarm_common::wire::outcome::{Heartbeat, WorkerState};

use crate::farm::messages::OneMore;

/// A worker that has reported nothing for this long is not counted, in milliseconds.
const FORGOTTEN_MS: u64 = 30_000;

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

/// The rates at which the workers of the farm render, by their last heartbeats.
#[derive(Debug, Default)]
pub(super) struct WorkerRates(BTreeMap<WorkerId, WorkerRate>);

#[derive(Clone, Copy, Debug)]
struct WorkerRate {
    frames_per_second: f64,
    device_mib: u64,
    seen_ms: u64,
}

impl WorkerRates {
    pub(super) fn note(&mut self, heartbeat: &Heartbeat, now_ms: u64) {
        if heartbeat.state == WorkerState::Left {
            self.0.remove(&heartbeat.worker);
            return;
        }
        let rate = WorkerRate {
            frames_per_second: f64::from(heartbeat.frames_per_second),
            device_mib: heartbeat.device_total_mib,
            seen_ms: now_ms,
        };
        self.0.insert(heartbeat.worker.clone(), rate);
    }

    /// What one more worker like the fastest one would change of a time in which the present ones are done.
    pub(super) fn one_more(&self, done_in: Duration, now_ms: u64) -> Option<OneMore> {
        let is_live = |rate: &WorkerRate| now_ms.saturating_sub(rate.seen_ms) < FORGOTTEN_MS;
        let live = || self.0.iter().filter(|(_, rate)| is_live(rate));
        let all: f64 = live().map(|(_, rate)| rate.frames_per_second).sum();
        let fastest =
            live().max_by(|(_, one), (_, other)| one.frames_per_second.total_cmp(&other.frames_per_second));
        let (worker, rate) = fastest.filter(|(_, rate)| rate.frames_per_second > 0.0)?;
        let share = rate.frames_per_second / (all + rate.frames_per_second);
        Some(OneMore {
            like: worker.clone(),
            device_mib: rate.device_mib,
            saves: done_in.mul_f64(share),
        })
    }
}
