//! Notices when the link to the farm's server is lost and when it is back. The dispatcher asks on each tick.

use latentfarm_common::nats::Outage;
use tokio::time::Instant;

use super::job_event::JobEvent;

/// The outage that the jobs were notified of, if it goes on.
#[derive(Debug, Default)]
pub(crate) struct OutageWatch {
    since: Option<Instant>,
}

impl OutageWatch {
    /// Compares the link with the last call; returns the event of a change.
    pub(crate) fn observe(&mut self, url: &str, outage: Option<&Outage>, now: Instant) -> Option<JobEvent> {
        let url = url.to_owned();
        match (self.since, outage) {
            (None, Some(outage)) => {
                self.since = Some(outage.since);
                Some(JobEvent::ServerLost { url })
            }
            (Some(since), None) => {
                self.since = None;
                let away = now - since;
                Some(JobEvent::ServerBack { url, away })
            }
            (None, None) | (Some(_), Some(_)) => None,
        }
    }
}
