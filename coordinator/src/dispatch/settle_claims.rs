//! Decides whether a done record is that of the worker that it names, before it is verified. The dispatcher calls this
//! for each record of the done log, and again when the worker reports.
//!
//! The worker's key must have signed the record, and the worker must have reported that it began the attempt; what an
//! earlier coordinator gave out is not known to this one, so there the signature is enough, and so it is for what counted
//! before the job left the dispatcher and came back. A report may arrive after
//! the record, so a record waits for it for [`Timeouts::report_wait`](super::settings::Timeouts), and is then rejected.
//! A rejected record is removed from the log; its chunk is done by an honest record, or again.

use std::sync::Arc;

use latentfarm_common::ids::{ChunkId, WorkKind, WorkerId};
use latentfarm_common::nats::done::DoneEntry;
use latentfarm_common::nats::signature::Signature;
use latentfarm_common::wire::WireError;
use latentfarm_common::wire::outcome::DoneRecord;
use tokio::time::Instant;

use super::claim::Claim;
use super::dispatcher::Dispatcher;
use super::signers::Authorship;

/// Whether a claim holds.
enum Ruling {
    Holds,
    /// A report that is still to come may show it.
    Open(String),
    Rejected(String),
}

impl Dispatcher<'_> {
    pub(super) async fn on_done(&mut self, entry: DoneEntry) {
        let DoneEntry {
            chunk,
            sequence,
            record,
            signature,
        } = entry;
        let record = if is_beside_the_job(chunk) {
            match record {
                Ok(record) => Some(record),
                Err(error) => {
                    Box::pin(self.on_repeated(chunk, sequence, Err(error))).await;
                    return;
                }
            }
        } else {
            let Some(job) = self.jobs.get_mut(&chunk.job) else {
                return;
            };
            let record = job.on_done_record(chunk, sequence, record);
            if record.is_none() {
                self.publisher.retract_pending(job, self.lease).await;
            }
            record
        };
        if let Some(record) = record {
            let until = Instant::now() + self.settings.timeouts.report_wait;
            self.settle(Claim {
                chunk,
                sequence,
                record,
                signature,
                until,
            })
            .await;
        }
    }

    /// Looks again at the records of a worker that has just reported.
    pub(super) async fn settle_claims_of(&mut self, worker: &WorkerId) {
        let of_worker = self.claims.extract_if(.., |claim| claim.record.worker == *worker);
        for claim in of_worker.collect::<Vec<_>>() {
            self.settle(claim).await;
        }
    }

    /// Rejects the records whose time is over. During an outage no report can come.
    pub(super) async fn settle_overdue_claims(&mut self, now: Instant) {
        if !self.link.is_up() {
            for claim in &mut self.claims {
                claim.until = now + self.settings.timeouts.report_wait;
            }
            return;
        }
        let overdue = self.claims.extract_if(.., |claim| claim.until <= now);
        for claim in overdue.collect::<Vec<_>>() {
            self.settle(claim).await;
        }
    }

    /// Verifies a record if it is its worker's, rejects it if not, and keeps it while that is not known.
    async fn settle(&mut self, claim: Claim) {
        let is_overdue = claim.until <= Instant::now();
        match self.ruling(&claim) {
            Ruling::Holds => self.accept(claim).await,
            Ruling::Open(_) if !is_overdue => self.claims.push(claim),
            Ruling::Open(reason) | Ruling::Rejected(reason) => self.reject(&claim, reason).await,
        }
    }

    fn ruling(&self, claim: &Claim) -> Ruling {
        let (worker, attempt) = (&claim.record.worker, claim.record.attempt);
        match self.signers.author(worker, &claim.signature) {
            Authorship::Worker => {}
            Authorship::Coordinator => return Ruling::Holds,
            Authorship::Unknown(reason) => return Ruling::Open(reason),
            Authorship::Other(reason) => return Ruling::Rejected(reason),
        }
        // What an earlier coordinator gave out, and what this one has judged before the job left and came back.
        let judged = self.judged.get(&claim.chunk.job);
        let is_judged = judged.is_some_and(|judged| judged.contains(claim.sequence));
        let is_earlier = is_judged || attempt.epoch < self.lease.epoch();
        let known = self
            .jobs
            .get(&claim.chunk.job)
            .and_then(|job| job.chunks.get(claim.chunk));
        let has_begun = known.is_none_or(|known| known.holders.has(worker, attempt));
        if is_earlier || has_begun {
            Ruling::Holds
        } else {
            Ruling::Open(format!(
                "{worker} has not reported that it began attempt {attempt}"
            ))
        }
    }

    async fn accept(&mut self, claim: Claim) {
        let (chunk, record) = (claim.chunk, claim.record);
        if is_beside_the_job(chunk) {
            Box::pin(self.on_repeated(chunk, claim.sequence, Ok(record))).await;
            return;
        }
        // The job may have ended meanwhile.
        let job = self.jobs.get_mut(&chunk.job);
        if let Some(unverified) = job.and_then(|job| job.prepare_to_verify(record, claim.sequence)) {
            self.verifier.start(unverified);
        }
    }

    async fn reject(&mut self, claim: &Claim, reason: String) {
        let (chunk, sequence, worker) = (claim.chunk, claim.sequence, &claim.record.worker);
        let key = match &claim.signature {
            Signature::By(key) => key.to_string(),
            Signature::Missing | Signature::Invalid(_) => "none that fits".to_owned(),
        };
        tracing::warn!(%chunk, %worker, key, reason, "a result is not accepted as that of the worker that it names");
        let Some(job) = self.jobs.get_mut(&chunk.job) else {
            return;
        };
        job.reject(chunk, sequence, reason);
        self.publisher.retract_pending(job, self.lease).await;
        if is_beside_the_job(chunk) {
            // The comparison waits for the record of the machine that has the task, and is given up without one.
            self.publisher.retract(chunk, sequence, self.lease).await;
        }
    }

    /// Takes the result of rendering something again.
    async fn on_repeated(&mut self, chunk: ChunkId, sequence: u64, record: Result<DoneRecord, WireError>) {
        if chunk.work == WorkKind::Border {
            self.on_border_record(chunk, record);
        } else {
            let record = record.map(Arc::new);
            self.on_spot_check_record(chunk, sequence, record).await;
        }
    }
}

/// Whether a record is about something that is rendered again, and so not about a chunk of a job.
fn is_beside_the_job(chunk: ChunkId) -> bool {
    match chunk.work {
        WorkKind::Border | WorkKind::SpotCheck => true,
        WorkKind::Analyze | WorkKind::Render => false,
    }
}
