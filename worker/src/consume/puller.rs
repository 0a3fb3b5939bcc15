//! Pulls the next task from the queues whose resource class the worker has memory for. The worker's loop
//! calls the puller whenever the worker is free. The puller asks each queue once, in order of preference, and
//! then waits on the first queue that exists.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::Subscriber;
use async_nats::jetstream::Message;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use latentfarm_common::backoff::Backoff;
use latentfarm_common::error::one_line;
use latentfarm_common::nats::pull::{Pulled, try_pull, wait_for_task};
use latentfarm_common::nats::subjects::ALL_WAKES;
use latentfarm_common::nats::{Connection, StreamError};
use latentfarm_common::queues::Queue;
use latentfarm_common::shutdown::{Phase, Shutdown};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::control_inbox::{ControlInbox, subscribe};
use super::error::ServeError;

/// A queue without a consumer is checked again after this long, or when a wake message announces a task in
/// it.
const ABSENT_FOR: Duration = Duration::from_secs(30);
/// A worker with many tags has many queues: such checks are at least this far apart on average.
const ABSENT_EACH: Duration = Duration::from_millis(300);
/// A queue whose task needed tags that this worker does not have is left to others for this long, or until a wake
/// message announces a task in it. Otherwise this worker would take the task again as soon as it is back in the queue,
/// before a worker that may run it.
const LEFT_ALONE_FOR: Duration = Duration::from_secs(5);
/// The pause after an error of the server: its first and its longest length.
const AFTER_ERROR: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

/// Pulls tasks from the queues of one farm.
pub(super) struct TaskPuller {
    connection: Connection,
    wakes: WakeListener,
    poll_interval: Duration,
    /// The queues that are not asked before a time: their JetStream consumer did not exist when they were last asked, or
    /// their tasks are left to others.
    left_until: BTreeMap<Queue, Instant>,
    /// The queue of the task that was pulled last.
    last: Option<Queue>,
    errors: Backoff,
}

impl TaskPuller {
    pub(super) async fn subscribe(
        connection: &Connection,
        poll_interval: Duration,
    ) -> Result<Self, ServeError> {
        Ok(Self {
            connection: connection.clone(),
            wakes: WakeListener::subscribe(connection).await?,
            poll_interval,
            left_until: BTreeMap::new(),
            last: None,
            errors: AFTER_ERROR,
        })
    }

    /// Returns a task from one of the `queues`, which are tried in their order. Returns `None` after the poll
    /// interval without a task, after an error, or on an event that the caller has to check: a control
    /// message, a shutdown, a reconnect, the end of `interrupt`, or a task that is announced in one of `withheld`.
    pub(super) async fn pull(
        &mut self,
        [queues, withheld]: &[Vec<Queue>; 2],
        interrupt: BoxFuture<'static, ()>,
        shutdown: &mut Shutdown,
        control: &mut ControlInbox,
    ) -> Option<Message> {
        if !self.connection.is_up() {
            // Requests would only run into their time limits. The connection reports the outage.
            let up = async {
                tokio::select! {
                    () = self.connection.up() => {}
                    () = shutdown.reached(Phase::Draining) => {}
                }
            };
            let _still_down = timeout(self.poll_interval, up).await;
            return None;
        }
        let checked = async {
            tokio::select! {
                () = interrupt => {}
                () = shutdown.reached(Phase::Draining) => {}
                () = control.changed() => {}
            }
        };
        match self.try_pull(queues, withheld, checked).await {
            Ok(task) => {
                self.errors.reset();
                task
            }
            // The request ended with the link.
            Err(_) if !self.connection.is_up() => None,
            Err(error) => {
                let delay = self.errors.next_delay();
                tracing::warn!(error = one_line(&error), ?delay, "cannot pull tasks, retrying");
                let _ = timeout(delay, shutdown.reached(Phase::Draining)).await;
                None
            }
        }
    }

    /// Leaves the queue of the task that was pulled last to other workers for a while.
    pub(super) fn leave_queue_alone(&mut self) {
        if let Some(queue) = self.last {
            self.left_until.insert(queue, Instant::now() + LEFT_ALONE_FOR);
        }
    }

    /// Whether a task was announced in one of `queues` since the last pull.
    pub(super) fn was_announced(&self, queues: &[Queue]) -> bool {
        let woken = self.wakes.woken.borrow();
        woken.iter().any(|queue| queues.contains(queue))
    }

    /// Whether a task was announced in one of `queues` that is more urgent than `other`, since the last pull.
    pub(super) fn has_more_urgent(&self, queues: &[Queue], other: Queue) -> bool {
        let woken = self.wakes.woken.borrow();
        woken
            .iter()
            .any(|queue| queue.priority < other.priority && queues.contains(queue))
    }

    async fn try_pull(
        &mut self,
        queues: &[Queue],
        withheld: &[Queue],
        interrupt: impl Future<Output = ()>,
    ) -> Result<Option<Message>, StreamError> {
        for queue in self.wakes.take() {
            self.left_until.remove(&queue);
        }
        let absent_for = ABSENT_EACH.saturating_mul(u32::try_from(queues.len()).unwrap_or(u32::MAX));
        let absent_for = absent_for.max(ABSENT_FOR);
        let mut first_present = None;
        for queue in queues {
            if self
                .left_until
                .get(queue)
                .is_some_and(|until| Instant::now() < *until)
            {
                continue;
            }
            match try_pull(&self.connection, *queue).await? {
                Pulled::Task(message) => {
                    self.last = Some(*queue);
                    return Ok(Some(*message));
                }
                Pulled::Empty => {
                    first_present.get_or_insert(*queue);
                }
                Pulled::NoQueue => {
                    self.left_until.insert(*queue, Instant::now() + absent_for);
                }
                Pulled::Interrupted => return Ok(None),
            }
        }
        let wakes = &self.wakes;
        let is_news = |queue: &Queue| {
            queues.contains(queue) && Some(*queue) != first_present || withheld.contains(queue)
        };
        let interrupt = async {
            tokio::select! {
                () = wakes.wait_for(is_news) => {}
                () = interrupt => {}
            }
        };
        let Some(queue) = first_present else {
            let _ = timeout(self.poll_interval, interrupt).await;
            return Ok(None);
        };
        match wait_for_task(&self.connection, queue, self.poll_interval, interrupt).await? {
            Pulled::Task(message) => {
                self.last = Some(queue);
                Ok(Some(*message))
            }
            Pulled::Empty | Pulled::NoQueue | Pulled::Interrupted => Ok(None),
        }
    }
}

/// Collects the queues for which the coordinator announced a task, also while the worker is busy.
struct WakeListener {
    woken: watch::Sender<BTreeSet<Queue>>,
    /// Ends the listener when it is dropped.
    _listener: JoinSet<()>,
}

impl WakeListener {
    async fn subscribe(connection: &Connection) -> Result<Self, ServeError> {
        let messages = subscribe(connection, ALL_WAKES.to_owned()).await?;
        let woken = watch::Sender::new(BTreeSet::new());
        Ok(Self {
            _listener: JoinSet::from_iter([listen(messages, woken.clone())]),
            woken,
        })
    }

    /// Returns the queues that were announced since the last call.
    fn take(&self) -> BTreeSet<Queue> {
        self.woken.send_replace(BTreeSet::new())
    }

    /// Waits until a queue is announced that `wanted` accepts; the others stay for [`WakeListener::take`].
    async fn wait_for(&self, wanted: impl Fn(&Queue) -> bool) {
        // The sender lives in `self`: the channel does not close meanwhile.
        let mut woken = self.woken.subscribe();
        let _announced = woken.wait_for(|queues| queues.iter().any(&wanted)).await;
    }
}

async fn listen(mut messages: Subscriber, woken: watch::Sender<BTreeSet<Queue>>) {
    while let Some(message) = messages.next().await {
        let queue = std::str::from_utf8(&message.payload)
            .ok()
            .and_then(|text| text.parse().ok());
        if let Some(queue) = queue {
            woken.send_modify(|woken| {
                woken.insert(queue);
            });
        }
    }
}
