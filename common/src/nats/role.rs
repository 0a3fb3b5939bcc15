//! The roles of the processes that connect to the farm's server. A role decides which subjects its process
//! may use and where the process receives replies. The server's configuration is generated from the roles,
//! and each connection uses the reply prefix of its role.

use std::fmt;

use super::subjects::{
    ALL_NEWS, ALL_WEIGHTS, COORDINATOR_INBOX, FARM_QUESTIONS, FARM_REQUESTS, OBSERVER_INBOX, OPERATOR_INBOX,
    worker_inbox,
};
use super::topology::{
    DONE, JOBS_BUCKET, LEASE_BUCKET, MEDIA_BUCKET, NEEDS_BUCKET, TASKS, WEIGHTS_BUCKET, WEIGHTS_STREAM,
};
use crate::ids::WorkerId;

/// The role of one of the server's users. Its text form names the user in logs and in the server's
/// configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The coordinator manages all streams, consumers and buckets of the farm. It may not restore a stream
    /// from a backup or purge the whole account, because it never needs to.
    Coordinator,
    /// A worker pulls and acknowledges tasks, reads shared weights, writes done records and blobs, publishes events and
    /// heartbeats under its own name, and receives commands. It may not create consumers, because a push consumer could
    /// make the server publish to subjects that the worker itself may not publish to. The key of a machine admits a
    /// worker for each of its devices, see [`WorkerId::of_machine`].
    Worker(WorkerId),
    /// An operator submits jobs, with their blobs and the records of their segments, asks the coordinator about
    /// them, and reads what is stored to fetch their results. It may do all that an observer may.
    Operator,
    /// An observer reads the state of streams and consumers, stored messages, events, done records and
    /// heartbeats.
    Observer,
}

/// The subjects that a role may publish to, and those that it may subscribe to. The server denies all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// Subjects that the role may publish to.
    pub publish: Vec<String>,
    /// Subjects that the role may not publish to, although `publish` includes them.
    pub publish_deny: Vec<String>,
    /// Subjects that the role may subscribe to.
    pub subscribe: Vec<String>,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator => f.write_str("coordinator"),
            Self::Worker(worker) => worker.fmt(f),
            Self::Operator => f.write_str("operator"),
            Self::Observer => f.write_str("observer"),
        }
    }
}

impl Role {
    /// Returns the prefix of the subjects on which this role receives replies. The role may subscribe to no
    /// reply subject with another prefix.
    pub fn inbox_prefix(&self) -> String {
        match self {
            Self::Coordinator => COORDINATOR_INBOX.to_owned(),
            Self::Worker(worker) => worker_inbox(worker),
            Self::Operator => OPERATOR_INBOX.to_owned(),
            Self::Observer => OBSERVER_INBOX.to_owned(),
        }
    }

    /// Returns the subjects that this role may use.
    pub fn permissions(&self) -> Permissions {
        let inbox = format!("{}.>", self.inbox_prefix());
        match self {
            Self::Coordinator => Permissions {
                publish: vec![
                    "$JS.API.>".to_owned(),
                    "$JS.ACK.>".to_owned(),
                    "$JS.FC.>".to_owned(),
                    "farm.>".to_owned(),
                    format!("$KV.{JOBS_BUCKET}.>"),
                    format!("$KV.{LEASE_BUCKET}.>"),
                    format!("$KV.{NEEDS_BUCKET}.>"),
                    format!("$O.{MEDIA_BUCKET}.>"),
                    format!("$O.{WEIGHTS_BUCKET}.>"),
                    // Answers to operators and observers.
                    format!("{OPERATOR_INBOX}.>"),
                    format!("{OBSERVER_INBOX}.>"),
                ],
                publish_deny: vec![
                    "$JS.API.STREAM.RESTORE.>".to_owned(),
                    "$JS.API.ACCOUNT.PURGE.>".to_owned(),
                ],
                subscribe: vec![
                    inbox,
                    // Its key serves for the commands of operators and observers too.
                    format!("{OPERATOR_INBOX}.>"),
                    format!("{OBSERVER_INBOX}.>"),
                    "farm.>".to_owned(),
                    "$JS.EVENT.ADVISORY.>".to_owned(),
                    "$KV.>".to_owned(),
                ],
            },
            Self::Worker(machine) => {
                let mut permissions = Permissions {
                    publish: vec![
                        format!("$JS.API.CONSUMER.MSG.NEXT.{TASKS}.*"),
                        // Servers use two forms of acknowledgement subjects: the second has two more tokens in
                        // front.
                        format!("$JS.ACK.{TASKS}.>"),
                        format!("$JS.ACK.*.*.{TASKS}.>"),
                        "farm.done.*.*".to_owned(),
                        format!("$JS.API.DIRECT.GET.{DONE}.farm.done.*.*"),
                        format!("$O.{MEDIA_BUCKET}.C.*"),
                        format!("$O.{MEDIA_BUCKET}.M.*"),
                        format!("$JS.API.DIRECT.GET.OBJ_{MEDIA_BUCKET}"),
                        format!("$JS.API.DIRECT.GET.OBJ_{MEDIA_BUCKET}.$O.{MEDIA_BUCKET}.M.*"),
                        format!("$JS.API.DIRECT.GET.{WEIGHTS_STREAM}"),
                        format!("$JS.API.DIRECT.GET.{WEIGHTS_STREAM}.$O.{WEIGHTS_BUCKET}.M.*"),
                        format!("$JS.API.DIRECT.GET.{WEIGHTS_STREAM}.{ALL_WEIGHTS}"),
                    ],
                    publish_deny: Vec::new(),
                    subscribe: vec!["farm.ctl.all".to_owned(), "farm.wake.*".to_owned()],
                };
                for worker in machine.of_machine() {
                    permissions
                        .publish
                        .extend([format!("farm.evt.{worker}.>"), format!("farm.hb.{worker}")]);
                    permissions.subscribe.extend([
                        format!("{}.>", worker_inbox(&worker)),
                        format!("farm.ctl.{worker}"),
                    ]);
                }
                permissions
            }
            Self::Operator => {
                // Its key serves for the commands of observers too, and so does their inbox.
                let mut permissions = Self::Observer.permissions();
                permissions.publish.extend([
                    FARM_REQUESTS.to_owned(),
                    format!("$KV.{JOBS_BUCKET}.*.segment.*"),
                    format!("$O.{MEDIA_BUCKET}.C.*"),
                    format!("$O.{MEDIA_BUCKET}.M.*"),
                ]);
                permissions.subscribe.push(inbox);
                permissions
            }
            Self::Observer => Permissions {
                publish: vec![
                    FARM_QUESTIONS.to_owned(),
                    "$JS.API.INFO".to_owned(),
                    "$JS.API.STREAM.INFO.*".to_owned(),
                    "$JS.API.STREAM.NAMES".to_owned(),
                    "$JS.API.STREAM.LIST".to_owned(),
                    "$JS.API.CONSUMER.INFO.*.*".to_owned(),
                    "$JS.API.CONSUMER.LIST.*".to_owned(),
                    "$JS.API.CONSUMER.NAMES.*".to_owned(),
                    "$JS.API.DIRECT.GET.>".to_owned(),
                ],
                publish_deny: Vec::new(),
                subscribe: vec![
                    inbox,
                    "farm.evt.>".to_owned(),
                    "farm.hb.>".to_owned(),
                    "farm.done.>".to_owned(),
                    ALL_NEWS.to_owned(),
                    "$JS.EVENT.ADVISORY.>".to_owned(),
                ],
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_may_neither_publish_tasks_nor_create_consumers() {
        let permissions = Role::Worker("w1".parse().unwrap()).permissions();
        for subject in &permissions.publish {
            for forbidden in [
                "farm.task",
                "farm.>",
                "$JS.API.>",
                "CONSUMER.CREATE",
                "STREAM.",
                "$KV",
            ] {
                assert!(!subject.contains(forbidden), "{subject}");
            }
        }
    }

    #[test]
    fn an_operator_may_ask_and_store_inputs_and_neither_publish_tasks_nor_decide_about_jobs() {
        let permissions = Role::Operator.permissions();
        for subject in &permissions.publish {
            for forbidden in [
                "farm.task",
                "farm.done",
                "farm.>",
                "$JS.API.>",
                "CONSUMER.CREATE",
                "STREAM.CREATE",
                "STREAM.DELETE",
                "manifest",
                "order",
                "record",
                "outcome",
                "news",
                "lease",
            ] {
                assert!(!subject.contains(forbidden), "{subject}");
            }
        }
        let of_jobs = permissions
            .publish
            .iter()
            .filter(|subject| subject.starts_with("$KV."));
        assert_eq!(of_jobs.collect::<Vec<_>>(), ["$KV.farm-jobs.*.segment.*"]);
    }
}
