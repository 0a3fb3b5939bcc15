//! The state behind a worker's heartbeats: the loop, the runner and the device monitor write to it, and a
//! background task publishes it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use latentfarm_common::error::one_line;
use latentfarm_common::ids::{Attempt, ChunkId, WorkerId};
use latentfarm_common::nats::{Connection, heartbeats};
use latentfarm_common::queues::Queue;
use latentfarm_common::wire::outcome::{Heartbeat, TaskProgress, TaskStage, WorkerState};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// The content of the next heartbeat. Clones share it.
#[derive(Clone, Debug)]
pub struct HeartbeatState {
    heartbeat: Arc<Mutex<Heartbeat>>,
    /// The problem that lasts, if there is one: why the worker does not use a better device.
    lasting_problem: Option<Arc<str>>,
    /// Something has changed that the coordinator acts upon at once.
    news: Arc<Notify>,
}

/// The least time between two heartbeats.
const LEAST_INTERVAL: Duration = Duration::from_millis(200);
/// The time after which a change that concerns the coordinator is published.
const NEWS_DELAY: Duration = Duration::from_millis(50);

impl HeartbeatState {
    /// Makes the state of a worker that is starting; `device` is its [`Heartbeat::device`].
    pub fn new(worker: WorkerId, device: String) -> Self {
        Self {
            heartbeat: Arc::new(Mutex::new(Heartbeat::starting(worker, device))),
            lasting_problem: None,
            news: Arc::default(),
        }
    }

    /// Has every heartbeat name a problem, unless there is a worse one.
    #[must_use]
    pub fn with_problem(mut self, problem: Option<String>) -> Self {
        self.lasting_problem = problem.map(Into::into);
        self.set_problem(None);
        self
    }

    /// Sets what keeps the worker from its work, in one line for people.
    pub(super) fn set_problem(&self, problem: Option<String>) {
        let lasting = self.lasting_problem.as_deref();
        let problem = problem.or_else(|| lasting.map(str::to_owned));
        self.update(|heartbeat| heartbeat.problem = problem);
    }

    /// Changes the state. The next heartbeat has the change.
    pub fn update(&self, change: impl FnOnce(&mut Heartbeat)) {
        change(&mut self.heartbeat.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Returns a copy of the state.
    pub fn snapshot(&self) -> Heartbeat {
        self.heartbeat
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn set_state(&self, state: WorkerState) {
        let mut is_new = false;
        self.update(|heartbeat| is_new = std::mem::replace(&mut heartbeat.state, state) != state);
        if is_new {
            self.news.notify_one();
        }
    }

    /// Names the chunks whose tasks are held and not begun.
    pub(super) fn set_held(&self, held: Vec<ChunkId>) {
        let mut is_new = false;
        self.update(|heartbeat| {
            is_new = heartbeat.held != held;
            heartbeat.held = held;
        });
        if is_new {
            self.news.notify_one();
        }
    }

    /// Changes what is reported about a chunk, if it is at work or its result is being stored.
    pub(super) fn update_task(&self, chunk: ChunkId, change: impl FnOnce(&mut TaskProgress)) {
        self.update(|heartbeat| {
            let mut tasks = heartbeat.task.iter_mut().chain(&mut heartbeat.finishing);
            if let Some(task) = tasks.find(|task| task.chunk == chunk) {
                change(task);
            }
        });
    }

    /// Notes that the task is no longer the one that runs, and is finished beside the next one.
    pub(super) fn begin_finishing(&self, chunk: ChunkId) {
        self.update(|heartbeat| {
            heartbeat
                .finishing
                .extend(heartbeat.task.take_if(|task| task.chunk == chunk));
        });
    }

    /// Notes that the worker has answered for a task.
    pub(super) fn end_task(&self, chunk: ChunkId) {
        self.update(|heartbeat| {
            heartbeat.task.take_if(|task| task.chunk == chunk);
            heartbeat.finishing.retain(|task| task.chunk != chunk);
        });
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

    /// Publishes the state as one heartbeat.
    pub(super) async fn publish(&self, connection: &Connection) {
        if let Err(error) = heartbeats::publish(connection, &self.snapshot()).await {
            tracing::debug!(error = one_line(&error), "a heartbeat was not sent");
        }
    }

    /// Starts a task that publishes heartbeats at this interval until the returned set is dropped.
    pub(super) fn start_publisher(&self, connection: &Connection, interval: Duration) -> JoinSet<()> {
        let (connection, state) = (connection.clone(), self.clone());
        let publishing = async move {
            let mut ticks = tokio::time::interval(interval);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    () = state.news.notified() => {
                        // What lasts for a moment only is not worth a message.
                        tokio::time::sleep(NEWS_DELAY).await;
                        ticks.reset();
                    }
                }
                // Heartbeats of an outage would be buffered, and be out of date when they arrive.
                if connection.is_up() {
                    state.publish(&connection).await;
                }
                tokio::time::sleep(LEAST_INTERVAL.min(interval)).await;
            }
        };
        JoinSet::from_iter([publishing])
    }
}
