//! The answers to a task that a worker holds: "in progress" while the work advances, and exactly one final
//! answer. The worker's task loop begins this for every task that it pulls.

use std::time::Duration;

use async_nats::jetstream::message::Acker;
use async_nats::jetstream::{AckKind, Message};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Connection;
use crate::backoff::{Backoff, Retry, RetryLimit};

/// Time between two "in progress" answers: a third of the default `ack_wait`.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
const TRIES: RetryLimit = RetryLimit::Tries(3);
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));

/// The server did not confirm an answer; the task may be delivered again.
#[derive(Debug, thiserror::Error)]
#[error("the server did not confirm `{answer}`")]
pub struct AckError {
    answer: &'static str,
    source: async_nats::Error,
}

/// A task that is being worked on. Its holder increments a watched number whenever a step or stage advances.
/// As long as the number changes, the server receives "in progress" at each interval. A holder that hangs
/// loses the task after `ack_wait`. If this is dropped without an answer, the task is delivered again.
#[must_use = "without an answer the task is delivered again after the acknowledgement wait"]
pub struct InProgress {
    acker: Acker,
    ticker: JoinSet<()>,
    /// Changes when the link to the server comes back after an outage.
    connects: watch::Receiver<u64>,
}

impl InProgress {
    /// Takes over the answers for `message`, which came over `connection`, and returns the message's content.
    pub fn begin(
        message: Message,
        connection: &Connection,
        progress: watch::Receiver<u64>,
        interval: Duration,
    ) -> (async_nats::Message, Self) {
        let mut connects = connection.connects();
        connects.mark_unchanged();
        let context = message.context.clone();
        let ticker_acker = Acker::new(context, message.reply.clone());
        let (message, acker) = message.split();
        let mut ticker = JoinSet::new();
        ticker.spawn(send_progress(ticker_acker, progress, interval));
        let held = Self {
            acker,
            ticker,
            connects,
        };
        (message, held)
    }

    /// Answers that the task is done: the server removes it.
    pub async fn ack(self) -> Result<(), AckError> {
        self.answer(AckKind::Ack, "ack").await
    }

    /// Removes the task although it is not done; only the coordinator can publish it again.
    pub async fn term(self) -> Result<(), AckError> {
        self.answer(AckKind::Term, "term").await
    }

    /// Gives the task back to the server, which delivers it to the next worker, after `delay` if there is
    /// one.
    pub async fn nak(self, delay: Option<Duration>) -> Result<(), AckError> {
        self.answer(AckKind::Nak(delay), "nak").await
    }

    async fn answer(mut self, kind: AckKind, answer: &'static str) -> Result<(), AckError> {
        self.ticker.abort_all();
        let mut retry = Retry::new(RETRY, TRIES);
        loop {
            // A server that was killed may have forgotten the delivery, and then it confirms nothing. The task
            // comes again in that case, which is harmless.
            if self.connects.has_changed().unwrap_or(true) {
                let sent = self.acker.ack_with(kind).await;
                return sent.map_err(|source| AckError { answer, source });
            }
            match self.acker.double_ack_with(kind).await {
                Ok(()) => return Ok(()),
                Err(source) => retry.after(AckError { answer, source }).await?,
            }
        }
    }
}

async fn send_progress(acker: Acker, mut progress: watch::Receiver<u64>, interval: Duration) {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    progress.mark_unchanged();
    let mut last_sent = *progress.borrow_and_update();
    loop {
        ticks.tick().await;
        let now = *progress.borrow_and_update();
        if now == last_sent {
            tracing::debug!(
                progress = now,
                "the task has not advanced since the last interval"
            );
            continue;
        }
        last_sent = now;
        if let Err(error) = acker.ack_with(AckKind::Progress).await {
            tracing::warn!(error, "cannot send \"in progress\" for a task");
        }
    }
}
