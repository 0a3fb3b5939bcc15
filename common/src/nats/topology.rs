//! Streams, consumers and buckets, as data. The coordinator calls [`ensure`] when it starts, to create them
//! or bring them to this release's settings.
//!
//! | stream | holds |
//! |---|---|
//! | `FARM_TASKS` | tasks that wait or run: hints, not truth |
//! | `FARM_DONE` | one done record for each chunk: the truth |
//! | `FARM_EVT` | events, for a week |
//! | `FARM_ADV` | the server's advisories about tasks that were delivered too often or terminated |
//! | `KV_farm-jobs` | job manifests and states |
//! | `KV_farm-lease` | the coordinator's lease |
//! | `KV_farm-needs` | memory requirements and frame times that were measured on tasks |
//! | `OBJ_farm-media` | blobs, on farms without a shared directory |
//! | `OBJ_farm-weights` | weights that are shared with all workers; created when some are |

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{Config, ConsumerErrorKind, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, ErrorCode};

use super::error::StreamError;
use super::full::is_full;
use super::schema::OtherSchema;
use super::{schema, subjects};
use crate::error::one_line;
use crate::queues::Queue;
use crate::wire::MAX_MESSAGE_BYTES;

/// Name of the stream of tasks.
pub const TASKS: &str = "FARM_TASKS";
/// Name of the stream of done records.
pub const DONE: &str = "FARM_DONE";
/// Name of the stream of events.
pub const EVENTS: &str = "FARM_EVT";
/// Name of the stream of the server's advisories about tasks.
pub const ADVISORIES: &str = "FARM_ADV";
/// Name of the key-value bucket of job manifests and states.
pub const JOBS_BUCKET: &str = "farm-jobs";
/// Name of the stream that holds that bucket.
pub const JOBS_STREAM: &str = "KV_farm-jobs";
/// Name of the key-value bucket of the coordinator's lease.
pub const LEASE_BUCKET: &str = "farm-lease";
/// Name of the key-value bucket of measured memory requirements and frame times.
pub const NEEDS_BUCKET: &str = "farm-needs";
/// Name of the stream that holds that bucket.
pub const NEEDS_STREAM: &str = "KV_farm-needs";
/// Name of the object store bucket of blobs.
pub const MEDIA_BUCKET: &str = "farm-media";
/// Name of the object store bucket of shared weights.
pub const WEIGHTS_BUCKET: &str = "farm-weights";
/// Name of the stream that holds that bucket, and the lists of the files.
pub const WEIGHTS_STREAM: &str = "OBJ_farm-weights";

/// The streams whose records must be of this release. What the others hold is no loss: events, what was learned of tasks, and
/// blobs, which are named by their content.
const OF_ONE_RELEASE: [&str; 3] = [JOBS_STREAM, DONE, TASKS];

const MINUTE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);
const GIB: i64 = 1 << 30;

/// The settings of streams and queues that may differ between farms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Topology {
    /// A task goes to another worker if its worker reports no progress for this long.
    pub ack_wait: Duration,
    /// Number of copies of every stream: 1, or 3 on a cluster. `None` leaves streams as they are, and gives new ones one
    /// copy.
    pub replicas: Option<usize>,
    /// Limit of all blobs in the object store, in bytes.
    pub media_max_bytes: i64,
}

impl Default for Topology {
    fn default() -> Self {
        Self {
            ack_wait: Duration::from_secs(30),
            replicas: None,
            media_max_bytes: 32 * GIB,
        }
    }
}

/// Number of deliveries of one task after which only the coordinator can free it. Workers terminate a task
/// that fails before that, so only a task that kills its workers is delivered so often.
pub const MAX_DELIVER: i64 = 8;

impl Topology {
    /// Returns the configuration of every stream, those of the buckets included.
    pub fn streams(&self) -> Vec<Config> {
        let base = |name: &str, subjects: Vec<String>| Config {
            name: name.to_owned(),
            subjects,
            storage: StorageType::File,
            num_replicas: self.replicas.unwrap_or(1),
            allow_direct: true,
            max_consumers: -1,
            max_messages: -1,
            max_bytes: GIB,
            max_messages_per_subject: -1,
            duplicate_window: 2 * MINUTE,
            metadata: schema::mark(),
            ..Config::default()
        };
        // A key-value bucket; the marker of an expired value stays for `marker_ttl`.
        let bucket = |name: &str, history: i64, marker_ttl: Duration| Config {
            discard: DiscardPolicy::New,
            max_messages_per_subject: history,
            allow_rollup: true,
            deny_delete: true,
            allow_message_ttl: true,
            subject_delete_marker_ttl: Some(marker_ttl),
            ..base(&format!("KV_{name}"), vec![format!("$KV.{name}.>")])
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
            bucket(JOBS_BUCKET, 5, 60 * MINUTE),
            bucket(LEASE_BUCKET, 1, MINUTE),
            bucket(NEEDS_BUCKET, 1, MINUTE),
            Config {
                discard: DiscardPolicy::New,
                allow_rollup: true,
                max_bytes: self.media_max_bytes,
                // The coordinator removes what no job needs. An age would take the chunks of objects that are
                // described anew.
                ..base(
                    &format!("OBJ_{MEDIA_BUCKET}"),
                    vec![format!("$O.{MEDIA_BUCKET}.C.>"), format!("$O.{MEDIA_BUCKET}.M.>")],
                )
            },
        ]
    }

    /// Returns the configuration of a queue's durable pull consumer.
    pub fn queue(&self, queue: Queue) -> pull::Config {
        pull::Config {
            durable_name: Some(queue.to_string()),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            // There is no `backoff`: it would override `ack_wait`.
            ack_wait: self.ack_wait,
            max_deliver: MAX_DELIVER,
            filter_subject: subjects::queue_filter(queue),
            max_ack_pending: -1,
            max_waiting: 8192,
            max_batch: 1,
            max_expires: MINUTE,
            ..pull::Config::default()
        }
    }
}

/// Returns the configuration of the stream of shared weights. It has no limit, so that it takes no room on farms that
/// share none.
pub(super) fn weights_stream() -> Config {
    Config {
        name: WEIGHTS_STREAM.to_owned(),
        subjects: vec![
            format!("$O.{WEIGHTS_BUCKET}.C.>"),
            format!("$O.{WEIGHTS_BUCKET}.M.>"),
            subjects::ALL_WEIGHTS.to_owned(),
        ],
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        allow_direct: true,
        allow_rollup: true,
        max_consumers: -1,
        max_messages: -1,
        max_bytes: -1,
        max_messages_per_subject: -1,
        ..Config::default()
    }
}

/// Fails if the farm's store has records of another release. Streams that cannot be looked up now are left to whoever uses them:
/// [`ensure`] looks again before it changes any.
pub async fn check_store(context: &jetstream::Context) -> Result<(), OtherSchema> {
    for name in OF_ONE_RELEASE {
        match context.get_stream(name).await {
            Ok(stream) => schema::check(stream.cached_info())?,
            Err(error) => {
                tracing::debug!(
                    stream = name,
                    error = one_line(&error),
                    "cannot look up a stream's schema"
                );
            }
        }
    }
    Ok(())
}

/// How often the limits of all streams are halved at most, on a server that grants less than they ask for.
pub const HALVINGS: u32 = 6;

/// What [`ensure`] had to create.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ensured {
    /// Names of the streams that did not exist. On a farm that already has jobs, an absent stream is lost
    /// data.
    pub created: Vec<String>,
    /// How often the limits of streams that were created were halved.
    pub halvings: u32,
}

/// Creates missing streams and brings the others to this release's settings. Repeating it changes nothing. On a
/// server that grants less storage than the streams ask for, those that are created get smaller limits. Nothing is changed
/// if streams have records of another release, which [`StreamError::other_schema`] tells apart.
pub async fn ensure(context: &jetstream::Context, topology: &Topology) -> Result<Ensured, StreamError> {
    let (mut missing, mut existing) = (Vec::new(), Vec::new());
    for config in topology.streams() {
        match context.get_stream(&config.name).await {
            Ok(stream) => {
                let found = stream.cached_info();
                if OF_ONE_RELEASE.contains(&config.name.as_str()) {
                    schema::check(found).map_err(|other| {
                        StreamError::new(format!("use the stream {}", config.name), other)
                    })?;
                }
                existing.push((config, found.config.clone()));
            }
            Err(error) if is_not_found(error.kind()) => missing.push(config),
            Err(error) => {
                return Err(StreamError::new(
                    format!("look up the stream {}", config.name),
                    error,
                ));
            }
        }
    }
    for (config, found) in existing {
        let num_replicas = topology.replicas.unwrap_or(found.num_replicas);
        let config = Config {
            num_replicas,
            ..config
        };
        update(context, config, found.max_bytes).await?;
    }
    let mut halvings = 0;
    while let Err(error) = create(context, &missing, halvings).await {
        if halvings == HALVINGS || !is_full(&error) {
            return Err(error);
        }
        halvings += 1;
    }
    if halvings > 0 {
        tracing::warn!(
            "the NATS server grants less storage than the farm's streams ask for: their limits are 1/{} of it",
            1 << halvings
        );
    }
    Ok(Ensured {
        created: missing.into_iter().map(|config| config.name).collect(),
        halvings,
    })
}

/// Creates streams with their limits halved so often. If one of them cannot be created, none is: what was
/// created before it is removed again, unless it is used already.
async fn create(context: &jetstream::Context, streams: &[Config], halvings: u32) -> Result<(), StreamError> {
    for (index, config) in streams.iter().enumerate() {
        let name = &config.name;
        let limited = Config {
            max_bytes: (config.max_bytes >> halvings).max(1),
            ..config.clone()
        };
        let Err(error) = context.create_stream(limited).await else {
            tracing::debug!(stream = name, "created a stream");
            continue;
        };
        for created in &streams[..index] {
            let found = context.get_stream(&created.name).await;
            if found.is_ok_and(|stream| stream.cached_info().state.last_sequence == 0) {
                // What is left of it keeps its limit.
                let _kept = context.delete_stream(&created.name).await;
            }
        }
        return Err(StreamError::new(format!("create the stream {name}"), error));
    }
    Ok(())
}

/// Brings a stream to this release's settings. It keeps its limit if the server has no more.
async fn update(context: &jetstream::Context, config: Config, max_bytes: i64) -> Result<(), StreamError> {
    let updated = match context.update_stream(&config).await {
        Err(error) if is_full(&error) => {
            let kept = Config {
                max_bytes,
                ..config.clone()
            };
            context.update_stream(&kept).await
        }
        updated => updated,
    };
    updated.map(|_| ()).map_err(|error| {
        StreamError::new(
            format!("change the stream {} to this release's settings", config.name),
            error,
        )
    })
}

/// Whether a stream could not be looked up because it does not exist.
pub(super) fn is_not_found(kind: GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// Creates the consumer of a queue, or brings it to these settings. A queue is created when it is first used.
pub async fn ensure_queue(
    context: &jetstream::Context,
    topology: &Topology,
    queue: Queue,
) -> Result<(), StreamError> {
    let created = context
        .create_consumer_on_stream(topology.queue(queue), TASKS)
        .await;
    created
        .map(|_| ())
        .map_err(|error| StreamError::new(format!("create the consumer of queue {queue}"), error))
}

/// How full a queue is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLoad {
    /// Number of tasks that wait for a worker.
    pub waiting: u64,
    /// Number of tasks that a worker holds.
    pub held: u64,
    /// Number of workers that wait for a task.
    pub pullers: u64,
}

/// Reads how full a queue is; returns `None` if it has no consumer yet.
pub async fn queue_load(
    context: &jetstream::Context,
    queue: Queue,
) -> Result<Option<QueueLoad>, StreamError> {
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
            _ => Err(StreamError::new(
                format!("look up the consumer of queue {queue}"),
                error,
            )),
        },
    }
}
