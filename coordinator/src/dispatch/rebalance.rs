//! Finds work for idle workers among the tasks that others hold and have not begun. A worker takes about two minutes of
//! work at a time; while there is more than the workers can do, that is best for everyone, but the last tasks of a farm
//! belong to whoever is free.

use std::collections::BTreeMap;
use std::time::Duration;

use latentfarm_common::error::one_line;
use latentfarm_common::ids::{ChunkId, JobId, WorkerId};
use latentfarm_common::queues::Queue;
use latentfarm_common::tags::Tags;
use latentfarm_common::wire::outcome::WorkerCommand;
use tokio::time::Instant;

use super::farm_link::FarmLink;
use super::job::Job;
use super::workers::Workers;
use crate::job::chunk::state::Phase;
use crate::placement::WorkerCapacity;

/// The least time between two looks at the farm.
const INTERVAL: Duration = Duration::from_millis(200);
/// A worker is asked for a task again, and a queue announced again, after this long.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is done so that an idle worker gets a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Relief {
    /// The worker is asked to give back this chunk's task.
    GiveBack { holder: WorkerId, chunk: ChunkId },
    /// The queue has a task that nobody holds.
    Announce(Queue),
}

/// What is done for idle workers.
#[derive(Debug)]
pub(super) struct Relieved {
    pub(super) reliefs: Vec<Relief>,
    /// Those for which there is nothing that others have not begun.
    pub(super) without: Vec<WorkerCapacity>,
}

/// What was done a moment ago.
#[derive(Debug, Default)]
pub(super) struct Rebalancer {
    next: Option<Instant>,
    asked: BTreeMap<ChunkId, Instant>,
    announced: BTreeMap<Queue, Instant>,
}

impl Rebalancer {
    /// Returns what is to be done now, one thing for each idle worker at most; `None` if no worker is idle, or the last
    /// look was a moment ago.
    pub(super) fn choose(
        &mut self,
        jobs: &BTreeMap<JobId, Job>,
        workers: &Workers,
        now: Instant,
    ) -> Option<Relieved> {
        if self.next.is_some_and(|next| now < next) {
            return None;
        }
        let idle = workers.idle_capacities();
        if idle.is_empty() {
            return None;
        }
        self.next = Some(now + INTERVAL);
        self.asked.retain(|_, at| now - *at < PATIENCE);
        self.announced.retain(|_, at| now - *at < PATIENCE);
        let holders = workers.holders();
        // The tasks of each queue that no worker has begun: those that are held, in frame order, and whether there are
        // others. Those of a queue may need different tags.
        let mut queues: BTreeMap<(Queue, &Tags), (Vec<ChunkId>, usize)> = BTreeMap::new();
        let jobs_with_work = jobs.values().filter(|job| !job.is_paused);
        for (job, record) in
            jobs_with_work.flat_map(|job| job.chunks.render.iter().map(move |record| (job, record)))
        {
            let Some(fit) = record.published.filter(|_| record.state().phase == Phase::Queued) else {
                continue;
            };
            let settings = &job.settings;
            let queue = (settings.queue(fit.lane()), &settings.needed_tags);
            let (held, others) = queues.entry(queue).or_default();
            if holders.contains_key(&record.id) {
                held.push(record.id);
            } else {
                *others += 1;
            }
        }
        let (mut reliefs, mut without) = (Vec::new(), Vec::new());
        for worker in idle {
            let mut served = queues
                .iter_mut()
                .filter(|((queue, needed), _)| worker.takes(queue.lane) && worker.tags.cover(needed));
            let found = served.find_map(|((queue, _), (held, others))| {
                if *others > 0 {
                    *others -= 1;
                    return Some(Relief::Announce(*queue));
                }
                // The last one is that which its holder would begin last.
                let chunk = held.pop()?;
                let holder = (*holders.get(&chunk)?).clone();
                Some(Relief::GiveBack { holder, chunk })
            });
            match found {
                Some(relief) => reliefs.push(relief),
                None => without.push(worker),
            }
        }
        reliefs.retain(|relief| match relief {
            Relief::GiveBack { chunk, .. } => self.asked.insert(*chunk, now).is_none(),
            Relief::Announce(queue) => self.announced.insert(*queue, now).is_none(),
        });
        Some(Relieved { reliefs, without })
    }
}

/// Sends what was chosen. A message that is lost is sent again.
pub(super) async fn send(link: &dyn FarmLink, reliefs: Vec<Relief>) {
    for relief in reliefs {
        tracing::debug!(?relief, "an idle worker is to get a task");
        let sent = match relief {
            Relief::GiveBack { holder, chunk } => {
                link.command(Some(holder), WorkerCommand::GiveBack(chunk)).await
            }
            Relief::Announce(queue) => link.announce(queue).await,
        };
        if let Err(error) = sent {
            tracing::debug!(error = one_line(&error), "a message to workers was not sent");
        }
    }
}
