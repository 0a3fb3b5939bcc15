//! Holding a task: the server is told that work goes on while it does, and gets exactly one final answer.

use std::time::Duration;

use async_nats::jetstream::message::Acker;
use async_nats::jetstream::{AckKind, Message};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::backoff::Backoff;

/// A third of the default `ack_wait`.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);
const TRIES: u32 = 3;
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));

/// The server did not confirm an answer; the task may be delivered again.
#[derive(Debug, thiserror::Error)]
#[error("the server did not confirm `{answer}`")]
pub struct AckError {
    answer: &'static str,
    #[source]
    source: async_nats::Error,
}

/// A task that is being worked on. Its holder counts a watched number up while steps or stages advance; as
/// long as the number changes, the server is told in intervals that the task is in progress. A holder that
/// hangs loses the task after `ack_wait`. Dropped without an answer, the task is delivered again.
#[must_use = "without an answer the task is delivered again after the acknowledgement wait"]
pub struct InProgress {
    acker: Acker,
    ticker: JoinSet<()>,
}

impl InProgress {
    /// Takes over the answers for `message` and returns the message's content.
    pub fn begin(
        message: Message,
        progress: watch::Receiver<u64>,
        interval: Duration,
    ) -> (async_nats::Message, Self) {
        let context = message.context.clone();
        let ticker_acker = Acker::new(context, message.reply.clone());
        let (message, acker) = message.split();
        let mut ticker = JoinSet::new();
        ticker.spawn(tell_progress(ticker_acker, progress, interval));
        (message, Self { acker, ticker })
    }

    /// The task is done: it goes.
    pub async fn ack(self) -> Result<(), AckError> {
        self.answer(AckKind::Ack, "ack").await
    }

    /// The task goes, although it is not done; whoever wants it done publishes it anew.
    pub async fn term(self) -> Result<(), AckError> {
        self.answer(AckKind::Term, "term").await
    }

    /// The task goes to the next worker, after `delay` if there is one.
    pub async fn nak(self, delay: Option<Duration>) -> Result<(), AckError> {
        self.answer(AckKind::Nak(delay), "nak").await
    }

    async fn answer(mut self, kind: AckKind, name: &'static str) -> Result<(), AckError> {
        self.ticker.abort_all();
        let mut backoff = RETRY;
        let mut tries = 1;
        loop {
            match self.acker.double_ack_with(kind).await {
                Ok(()) => return Ok(()),
                Err(source) if tries == TRIES => return Err(AckError { answer: name, source }),
                Err(error) => {
                    tracing::warn!(answer = name, error, "no confirmation of an answer, trying again");
                    tries += 1;
                    tokio::time::sleep(backoff.next_delay()).await;
                }
            }
        }
    }
}

async fn tell_progress(acker: Acker, mut progress: watch::Receiver<u64>, interval: Duration) {
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    progress.mark_unchanged();
    let mut told = *progress.borrow_and_update();
    loop {
        ticks.tick().await;
        let now = *progress.borrow_and_update();
        if now == told {
            tracing::debug!(progress = now, "no progress to tell");
            continue;
        }
        told = now;
        if let Err(error) = acker.ack_with(AckKind::Progress).await {
            tracing::warn!(error, "cannot tell the server that work goes on");
        }
    }
}
