//! How much of the backlog is published at a time, and in what order over several jobs.
//!
//! A queue holds only a short window of the backlog, so that a new priority or a cancelled job takes effect
//! soon.

use std::collections::BTreeMap;

use latentfarm_common::ids::{ChunkId, JobId};
use latentfarm_common::queues::{Queue, ResourceClass};
use latentfarm_common::tags::Tags;
use tokio::time::Instant;

use super::job::Job;
use super::shared_analysis::SharedAnalyses;
use super::workers::Workers;

/// The number of tasks that may still be published to a queue, whose window is two tasks a live worker and 16
/// more.
fn free_slots(live_workers: usize, in_flight: usize) -> usize {
    (2 * live_workers + 16).saturating_sub(in_flight)
}

/// Chooses up to `slots` chunks, one of each job in turn, each job's in its own order.
fn round_robin(slots: usize, jobs: &[Vec<ChunkId>]) -> Vec<ChunkId> {
    let longest = jobs.iter().map(Vec::len).max().unwrap_or(0);
    let rounds = (0..longest).flat_map(|round| jobs.iter().filter_map(move |job| job.get(round)));
    rounds.take(slots).copied().collect()
}

/// Chooses the chunks that are published to each queue now: as many as its window has free slots, one of each
/// job in turn, each job's chunks in frame order. The size of a window depends on the number of workers that
/// serve its queue. An analysis that another job has under way is not chosen, nor is anything of a job that needs tags
/// which no live worker has: its tasks would take the places of others in a queue.
pub(super) fn choose(
    jobs: &BTreeMap<JobId, Job>,
    workers: &Workers,
    now: Instant,
) -> Vec<(Queue, Vec<ChunkId>)> {
    let mut queues: BTreeMap<Queue, Vec<Vec<ChunkId>>> = BTreeMap::new();
    let mut under_way: BTreeMap<Queue, usize> = BTreeMap::new();
    let mut analyses = SharedAnalyses::under_way(jobs.values());
    for job in jobs.values() {
        let mut ready: BTreeMap<Queue, Vec<ChunkId>> = BTreeMap::new();
        let needed = &job.settings.needed_tags;
        let may_publish = !job.is_paused && (needed.is_empty() || workers.live(needed) > 0);
        for record in job.chunks.iter() {
            if let Some(lane) = record.lane_to_publish(now).filter(|_| may_publish) {
                if lane.class == ResourceClass::Analyze && analyses.is_elsewhere(job, record.range) {
                    continue;
                }
                ready.entry(job.settings.queue(lane)).or_default().push(record.id);
            } else if let Some(lane) = record.lane_under_way() {
                *under_way.entry(job.settings.queue(lane)).or_default() += 1;
            }
        }
        for (queue, chunks) in ready {
            queues.entry(queue).or_default().push(chunks);
        }
    }
    let capacities = workers.capacities(&Tags::NONE);
    // Render queues come before the analysis queue, so that a video is finished from its first frame on.
    let chosen = queues.into_iter().rev().map(|(queue, backlogs)| {
        let serving = match queue.lane.class {
            ResourceClass::Analyze => workers.live(&Tags::from(queue.lane.tag)),
            ResourceClass::Cpu(_) | ResourceClass::Gpu(_) => capacities
                .iter()
                .filter(|worker| worker.takes(queue.lane))
                .count(),
        };
        let slots = free_slots(serving, under_way.get(&queue).copied().unwrap_or(0));
        (queue, round_robin(slots, &backlogs))
    });
    chosen.filter(|(_, chunks)| !chunks.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::digest::Digest;
    use latentfarm_common::ids::WorkKind;
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
