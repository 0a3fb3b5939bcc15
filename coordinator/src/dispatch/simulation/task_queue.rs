//! The stream of tasks: a work queue whose consumers deliver a task again if it is not answered for in time, up to a
//! number of deliveries.

use std::collections::BTreeMap;
use std::time::Duration;

use latentfarm_common::ids::{ChunkId, JobId, WorkerId};
use latentfarm_common::nats::tasks::Published;
use latentfarm_common::nats::topology::{MAX_DELIVER, QueueLoad};
use latentfarm_common::queues::Queue;
use latentfarm_common::wire::task::Task;
use tokio::time::Instant;

/// A task goes to another worker if its worker reports no progress for this long.
pub(super) const ACK_WAIT: Duration = Duration::from_secs(30);
/// Within this time a publish of the same attempt is recognised as a repeat.
const DUPLICATE_WINDOW: Duration = Duration::from_mins(10);

/// A task in the stream.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) queue: Queue,
    pub(super) task: Task,
    pub(super) deliveries: i64,
    /// The worker that has it, until when.
    holder: Option<(WorkerId, Instant)>,
    /// It is not delivered before this time.
    not_before: Option<Instant>,
}

/// A task that was delivered.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    pub(super) sequence: u64,
    pub(super) queue: Queue,
    pub(super) task: Task,
    pub(super) deliveries: i64,
}

#[derive(Debug, Default)]
pub(super) struct TaskQueue {
    pub(super) entries: BTreeMap<u64, Entry>,
    last: u64,
    published: BTreeMap<(ChunkId, u32), Instant>,
    /// The most entries that there ever were of one chunk.
    pub(super) most_of_a_chunk: usize,
}

impl TaskQueue {
    /// Stores a task, unless its attempt was stored a short time ago.
    pub(super) fn publish(&mut self, queue: Queue, task: &Task, now: Instant) -> Published {
        let id = (task.chunk, task.attempt.number);
        let known = self.published.get(&id);
        if known.is_some_and(|at| now - *at < DUPLICATE_WINDOW) {
            return Published::Duplicate;
        }
        self.published.insert(id, now);
        self.store(queue, task);
        let of_chunk = self.of_chunk(task.chunk);
        self.most_of_a_chunk = self.most_of_a_chunk.max(of_chunk);
        Published::Queued
    }

    pub(super) fn of_chunk(&self, chunk: ChunkId) -> usize {
        let entries = self.entries.values();
        entries.filter(|entry| entry.task.chunk == chunk).count()
    }

    /// Stores a task without looking for repeats.
    pub(super) fn store(&mut self, queue: Queue, task: &Task) {
        self.last += 1;
        let entry = Entry {
            queue,
            task: task.clone(),
            deliveries: 0,
            holder: None,
            not_before: None,
        };
        self.entries.insert(self.last, entry);
    }

    /// Delivers the task of a queue that is `skip` places behind the first that may be delivered, or the last of them.
    pub(super) fn pull(
        &mut self,
        queue: Queue,
        worker: &WorkerId,
        skip: usize,
        now: Instant,
    ) -> Option<Delivery> {
        let is_free = |entry: &Entry| {
            entry.queue == queue
                && entry.deliveries < MAX_DELIVER
                && entry.not_before.is_none_or(|at| at <= now)
                && entry.holder.as_ref().is_none_or(|(_, until)| *until <= now)
        };
        let free: Vec<u64> = self
            .entries
            .iter()
            .filter(|(_, entry)| is_free(entry))
            .map(|(sequence, _)| *sequence)
            .take(skip + 1)
            .collect();
        let sequence = *free.last()?;
        let entry = self.entries.get_mut(&sequence)?;
        entry.deliveries += 1;
        entry.holder = Some((worker.clone(), now + ACK_WAIT));
        Some(Delivery {
            sequence,
            queue,
            task: entry.task.clone(),
            deliveries: entry.deliveries,
        })
    }

    /// Keeps a task that its worker still runs.
    pub(super) fn in_progress(&mut self, sequence: u64, worker: &WorkerId, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&sequence)
            && let Some((holder, until)) = &mut entry.holder
            && holder == worker
        {
            *until = now + ACK_WAIT;
        }
    }

    /// Removes a task that is answered for.
    pub(super) fn end(&mut self, sequence: u64) {
        self.entries.remove(&sequence);
    }

    /// Has a task delivered again.
    pub(super) fn give_back(&mut self, sequence: u64, at: Instant) {
        if let Some(entry) = self.entries.get_mut(&sequence) {
            entry.holder = None;
            entry.not_before = Some(at);
        }
    }

    pub(super) fn remove(&mut self, is_meant: impl Fn(ChunkId) -> bool) -> u64 {
        self.entries
            .extract_if(.., |_, entry| is_meant(entry.task.chunk))
            .count() as u64
    }

    pub(super) fn of_job(&self, job: JobId) -> impl Iterator<Item = &Entry> {
        self.entries
            .values()
            .filter(move |entry| entry.task.chunk.job == job)
    }

    /// How full a queue is. A task that was delivered too often is in no figure.
    pub(super) fn load(&self, queue: Queue, now: Instant) -> QueueLoad {
        let mut load = QueueLoad::default();
        for entry in self.entries.values().filter(|entry| entry.queue == queue) {
            let is_out = entry.holder.as_ref().is_some_and(|(_, until)| *until > now);
            if entry.deliveries == 0 {
                load.waiting += 1;
            } else if is_out || entry.deliveries < MAX_DELIVER {
                load.held += 1;
            }
        }
        load
    }
}
