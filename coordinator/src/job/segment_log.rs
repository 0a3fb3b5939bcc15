//! The records of a job's source segments in the farm's key-value bucket, beside the manifest. A record is
//! created once and never changed, so that a render that is resumed uses the segments that its workers have
//! seen. The task that cuts the video reads them once when it begins, and appends to them.

use async_nats::jetstream::kv::{self, CreateErrorKind};
use latentfarm_common::ids::JobId;
use latentfarm_common::nats::direct::DirectReader;
use latentfarm_common::nats::topology::JOBS_BUCKET;
use latentfarm_common::nats::{Connection, StreamError, subjects};
use latentfarm_common::wire::job::CutRecord;
use latentfarm_common::wire::{self, WireError};

/// The records of one job.
#[derive(Debug)]
pub struct SegmentLog {
    bucket: kv::Store,
    connection: Connection,
    job: JobId,
}

/// Why the records cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum SegmentLogError {
    #[error("cannot read the records of the video's segments")]
    Read(#[source] StreamError),
    #[error("cannot use the farm's job bucket")]
    Bucket(#[source] async_nats::Error),
    #[error("record {number} of the video's segments cannot be read or written")]
    Wire {
        number: u64,
        #[source]
        source: WireError,
    },
    #[error(
        "the farm has another record {number} of this job's video, which was cut by another build of this release: use \
         the one that began the job"
    )]
    Differs { number: u64 },
}

impl SegmentLogError {
    /// Whether the same call may succeed later, because the farm did not answer.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Read(_) | Self::Bucket(_) => true,
            Self::Wire { .. } | Self::Differs { .. } => false,
        }
    }
}

impl SegmentLog {
    /// Opens the records of a job on a farm whose buckets exist.
    pub async fn open(connection: &Connection, job: JobId) -> Result<Self, SegmentLogError> {
        let bucket = connection.context.get_key_value(JOBS_BUCKET).await;
        Ok(Self {
            bucket: bucket.map_err(|error| SegmentLogError::Bucket(error.into()))?,
            connection: connection.clone(),
            job,
        })
    }

    /// Returns all records, in order.
    pub async fn list(&self) -> Result<Vec<CutRecord>, SegmentLogError> {
        let stream = format!("KV_{JOBS_BUCKET}");
        let filter = subjects::values(JOBS_BUCKET, &subjects::segments_of_job(self.job));
        let mut reader = DirectReader::new(&self.connection.client, &stream, &filter, 1);
        let mut records = Vec::new();
        // Each record was created after the one before it, so they are stored in the order of their numbers.
        while let Some(message) = reader.next().await.map_err(SegmentLogError::Read)? {
            let number = records.len() as u64;
            let expected = subjects::values(JOBS_BUCKET, &subjects::segment_key(self.job, number));
            if message.subject.as_str() != expected {
                break;
            }
            records.push(decode(number, &message.payload)?);
        }
        Ok(records)
    }

    /// Writes record `number`, whose predecessors exist. Returns the record that counts: the one that is
    /// there already, if an earlier run or another coordinator has cut the same frames.
    pub async fn append(&self, number: u64, record: &CutRecord) -> Result<CutRecord, SegmentLogError> {
        let bytes = wire::encode(record).map_err(|source| SegmentLogError::Wire { number, source })?;
        let key = subjects::segment_key(self.job, number);
        match self.bucket.create(&key, bytes.into()).await {
            Ok(_revision) => return Ok(record.clone()),
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => {}
            Err(error) => return Err(SegmentLogError::Bucket(error.into())),
        }
        let found = self.bucket.get(&key).await;
        let found = found.map_err(|error| SegmentLogError::Bucket(error.into()))?;
        let found = found.map(|bytes| decode(number, &bytes)).transpose()?;
        match found {
            Some(found) if is_same_stretch(&found, record) => Ok(found),
            _ => Err(SegmentLogError::Differs { number }),
        }
    }
}

fn decode(number: u64, bytes: &[u8]) -> Result<CutRecord, SegmentLogError> {
    wire::decode(bytes).map_err(|source| SegmentLogError::Wire { number, source })
}

fn is_same_stretch(found: &CutRecord, new: &CutRecord) -> bool {
    match (found, new) {
        (CutRecord::End, CutRecord::End) => true,
        (CutRecord::Segment(found), CutRecord::Segment(new)) => {
            (found.entry.first, found.entry.frames) == (new.entry.first, new.entry.frames)
        }
        (CutRecord::End, CutRecord::Segment(_)) | (CutRecord::Segment(_), CutRecord::End) => false,
    }
}
