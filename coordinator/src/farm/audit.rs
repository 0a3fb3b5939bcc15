//! Looks whether what a farm has stored holds together: the invariants on which the coordinator relies, as code that reads a
//! farm and changes nothing. `latentfarm audit` calls this, and so do tests that hurt a farm.
//!
//! A farm at work is between two states here and there. What counts is what two looks find, some seconds apart.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use latentfarm_common::blob::BlobError;
use latentfarm_common::digest::Digest;
use latentfarm_common::ids::{ChunkId, JobId, WorkKind};
use latentfarm_common::nats::direct::DirectReader;
use latentfarm_common::nats::records::{self, RecordStream};
use latentfarm_common::nats::signature::Signature;
use latentfarm_common::nats::subjects::{self, Subject};
use latentfarm_common::nats::topology::{self, JOBS_BUCKET};
use latentfarm_common::nats::{StreamError, done::DoneLog};
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::job::JobSpec;
use latentfarm_common::wire::{self, Message};

use super::messages::{JobOrder, JobPhase, JobRecord};
use super::sweep::{self, LEFTOVER_AGE, SweepError};
use crate::dispatch::{Authorship, Farm, Signers};
use crate::plan::split::{ChunkFrames, analysis_ranges, split};

/// Something that does not hold together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// A value of the bucket of jobs cannot be read.
    Unreadable {
        subject: String,
        why: String,
    },
    /// A job has one of these and not the other.
    OrderAlone {
        job: JobId,
    },
    RecordAlone {
        job: JobId,
    },
    /// A job that is not forgotten has no manifest.
    NoManifest {
        job: JobId,
    },
    /// A job is complete, and a chunk of it is not done.
    NotDone {
        chunk: ChunkId,
    },
    /// A record is about a chunk that its job does not have, or about no job.
    DoneOfNothing {
        chunk: ChunkId,
    },
    /// A done record cannot be read.
    DoneUnreadable {
        chunk: ChunkId,
        why: String,
    },
    /// A done record is not of the worker that it names.
    NotOfItsWorker {
        chunk: ChunkId,
        why: String,
    },
    /// A blob that a job needs is not there, or is not what its digest says.
    Blob {
        job: JobId,
        digest: Digest,
        why: String,
    },
    /// A task is queued that nobody needs.
    StrayTask {
        subject: String,
        why: String,
    },
    /// Blobs of no job, which the coordinator should have removed.
    StrayBlobs {
        count: usize,
        bytes: u64,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { subject, why } => write!(f, "`{subject}` cannot be read: {why}"),
            Self::OrderAlone { job } => write!(f, "job {job} has an order and no record"),
            Self::RecordAlone { job } => write!(f, "job {job} has a record and no order"),
            Self::NoManifest { job } => write!(f, "job {job} has no manifest"),
            Self::NotDone { chunk } => write!(f, "{chunk} is not done, and its job is complete"),
            Self::DoneOfNothing { chunk } => write!(f, "{chunk} is done, and no job has it"),
            Self::DoneUnreadable { chunk, why } => {
                write!(f, "the done record of {chunk} cannot be read: {why}")
            }
            Self::NotOfItsWorker { chunk, why } => {
                write!(
                    f,
                    "the done record of {chunk} is not of the worker that it names: {why}"
                )
            }
            Self::Blob { job, digest, why } => write!(f, "blob {digest} of job {job}: {why}"),
            Self::StrayTask { subject, why } => write!(f, "the task `{subject}` is queued, and {why}"),
            Self::StrayBlobs { count, bytes } => {
                write!(f, "{count} blobs ({} MiB) belong to no job", bytes >> 20)
            }
        }
    }
}

/// What one look at a farm has found.
#[derive(Clone, Debug, Default)]
pub struct Audit {
    pub jobs: usize,
    pub done_records: usize,
    pub blobs: usize,
    pub findings: BTreeSet<Finding>,
}

/// Why a farm could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("cannot read the farm's records")]
    Records(#[from] StreamError),
    #[error("cannot read the farm's blobs")]
    Blobs(#[from] BlobError),
    #[error("cannot find out which blobs the jobs need")]
    References(#[from] SweepError),
}

/// What the farm knows of one job.
#[derive(Debug, Default)]
struct KnownJob {
    order: Option<JobOrder>,
    record: Option<JobRecord>,
    spec: Option<JobSpec>,
}

/// Looks at a farm once. With `verifies` the content of each blob that a job needs is read and compared with its digest;
/// otherwise only its presence is looked at.
pub async fn audit(farm: &Farm, verifies: bool) -> Result<Audit, AuditError> {
    let mut audit = Audit::default();
    let jobs = read_jobs(farm, &mut audit).await?;
    audit.jobs = jobs.len();
    let done = check_done(farm, &jobs, &mut audit).await?;
    check_complete(&jobs, &done, &mut audit);
    check_tasks(farm, &jobs, &done, &mut audit).await?;
    check_blobs(farm, &jobs, verifies, &mut audit).await?;
    Ok(audit)
}

/// Reads the bucket of jobs, and finds the jobs of which a part is missing.
async fn read_jobs(farm: &Farm, audit: &mut Audit) -> Result<BTreeMap<JobId, KnownJob>, AuditError> {
    let mut jobs: BTreeMap<JobId, KnownJob> = BTreeMap::new();
    for stored in records::read(&farm.connection, RecordStream::Jobs).await? {
        let subject = stored.subject.as_str();
        let job = |kind| subjects::job_of_value(JOBS_BUCKET, kind, subject);
        if let Some(id) = job(subjects::ORDER) {
            let order = decoded(&stored.payload, subject, audit);
            jobs.entry(id).or_default().order = order;
        } else if let Some(id) = job(subjects::RECORD) {
            let record = decoded(&stored.payload, subject, audit);
            jobs.entry(id).or_default().record = record;
        } else if let Some(id) = job(subjects::MANIFEST) {
            let spec = decoded(&stored.payload, subject, audit);
            jobs.entry(id).or_default().spec = spec;
        }
    }
    for (job, known) in &jobs {
        let job = *job;
        match (&known.order, &known.record) {
            (Some(_), None) => audit.findings.insert(Finding::OrderAlone { job }),
            (None, Some(_)) => audit.findings.insert(Finding::RecordAlone { job }),
            _ => false,
        };
        if known.record.is_some() && known.spec.is_none() {
            audit.findings.insert(Finding::NoManifest { job });
        }
    }
    Ok(jobs)
}

fn decoded<M: Message>(payload: &[u8], subject: &str, audit: &mut Audit) -> Option<M> {
    match wire::decode(payload) {
        Ok(value) => Some(value),
        Err(error) => {
            audit.findings.insert(Finding::Unreadable {
                subject: subject.to_owned(),
                why: error.to_string(),
            });
            None
        }
    }
}

/// Reads the done log. Returns the chunks of known jobs that are done.
async fn check_done(
    farm: &Farm,
    jobs: &BTreeMap<JobId, KnownJob>,
    audit: &mut Audit,
) -> Result<BTreeSet<ChunkId>, AuditError> {
    let signers = Signers::read(&farm.connection).await?;
    let mut done = BTreeSet::new();
    let mut of_jobs: BTreeSet<JobId> = jobs.keys().copied().collect();
    // Records of jobs that are not known are found by their subjects.
    for stored in records::read(&farm.connection, RecordStream::Done).await? {
        audit.done_records += 1;
        if let Ok(Subject::Done(chunk)) = stored.subject.parse() {
            of_jobs.insert(chunk.job);
        }
    }
    let log = DoneLog::new(&farm.connection);
    for job in of_jobs {
        let chunks = jobs
            .get(&job)
            .and_then(|known| known.spec.as_ref())
            .map(chunks_of);
        for entry in log.list(job).await? {
            let chunk = entry.chunk;
            let is_of_job = chunks.as_ref().is_some_and(|chunks| chunks.contains(&chunk));
            // Samples of borders and checks are beside the chunks of a job.
            let is_extra = matches!(chunk.work, WorkKind::Border | WorkKind::SpotCheck);
            if !(is_of_job || is_extra && chunks.is_some()) {
                audit.findings.insert(Finding::DoneOfNothing { chunk });
                continue;
            }
            let record = match entry.record {
                Ok(record) => record,
                Err(error) => {
                    let why = error.to_string();
                    audit.findings.insert(Finding::DoneUnreadable { chunk, why });
                    continue;
                }
            };
            if let Some(why) = foreign(&signers, &record.worker, &entry.signature) {
                audit.findings.insert(Finding::NotOfItsWorker { chunk, why });
            }
            done.insert(chunk);
        }
    }
    Ok(done)
}

/// Why a signature is not that of a worker; `None` if it is, or if that is not known.
fn foreign(
    signers: &Signers,
    worker: &latentfarm_common::ids::WorkerId,
    signature: &Signature,
) -> Option<String> {
    match signers.author(worker, signature) {
        Authorship::Other(why) => Some(why),
        Authorship::Worker | Authorship::Coordinator | Authorship::Unknown(_) => None,
    }
}

/// The chunks of a job that have to be done. Empty if its manifest makes no sense.
fn chunks_of(spec: &JobSpec) -> BTreeSet<ChunkId> {
    let job = spec.id;
    let chunk = |work| move |(index, _)| ChunkId { job, work, index };
    let render = ChunkFrames::new(spec.chunk_frames).map(|size| split(spec.frames, size));
    let analyze = analysis_ranges(spec);
    let render = (0..).zip(render.unwrap_or_default()).map(chunk(WorkKind::Render));
    let analyze = (0..)
        .zip(analyze.unwrap_or_default())
        .map(chunk(WorkKind::Analyze));
    render.chain(analyze).collect()
}

/// Finds the chunks of complete jobs that are not done.
fn check_complete(jobs: &BTreeMap<JobId, KnownJob>, done: &BTreeSet<ChunkId>, audit: &mut Audit) {
    for known in jobs.values() {
        let (Some(spec), Some(record)) = (&known.spec, &known.record) else {
            continue;
        };
        if record.phase == JobPhase::Complete {
            let missing = chunks_of(spec).into_iter().filter(|chunk| !done.contains(chunk));
            audit
                .findings
                .extend(missing.map(|chunk| Finding::NotDone { chunk }));
        }
    }
}

/// Finds queued tasks of jobs that are unknown or over, and of chunks that are done.
async fn check_tasks(
    farm: &Farm,
    jobs: &BTreeMap<JobId, KnownJob>,
    done: &BTreeSet<ChunkId>,
    audit: &mut Audit,
) -> Result<(), AuditError> {
    let client = &farm.connection.client;
    let mut reader = DirectReader::new(client, topology::TASKS, subjects::ALL_TASKS, 1);
    while let Some(message) = reader.next().await? {
        let subject = message.subject.to_string();
        let why = match subject.parse() {
            Ok(Subject::Task { chunk, .. }) => {
                let phase = jobs
                    .get(&chunk.job)
                    .and_then(|known| known.record.as_ref())
                    .map(|record| record.phase);
                match phase {
                    None => Some("no job has it".to_owned()),
                    Some(phase) if phase.is_over() => Some(format!("its job is {phase}")),
                    Some(_) if done.contains(&chunk) => Some("its chunk is done".to_owned()),
                    Some(_) => None,
                }
            }
            _ => Some("its subject is none of a task".to_owned()),
        };
        if let Some(why) = why {
            audit.findings.insert(Finding::StrayTask { subject, why });
        }
    }
    Ok(())
}

/// Finds blobs that a job needs and that are missing or damaged, and those of no job.
async fn check_blobs(
    farm: &Farm,
    jobs: &BTreeMap<JobId, KnownJob>,
    verifies: bool,
    audit: &mut Audit,
) -> Result<(), AuditError> {
    let objects = farm.store.objects().await?;
    audit.blobs = objects.len();
    let sizes: BTreeMap<Digest, u64> = objects
        .iter()
        .map(|object| (object.digest, object.bytes))
        .collect();
    let mut named = sweep::of_tasks(farm).await?;
    let mut looked_at = BTreeSet::new();
    for (job, known) in jobs {
        let Some(record) = &known.record else { continue };
        let blobs = sweep::blobs_of(farm, *job).await?;
        named.extend(blobs.results.iter().chain(&blobs.inputs));
        let needed: Vec<Digest> = match record.phase {
            JobPhase::Complete if record.fetched_ms.is_some() => Vec::new(),
            JobPhase::Complete => blobs.results,
            JobPhase::Queued | JobPhase::Running | JobPhase::Paused => {
                blobs.results.into_iter().chain(blobs.inputs).collect()
            }
            // Until their results expire these are needed for `retry`; then they are not.
            JobPhase::Incomplete | JobPhase::Failed | JobPhase::Cancelled => Vec::new(),
        };
        for digest in needed {
            let why = match sizes.get(&digest) {
                None => Some("it is not in the store".to_owned()),
                Some(bytes) if verifies && looked_at.insert(digest) => {
                    let blob = BlobRef {
                        digest,
                        bytes: *bytes,
                    };
                    farm.store
                        .verify(&blob)
                        .await
                        .err()
                        .map(|error| error.to_string())
                }
                Some(_) => None,
            };
            if let Some(why) = why {
                let job = *job;
                audit.findings.insert(Finding::Blob { job, digest, why });
            }
        }
    }
    let stray: Vec<u64> = objects
        .iter()
        .filter(|object| !named.contains(&object.digest) && object.age > 2 * LEFTOVER_AGE)
        .map(|object| object.bytes)
        .collect();
    if !stray.is_empty() {
        audit.findings.insert(Finding::StrayBlobs {
            count: stray.len(),
            bytes: stray.iter().sum(),
        });
    }
    Ok(())
}
