//! Streams, consumers and buckets, as data. [`ensure`] makes the server agree with them.
//!
//! | stream | holds |
//! |---|---|
//! | `FARM_TASKS` | tasks that wait or run; hints, not truth |
//! | `FARM_DONE` | one done record a chunk: truth |
//! | `FARM_EVT` | events, for a week |
//! | `FARM_ADV` | what the server says about tasks delivered too often or terminated |
//! | `KV_farm-jobs` | job manifests and states |
//! | `KV_farm-lease` | the coordinator's lease |
//! | `KV_farm-needs` | memory needs and rates, as tasks showed them |
//! | `OBJ_farm-media` | blobs, on farms without a shared directory |

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{Config, ConsumerErrorKind, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, ErrorCode};

use super::subjects;
use crate::queues::Queue;
use crate::wire::MAX_MESSAGE_BYTES;

/// Stream of tasks.
pub const TASKS: &str = "FARM_TASKS";
/// Stream of done records.
pub const DONE: &str = "FARM_DONE";
/// Stream of events.
pub const EVENTS: &str = "FARM_EVT";
/// Stream of the server's advisories about tasks.
pub const ADVISORIES: &str = "FARM_ADV";
/// Key-value bucket of job manifests and states.
pub const JOBS_BUCKET: &str = "farm-jobs";
/// Key-value bucket of the coordinator's lease.
pub const LEASE_BUCKET: &str = "farm-lease";
/// Key-value bucket of what tasks showed of memory needs and rates.
pub const NEEDS_BUCKET: &str = "farm-needs";
/// Object store bucket of blobs.
pub const MEDIA_BUCKET: &str = "farm-media";

const MINUTE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);
const GIB: i64 = 1 << 30;

/// What may differ between farms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// A task whose worker shows no progress for this long goes to another one.
    pub ack_wait: Duration,
    /// Copies of every stream: 1, or 3 on a cluster.
    pub replicas: usize,
    /// Room for blobs in the object store.
    pub media_max_bytes: i64,
}

impl Default for Topology {
    fn default() -> Self {
        Self {
            ack_wait: Duration::from_secs(30),
            replicas: 1,
            media_max_bytes: 32 * GIB,
        }
    }
}

/// Deliveries of one task, after which only the coordinator can free it. Workers give a task back as
/// terminated before that, so this is met only by a task that kills its workers.
pub const MAX_DELIVER: i64 = 8;

impl Topology {
    /// Every stream, buckets included.
    pub fn streams(&self) -> Vec<Config> {
        let base = |name: &str, subjects: Vec<String>| Config {
            name: name.to_owned(),
            subjects,
            storage: StorageType::File,
            num_replicas: self.replicas,
            allow_direct: true,
            max_consumers: -1,
            max_messages: -1,
            max_bytes: GIB,
            max_messages_per_subject: -1,
            duplicate_window: 2 * MINUTE,
            ..Config::default()
        };
        let message_bytes = i32::try_from(MAX_MESSAGE_BYTES + 4096).unwrap_or(i32::MAX);
        let advisories = subjects::ADVISORIES.map(str::to_owned).to_vec();
        vec![
            Config {
                retention: RetentionPolicy::WorkQueue,
                discard: DiscardPolicy::New,
                max_message_size: message_bytes,
                duplicate_window: 10 * MINUTE,
                allow_message_ttl: true,
                allow_atomic_publish: true,
                ..base(TASKS, vec![subjects::ALL_TASKS.to_owned()])
            },
            Config {
                discard: DiscardPolicy::New,
                discard_new_per_subject: true,
                max_messages_per_subject: 1,
                max_message_size: message_bytes,
                max_bytes: 4 * GIB,
                ..base(DONE, vec![subjects::ALL_DONE.to_owned()])
            },
            Config {
                discard: DiscardPolicy::Old,
                max_message_size: message_bytes,
                max_age: 7 * DAY,
                max_bytes: 2 * GIB,
                ..base(EVENTS, vec![subjects::ALL_EVENTS.to_owned()])
            },
            Config {
                discard: DiscardPolicy::Old,
                max_age: 7 * DAY,
                max_bytes: GIB / 4,
                ..base(ADVISORIES, advisories)
            },
            bucket(
                base(&format!("KV_{JOBS_BUCKET}"), vec![format!("$KV.{JOBS_BUCKET}.>")]),
                5,
                60 * MINUTE,
            ),
            bucket(
                base(
                    &format!("KV_{LEASE_BUCKET}"),
                    vec![format!("$KV.{LEASE_BUCKET}.>")],
                ),
                1,
                MINUTE,
            ),
            bucket(
                base(
                    &format!("KV_{NEEDS_BUCKET}"),
                    vec![format!("$KV.{NEEDS_BUCKET}.>")],
                ),
                1,
                MINUTE,
            ),
            Config {
                discard: DiscardPolicy::New,
                allow_rollup: true,
                max_bytes: self.media_max_bytes,
                // Collects orphans; far longer than any job should wait for its blobs.
                max_age: 30 * DAY,
                ..base(
                    &format!("OBJ_{MEDIA_BUCKET}"),
                    vec![format!("$O.{MEDIA_BUCKET}.C.>"), format!("$O.{MEDIA_BUCKET}.M.>")],
                )
            },
        ]
    }

    /// The durable pull consumer of one queue.
    pub fn queue(&self, queue: Queue) -> pull::Config {
        pull::Config {
            durable_name: Some(queue.to_string()),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            // No `backoff`: it would override `ack_wait`.
            ack_wait: self.ack_wait,
            max_deliver: MAX_DELIVER,
            filter_subject: subjects::lane_filter(queue),
            max_ack_pending: -1,
            max_waiting: 8192,
            max_batch: 1,
            max_expires: MINUTE,
            ..pull::Config::default()
        }
    }
}

/// A stream that is a key-value bucket; `marker_ttl`: how long the marker of an expired value stays.
fn bucket(base: Config, history: i64, marker_ttl: Duration) -> Config {
    Config {
        discard: DiscardPolicy::New,
        max_messages_per_subject: history,
        allow_rollup: true,
        deny_delete: true,
        allow_message_ttl: true,
        subject_delete_marker_ttl: Some(marker_ttl),
        ..base
    }
}

/// Why the server does not agree with the topology.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    #[error("cannot look up the stream {name}")]
    Look {
        name: String,
        #[source]
        source: jetstream::context::GetStreamError,
    },
    #[error("cannot create the stream {name}")]
    Create {
        name: String,
        #[source]
        source: jetstream::context::CreateStreamError,
    },
    #[error("cannot change the stream {name} to this release's settings")]
    Update {
        name: String,
        #[source]
        source: jetstream::context::UpdateStreamError,
    },
    #[error("cannot create the consumer of queue {queue}")]
    Queue {
        queue: Queue,
        #[source]
        source: jetstream::stream::ConsumerError,
    },
    #[error("cannot look up the consumer of queue {queue}")]
    LaneInfo {
        queue: Queue,
        #[source]
        source: jetstream::stream::ConsumerError,
    },
}

/// What [`ensure`] had to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ensured {
    /// Streams that did not exist. On a farm that already has jobs, an absent stream is lost data.
    pub created: Vec<String>,
}

/// Creates missing streams and brings the others to this release's settings. Repeating it changes nothing.
pub async fn ensure(context: &jetstream::Context, topology: &Topology) -> Result<Ensured, TopologyError> {
    let mut ensured = Ensured::default();
    for config in topology.streams() {
        let name = config.name.clone();
        match context.get_stream(&name).await {
            Ok(_) => {
                let updated = context.update_stream(&config).await;
                updated.map_err(|source| TopologyError::Update { name, source })?;
            }
            Err(error) if is_not_found(error.kind()) => {
                let created = context.create_stream(config).await;
                created.map_err(|source| TopologyError::Create {
                    name: name.clone(),
                    source,
                })?;
                tracing::debug!(stream = name, "created");
                ensured.created.push(name);
            }
            Err(source) => return Err(TopologyError::Look { name, source }),
        }
    }
    Ok(ensured)
}

fn is_not_found(kind: GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// Creates the consumer of a queue, or brings it to these settings. Queues are made when first used.
pub async fn ensure_lane(
    context: &jetstream::Context,
    topology: &Topology,
    queue: Queue,
) -> Result<(), TopologyError> {
    let created = context
        .create_consumer_on_stream(topology.queue(queue), TASKS)
        .await;
    created
        .map(|_| ())
        .map_err(|source| TopologyError::Queue { queue, source })
}

/// How full a queue is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLoad {
    /// Tasks that wait for a worker.
    pub waiting: u64,
    /// Tasks that a worker holds.
    pub held: u64,
    /// Workers that wait for a task.
    pub pullers: u64,
}

/// How full a queue is; `None`: it has no consumer yet.
pub async fn lane_load(
    context: &jetstream::Context,
    queue: Queue,
) -> Result<Option<QueueLoad>, TopologyError> {
    let consumer = context
        .get_consumer_from_stream::<pull::Config, _, _>(queue.to_string(), TASKS)
        .await;
    match consumer {
        Ok(consumer) => {
            let info = consumer.cached_info();
            Ok(Some(QueueLoad {
                waiting: info.num_pending,
                held: info.num_ack_pending as u64,
                pullers: info.num_waiting as u64,
            }))
        }
        Err(error) => match error.kind() {
            ConsumerErrorKind::JetStream(cause) if cause.error_code() == ErrorCode::CONSUMER_NOT_FOUND => {
                Ok(None)
            }
            _ => Err(TopologyError::LaneInfo { queue, source: error }),
        },
    }
}
