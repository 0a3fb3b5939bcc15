//! The subjects of the farm. This is the only place that spells them: everything else prints or parses a
//! [`Subject`].
//!
//! | subject | carries |
//! |---|---|
//! | `farm.task.<lane>.p<priority>.<job>.<chunk>` | tasks (stream `FARM_TASKS`) |
//! | `farm.done.<job>.<chunk>` | done records (stream `FARM_DONE`) |
//! | `farm.evt.<worker>.<job>.<kind>` | events (stream `FARM_EVT`) |
//! | `farm.hb.<worker>` | heartbeats, not stored |
//! | `farm.ctl.<worker>`, `farm.ctl.all` | commands to workers, not stored |
//! | `farm.wake.<class>` | a notification that there is a task of this class, not stored; the payload is the queue |
//! | `farm.news.<job>` | events of a job that somebody watches, not stored |
//! | `farm.weights.<digest>` | the list of the files of weights that are shared (stream `OBJ_farm-weights`) |
//! | `farm.question` | requests that change nothing, which observers may make too; not stored |
//! | `farm.request` | requests of operators' commands to the coordinator, which replies to each; not stored |

use std::fmt;
use std::str::FromStr;

use strum::{Display, EnumString, VariantArray};

use crate::digest::Digest;
use crate::ids::{ChunkId, JobId, WorkerId};
use crate::queues::{Queue, ResourceClass, parse_priority};
use crate::text::InvalidText;
use crate::wire::outcome::{EventKind, Failure};

/// Filter for all tasks, which is the subject of their stream.
pub const ALL_TASKS: &str = "farm.task.*.*.*.*";
/// Filter for all done records, which is the subject of their stream.
pub const ALL_DONE: &str = "farm.done.*.*";
/// Filter for all events, which is the subject of their stream.
pub const ALL_EVENTS: &str = "farm.evt.*.*.*";
/// Filter for the heartbeats of all workers.
pub const ALL_HEARTBEATS: &str = "farm.hb.*";
/// Filter for the notifications of all classes.
pub const ALL_WAKES: &str = "farm.wake.*";
/// Filter for the lists of shared weights.
pub const ALL_WEIGHTS: &str = "farm.weights.*";
/// Subject of the requests to the coordinator.
pub const FARM_REQUESTS: &str = "farm.request";
/// Subject of the requests to the coordinator that change nothing.
pub const FARM_QUESTIONS: &str = "farm.question";
/// Filter for the news of all jobs.
pub const ALL_NEWS: &str = "farm.news.*";
/// Subjects on which the server reports a task that was delivered too often or was terminated.
pub const ADVISORIES: [&str; 2] = [
    "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.FARM_TASKS.*",
    "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.FARM_TASKS.*",
];

/// The kind of an event as a subject token, so that a reader can filter by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Display, EnumString, VariantArray)]
#[strum(serialize_all = "lowercase")]
pub enum EventTag {
    /// A worker started on a task.
    Started,
    /// A task failed for a reason that has no tag of its own.
    Failed,
    /// A task ran out of memory.
    #[strum(serialize = "oom")]
    OutOfMemory,
    /// A worker cannot do the task's work.
    Unfit,
    /// A worker that drains gave a task back.
    Released,
}

impl EventTag {
    /// Returns the tag under which an event is published.
    pub fn of(kind: &EventKind) -> Self {
        match kind {
            EventKind::Started => Self::Started,
            EventKind::Released => Self::Released,
            EventKind::Failed(failure) => match failure {
                Failure::OutOfMemory(_) => Self::OutOfMemory,
                Failure::WorkerUnfit { .. } => Self::Unfit,
                Failure::BadInput { .. }
                | Failure::Transient { .. }
                | Failure::EngineLost { .. }
                | Failure::InsufficientMemory { .. } => Self::Failed,
            },
        }
    }
}

/// One subject of the farm in its parts. Its text form is the subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A task in a queue.
    Task {
        /// The queue of the task.
        queue: Queue,
        /// The chunk that the task is for.
        chunk: ChunkId,
    },
    /// The done record of a chunk.
    Done(ChunkId),
    /// An event about a job.
    Event {
        /// The worker that publishes the event.
        worker: WorkerId,
        /// The job that the event is about.
        job: JobId,
        /// The kind of the event.
        tag: EventTag,
    },
    /// The heartbeats of a worker.
    Heartbeat(WorkerId),
    /// The commands to one worker, or to every worker if it is `None`.
    Control(Option<WorkerId>),
    /// The notifications that there is a task of a class.
    Wake(ResourceClass),
}

impl Subject {
    /// Makes the subject of an event of this kind.
    pub fn event(worker: &WorkerId, job: JobId, kind: &EventKind) -> Self {
        Self::Event {
            worker: worker.clone(),
            job,
            tag: EventTag::of(kind),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Task { queue, chunk } => {
                write!(f, "farm.task.{}.p{}.{chunk}", queue.lane, queue.priority)
            }
            Self::Done(chunk) => write!(f, "farm.done.{chunk}"),
            Self::Event { worker, job, tag } => write!(f, "farm.evt.{worker}.{job}.{tag}"),
            Self::Heartbeat(worker) => write!(f, "farm.hb.{worker}"),
            Self::Control(Some(worker)) => write!(f, "farm.ctl.{worker}"),
            Self::Control(None) => f.write_str("farm.ctl.all"),
            Self::Wake(class) => write!(f, "farm.wake.{class}"),
        }
    }
}

impl FromStr for Subject {
    type Err = InvalidText;

    fn from_str(text: &str) -> Result<Self, InvalidText> {
        let tokens: Vec<&str> = text.split('.').collect();
        let subject = match tokens.as_slice() {
            ["farm", "task", lane, priority, job, tail] => task(lane, priority, job, tail),
            ["farm", "done", job, tail] => chunk(job, tail).map(Self::Done),
            ["farm", "evt", worker, job, tag] => event(worker, job, tag),
            ["farm", "hb", worker] => worker.parse().ok().map(Self::Heartbeat),
            ["farm", "ctl", "all"] => Some(Self::Control(None)),
            ["farm", "ctl", worker] => worker.parse().ok().map(|worker| Self::Control(Some(worker))),
            ["farm", "wake", class] => class.parse().ok().map(Self::Wake),
            _ => None,
        };
        subject.ok_or_else(|| InvalidText::new("subject of the farm", text))
    }
}

fn chunk(job: &str, tail: &str) -> Option<ChunkId> {
    format!("{job}.{tail}").parse().ok()
}

fn task(lane: &str, priority: &str, job: &str, tail: &str) -> Option<Subject> {
    let queue = Queue {
        lane: lane.parse().ok()?,
        priority: parse_priority(priority)?,
    };
    chunk(job, tail).map(|chunk| Subject::Task { queue, chunk })
}

fn event(worker: &str, job: &str, tag: &str) -> Option<Subject> {
    Some(Subject::Event {
        worker: worker.parse().ok()?,
        job: job.parse().ok()?,
        tag: tag.parse().ok()?,
    })
}

/// Filter of a queue's consumer: the tasks in that queue.
pub fn queue_filter(queue: Queue) -> String {
    format!("farm.task.{}.p{}.>", queue.lane, queue.priority)
}

/// Filter for the tasks of one job in every queue.
pub fn tasks_of_job(job: JobId) -> String {
    format!("farm.task.*.*.{job}.*")
}

/// Filter for the tasks of one chunk in every queue.
pub fn tasks_of_chunk(chunk: ChunkId) -> String {
    format!("farm.task.*.*.{chunk}")
}

/// Filter for the done records of one job.
pub fn done_of_job(job: JobId) -> String {
    format!("farm.done.{job}.*")
}

/// Filter for the events about one job from every worker.
pub fn events_of_job(job: JobId) -> String {
    format!("farm.evt.*.{job}.*")
}

/// Subject of the events of a job that somebody watches.
pub fn news_of_job(job: JobId) -> String {
    format!("farm.news.{job}")
}

/// Subject of the list of the files of the weights that a digest identifies.
pub fn shared_weights(identity: Digest) -> String {
    format!("farm.weights.{identity}")
}

/// Last part of the key of a job's manifest in the bucket of jobs.
pub const MANIFEST: &str = "manifest";

/// Key of a job's manifest in the bucket of jobs.
pub fn manifest_key(job: JobId) -> String {
    format!("{job}.{MANIFEST}")
}

/// Key of record `number` of the segments of a job's source video, in the bucket of jobs.
pub fn segment_key(job: JobId, number: u64) -> String {
    format!("{job}.segment.{number}")
}

/// Filter for the records of the segments of a job's source video, as keys of a bucket.
pub fn segments_of_job(job: JobId) -> String {
    format!("{job}.segment.*")
}

/// Last part of the key of a job's order, in the bucket of jobs.
pub const ORDER: &str = "order";
/// Last part of the key of a job's record, in the bucket of jobs.
pub const RECORD: &str = "record";

/// Key of the figures of a job that has ended, in the bucket of jobs.
pub fn outcome_key(job: JobId) -> String {
    format!("{job}.outcome")
}

/// First part of the keys of [`worker_keys_key`].
const WORKER_KEYS: &str = "keys";

/// Key of the public keys of a worker, in the bucket of jobs. An operator may write no key with two parts there.
pub fn worker_keys_key(worker: &WorkerId) -> String {
    format!("{WORKER_KEYS}.{worker}")
}

/// Filter for the public keys of all workers, as keys of a bucket.
pub fn keys_of_workers() -> String {
    format!("{WORKER_KEYS}.*")
}

/// Returns the job whose value of this kind is stored under a subject of a key-value bucket; `None` if the
/// subject has another form.
pub fn job_of_value(bucket: &str, kind: &str, subject: &str) -> Option<JobId> {
    let key = subject
        .strip_prefix("$KV.")?
        .strip_prefix(bucket)?
        .strip_prefix('.')?;
    key.strip_suffix(kind)?.strip_suffix('.')?.parse().ok()
}

/// Subject of the values of a key, or of the keys that a filter selects, in a key-value bucket.
pub fn values(bucket: &str, key: &str) -> String {
    format!("$KV.{bucket}.{key}")
}

/// Inbox prefix of a worker. Its permissions allow no other.
pub fn worker_inbox(worker: &WorkerId) -> String {
    format!("_INBOX_{worker}")
}

/// Inbox prefix of the coordinator. No worker has the same one, as worker names have no underscore.
pub const COORDINATOR_INBOX: &str = "_INBOX_coord_";
/// Inbox prefix of an observer. No worker has the same one either.
pub const OBSERVER_INBOX: &str = "_INBOX_obs_";
/// Inbox prefix of an operator. No worker has the same one either.
pub const OPERATOR_INBOX: &str = "_INBOX_op_";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::WorkKind;
    use crate::numeric_kind::NumericKind;
    use crate::queues::{CPU_CLASSES_MIB, GPU_CLASSES_MIB, Lane, PRIORITIES};
    use proptest::prelude::*;

    fn class() -> impl Strategy<Value = ResourceClass> {
        prop_oneof![
            Just(ResourceClass::Analyze),
            proptest::sample::select(CPU_CLASSES_MIB.to_vec()).prop_map(ResourceClass::Cpu),
            proptest::sample::select(GPU_CLASSES_MIB.to_vec()).prop_map(ResourceClass::Gpu),
        ]
    }

    fn job() -> impl Strategy<Value = JobId> {
        any::<[u8; 8]>().prop_map(|seed| JobId::from_digest(&Digest::of(&seed)))
    }

    fn chunk() -> impl Strategy<Value = ChunkId> {
        (job(), any::<bool>(), any::<u32>()).prop_map(|(job, render, index)| {
            let work = if render {
                WorkKind::Render
            } else {
                WorkKind::Analyze
            };
            ChunkId { job, work, index }
        })
    }

    fn worker() -> impl Strategy<Value = WorkerId> {
        "[a-z0-9-]{1,40}".prop_filter_map("reserved", |text| text.parse().ok())
    }

    fn subject() -> impl Strategy<Value = Subject> {
        let kind =
            proptest::option::of("[a-z]{0,9}").prop_map(|text| text.map(|text| NumericKind::of(&text)));
        let tag = proptest::option::of("[a-z0-9][a-z0-9_-]{0,31}".prop_map(|text| text.parse().unwrap()));
        let queue = (class(), kind, tag, 0..PRIORITIES).prop_map(|(class, kind, tag, priority)| Queue {
            lane: Lane { class, kind, tag },
            priority,
        });
        prop_oneof![
            (queue, chunk()).prop_map(|(queue, chunk)| Subject::Task { queue, chunk }),
            chunk().prop_map(Subject::Done),
            (worker(), job(), proptest::sample::select(EventTag::VARIANTS))
                .prop_map(|(worker, job, tag)| Subject::Event { worker, job, tag }),
            worker().prop_map(Subject::Heartbeat),
            proptest::option::of(worker()).prop_map(Subject::Control),
            class().prop_map(Subject::Wake),
        ]
    }

    proptest! {
        #[test]
        fn printed_subjects_parse_to_the_same(subject in subject()) {
            prop_assert_eq!(subject.to_string().parse::<Subject>().unwrap(), subject);
        }
    }

    #[test]
    fn other_subjects_are_refused() {
        for text in [
            "",
            "farm",
            "farm.task.g08.p1.0123456789abcdef",
            "farm.task.g05.p1.0123456789abcdef.r00000",
            "farm.task.g08.p9.0123456789abcdef.r00000",
            "farm.done.0123456789abcdef.>",
            "farm.evt.w1.0123456789abcdef.exploded",
            "farm.hb.*",
        ] {
            assert!(text.parse::<Subject>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_job_of_a_value_is_read_from_its_subject() {
        let id = JobId::from_digest(&Digest::of(b"job"));
        let subject = values("farm-jobs", &format!("{id}.{ORDER}"));
        assert_eq!(job_of_value("farm-jobs", ORDER, &subject), Some(id));
        for (bucket, kind, subject) in [
            ("farm-jobs", RECORD, subject.clone()),
            ("farm", ORDER, subject.clone()),
            ("farm-jobs", ORDER, values("farm-jobs", &segment_key(id, 1))),
            ("farm-jobs", ORDER, format!("{subject}.more")),
        ] {
            assert_eq!(job_of_value(bucket, kind, &subject), None, "{subject} {kind}");
        }
    }

    #[test]
    fn a_worker_named_like_another_role_has_an_inbox_of_its_own() {
        for name in [
            "coord",
            "coord-",
            "coordinator",
            "obs",
            "obs-",
            "observer",
            "op",
            "op-",
            "operator",
        ] {
            let inbox = worker_inbox(&name.parse().unwrap());
            assert_ne!(inbox, COORDINATOR_INBOX, "{name}");
            assert_ne!(inbox, OBSERVER_INBOX, "{name}");
            assert_ne!(inbox, OPERATOR_INBOX, "{name}");
        }
    }

    #[test]
    fn broadcasts_have_no_worker_of_their_name() {
        assert!("all".parse::<WorkerId>().is_err());
    }
}
