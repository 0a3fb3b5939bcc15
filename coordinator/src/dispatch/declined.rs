//! What follows when workers have given a task back again and again because they lack one of the tags that it needs. The
//! dispatcher calls this for each event.

use latentfarm_common::wire::outcome::{Event, EventKind};

use super::dispatcher::Dispatcher;
use super::placer::Reassignment;
use crate::job::chunk::state::Phase;

impl Dispatcher<'_> {
    /// Has a task published anew that was given back before it was begun, and of which the server was to make its last
    /// delivery. A worker that leaves reports the same of a task that it has begun, which stays in the queue.
    pub(super) async fn renew_declined(&mut self, event: &Event) {
        let Some(job) = self.jobs.get(&event.chunk.job) else {
            return;
        };
        let is_queued = job.chunks.get(event.chunk).is_some_and(|record| {
            let state = record.state();
            state.phase == Phase::Queued && state.attempt == event.attempt
        });
        if event.kind == EventKind::Released && is_queued && !job.settings.needed_tags.is_empty() {
            let declined = Reassignment {
                chunk: event.chunk,
                why: format!(
                    "workers without all of the tags {} took it again and again",
                    job.settings.needed_tags
                ),
            };
            self.publisher.reassign(&mut self.jobs, vec![declined]).await;
        }
    }
}
