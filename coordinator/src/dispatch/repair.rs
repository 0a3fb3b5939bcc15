//! Repairs the differences between the chunks of a job and the queue. The dispatcher does so every minute.

use latentfarm_common::error::one_line;

use super::job::Job;
use super::publisher::TaskPublisher;
use super::reconcile::{Repair, compare};
use super::workers::Workers;
use crate::job::chunk::event::ChunkEvent;

/// Compares the states with the queue: chunks that are neither done nor queued (missing = manifest - done -
/// queued) go back to the backlog. If the farm does not answer, the next minute's comparison repairs it.
pub(super) async fn repair(job: &mut Job, publisher: &TaskPublisher, workers: &Workers) {
    let view = match publisher.view(job, workers).await {
        Ok(view) => view,
        Err(error) => {
            let error = one_line(&error);
            tracing::warn!(
                error,
                "cannot read the queue to compare it with the chunks, trying again in a minute"
            );
            return;
        }
    };
    for repair in compare(&job.chunks, &view) {
        match repair {
            Repair::Remove { chunk } => publisher.remove_tasks(chunk).await,
            Repair::Lost { chunk, attempt } => {
                // If the chunk was done after the queue was read, its record is on its way here.
                let recorded = publisher.link.record(chunk).await;
                if matches!(recorded, Ok(None)) {
                    job.apply(chunk, ChunkEvent::QueueLost { attempt });
                }
            }
        }
    }
}
