//! What follows from the verification of a done record.

use std::sync::Arc;

use latentfarm_common::wire::outcome::{DoneRecord, FrameObservation};
use tokio::time::Instant;

use super::dispatcher::Dispatcher;
use super::verify::Verdict;

impl Dispatcher<'_> {
    /// Takes the result of verifying a record.
    pub(super) async fn on_verdict(&mut self, verdict: Verdict) {
        let Verdict {
            record,
            sequence,
            result,
        } = verdict;
        let Some(job) = self.jobs.get_mut(&record.chunk.job) else {
            return;
        };
        if let Some(known) = job.chunks.get_mut(record.chunk) {
            known.being_verified = false;
        }
        let needed = &job.settings.needed_tags;
        let could_help = self.workers.could_help(&record.worker, needed);
        let weighed = job.weigh(result, &record, could_help);
        if weighed.is_ok() && self.begin_spot_check(&record, sequence).await {
            return;
        }
        self.settle_result(record, sequence, weighed).await;
    }

    /// Counts a record, or retracts it for the reason in `result`.
    pub(super) async fn settle_result(
        &mut self,
        record: Arc<DoneRecord>,
        sequence: u64,
        result: Result<Vec<FrameObservation>, String>,
    ) {
        let (chunk, epoch) = (record.chunk, self.lease.epoch());
        let Some(job) = self.jobs.get_mut(&chunk.job) else {
            return;
        };
        match result.and_then(|observations| job.count(&record, observations, epoch)) {
            Ok(has_task) => {
                if record.attempt.epoch == epoch {
                    self.workers.record_success(&record.worker, chunk, Instant::now());
                    let predicted = &job.settings.needs;
                    for oom in record.memory.iter().flat_map(|used| &used.shortages) {
                        self.estimator.observe_oom(&job.spec.model, predicted, oom);
                    }
                    self.estimator.observe_done(&job.spec.model, &record);
                }
                let backup = job.chunks.get_mut(chunk).and_then(|known| known.backup.take());
                if backup.is_some() {
                    self.publisher.end_backup(chunk).await;
                } else if has_task {
                    self.publisher.remove_tasks(chunk).await;
                }
                job.notify_progress(&self.workers);
                self.sharer.share(&mut self.jobs, &record);
            }
            Err(reason) => {
                let failed = (chunk, &job.settings.needed_tags);
                self.workers
                    .record_failure(&record.worker, failed, &reason, Instant::now());
                let result = (record.attempt, Some(record.worker.clone()));
                job.retract(chunk, sequence, result, reason);
                job.give_up_if_failing(chunk, &self.workers, &self.estimator);
                self.publisher.retract_pending(job, self.lease).await;
            }
        }
    }
}
