//! All jobs of a farm, finished ones included: which of them are on the dispatcher, and what follows from each
//! request and from each report of the dispatcher. It does no input or output; the coordinator stores what has
//! changed and passes the orders on.

mod forecast;
mod upkeep;
mod views;

use std::collections::BTreeMap;

use latentfarm_common::digest::Digest;
use latentfarm_common::ids::JobId;
use latentfarm_common::queues::PRIORITIES;
use latentfarm_common::time::milliseconds;
use latentfarm_common::wire::outcome::Heartbeat;

use crate::farm::messages::{Control, Delivery, JobOrder, JobPhase, JobRecord, MadeForecast};
use forecast::WorkerRates;

/// So many jobs of one priority are on the dispatcher at a time, those that wait for memory or workers not
/// counted: enough to keep every worker busy over the ends of jobs.
const AT_A_TIME: usize = 16;

/// So many other jobs of the same video are looked at for what a job may take over.
const SAME_VIDEO: usize = 4;

/// A job's first forecast is recorded when one part in this number is rendered.
const FORECAST_AFTER: u64 = 10;

/// All jobs that the farm knows.
#[derive(Debug, Default)]
pub(super) struct Registry {
    jobs: BTreeMap<JobId, Entry>,
    last_number: u64,
    workers: WorkerRates,
}

/// What the farm knows of one job.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) order: JobOrder,
    pub(super) record: JobRecord,
    /// Whether the dispatcher has the job. It may still have one that is paused.
    pub(super) is_dispatched: bool,
    /// What the job waits for, if the dispatcher says that it waits.
    pub(super) waits_for: Option<String>,
    /// When the job came to the dispatcher, or the last time at which no more was rendered than then, and how many frames
    /// that were.
    rated_since: Option<(u64, u64)>,
}

/// Why a request about a job is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the farm has no job {0}")]
    NoSuchJob(JobId),
    #[error("job {job} is {phase} already: submit it again to render it again")]
    Over { job: JobId, phase: JobPhase },
    #[error("job {job} is {phase}: cancel it first")]
    NotOver { job: JobId, phase: JobPhase },
    #[error("a job cannot follow itself")]
    AfterItself,
    #[error("priority {0} is not between 0 and {max}", max = PRIORITIES - 1)]
    Priority(u8),
}

impl Registry {
    /// Adds a job that was stored by an earlier coordinator. One that was on its dispatcher waits for its turn
    /// again.
    pub(super) fn restore(&mut self, job: JobId, order: JobOrder, mut record: JobRecord) {
        if record.phase == JobPhase::Running {
            record.phase = JobPhase::Queued;
        }
        self.last_number = self.last_number.max(record.number);
        self.jobs.insert(job, Entry::new(order, record));
    }

    pub(super) fn get(&self, job: JobId) -> Result<&Entry, Refusal> {
        self.jobs.get(&job).ok_or(Refusal::NoSuchJob(job))
    }

    fn get_mut(&mut self, job: JobId) -> Result<&mut Entry, Refusal> {
        self.jobs.get_mut(&job).ok_or(Refusal::NoSuchJob(job))
    }

    /// Takes a job of `frames` output frames. One that ended without being complete is tried again; one that
    /// the farm has in any other phase stays as it is. Returns whether anything has changed.
    pub(super) fn submit(
        &mut self,
        job: JobId,
        frames: u64,
        order: JobOrder,
        now_ms: u64,
    ) -> Result<bool, Refusal> {
        if order.priority >= PRIORITIES {
            return Err(Refusal::Priority(order.priority));
        }
        if let Some(before) = order.after {
            self.get(before)?;
            if before == job {
                return Err(Refusal::AfterItself);
            }
        }
        let known = self.jobs.get(&job).map(|known| known.record.phase);
        if known.is_some_and(|phase| phase == JobPhase::Complete || !phase.is_over()) {
            return Ok(false);
        }
        self.last_number += 1;
        let record = JobRecord {
            number: self.last_number,
            phase: JobPhase::Queued,
            reason: None,
            priority: order.priority,
            submitted_ms: now_ms,
            begun_ms: None,
            ended_ms: None,
            frames,
            frames_done: 0,
            deadline_ms: order
                .deadline
                .map(|time| now_ms.saturating_add(milliseconds(time))),
            fetched_ms: None,
            forecast: None,
            delivery: if order.deliver.is_some() {
                Delivery::Wanted
            } else {
                Delivery::Fetched
            },
        };
        self.jobs.insert(job, Entry::new(order, record));
        Ok(true)
    }

    /// Carries out what an operator wants. Returns whether anything has changed.
    pub(super) fn control(&mut self, job: JobId, control: Control, now_ms: u64) -> Result<bool, Refusal> {
        if control == Control::Retry {
            return self.retry(job);
        }
        let entry = self.get_mut(job)?;
        let record = &mut entry.record;
        if record.phase.is_over() {
            let phase = record.phase;
            return Err(Refusal::Over { job, phase });
        }
        let before = (record.phase, record.priority);
        match control {
            Control::Pause => record.phase = JobPhase::Paused,
            Control::Resume if record.phase == JobPhase::Paused => {
                record.phase = if entry.is_dispatched {
                    JobPhase::Running
                } else {
                    JobPhase::Queued
                };
            }
            Control::Resume | Control::Retry => {}
            Control::Cancel => {
                record.phase = JobPhase::Cancelled;
                record.ended_ms = Some(now_ms);
                entry.waits_for = None;
            }
            Control::SetPriority(priority) if priority >= PRIORITIES => {
                return Err(Refusal::Priority(priority));
            }
            Control::SetPriority(priority) => record.priority = priority,
        }
        Ok(before != (record.phase, record.priority))
    }

    /// Lets a job that is over wait for its turn again. What is done of it stays done: of a complete one, what is damaged
    /// is rendered again.
    fn retry(&mut self, job: JobId) -> Result<bool, Refusal> {
        let number = self.last_number + 1;
        let entry = self.get_mut(job)?;
        match entry.record.phase {
            // Only its delivery is tried again.
            JobPhase::Complete if matches!(entry.record.delivery, Delivery::Failed { .. }) => {
                entry.record.delivery = Delivery::Wanted;
                return Ok(true);
            }
            phase if !phase.is_over() => return Ok(false),
            _ => {}
        }
        // Reports about the earlier attempt name its number.
        entry.is_dispatched = false;
        entry.record = JobRecord {
            number,
            phase: JobPhase::Queued,
            reason: None,
            begun_ms: None,
            ended_ms: None,
            forecast: None,
            ..entry.record.clone()
        };
        self.last_number = number;
        Ok(true)
    }

    /// Forgets a job that is over.
    pub(super) fn remove(&mut self, job: JobId) -> Result<(), Refusal> {
        let phase = self.get(job)?.record.phase;
        if !phase.is_over() {
            return Err(Refusal::NotOver { job, phase });
        }
        self.jobs.remove(&job);
        Ok(())
    }

    /// Why a job that waits for its turn has to wait for another job, if it has. One that is forgotten was over.
    fn held_by(&self, entry: &Entry) -> Option<String> {
        let before = entry
            .order
            .after
            .filter(|_| entry.record.phase == JobPhase::Queued)?;
        let phase = self.jobs.get(&before)?.record.phase;
        match phase {
            JobPhase::Complete => None,
            phase if phase.is_over() => Some(format!(
                "job {before}, which it follows, is {phase}: retry that one, or cancel this one"
            )),
            phase => Some(format!("job {before}, which it follows, is {phase}")),
        }
    }

    /// The newest jobs with this video besides `job`, of which that may take over segments and analyses.
    pub(super) fn with_video(&self, video: Digest, job: JobId) -> Vec<JobId> {
        let others = self
            .jobs
            .iter()
            .filter(|(id, entry)| entry.order.video == video && **id != job);
        let mut others: Vec<(u64, JobId)> = others.map(|(id, entry)| (entry.record.number, *id)).collect();
        others.sort_unstable_by(|one, other| other.cmp(one));
        others.into_iter().take(SAME_VIDEO).map(|(_, id)| id).collect()
    }

    /// The number of jobs that are not over.
    pub(super) fn open(&self) -> usize {
        let jobs = self.jobs.values();
        jobs.filter(|entry| !entry.record.phase.is_over()).count()
    }

    /// The jobs whose turn it is to come to the dispatcher, in order.
    pub(super) fn due(&self) -> Vec<JobId> {
        let mut room = [AT_A_TIME; PRIORITIES as usize];
        for entry in self.jobs.values() {
            let is_active = entry.is_dispatched && entry.record.phase == JobPhase::Running;
            if is_active && entry.waits_for.is_none() {
                let room = &mut room[usize::from(entry.record.priority)];
                *room = room.saturating_sub(1);
            }
        }
        let mut queued: Vec<(JobId, &JobRecord)> = self
            .jobs
            .iter()
            .filter(|(_, entry)| entry.record.phase == JobPhase::Queued && !entry.is_dispatched)
            .filter(|(_, entry)| self.held_by(entry).is_none())
            .map(|(job, entry)| (*job, &entry.record))
            .collect();
        queued.sort_by_key(|(_, record)| record.turn());
        queued.retain(|(_, record)| {
            let room = &mut room[usize::from(record.priority)];
            let is_due = *room > 0;
            *room = room.saturating_sub(1);
            is_due
        });
        queued.into_iter().map(|(job, _)| job).collect()
    }

    /// Records that a job comes to the dispatcher, and returns its record.
    pub(super) fn on_dispatched(&mut self, job: JobId, now_ms: u64) -> Result<&JobRecord, Refusal> {
        let entry = self.get_mut(job)?;
        entry.is_dispatched = true;
        entry.record.phase = JobPhase::Running;
        entry.record.begun_ms = Some(now_ms);
        entry.rated_since = Some((now_ms, entry.record.frames_done));
        Ok(&entry.record)
    }

    /// Returns a job that is on the dispatcher under this number. A report about an earlier submission of the
    /// same job is about nothing any more.
    fn dispatched(&mut self, job: JobId, number: u64) -> Option<&mut Entry> {
        let entry = self.jobs.get_mut(&job)?;
        (entry.is_dispatched && entry.record.number == number).then_some(entry)
    }

    /// Records how many frames of a job are rendered. The time before the first ones, in which its video is analysed and
    /// engines start, does not count towards its rate.
    pub(super) fn on_progress(&mut self, job: JobId, number: u64, frames_done: u64, now_ms: u64) {
        if let Some(entry) = self.dispatched(job, number) {
            entry.record.frames_done = frames_done;
            if let Some((since_ms, before)) = &mut entry.rated_since
                && *before == frames_done
            {
                *since_ms = now_ms;
            }
        }
    }

    /// Records the first forecast of each job of which a part is rendered. Returns the jobs whose records have changed.
    pub(super) fn record_forecasts(&mut self, now_ms: u64) -> Vec<JobId> {
        let is_due = |entry: &Entry| {
            let record = &entry.record;
            record.phase == JobPhase::Running
                && record.forecast.is_none()
                && record.frames_done * FORECAST_AFTER >= record.frames
        };
        if !self.jobs.values().any(is_due) {
            return Vec::new();
        }
        let forecast = self.forecast(now_ms);
        let mut made = Vec::new();
        for (job, entry) in self.jobs.iter_mut().filter(|(_, entry)| is_due(entry)) {
            if let Some(time) = forecast.of(*job) {
                entry.record.forecast = Some(MadeForecast {
                    made_ms: now_ms,
                    done_ms: now_ms.saturating_add(milliseconds(time)),
                });
                made.push(*job);
            }
        }
        made
    }

    /// Records what a worker reports of itself.
    pub(super) fn on_heartbeat(&mut self, heartbeat: &Heartbeat, now_ms: u64) {
        self.workers.note(heartbeat, now_ms);
    }

    /// Records what a job waits for, or that it waits no longer.
    pub(super) fn on_wait(&mut self, job: JobId, number: u64, waits_for: Option<String>) {
        if let Some(entry) = self.dispatched(job, number) {
            entry.waits_for = waits_for;
        }
    }

    /// Records that a job has left the dispatcher. A phase that is not over means that the coordinator ends,
    /// and the next one goes on with the job.
    pub(super) fn on_left(
        &mut self,
        job: JobId,
        number: u64,
        (phase, reason): (JobPhase, Option<String>),
        now_ms: u64,
    ) {
        let Some(entry) = self.dispatched(job, number) else {
            return;
        };
        entry.is_dispatched = false;
        entry.waits_for = None;
        // An operator who cancelled the job knows why it ended.
        if !entry.record.phase.is_over() {
            entry.record.phase = phase;
            entry.record.reason = reason;
            entry.record.ended_ms = phase.is_over().then_some(now_ms);
        }
    }
}

impl Entry {
    fn new(order: JobOrder, record: JobRecord) -> Self {
        Self {
            order,
            record,
            is_dispatched: false,
            waits_for: None,
            rated_since: None,
        }
    }
}

#[cfg(test)]
mod tests;
