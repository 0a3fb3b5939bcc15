//! What reaches the dispatcher from the farm. The tasks of the [`Inbox`](super::inbox) send it.

use latentfarm_common::ids::JobId;
use latentfarm_common::nats::done::DoneEntry;
use latentfarm_common::nats::signature::PublicKey;
use latentfarm_common::wire::outcome::{Event, Heartbeat};

use crate::job::segments::VideoNews;

/// One message to the dispatcher.
#[derive(Debug)]
pub(super) enum FarmMessage {
    Done(DoneEntry),
    Event(Event),
    Heartbeat {
        heartbeat: Heartbeat,
        /// The key with which the worker signs its records, if it has one.
        key: Option<PublicKey>,
    },
    /// What a job learns about its source video. It comes from the task that cuts it, in order.
    Video {
        job: JobId,
        news: VideoNews,
    },
}
