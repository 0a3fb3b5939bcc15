//! The link between one client and the farm's server: whether it is up, and the lines about it in the log.
//! There is one line when the link is lost and one when it is back, and the minute reports of
//! [`crate::waiting`] in between. [`super::connect`] makes one link for each connection.

use std::time::Duration;

use async_nats::{ClientError, Event};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::waiting::{reporting, rough_time};

/// A time without a link, which goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outage {
    /// When the link was lost.
    pub since: Instant,
    /// The number of tries to connect that have failed since.
    pub failed_tries: u32,
    /// The error of the last of them.
    pub last_error: Option<String>,
}

/// Follows the events of a client and logs what they mean. The client calls it for each event.
#[derive(Debug)]
pub(super) struct LinkMonitor {
    /// The number of times that the link was made.
    connects: watch::Sender<u64>,
    /// The present outage; `None` while the link is up.
    outage: watch::Sender<Option<Outage>>,
}

impl LinkMonitor {
    /// Makes the monitor of a client that connects to `address`, and starts the task that reports outages.
    /// The task ends with the client.
    pub(super) fn start(address: &str) -> Self {
        let monitor = Self {
            connects: watch::Sender::new(0),
            outage: watch::Sender::new(None),
        };
        tokio::spawn(report_outages(address.to_owned(), monitor.outage()));
        monitor
    }

    /// Returns the number of times that the link was made, as it changes.
    pub(super) fn connects(&self) -> watch::Receiver<u64> {
        self.connects.subscribe()
    }

    /// Returns the present outage, as it changes.
    pub(super) fn outage(&self) -> watch::Receiver<Option<Outage>> {
        self.outage.subscribe()
    }

    pub(super) fn on_event(&self, event: &Event) {
        match event {
            Event::Connected => {
                self.outage.send_replace(None);
                self.connects.send_modify(|count| *count += 1);
                tracing::debug!("connected to NATS");
            }
            Event::Disconnected => self.outage.send_modify(|outage| {
                outage.get_or_insert(Outage {
                    since: Instant::now(),
                    failed_tries: 0,
                    last_error: None,
                });
            }),
            // Every failed try to connect is such an error. They are in the reports of the outage.
            Event::ClientError(error) => {
                tracing::debug!(%error, "the NATS client reported an error");
                self.outage.send_modify(|outage| {
                    if let Some(outage) = outage {
                        outage.failed_tries += 1;
                        outage.last_error = Some(match error {
                            ClientError::Other(text) => text.clone(),
                            other => other.to_string(),
                        });
                    }
                });
            }
            // A missing permission is reported here, while the call itself merely times out.
            Event::ServerError(error) => tracing::error!(%error, "the NATS server reported an error"),
            Event::SlowConsumer(subscription) => {
                tracing::error!(
                    subscription,
                    "a subscription is read too slowly: messages were dropped"
                );
            }
            Event::LameDuckMode => tracing::warn!("the NATS server is shutting down"),
            Event::Draining | Event::Closed => tracing::debug!(%event, "the NATS connection ends"),
        }
    }
}

/// Logs the outages of a link until the client has ended.
async fn report_outages(address: String, mut link: watch::Receiver<Option<Outage>>) {
    loop {
        let since = match link.wait_for(Option::is_some).await {
            Ok(outage) => outage.as_ref().map_or_else(Instant::now, |outage| outage.since),
            Err(_client_ended) => return,
        };
        tracing::warn!("lost the connection to the NATS server at {address}, trying to connect again");
        let now = link.clone();
        let back = reporting(link.wait_for(Option::is_none), |waited| {
            tracing::warn!("{}", still_down(&address, waited, now.borrow().as_ref()));
        });
        if back.await.is_err() {
            return;
        }
        // A warning, like the line that it answers, so that one is not seen without the other.
        tracing::warn!(
            "connected to the NATS server at {address} again, after {}",
            rough_time(since.elapsed())
        );
    }
}

/// Returns the reminder that the server at `address` has been out of reach for `waited`.
fn still_down(address: &str, waited: Duration, outage: Option<&Outage>) -> String {
    let last_error = outage.and_then(|outage| outage.last_error.as_deref());
    if last_error.is_some_and(|error| error.contains("authorization violation")) {
        return format!(
            "the NATS server at {address} does not admit this program any more, for {}: its key was revoked, or has \
             expired; start it again with a new one, as `latentfarm invite` makes for a worker",
            rough_time(waited)
        );
    }
    let cause = last_error.map_or_else(String::new, |error| format!(" ({error})"));
    format!(
        "waiting for the NATS server at {address} for {}{cause}: start it again if it has stopped; this program \
         connects by itself as soon as the server answers",
        rough_time(waited)
    )
}

#[cfg(test)]
mod tests;
