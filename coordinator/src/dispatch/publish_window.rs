//! How much of the backlog is published at a time, and in what order over several jobs.
//!
//! A queue holds only a short window of the backlog, so that a new priority or a cancelled job takes effect
//! soon.

use latentfarm_common::ids::ChunkId;

/// The number of tasks that may still be published to a queue, whose window is two tasks a live worker and 16
/// more.
pub(super) fn free_slots(live_workers: usize, in_flight: usize) -> usize {
    (2 * live_workers + 16).saturating_sub(in_flight)
}

/// Chooses up to `slots` chunks, one of each job in turn, each job's in its own order.
pub(super) fn round_robin(slots: usize, jobs: &[Vec<ChunkId>]) -> Vec<ChunkId> {
    let longest = jobs.iter().map(Vec::len).max().unwrap_or(0);
    let rounds = (0..longest).flat_map(|round| jobs.iter().filter_map(move |job| job.get(round)));
    rounds.take(slots).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::digest::Digest;
    use latentfarm_common::ids::{JobId, WorkKind};
    use proptest::prelude::*;

    fn backlog(job: u8, chunks: u32) -> Vec<ChunkId> {
        let job = JobId::from_digest(&Digest::of(&[job]));
        let work = WorkKind::Render;
        (0..chunks).map(|index| ChunkId { job, work, index }).collect()
    }

    proptest! {
        #[test]
        fn jobs_with_a_backlog_share_the_window_evenly(
            chunks in prop::collection::vec(0_u32..40, 1..6),
            room in 0_usize..100,
        ) {
            let jobs: Vec<_> = (0_u8..).zip(&chunks).map(|(job, &chunks)| backlog(job, chunks)).collect();
            let chosen = round_robin(room, &jobs);
            let total: usize = jobs.iter().map(Vec::len).sum();
            prop_assert_eq!(chosen.len(), room.min(total));
            let shares: Vec<usize> = jobs
                .iter()
                .map(|job| {
                    let share = chosen.iter().filter(|chunk| job.contains(chunk)).count();
                    let own: Vec<_> = chosen.iter().filter(|chunk| job.contains(chunk)).copied().collect();
                    assert_eq!(own, job[..share], "a job's chunks go in order");
                    share
                })
                .collect();
            let largest = shares.iter().copied().max().unwrap_or(0);
            for (share, job) in shares.iter().zip(&jobs) {
                prop_assert!(*share == job.len() || *share + 1 >= largest);
            }
        }
    }

    #[test]
    fn a_full_window_has_no_free_slots() {
        assert_eq!(free_slots(0, 0), 16);
        assert_eq!(free_slots(3, 20), 2);
        assert_eq!(free_slots(3, 50), 0);
    }
}
