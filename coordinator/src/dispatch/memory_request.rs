//! Asks the farm's idle workers to end their engines while a chunk waits for memory. An idle engine counts as
//! free for its own worker only: on a machine with several workers it may hold what another one's chunk
//! needs. The dispatcher asks on each tick.

use std::time::Duration;

use latentfarm_common::wire::outcome::WorkerCommand;
use tokio::time::Instant;

use super::farm_link::FarmLink;

/// A worker that was busy gets the next request, so they are repeated.
const INTERVAL: Duration = Duration::from_secs(10);

/// The requests of one coordinator.
#[derive(Debug, Default)]
pub(super) struct MemoryRequests {
    next: Option<Instant>,
}

impl MemoryRequests {
    /// Sends a request if memory `is_wanted` and none was sent a moment ago.
    pub(super) async fn send_if_due(&mut self, link: &dyn FarmLink, is_wanted: bool, now: Instant) {
        if !is_wanted || self.next.is_some_and(|next| now < next) {
            return;
        }
        self.next = Some(now + INTERVAL);
        let sent = link.command(None, WorkerCommand::FreeMemory).await.is_ok();
        tracing::debug!(
            sent,
            "asked idle workers to end their engines, as a chunk waits for memory"
        );
    }
}
