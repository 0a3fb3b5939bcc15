//! Instructions from the coordinator: cancel a job, drain. A render has the farm for itself and stops its own workers
//! with signals; a coordinator of many jobs, on a farm that outlives each of them, sends these.

use async_nats::Subscriber;
use futures::stream::{Select, select};
use futures::{FutureExt as _, StreamExt as _};
use latentfarm_common::ids::WorkerId;
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::subjects::Subject;
use latentfarm_common::wire;
use latentfarm_common::wire::outcome::Control as Instruction;

use super::error::ServeError;

/// Instructions to this worker and to all.
pub(super) struct Control {
    messages: Select<Subscriber, Subscriber>,
    worker: WorkerId,
    draining: bool,
}

impl Control {
    pub(super) async fn subscribe(connection: &Connection, worker: &WorkerId) -> Result<Self, ServeError> {
        let own = subscribe(connection, Subject::Control(Some(worker.clone())).to_string()).await?;
        let all = subscribe(connection, Subject::Control(None).to_string()).await?;
        Ok(Self {
            messages: select(own, all),
            worker: worker.clone(),
            draining: false,
        })
    }

    /// Whether the coordinator asked this worker to leave.
    pub(super) fn draining(&self) -> bool {
        self.draining
    }

    /// The next instruction; waits for it. Safe to drop and call again.
    pub(super) async fn next(&mut self) -> Instruction {
        loop {
            let Some(message) = self.messages.next().await else {
                // The client is closing: nobody instructs any more.
                return std::future::pending().await;
            };
            if let Some(instruction) = self.read(&message) {
                return instruction;
            }
        }
    }

    /// Takes what came while the worker was idle: a drain counts, a cancel had nothing to cancel.
    pub(super) fn forget_cancels(&mut self) {
        while let Some(Some(message)) = self.messages.next().now_or_never() {
            self.read(&message);
        }
    }

    fn read(&mut self, message: &async_nats::Message) -> Option<Instruction> {
        // A push consumer of someone else's delivers under foreign subjects.
        match message.subject.as_str().parse() {
            Ok(Subject::Control(None)) => {}
            Ok(Subject::Control(Some(worker))) if worker == self.worker => {}
            _ => {
                tracing::warn!(
                    subject = message.subject.as_str(),
                    "ignored an instruction to someone else"
                );
                return None;
            }
        }
        match wire::decode::<Instruction>(&message.payload) {
            Ok(instruction) => {
                tracing::info!(?instruction, "instructed by the coordinator");
                self.draining |= instruction == Instruction::Drain;
                Some(instruction)
            }
            Err(error) => {
                tracing::warn!(%error, "ignored an instruction that cannot be read");
                None
            }
        }
    }
}

pub(super) async fn subscribe(connection: &Connection, subject: String) -> Result<Subscriber, ServeError> {
    let subscribed = connection.client.subscribe(subject.clone()).await;
    subscribed.map_err(|source| ServeError { subject, source })
}
