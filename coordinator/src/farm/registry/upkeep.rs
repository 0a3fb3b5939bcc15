//! What the upkeep of the store and of the list asks about the jobs.

use latentfarm_common::ids::JobId;

use super::{Entry, Refusal, Registry};
use crate::farm::messages::{Delivery, JobPhase, JobRecord, JobView};
use crate::farm::sweep::SweptJob;

impl Registry {
    /// Returns a complete job whose output is still to be written at the coordinator, the name of the file, and whether
    /// that was begun before.
    pub(in crate::farm) fn next_delivery(&self, now_ms: u64) -> Option<(JobView, String, bool)> {
        let is_due = |entry: &&Entry| {
            let is_open = matches!(entry.record.delivery, Delivery::Wanted | Delivery::Begun);
            is_open && entry.record.phase == JobPhase::Complete
        };
        let (job, entry) = self.jobs.iter().find(|(_, entry)| is_due(entry))?;
        let view = self.view(*job, now_ms).ok()?;
        let has_begun = entry.record.delivery == Delivery::Begun;
        Some((view, entry.order.deliver.clone()?, has_begun))
    }

    /// Records what has become of a job's output. Returns whether the job is there.
    pub(in crate::farm) fn set_delivery(&mut self, job: JobId, delivery: Delivery) -> bool {
        self.jobs.get_mut(&job).is_some_and(|entry| {
            entry.record.delivery = delivery;
            true
        })
    }

    /// Records that the output of a complete job is where it is wanted. Returns whether that is new.
    pub(in crate::farm) fn on_fetched(&mut self, job: JobId, now_ms: u64) -> Result<bool, Refusal> {
        let record = &mut self.get_mut(job)?.record;
        let is_new = record.phase == JobPhase::Complete && record.fetched_ms.is_none();
        if is_new {
            record.fetched_ms = Some(now_ms);
        }
        Ok(is_new)
    }

    /// Notes that a part of the result of a complete job is no longer stored.
    pub(in crate::farm) fn on_lost(&mut self, job: JobId) {
        let Ok(Entry { order, record, .. }) = self.get_mut(job) else {
            return;
        };
        if record.phase == JobPhase::Complete {
            record.phase = JobPhase::Incomplete;
            record.reason = Some("a part of its result is no longer stored".to_owned());
            record.fetched_ms = None;
            if order.deliver.is_some() {
                record.delivery = Delivery::Wanted;
            }
        }
    }

    /// The bytes that the jobs which are not over may still store.
    pub(in crate::farm) fn outstanding_bytes(&self) -> u64 {
        let open = self.jobs.values().filter(|entry| !entry.record.phase.is_over());
        open.map(|entry| {
            let (order, record) = (&entry.order, &entry.record);
            let left = record.frames.saturating_sub(record.frames_done);
            let results =
                u128::from(order.result_bytes) * u128::from(left) / u128::from(record.frames.max(1));
            // The inputs of a job are stored before its last frames are rendered.
            let inputs = if record.frames_done == 0 {
                order.input_bytes
            } else {
                0
            };
            inputs.saturating_add(u64::try_from(results).unwrap_or(u64::MAX))
        })
        .fold(0, u64::saturating_add)
    }

    /// All jobs as the sweep of the store sees them. The results of those that ended before `expiry_ms` are not kept.
    pub(in crate::farm) fn swept(&self, expiry_ms: u64) -> Vec<SweptJob> {
        let swept = self.jobs.iter().map(|(job, Entry { record, .. })| SweptJob {
            job: *job,
            phase: record.phase,
            ended_ms: record.ended_ms.unwrap_or(u64::MAX),
            is_fetched: record.fetched_ms.is_some(),
            is_expired: record.phase.is_over() && record.ended_ms.is_some_and(|ended| ended < expiry_ms),
        });
        swept.collect()
    }

    /// The jobs that ended before this time.
    pub(in crate::farm) fn ended_before(&self, expiry_ms: u64) -> Vec<JobId> {
        let ended =
            |record: &JobRecord| record.phase.is_over() && record.ended_ms.is_some_and(|at| at < expiry_ms);
        let jobs = self.jobs.iter().filter(|(_, entry)| ended(&entry.record));
        jobs.map(|(job, _)| *job).collect()
    }
}
