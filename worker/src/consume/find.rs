//! Finding a task: every queue that fits is looked at once, then the first one is waited on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::Subscriber;
use async_nats::jetstream::Message;
use futures::StreamExt as _;
use latentfarm_common::backoff::Backoff;
use latentfarm_common::error::one_line;
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::pull::{PullError, Pulled, try_pull, wait_for_task};
use latentfarm_common::nats::subjects::ALL_WAKES;
use latentfarm_common::queues::Queue;
use latentfarm_common::shutdown::{Phase, Shutdown};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::control::{Control, subscribe};
use super::error::ServeError;

/// A queue without a consumer is asked again after this long, or when its doorbell rings.
const ABSENT_FOR: Duration = Duration::from_secs(30);
/// How often the log repeats that no queue fits.
const SAY_EVERY: Duration = Duration::from_mins(1);
const AFTER_ERROR: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));

pub(super) struct Finder {
    connection: Connection,
    doorbell: Doorbell,
    poll: Duration,
    absent: BTreeMap<Queue, Instant>,
    errors: Backoff,
    said_no_room: Option<Instant>,
}

impl Finder {
    pub(super) async fn subscribe(connection: &Connection, poll: Duration) -> Result<Self, ServeError> {
        Ok(Self {
            connection: connection.clone(),
            doorbell: Doorbell::subscribe(connection).await?,
            poll,
            absent: BTreeMap::new(),
            errors: AFTER_ERROR,
            said_no_room: None,
        })
    }

    /// A task from one of `queues`, in their order. `None` after a while without one, or where something
    /// happened that the caller looks at: an instruction, a shutdown, a reconnect.
    pub(super) async fn find(
        &mut self,
        queues: &[Queue],
        shutdown: &mut Shutdown,
        control: &mut Control,
    ) -> Option<Message> {
        let found = self.look(queues, shutdown, control).await;
        match found {
            Ok(found) => {
                self.errors.reset();
                found
            }
            Err(error) => {
                let delay = self.errors.next_delay();
                tracing::warn!(error = one_line(&error), ?delay, "cannot look for tasks");
                let _ = timeout(delay, shutdown.reached(Phase::Draining)).await;
                None
            }
        }
    }

    async fn look(
        &mut self,
        queues: &[Queue],
        shutdown: &mut Shutdown,
        control: &mut Control,
    ) -> Result<Option<Message>, PullError> {
        for queue in self.doorbell.take() {
            self.absent.remove(&queue);
        }
        let mut first_present = None;
        for queue in queues {
            if self
                .absent
                .get(queue)
                .is_some_and(|since| since.elapsed() < ABSENT_FOR)
            {
                continue;
            }
            match try_pull(&self.connection, *queue).await? {
                Pulled::Task(message) => return Ok(Some(*message)),
                Pulled::Empty => {
                    first_present.get_or_insert(*queue);
                }
                Pulled::NoLane => {
                    self.absent.insert(*queue, Instant::now());
                }
                Pulled::Interrupted => return Ok(None),
            }
        }
        if queues.is_empty() {
            self.say_no_room();
        }
        let doorbell = &self.doorbell;
        let interrupt = async {
            tokio::select! {
                () = doorbell.plan(|queue| queues.contains(&queue) && Some(queue) != first_present) => {}
                () = shutdown.reached(Phase::Draining) => {}
                _ = control.next() => {}
            }
        };
        let Some(queue) = first_present else {
            let _ = timeout(self.poll, interrupt).await;
            return Ok(None);
        };
        match wait_for_task(&self.connection, queue, self.poll, interrupt).await? {
            Pulled::Task(message) => Ok(Some(*message)),
            Pulled::Empty | Pulled::NoLane | Pulled::Interrupted => Ok(None),
        }
    }

    fn say_no_room(&mut self) {
        if self.said_no_room.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
            tracing::warn!("waiting for free memory: no class of tasks fits now");
            self.said_no_room = Some(Instant::now());
        }
    }
}

/// Remembers the queues that rang, also while the worker is busy.
struct Doorbell {
    plan: Arc<Mutex<BTreeSet<Queue>>>,
    notify: Arc<Notify>,
    /// Ends the listener when it is dropped.
    _listener: JoinSet<()>,
}

impl Doorbell {
    async fn subscribe(connection: &Connection) -> Result<Self, ServeError> {
        let wakes = subscribe(connection, ALL_WAKES.to_owned()).await?;
        let plan = Arc::new(Mutex::new(BTreeSet::new()));
        let notify = Arc::new(Notify::new());
        let mut listener = JoinSet::new();
        listener.spawn(listen(wakes, Arc::clone(&plan), Arc::clone(&notify)));
        Ok(Self {
            plan,
            notify,
            _listener: listener,
        })
    }

    /// The queues that rang since the last call.
    fn take(&self) -> BTreeSet<Queue> {
        std::mem::take(&mut self.plan.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until a queue rings that `wanted` accepts; the others wait for [`Doorbell::take`].
    async fn plan(&self, wanted: impl Fn(Queue) -> bool) {
        loop {
            let notified = self.notify.notified();
            let plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if plan.into_iter().any(&wanted) {
                return;
            }
            notified.await;
        }
    }
}

async fn listen(mut subscriber: Subscriber, plan: Arc<Mutex<BTreeSet<Queue>>>, notify: Arc<Notify>) {
    while let Some(message) = subscriber.next().await {
        let queue = std::str::from_utf8(&message.payload)
            .ok()
            .and_then(|text| text.parse().ok());
        if let Some(queue) = queue {
            plan.lock().unwrap_or_else(PoisonError::into_inner).insert(queue);
            notify.notify_one();
        }
    }
}
