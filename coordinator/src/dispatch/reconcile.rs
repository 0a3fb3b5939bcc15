//! Compares the states of chunks with what the queue holds. The dispatcher does so every minute, because
//! tasks may be lost or doubled; the manifest and the done log say which chunks are still needed.

use std::collections::BTreeSet;

use latentfarm_common::ids::{Attempt, ChunkId};

use crate::job::chunks::Chunks;

/// What the queue and the workers held at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct QueueView {
    /// The chunks with a task in the queue, waiting or running.
    pub queued: BTreeSet<ChunkId>,
    /// Those of them whose consumer has no task to deliver and none in delivery, so that no worker gets them
    /// any more.
    pub stranded: BTreeSet<ChunkId>,
    /// The chunks that the heartbeat of a live worker names.
    pub held: BTreeSet<ChunkId>,
}

/// A difference between the states and the queue that has to be repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Repair {
    /// No worker runs the chunk, and none will get its task.
    Lost { chunk: ChunkId, attempt: Attempt },
    /// The queue holds a task of a chunk that needs none.
    Remove { chunk: ChunkId },
}

/// Finds the repairs for one job. Once they are made, another call finds none.
pub(super) fn compare(chunks: &Chunks, view: &QueueView) -> Vec<Repair> {
    let repairs = chunks.iter().filter_map(|record| {
        let (chunk, attempt) = (record.id, record.state().attempt);
        let (queued, held) = (view.queued.contains(&chunk), view.held.contains(&chunk));
        let reachable = queued && !view.stranded.contains(&chunk);
        if !record.state().is_under_way() {
            return (queued && !held).then_some(Repair::Remove { chunk });
        }
        let is_lost = !reachable && !held && !record.being_verified;
        is_lost.then_some(Repair::Lost { chunk, attempt })
    });
    repairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::chunk::event::ChunkEvent;
    use crate::job::chunk::state::Step;
    use latentfarm_common::digest::Digest;
    use latentfarm_common::ids::{JobId, WorkKind};
    use latentfarm_common::time::FrameRange;
    use proptest::prelude::*;

    fn job() -> JobId {
        JobId::from_digest(&Digest::of(b"job"))
    }

    fn chunk(index: u32) -> ChunkId {
        ChunkId {
            job: job(),
            work: WorkKind::Render,
            index,
        }
    }

    /// Render chunks, each waiting, in the backlog, queued or running.
    fn chunks(kinds: &[u8]) -> Chunks {
        let ranges = (0_u64..).map(|n| FrameRange::new(n * 16, n * 16 + 16));
        let mut chunks = Chunks::new(job(), Vec::new(), ranges.take(kinds.len()).collect());
        let attempt = Attempt::default();
        let worker = "w1".parse::<latentfarm_common::ids::WorkerId>().unwrap();
        for (index, kind) in (0_u32..).zip(kinds) {
            let events = [
                ChunkEvent::Released,
                ChunkEvent::Enqueued { attempt },
                ChunkEvent::Started {
                    attempt,
                    worker: worker.clone(),
                },
            ];
            for event in events.into_iter().take(usize::from(*kind)) {
                let record = chunks.get_mut(chunk(index)).unwrap();
                assert!(matches!(record.apply(event), Step::Moved(_)));
            }
        }
        chunks
    }

    fn some(flags: &[bool]) -> BTreeSet<ChunkId> {
        (0_u32..)
            .zip(flags)
            .filter(|(_, flag)| **flag)
            .map(|(index, _)| chunk(index))
            .collect()
    }

    proptest! {
        #[test]
        fn repairing_twice_changes_nothing(
            kinds in prop::collection::vec(0_u8..4, 1..12),
            queued in prop::collection::vec(any::<bool>(), 12),
            stranded in prop::collection::vec(any::<bool>(), 12),
            held in prop::collection::vec(any::<bool>(), 12),
        ) {
            let mut chunks = chunks(&kinds);
            let mut view = QueueView {
                queued: some(&queued[..kinds.len()]),
                stranded: some(&stranded[..kinds.len()]),
                held: some(&held[..kinds.len()]),
            };
            for repair in compare(&chunks, &view) {
                match repair {
                    Repair::Lost { chunk, attempt } => {
                        view.queued.remove(&chunk);
                        view.stranded.remove(&chunk);
                        chunks.get_mut(chunk).unwrap().apply(ChunkEvent::QueueLost { attempt });
                    }
                    Repair::Remove { chunk } => {
                        view.queued.remove(&chunk);
                    }
                }
            }
            prop_assert_eq!(compare(&chunks, &view), []);
        }
    }

    #[test]
    fn a_task_that_vanished_or_stranded_is_lost_unless_a_worker_has_it() {
        let mut chunks = chunks(&[2, 2, 3, 3, 2]);
        chunks.get_mut(chunk(4)).unwrap().being_verified = true;
        let view = QueueView {
            queued: [chunk(0), chunk(1)].into(),
            stranded: [chunk(1)].into(),
            held: [chunk(3)].into(),
        };
        let attempt = Attempt::default();
        let lost = |index| Repair::Lost {
            chunk: chunk(index),
            attempt,
        };
        assert_eq!(compare(&chunks, &view), [lost(1), lost(2)]);
    }

    #[test]
    fn tasks_that_nobody_needs_are_removed() {
        let chunks = chunks(&[0, 1]);
        let view = QueueView {
            queued: [chunk(0), chunk(1)].into(),
            held: [chunk(1)].into(),
            ..QueueView::default()
        };
        assert_eq!(compare(&chunks, &view), [Repair::Remove { chunk: chunk(0) }]);
    }
}
