//! What a worker tells of itself: one shared state, published as heartbeats.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use latentfarm_common::ids::{Attempt, ChunkId, WorkerId};
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::subjects::Subject;
use latentfarm_common::queues::Queue;
use latentfarm_common::wire;
use latentfarm_common::wire::outcome::{Heartbeat, TaskProgress, TaskStage, WorkerState};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// The state behind the heartbeats. Clones share it.
#[derive(Clone, Debug)]
pub struct Vitals {
    heartbeat: Arc<Mutex<Heartbeat>>,
}

impl Vitals {
    /// `device` as in [`Heartbeat::device`].
    pub fn new(worker: WorkerId, device: String) -> Self {
        Self {
            heartbeat: Arc::new(Mutex::new(Heartbeat::starting(worker, device))),
        }
    }

    /// Changes the state; the next heartbeat shows it.
    pub fn update(&self, change: impl FnOnce(&mut Heartbeat)) {
        change(&mut self.heartbeat.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn snapshot(&self) -> Heartbeat {
        self.heartbeat
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn set_state(&self, state: WorkerState) {
        self.update(|heartbeat| heartbeat.state = state);
    }

    pub(super) fn set_task(&self, chunk: ChunkId, attempt: Attempt, frames_total: u32, queue: Option<Queue>) {
        let task = TaskProgress {
            chunk,
            attempt,
            frames_done: 0,
            frames_total,
            stage: TaskStage::Starting,
            queue,
            plan: None,
        };
        self.update(|heartbeat| heartbeat.task = Some(task));
    }

    pub(super) fn clear_task(&self) {
        self.update(|heartbeat| heartbeat.task = None);
    }
}

/// Publishes heartbeats until dropped.
pub(super) struct Heartbeats {
    _publisher: JoinSet<()>,
}

impl Heartbeats {
    pub(super) fn start(connection: &Connection, vitals: &Vitals, interval: Duration) -> Self {
        let mut publisher = JoinSet::new();
        publisher.spawn(publish(connection.clone(), vitals.clone(), interval));
        Self {
            _publisher: publisher,
        }
    }

    /// Publishes the last one.
    pub(super) async fn last(self, connection: &Connection, vitals: &Vitals) {
        drop(self);
        beat(connection, vitals).await;
    }
}

async fn publish(connection: Connection, vitals: Vitals, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    // After a lost connection one heartbeat is enough.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        beat(&connection, &vitals).await;
    }
}

async fn beat(connection: &Connection, vitals: &Vitals) {
    let heartbeat = vitals.snapshot();
    let subject = Subject::Heartbeat(heartbeat.worker.clone()).to_string();
    let published = match wire::encode(&heartbeat) {
        Ok(payload) => connection
            .client
            .publish(subject, Bytes::from(payload))
            .await
            .err()
            .map(|e| e.to_string()),
        Err(error) => Some(error.to_string()),
    };
    if let Some(error) = published {
        tracing::debug!(error, "a heartbeat was not sent");
    }
}
