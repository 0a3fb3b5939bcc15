//! Commands from the coordinator: cancel a job, drain the worker, or free memory while it is idle. The
//! `render` command, which has a farm for itself, stops its workers with signals; a coordinator of many jobs,
//! on a farm that outlives each of them, sends these.

use std::time::Duration;

use async_nats::Subscriber;
use futures::stream::{Select, select};
use futures::{FutureExt as _, StreamExt as _};
use latentfarm_common::ids::WorkerId;
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::subjects::Subject;
use latentfarm_common::wire;
use latentfarm_common::wire::outcome::WorkerCommand;
use tokio::time::Instant;

use super::error::ServeError;

/// The coordinator asks again for a longer pause than this.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);

/// Receives commands to this worker and to all workers.
pub(super) struct ControlInbox {
    messages: Select<Subscriber, Subscriber>,
    worker: WorkerId,
    /// True once a drain has been received.
    draining: bool,
    /// True once a request for memory has been received, until it is taken.
    wants_memory: bool,
    /// Until when the worker takes no tasks, and why, if the coordinator has set it aside.
    pause: Option<(Instant, String)>,
}

impl ControlInbox {
    pub(super) async fn subscribe(connection: &Connection, worker: &WorkerId) -> Result<Self, ServeError> {
        let own = subscribe(connection, Subject::Control(Some(worker.clone())).to_string()).await?;
        let all = subscribe(connection, Subject::Control(None).to_string()).await?;
        Ok(Self {
            messages: select(own, all),
            worker: worker.clone(),
            draining: false,
            wants_memory: false,
            pause: None,
        })
    }

    /// Returns true if the coordinator has sent a drain: the worker has to leave.
    pub(super) fn draining(&self) -> bool {
        self.draining
    }

    /// Whether the coordinator lets the worker take tasks.
    pub(super) fn takes_tasks(&self) -> bool {
        let is_paused = self
            .pause
            .as_ref()
            .is_some_and(|(until, _)| *until > Instant::now());
        !self.draining && !is_paused
    }

    /// Returns until when the worker takes no tasks, and why; `None` if it takes them.
    pub(super) fn pause(&mut self, now: Instant) -> Option<(Instant, String)> {
        self.pause.take_if(|(until, _)| *until <= now);
        self.pause.clone()
    }

    /// Takes the request for memory, if one was received since the last call.
    pub(super) fn take_memory_request(&mut self) -> bool {
        std::mem::take(&mut self.wants_memory)
    }

    /// Waits for the next command. The future may be dropped at any time: no message is lost by it.
    pub(super) async fn next(&mut self) -> WorkerCommand {
        loop {
            let Some(message) = self.messages.next().await else {
                // The client is closing: no message will come.
                return std::future::pending().await;
            };
            if let Some(command) = self.read(&message) {
                return command;
            }
        }
    }

    /// Waits for a command that concerns a worker without a task.
    pub(super) async fn changed(&mut self) {
        while matches!(
            self.next().await,
            WorkerCommand::GiveBack(_) | WorkerCommand::Abandon(_)
        ) {}
    }

    /// Returns a command that has come and was not read yet.
    pub(super) fn waiting(&mut self) -> Option<WorkerCommand> {
        while let Some(Some(message)) = self.messages.next().now_or_never() {
            if let Some(command) = self.read(&message) {
                return Some(command);
            }
        }
        None
    }

    /// Decodes a message; `None`, with a warning, if it is to somebody else or invalid.
    fn read(&mut self, message: &async_nats::Message) -> Option<WorkerCommand> {
        // A push consumer that somebody else made may deliver messages with other subjects here.
        match message.subject.as_str().parse() {
            Ok(Subject::Control(None)) => {}
            Ok(Subject::Control(Some(worker))) if worker == self.worker => {}
            _ => {
                tracing::warn!(
                    subject = message.subject.as_str(),
                    "ignored a command whose subject is not for this worker"
                );
                return None;
            }
        }
        match wire::decode::<WorkerCommand>(&message.payload) {
            Ok(command) => {
                // The coordinator repeats the first, and sends the others for each task that it moves or has done.
                if matches!(
                    command,
                    WorkerCommand::FreeMemory | WorkerCommand::GiveBack(_) | WorkerCommand::Abandon(_)
                ) {
                    tracing::debug!(?command, "received a command from the coordinator");
                } else {
                    tracing::info!(?command, "received a command from the coordinator");
                }
                self.wants_memory |= command == WorkerCommand::FreeMemory;
                self.draining |= command == WorkerCommand::Drain;
                if let WorkerCommand::SetAside { pause_ms, reason } = &command {
                    let pause = Duration::from_millis(*pause_ms).min(LONGEST_PAUSE);
                    self.pause = Some((Instant::now() + pause, reason.clone()));
                }
                Some(command)
            }
            Err(error) => {
                tracing::warn!(%error, "ignored a command that cannot be decoded");
                None
            }
        }
    }
}

pub(super) async fn subscribe(connection: &Connection, subject: String) -> Result<Subscriber, ServeError> {
    let subscribed = connection.client.subscribe(subject.clone()).await;
    subscribed.map_err(|source| ServeError { subject, source })
}
