//! What the coordinator does so that neither the store nor the list of jobs grows without end.

use std::time::Duration;

use latentfarm_common::error::one_line;
use latentfarm_common::time::milliseconds;
use tokio::task::JoinError;
use tokio::time::Instant;

use super::{Coordinator, now_ms};
use crate::farm::messages::FarmReply;
use crate::farm::sweep::{Reason, SweepError, Swept, sweep};
/// How often the room of the store is looked at.
const LOOK_AT_ROOM: Duration = Duration::from_secs(10);
/// How often blobs that no job needs are removed although there is room.
const SWEEP_INTERVAL: Duration = Duration::from_mins(10);
/// Whoever asked for room stores the first blobs of a job for this long at most. Until then nothing is removed that the
/// job may share.
const COMING_LIMIT: Duration = Duration::from_mins(10);

impl Coordinator<'_> {
    /// Forgets the jobs that ended longer ago than history is kept. What cannot be forgotten now is tried again.
    pub(super) async fn forget_old(&mut self) {
        if !self.farm.connection.is_up() || !self.lease.is_held() {
            return;
        }
        for job in self.registry.ended_before(before(self.retention.history)) {
            if let FarmReply::Refused { reason } = self.delete(job).await {
                tracing::warn!(%job, reason, "an old job cannot be forgotten yet");
                return;
            }
        }
    }

    /// Begins a sweep of the store when it is time or room is short, unless one is under way.
    pub(super) fn look_after_store(&mut self) {
        let now = Instant::now();
        let is_due = now >= self.next_sweep;
        if now < self.next_look || !self.sweeps.is_empty() || !self.lease.is_held() {
            return;
        }
        self.next_look = now + LOOK_AT_ROOM;
        if is_due {
            self.next_sweep = now + SWEEP_INTERVAL;
        }
        self.coming.retain(|_, since| now - *since < COMING_LIMIT);
        let reason = Reason {
            is_due,
            may_take_spare: self.coming.is_empty(),
            wanted_bytes: std::mem::take(&mut self.wanted_bytes),
        };
        let jobs = self.registry.swept(before(self.retention.results));
        let farm = self.farm.clone();
        self.sweeps.spawn(async move { sweep(&farm, jobs, reason).await });
    }

    /// Logs what a sweep of the store has done.
    pub(super) fn on_swept(swept: Result<Result<Swept, SweepError>, JoinError>) {
        match swept {
            Ok(Ok(Swept { objects: 0, .. })) => {}
            Ok(Ok(Swept { objects, bytes })) => {
                tracing::info!(
                    objects,
                    mib = bytes >> 20,
                    "removed from the store what no job needs"
                );
            }
            Ok(Err(error)) => tracing::warn!(
                error = one_line(&error),
                "the store cannot be swept, trying again later"
            ),
            Err(panicked) => tracing::error!(error = one_line(&panicked), "the sweep of the store failed"),
        }
    }
}

/// Returns the time so long ago, in milliseconds since the Unix epoch.
fn before(age: Duration) -> u64 {
    now_ms().saturating_sub(milliseconds(age))
}
