//! The configuration of a private server: who may do what. Only public keys are written to disk.

use std::fmt::Write as _;
use std::path::Path;

use super::super::subjects::{COORDINATOR_INBOX, OBSERVER_INBOX, worker_inbox};
use super::super::topology::{DONE, JOBS_BUCKET, LEASE_BUCKET, MEDIA_BUCKET, NEEDS_BUCKET, TASKS};
use crate::ids::WorkerId;

/// A user of the server: its public key and its permissions.
#[derive(Clone, Debug)]
pub(super) struct User {
    pub(super) nkey: String,
    pub(super) role: Role,
}

/// What a user is there for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Everything but restoring streams and purging the account.
    Coordinator,
    /// Pulls and answers tasks, writes done records, its own events and heartbeats, and blobs. It cannot
    /// create consumers: a push consumer would deliver to any subject.
    Worker(WorkerId),
    /// Reads states, events and heartbeats.
    Observer,
}

/// Subjects that a role may publish and subscribe to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permissions {
    pub publish: Vec<String>,
    pub publish_deny: Vec<String>,
    pub subscribe: Vec<String>,
}

impl Role {
    pub fn inbox_prefix(&self) -> String {
        match self {
            Self::Coordinator => COORDINATOR_INBOX.to_owned(),
            Self::Worker(worker) => worker_inbox(worker),
            Self::Observer => OBSERVER_INBOX.to_owned(),
        }
    }

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
                ],
                publish_deny: vec![
                    "$JS.API.STREAM.RESTORE.>".to_owned(),
                    "$JS.API.ACCOUNT.PURGE.>".to_owned(),
                ],
                subscribe: vec![
                    inbox,
                    "farm.>".to_owned(),
                    "$JS.EVENT.ADVISORY.>".to_owned(),
                    "$KV.>".to_owned(),
                ],
            },
            Self::Worker(worker) => Permissions {
                publish: vec![
                    format!("$JS.API.CONSUMER.MSG.NEXT.{TASKS}.*"),
                    // Both forms of acknowledgement subjects.
                    format!("$JS.ACK.{TASKS}.>"),
                    format!("$JS.ACK.*.*.{TASKS}.>"),
                    format!("farm.evt.{worker}.>"),
                    format!("farm.hb.{worker}"),
                    "farm.done.*.*".to_owned(),
                    format!("$JS.API.DIRECT.GET.{DONE}.farm.done.*.*"),
                    format!("$O.{MEDIA_BUCKET}.C.*"),
                    format!("$O.{MEDIA_BUCKET}.M.*"),
                    format!("$JS.API.DIRECT.GET.OBJ_{MEDIA_BUCKET}"),
                    format!("$JS.API.DIRECT.GET.OBJ_{MEDIA_BUCKET}.$O.{MEDIA_BUCKET}.M.*"),
                ],
                publish_deny: Vec::new(),
                subscribe: vec![
                    inbox,
                    format!("farm.ctl.{worker}"),
                    "farm.ctl.all".to_owned(),
                    "farm.wake.*".to_owned(),
                ],
            },
            Self::Observer => Permissions {
                publish: vec![
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
                    "$JS.EVENT.ADVISORY.>".to_owned(),
                ],
            },
        }
    }
}

/// The configuration file's text. `port`: -1 for a free one.
pub(super) fn render(dir: &Path, port: i32, max_file_bytes: u64, users: &[User]) -> String {
    let at = |name: &str| quote(&dir.join(name).to_string_lossy());
    let mut text = String::new();
    let lines = [
        "server_name: farm-embedded".to_owned(),
        "host: 127.0.0.1".to_owned(),
        format!("port: {port}"),
        format!("ports_file_dir: {}", at("run")),
        format!("pid_file: {}", at("run/nats.pid")),
        format!("logfile: {}", at("nats.log")),
        "logfile_size_limit: 16MB".to_owned(),
        "logfile_max_num: 4".to_owned(),
        "max_payload: 1MB".to_owned(),
        "ping_interval: \"5s\"".to_owned(),
        "ping_max: 2".to_owned(),
        "write_deadline: \"5s\"".to_owned(),
        "lame_duck_grace_period: \"1s\"".to_owned(),
        "lame_duck_duration: \"30s\"".to_owned(),
        "jetstream {".to_owned(),
        format!("  store_dir: {}", at("js")),
        // The default syncs every two minutes: a power loss would take acknowledged records.
        "  sync_interval: always".to_owned(),
        "  max_mem: 64MB".to_owned(),
        format!("  max_file: {max_file_bytes}"),
        "  strict: true".to_owned(),
        "}".to_owned(),
        "accounts {".to_owned(),
        "  SYS { users: [] }".to_owned(),
        "  FARM {".to_owned(),
        "    jetstream: enabled".to_owned(),
        "    users: [".to_owned(),
    ];
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    for user in users {
        let permissions = user.role.permissions();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "      {{ nkey: {}, permissions: {{", user.nkey);
        let _ = writeln!(
            text,
            "          publish: {{ allow: {}, deny: {} }}",
            list(&permissions.publish),
            list(&permissions.publish_deny)
        );
        let _ = writeln!(
            text,
            "          subscribe: {{ allow: {} }} }} }}",
            list(&permissions.subscribe)
        );
    }
    text.push_str("    ]\n  }\n}\nsystem_account: SYS\n");
    text
}

fn list(subjects: &[String]) -> String {
    let quoted: Vec<String> = subjects.iter().map(|subject| quote(subject)).collect();
    format!("[{}]", quoted.join(", "))
}

fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
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
    fn paths_are_quoted() {
        let text = render(Path::new("/tmp/a \"b\""), -1, 1, &[]);
        assert!(text.contains(r#"store_dir: "/tmp/a \"b\"/js""#), "{text}");
    }
}
