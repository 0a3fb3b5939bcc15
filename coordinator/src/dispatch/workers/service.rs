//! Which workers are in service: those that take tasks, are not unfit by their own report, and are not set aside.

use std::collections::BTreeSet;

use latentfarm_common::ids::{ChunkId, WorkerId};
use latentfarm_common::tags::Tags;
use latentfarm_common::wire::memory::DeviceKind;
use latentfarm_common::wire::outcome::{Heartbeat, WorkerState};
use tokio::time::Instant;

use super::health::SetAside;
use super::{Unfit, WorkerRecord, Workers, takes_tasks};
use crate::placement::WorkerCapacity;

impl WorkerRecord {
    /// The last heartbeat of a worker that rests by its own settings, and that nothing else keeps from its work.
    fn resting(&self) -> Option<&Heartbeat> {
        let heartbeat = self.heartbeat.as_ref()?;
        let is_fit = self.unfit.is_none() && !self.is_set_aside;
        (heartbeat.state == WorkerState::Resting && is_fit).then_some(heartbeat)
    }
}

impl Workers {
    /// Records that a worker reported that it is unfit for a task.
    pub(in crate::dispatch) fn record_unfit(&mut self, worker: &WorkerId, message: &str, now: Instant) {
        let known = self.mark_seen(worker, now);
        let is_new = known.unfit.is_none();
        known.unfit = Some(Unfit {
            message: message.to_owned(),
            finished: known.heartbeat.as_ref().map_or(0, |heartbeat| heartbeat.finished),
        });
        if is_new {
            self.newly_set_aside.push(SetAside {
                worker: worker.clone(),
                reason: message.to_owned(),
                pause: None,
            });
        }
    }

    /// Takes from a heartbeat whether its worker is fit. One that has finished a task since it was unfit is fit again, and
    /// one that was started anew may be: it has a try.
    pub(super) fn note_service(&mut self, heartbeat: &Heartbeat, now: Instant) {
        let worker = &heartbeat.worker;
        let known = self.mark_seen(worker, now);
        let shows_fit = |unfit: &mut Unfit| {
            heartbeat.finished > unfit.finished || heartbeat.state == WorkerState::Starting
        };
        known.unfit.take_if(shows_fit);
        let is_unfit = known.unfit.is_some();
        if heartbeat.state == WorkerState::Starting && self.health.end_pause(worker) {
            self.mirror_pauses(now);
        }
        if let (WorkerState::Unfit, Some(problem), false) = (heartbeat.state, &heartbeat.problem, is_unfit) {
            self.record_unfit(worker, problem, now);
        }
    }

    /// Whether a worker has reported, and is not lost.
    #[cfg(test)]
    pub(in crate::dispatch) fn knows(&self, worker: &WorkerId) -> bool {
        self.known.contains_key(worker)
    }

    /// Whether there is another worker that can be given what this one fails of a job that needs these tags.
    pub(in crate::dispatch) fn could_help(&self, worker: &WorkerId, needed: &Tags) -> bool {
        let mut others = self.known.iter().filter(|(other, _)| *other != worker);
        others.any(|(_, known)| known.is_usable() && known.has(needed))
    }

    /// Records that an attempt at a chunk, whose job needs these tags, failed on a worker, by the worker's fault or by the
    /// chunk's.
    pub(in crate::dispatch) fn record_failure(
        &mut self,
        worker: &WorkerId,
        (chunk, needed): (ChunkId, &Tags),
        reason: &str,
        now: Instant,
    ) {
        let could_help = self.could_help(worker, needed);
        let failed = (chunk, needed);
        let judged = self
            .health
            .record_failure(worker, failed, reason, could_help, now);
        self.take_out(judged, now);
    }

    /// Records that a worker's result was shown to be wrong.
    pub(in crate::dispatch) fn record_wrong_result(&mut self, worker: &WorkerId, reason: &str, now: Instant) {
        let judged = self.health.record_wrong_result(worker, reason, now);
        self.take_out([judged], now);
    }

    /// Whether a result of the worker was shown to be wrong, and its pause is not over.
    pub(in crate::dispatch) fn gives_wrong_results(&self, worker: &WorkerId) -> bool {
        self.health.gives_wrong_results(worker)
    }

    /// Records that a worker finished a chunk.
    pub(in crate::dispatch) fn record_success(&mut self, worker: &WorkerId, chunk: ChunkId, now: Instant) {
        let heartbeat = self.known.get(worker).and_then(|known| known.heartbeat.as_ref());
        let tags = heartbeat.map_or(Tags::NONE, |heartbeat| heartbeat.tags.clone());
        let judged = self.health.record_success((worker, &tags), chunk, now);
        self.take_out(judged, now);
    }

    /// Takes workers back whose pauses are over.
    pub(in crate::dispatch) fn end_pauses(&mut self, now: Instant) {
        if self.health.end_pauses(now) {
            self.mirror_pauses(now);
        }
    }

    fn take_out(&mut self, judged: impl IntoIterator<Item = SetAside>, now: Instant) {
        let before = self.newly_set_aside.len();
        self.newly_set_aside.extend(judged);
        if self.newly_set_aside.len() > before {
            self.mirror_pauses(now);
        }
    }

    fn mirror_pauses(&mut self, now: Instant) {
        for (worker, known) in &mut self.known {
            known.is_set_aside = self.health.set_aside(worker, now).is_some();
        }
        self.changed = true;
    }

    /// The workers that went out of service since the last call.
    pub(in crate::dispatch) fn take_set_aside(&mut self) -> Vec<SetAside> {
        std::mem::take(&mut self.newly_set_aside)
    }

    /// Why the coordinator gives a worker no task, and for how long still; `None` if it does.
    pub(in crate::dispatch) fn set_aside(&self, worker: &WorkerId, now: Instant) -> Option<SetAside> {
        self.health.set_aside(worker, now)
    }

    /// Whether a worker is unfit or set aside.
    pub(in crate::dispatch) fn is_out(&self, worker: &WorkerId) -> bool {
        let known = self.known.get(worker);
        known.is_some_and(|known| known.unfit.is_some() || known.is_set_aside)
    }

    /// The workers with the `needed` tags that are unfit or set aside, with the reasons.
    pub(in crate::dispatch) fn out_of_service(&self, needed: &Tags, now: Instant) -> Vec<SetAside> {
        let unfit = |(worker, known): (&WorkerId, &WorkerRecord)| {
            let unfit = known.unfit.as_ref()?;
            Some(SetAside {
                worker: worker.clone(),
                reason: unfit.message.clone(),
                pause: None,
            })
        };
        let out = |entry: (&WorkerId, &WorkerRecord)| self.set_aside(entry.0, now).or_else(|| unfit(entry));
        let own = self.known.iter().filter(|(_, known)| known.has(needed));
        own.filter_map(out).collect()
    }

    /// The workers with the `needed` tags that rest by their own settings, with the reasons.
    pub(in crate::dispatch) fn resting(&self, needed: &Tags) -> Vec<(WorkerId, String)> {
        let own = self.known.iter().filter(|(_, known)| known.has(needed));
        let resting = |(worker, known): (&WorkerId, &WorkerRecord)| {
            let heartbeat = known.resting()?;
            Some((worker.clone(), heartbeat.problem.clone().unwrap_or_default()))
        };
        own.filter_map(resting).collect()
    }

    /// Whether a worker with the `needed` tags that rests could offer this much if nothing else ran on its machine.
    pub(in crate::dispatch) fn any_resting_with(
        &self,
        (kind, mib): (DeviceKind, u64),
        needed: &Tags,
    ) -> bool {
        let own = self.known.values().filter(|known| known.has(needed));
        let mut resting = own.filter_map(WorkerRecord::resting);
        resting.any(|heartbeat| heartbeat.capacity.of(kind) >= Some(mib))
    }

    /// The number of workers with the `needed` tags that accept tasks or soon will.
    pub(in crate::dispatch) fn live(&self, needed: &Tags) -> usize {
        let is_live = |known: &&WorkerRecord| known.state().is_none_or(takes_tasks) && !known.is_set_aside;
        let own = self.known.values().filter(|known| known.has(needed));
        own.filter(is_live).count()
    }

    /// The workers with the `needed` tags that can take a task, now or when they have finished those that they hold.
    fn usable(&self, needed: &Tags) -> impl Iterator<Item = (&WorkerId, &WorkerRecord)> {
        let known = self.known.iter();
        known.filter(|(_, known)| known.is_usable() && known.has(needed))
    }

    /// Whether there is a usable worker with the `needed` tags.
    pub(in crate::dispatch) fn any_usable(&self, needed: &Tags) -> bool {
        self.usable(needed).next().is_some()
    }

    /// The number of usable workers with the `needed` tags that hold no task.
    pub(in crate::dispatch) fn idle(&self, needed: &Tags) -> usize {
        self.usable(needed).filter(|(_, known)| !known.is_busy()).count()
    }

    /// The usable workers with the `needed` tags that have the host memory for face analysis, or may have it after their
    /// task.
    pub(in crate::dispatch) fn analyzers(&self, needed: &Tags) -> BTreeSet<WorkerId> {
        let analyzes = |(worker, known): (&WorkerId, &WorkerRecord)| {
            let heartbeat = known.heartbeat.as_ref();
            let has_memory = known.is_busy() || heartbeat.is_none_or(|heartbeat| heartbeat.available.analyze);
            has_memory.then(|| worker.clone())
        };
        self.usable(needed).filter_map(analyzes).collect()
    }

    /// The memory that each usable worker with the `needed` tags offers to render tasks.
    pub(in crate::dispatch) fn healthy_capacities(&self, needed: &Tags) -> Vec<WorkerCapacity> {
        let usable = self.usable(needed);
        usable.filter_map(|(_, known)| known.machine()).collect()
    }
}
