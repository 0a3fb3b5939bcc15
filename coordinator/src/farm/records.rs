//! The orders and records of jobs in the farm's key-value bucket, beside their manifests. Only the coordinator
//! that holds the lease writes them: each write names the revision that it follows, so that one of a
//! coordinator that was replaced fails.

use std::collections::BTreeMap;

use async_nats::jetstream::kv::{self, UpdateErrorKind};
use latentfarm_common::error::one_line;
use latentfarm_common::ids::JobId;
use latentfarm_common::nats::direct::DirectReader;
use latentfarm_common::nats::topology::{self, JOBS_BUCKET, JOBS_STREAM};
use latentfarm_common::nats::{Connection, StreamError, subjects};
use latentfarm_common::wire::{self, Message, WireError};

use super::messages::{JobOrder, JobOutcome, JobRecord};

/// The coordinator's view of the bucket.
#[derive(Debug)]
pub(super) struct RecordStore {
    connection: Connection,
    bucket: kv::Store,
    /// The last known revision of each key.
    revisions: BTreeMap<String, u64>,
    /// What was written to a key after its last known revision without an answer. The server may have stored one of these.
    unanswered: BTreeMap<String, Vec<Vec<u8>>>,
}

/// Why a record cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("cannot use the farm's job bucket")]
    Bucket(#[source] async_nats::Error),
    #[error(transparent)]
    Read(#[from] StreamError),
    #[error("the farm's server is away, or another coordinator has the farm")]
    Away,
    #[error("cannot encode a job's record")]
    Encode(#[source] WireError),
    #[error("cannot read the figures of a job")]
    Decode(#[source] WireError),
    #[error("another coordinator has written to the records of this farm")]
    Taken,
}

/// Reads how a job ended; `None` if the farm has no figures of it.
pub(super) async fn outcome(connection: &Connection, job: JobId) -> Result<Option<JobOutcome>, RecordError> {
    let failed = |error: async_nats::Error| RecordError::Bucket(error);
    let bucket = connection.context.get_key_value(JOBS_BUCKET).await;
    let found = bucket
        .map_err(|error| failed(error.into()))?
        .get(subjects::outcome_key(job))
        .await;
    let found = found.map_err(|error| failed(error.into()))?;
    found
        .map(|bytes| wire::decode(&bytes))
        .transpose()
        .map_err(RecordError::Decode)
}

impl RecordStore {
    /// Opens the bucket of a farm whose buckets exist.
    pub(super) async fn open(connection: &Connection) -> Result<Self, RecordError> {
        let bucket = connection.context.get_key_value(JOBS_BUCKET).await;
        Ok(Self {
            connection: connection.clone(),
            bucket: bucket.map_err(|error| RecordError::Bucket(error.into()))?,
            revisions: BTreeMap::new(),
            unanswered: BTreeMap::new(),
        })
    }

    /// Reads all jobs. One that another release has written is passed over.
    pub(super) async fn load(&mut self) -> Result<Vec<(JobId, JobOrder, JobRecord)>, RecordError> {
        let mut orders: BTreeMap<JobId, JobOrder> = self.read(subjects::ORDER).await?;
        let records: BTreeMap<JobId, JobRecord> = self.read(subjects::RECORD).await?;
        let known = records.into_iter();
        Ok(known
            .filter_map(|(job, record)| Some((job, orders.remove(&job)?, record)))
            .collect())
    }

    /// Reads the last messages of one kind, by their jobs.
    async fn read<M: Message>(&mut self, kind: &str) -> Result<BTreeMap<JobId, M>, RecordError> {
        let stream = format!("KV_{JOBS_BUCKET}");
        let filter = subjects::values(JOBS_BUCKET, &format!("*.{kind}"));
        let mut reader = DirectReader::new(&self.connection.client, &stream, &filter, 1);
        let mut found = BTreeMap::new();
        while let Some(message) = reader.next().await? {
            let Some(job) = subjects::job_of_value(JOBS_BUCKET, kind, message.subject.as_str()) else {
                continue;
            };
            // A key may have several values; the last one counts.
            self.revisions.insert(format!("{job}.{kind}"), message.sequence);
            match wire::decode(&message.payload) {
                Ok(value) => {
                    found.insert(job, value);
                }
                Err(error) => {
                    found.remove(&job);
                    tracing::warn!(%job, kind, error = one_line(&error), "a job of the farm cannot be read, and is passed over");
                }
            }
        }
        Ok(found)
    }

    pub(super) async fn write_order(&mut self, job: JobId, order: &JobOrder) -> Result<(), RecordError> {
        self.write(format!("{job}.{}", subjects::ORDER), order).await
    }

    pub(super) async fn write_record(&mut self, job: JobId, record: &JobRecord) -> Result<(), RecordError> {
        self.write(format!("{job}.{}", subjects::RECORD), record).await
    }

    /// Stores how a job ended, with its figures. They are for people, so the last ones that are written count.
    pub(super) async fn write_outcome(&self, job: JobId, outcome: &JobOutcome) -> Result<(), RecordError> {
        let bytes = wire::encode(outcome).map_err(RecordError::Encode)?;
        let stored = self.bucket.put(subjects::outcome_key(job), bytes.into()).await;
        stored
            .map(|_revision| ())
            .map_err(|error| RecordError::Bucket(error.into()))
    }

    /// Removes everything that the farm has of a job but its blobs: order, record, manifest, segment records and
    /// done records.
    pub(super) async fn remove(&mut self, job: JobId) -> Result<(), RecordError> {
        let of_job = subjects::values(JOBS_BUCKET, &format!("{job}.>"));
        for (stream, filter) in [
            (topology::DONE, subjects::done_of_job(job)),
            (JOBS_STREAM, of_job),
        ] {
            let failed = |error: async_nats::Error| RecordError::Bucket(error);
            let found = self.connection.context.get_stream_no_info(stream).await;
            let found = found.map_err(|error| failed(error.into()))?;
            found
                .purge()
                .filter(filter)
                .await
                .map_err(|error| failed(error.into()))?;
        }
        for kind in [subjects::ORDER, subjects::RECORD] {
            let key = format!("{job}.{kind}");
            self.revisions.remove(&key);
            self.unanswered.remove(&key);
        }
        Ok(())
    }

    async fn write<M: Message>(&mut self, key: String, value: &M) -> Result<(), RecordError> {
        let bytes = wire::encode(value).map_err(RecordError::Encode)?;
        let failed = |error: async_nats::Error| RecordError::Bucket(error);
        let unanswered = self.unanswered.entry(key.clone()).or_default();
        if !unanswered.contains(&bytes) {
            unanswered.push(bytes.clone());
        }
        loop {
            let last = self.revisions.get(&key).copied().unwrap_or(0);
            let error = match self.bucket.update(&key, bytes.clone().into(), last).await {
                Ok(revision) => {
                    self.unanswered.remove(&key);
                    self.revisions.insert(key, revision);
                    return Ok(());
                }
                Err(error) => error,
            };
            if error.kind() != UpdateErrorKind::WrongLastRevision {
                return Err(failed(error.into()));
            }
            // The last value may be our own, the answer to which was lost.
            let found = self.bucket.entry(&key).await;
            let found = found.map_err(|error| failed(error.into()))?;
            let entry = found.ok_or(RecordError::Taken)?;
            let unanswered = self.unanswered.get(&key);
            let is_ours =
                unanswered.is_some_and(|writes| writes.iter().any(|write| entry.value[..] == write[..]));
            if !is_ours || entry.revision == last {
                return Err(RecordError::Taken);
            }
            let is_written = entry.value[..] == bytes[..];
            self.revisions.insert(key.clone(), entry.revision);
            if is_written {
                self.unanswered.remove(&key);
                return Ok(());
            }
        }
    }
}
