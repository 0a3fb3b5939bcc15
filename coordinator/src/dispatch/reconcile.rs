//! Compares what is believed with what the queue holds. Tasks are hints: they may be lost or doubled, and are
//! derived anew from the manifest and the done log.

use std::collections::BTreeSet;

use latentfarm_common::ids::{ChunkId, JobId, Work};

use crate::job::attempt::Attempt;
use crate::job::chunk::ChunkState;
use crate::job::state::JobState;

/// What is known about the queue at one moment.
#[derive(Clone, Debug, Default)]
pub struct QueueView {
    /// Chunks with a task in the queue, waiting or running.
    pub queued: BTreeSet<ChunkId>,
    /// Those whose lane says that it has nothing to hand out and nothing in hand: nobody gets them any more.
    pub stranded: BTreeSet<ChunkId>,
    /// Chunks that a live worker says it is at work on.
    pub held: BTreeSet<ChunkId>,
    /// Chunks with a done record that is being verified.
    pub in_check: BTreeSet<ChunkId>,
}

/// What to mend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Repair {
    /// No one works on it, and no one will.
    Lost { chunk: ChunkId, attempt: Attempt },
    /// A task that nobody needs any more.
    Remove { chunk: ChunkId },
}

/// The repairs for one job. With the repairs done, there are none.
pub fn compare(job: JobId, state: &JobState, view: &QueueView) -> Vec<Repair> {
    let mut repairs = Vec::new();
    for work in [Work::Analyze, Work::Render] {
        for (index, _range, chunk_state) in state.of(work).iter() {
            let chunk = ChunkId { job, work, index };
            let queued = view.queued.contains(&chunk);
            match chunk_state {
                ChunkState::Queued { attempt, .. } | ChunkState::Running { attempt, .. } => {
                    let reachable = queued && !view.stranded.contains(&chunk);
                    if !reachable && !view.held.contains(&chunk) && !view.in_check.contains(&chunk) {
                        repairs.push(Repair::Lost {
                            chunk,
                            attempt: *attempt,
                        });
                    }
                }
                ChunkState::Waiting { .. }
                | ChunkState::Backlog { .. }
                | ChunkState::Done { .. }
                | ChunkState::Quarantined { .. } => {
                    if queued && !view.held.contains(&chunk) {
                        repairs.push(Repair::Remove { chunk });
                    }
                }
            }
        }
    }
    repairs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::chunk::{ChunkEvent, Step};
    use latentfarm_common::digest::Digest;
    use latentfarm_common::time::FrameRange;
    use proptest::prelude::*;

    fn job() -> JobId {
        JobId::from_digest(&Digest::of(b"job"))
    }

    fn chunk(index: u32) -> ChunkId {
        ChunkId {
            job: job(),
            work: Work::Render,
            index,
        }
    }

    /// Render chunks, each waiting, in the backlog, queued or running.
    fn state(kinds: &[u8]) -> JobState {
        let ranges = (0_u64..).map(|n| FrameRange::new(n * 16, n * 16 + 16));
        let mut state = JobState::new(Vec::new(), ranges.take(kinds.len()).collect());
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
                assert!(matches!(state.apply(Work::Render, index, event), Step::Moved(_)));
            }
        }
        state
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
            let mut state = state(&kinds);
            let mut view = QueueView {
                queued: some(&queued[..kinds.len()]),
                stranded: some(&stranded[..kinds.len()]),
                held: some(&held[..kinds.len()]),
                in_check: BTreeSet::new(),
            };
            for repair in compare(job(), &state, &view) {
                match repair {
                    Repair::Lost { chunk, attempt } => {
                        view.queued.remove(&chunk);
                        view.stranded.remove(&chunk);
                        state.apply(Work::Render, chunk.index, ChunkEvent::QueueLost { attempt });
                    }
                    Repair::Remove { chunk } => {
                        view.queued.remove(&chunk);
                    }
                }
            }
            prop_assert_eq!(compare(job(), &state, &view), []);
        }
    }

    #[test]
    fn a_task_that_vanished_or_stranded_is_lost_unless_a_worker_has_it() {
        let state = state(&[2, 2, 3, 3, 2]);
        let view = QueueView {
            queued: [chunk(0), chunk(1)].into(),
            stranded: [chunk(1)].into(),
            held: [chunk(3)].into(),
            in_check: [chunk(4)].into(),
        };
        let attempt = Attempt::default();
        let lost = |index| Repair::Lost {
            chunk: chunk(index),
            attempt,
        };
        assert_eq!(compare(job(), &state, &view), [lost(1), lost(2)]);
    }

    #[test]
    fn tasks_that_nobody_needs_are_removed() {
        let state = state(&[0, 1]);
        let view = QueueView {
            queued: [chunk(0), chunk(1)].into(),
            held: [chunk(1)].into(),
            ..QueueView::default()
        };
        assert_eq!(
            compare(job(), &state, &view),
            [Repair::Remove { chunk: chunk(0) }]
        );
    }
}
