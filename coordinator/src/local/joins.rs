//! Follows which workers of a private farm have joined it. Its CPU worker waits for those on GPUs: it would begin
//! with chunks while their engines start.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::StreamExt as _;
use latentfarm_common::ids::WorkerId;
use latentfarm_common::nats::subjects::ALL_HEARTBEATS;
use latentfarm_common::nats::{Connection, heartbeats};
use latentfarm_common::wire::memory::RenderMemory;
use tokio::sync::watch;

/// The workers that have neither joined the farm nor been given up. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Joins {
    missing: Arc<watch::Sender<BTreeSet<WorkerId>>>,
}

impl Joins {
    pub(super) fn of(workers: impl IntoIterator<Item = WorkerId>) -> Self {
        Self {
            missing: Arc::new(watch::Sender::new(workers.into_iter().collect())),
        }
    }

    /// Notes that a worker has joined, or is not going to.
    pub(super) fn settle(&self, worker: &WorkerId) {
        self.missing.send_if_modified(|missing| missing.remove(worker));
    }

    /// Waits until no worker is missing.
    pub(super) async fn complete(&self) {
        // The sender lives in `self`: the channel does not close meanwhile.
        let mut missing = self.missing.subscribe();
        let _complete = missing.wait_for(BTreeSet::is_empty).await;
    }

    /// Notes the workers whose heartbeats show memory for rendering, until none is missing. Without a
    /// subscription none is noted.
    pub(super) async fn follow(self, connection: Connection) {
        let listening = connection.client.subscribe(ALL_HEARTBEATS).await;
        let mut messages = match listening {
            Ok(messages) => messages,
            Err(error) => {
                tracing::debug!(%error, "cannot follow which workers join");
                return;
            }
        };
        while let Some(message) = messages.next().await {
            if let Ok((heartbeat, _)) = heartbeats::read(&message)
                && heartbeat.capacity != RenderMemory::default()
            {
                self.settle(&heartbeat.worker);
            }
            if self.missing.borrow().is_empty() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn all_workers_are_waited_for_once() {
        let worker = |name: &str| -> WorkerId { name.parse().unwrap() };
        let joins = Joins::of([worker("w1"), worker("w2")]);
        joins.settle(&worker("w1"));
        joins.settle(&worker("cpu"));
        assert!(joins.complete().now_or_never().is_none());
        joins.settle(&worker("w2"));
        assert!(joins.complete().now_or_never().is_some());
        joins.settle(&worker("w2"));
        assert!(Joins::of([]).complete().now_or_never().is_some());
    }
}
