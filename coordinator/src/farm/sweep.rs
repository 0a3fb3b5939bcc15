//! Keeps the farm's store within its limit: finds out which blobs the jobs still need, and removes others, by age and
//! when room is short.
//!
//! | a job that | needs |
//! |---|---|
//! | is not over | all its blobs, and those of its tasks |
//! | ended without being complete | all its blobs, for `retry`, until its results expire |
//! | is complete | its results, until they expire; its inputs and analyses are spare |
//! | is complete and was fetched | nothing; all its blobs are spare until they expire |
//!
//! What is spare is removed only when room is short. A blob of no job is removed once it is old: whoever submits a job
//! stores its first blobs before the job is known.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use latentfarm_common::blob::{BlobError, StoredObject};
use latentfarm_common::digest::Digest;
use latentfarm_common::error::one_line;
use latentfarm_common::ids::{JobId, WorkKind};
use latentfarm_common::nats::direct::DirectReader;
use latentfarm_common::nats::done::DoneLog;
use latentfarm_common::nats::storage::{self, StorageRoom};
use latentfarm_common::nats::{StreamError, subjects, topology};
use latentfarm_common::wire;
use latentfarm_common::wire::job::{CutRecord, Timeline};
use latentfarm_common::wire::task::{Task, TaskBody};

use super::messages::JobPhase;
use super::records::RecordError;
use crate::dispatch::Farm;
use crate::job::manifest::{self, ManifestError};
use crate::job::segment_log::{SegmentLog, SegmentLogError};

/// A blob of no job is removed when it is older than this.
pub(super) const LEFTOVER_AGE: Duration = Duration::from_hours(1);
/// A spare blob is removed only when it is older than this: whoever submits a job that has the same blob has just made
/// it young.
const SPARE_AGE: Duration = Duration::from_secs(30);

/// What the sweep knows of one job.
#[derive(Clone, Copy, Debug)]
pub(super) struct SweptJob {
    pub(super) job: JobId,
    pub(super) phase: JobPhase,
    /// When it ended, in milliseconds since the Unix epoch.
    pub(super) ended_ms: u64,
    pub(super) is_fetched: bool,
    /// Whether nothing of it is kept any longer.
    pub(super) is_expired: bool,
}

/// Why a sweep begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reason {
    /// Whether it is time for one, so that it does not depend on the room.
    pub(super) is_due: bool,
    /// Whether spare blobs may go. They stay while somebody is about to submit a job, which may share them.
    pub(super) may_take_spare: bool,
    /// Bytes that a job would need which was refused for want of room.
    pub(super) wanted_bytes: u64,
}

/// How full the store may be.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Room is short when more is used than this.
    most_bytes: u64,
    /// Spare blobs are removed until no more is used than this.
    aim_bytes: u64,
}

impl Bounds {
    fn of(room: Option<StorageRoom>, reason: Reason) -> Self {
        match room {
            Some(StorageRoom { limit_bytes, .. }) if reason.may_take_spare => {
                let wanted = limit_bytes.saturating_sub(reason.wanted_bytes);
                Self {
                    most_bytes: wanted.min(limit_bytes / 4 * 3),
                    aim_bytes: wanted.min(limit_bytes / 2),
                }
            }
            _ => Self {
                most_bytes: u64::MAX,
                aim_bytes: u64::MAX,
            },
        }
    }

    fn is_short(self, used_bytes: u64) -> bool {
        used_bytes > self.most_bytes
    }
}

/// What a sweep has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Swept {
    pub(super) objects: usize,
    pub(super) bytes: u64,
}

/// Why a sweep could not be finished. The next one begins afresh.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    #[error(transparent)]
    Store(#[from] BlobError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Segments(#[from] SegmentLogError),
    #[error(transparent)]
    Records(#[from] RecordError),
}

/// The digests of a job's blobs.
#[derive(Clone, Debug, Default)]
pub(super) struct JobBlobs {
    /// The sound and the segments of the output.
    pub(super) results: Vec<Digest>,
    /// The timeline, the speech, the segments of the source video, and the analyses.
    pub(super) inputs: Vec<Digest>,
}

/// Which blobs are needed, and which are spare.
#[derive(Debug, Default)]
struct References {
    needed: BTreeSet<Digest>,
    /// Each with the time at which the last of its jobs ended.
    spare: BTreeMap<Digest, u64>,
}

impl References {
    fn add(&mut self, job: &SweptJob, blobs: &JobBlobs) {
        let (needed, spare): (&[&[Digest]], &[&[Digest]]) = match job.phase {
            _ if job.is_expired => (&[], &[]),
            JobPhase::Complete if job.is_fetched => (&[], &[&blobs.results, &blobs.inputs]),
            JobPhase::Complete => (&[&blobs.results], &[&blobs.inputs]),
            _ => (&[&blobs.results, &blobs.inputs], &[]),
        };
        self.needed.extend(needed.iter().copied().flatten());
        for digest in spare.iter().copied().flatten() {
            let ended = self.spare.entry(*digest).or_default();
            *ended = job.ended_ms.max(*ended);
        }
    }

    /// Returns the objects to remove: those of no job that are old, and, if room is short, spare ones, those of the
    /// jobs that ended first before the others.
    fn surplus<'a>(&self, objects: &'a [StoredObject], bounds: Bounds) -> Vec<&'a StoredObject> {
        let is_of_a_job = |object: &StoredObject| {
            self.needed.contains(&object.digest) || self.spare.contains_key(&object.digest)
        };
        let mut used: u64 = objects.iter().map(|object| object.bytes).sum();
        let mut surplus: Vec<&StoredObject> = objects
            .iter()
            .filter(|object| !is_of_a_job(object) && object.age > LEFTOVER_AGE)
            .collect();
        used -= surplus.iter().map(|object| object.bytes).sum::<u64>();
        if bounds.is_short(used) {
            let mut spare: Vec<(u64, &StoredObject)> = objects
                .iter()
                .filter(|object| !self.needed.contains(&object.digest) && object.age > SPARE_AGE)
                .filter_map(|object| Some((*self.spare.get(&object.digest)?, object)))
                .collect();
            spare.sort_by_key(|(ended, _)| *ended);
            for (_, object) in spare {
                if used <= bounds.aim_bytes {
                    break;
                }
                used -= object.bytes;
                surplus.push(object);
            }
        }
        surplus
    }
}

/// Removes what no job needs, as the table above says. `jobs` are all that the farm knew when the sweep began; the
/// blobs of one that is submitted meanwhile are young.
///
/// If no sweep is due, it does so only when room is short.
pub(super) async fn sweep(farm: &Farm, jobs: Vec<SweptJob>, reason: Reason) -> Result<Swept, SweepError> {
    let room = storage::media_room(&farm.connection.context).await?;
    let bounds = Bounds::of(room, reason);
    if !reason.is_due && !room.is_some_and(|room| bounds.is_short(room.used_bytes)) {
        return Ok(Swept::default());
    }
    // What is stored from now on is not listed, and not removed.
    let objects = farm.store.objects().await?;
    let mut references = References {
        needed: of_tasks(farm).await?,
        ..References::default()
    };
    for job in &jobs {
        if !job.is_expired {
            references.add(job, &blobs_of(farm, job.job).await?);
        }
    }
    let mut swept = Swept::default();
    for object in references.surplus(&objects, bounds) {
        if farm.store.remove(object).await? {
            swept.objects += 1;
            swept.bytes += object.bytes;
        }
    }
    farm.store.remove_leftovers(&objects, LEFTOVER_AGE).await?;
    Ok(swept)
}

/// Returns the inputs of all tasks on the farm.
pub(super) async fn of_tasks(farm: &Farm) -> Result<BTreeSet<Digest>, SweepError> {
    let client = &farm.connection.client;
    let mut reader = DirectReader::new(client, topology::TASKS, subjects::ALL_TASKS, 1);
    let mut found = BTreeSet::new();
    while let Some(message) = reader.next().await? {
        match wire::decode::<Task>(&message.payload) {
            Ok(task) => {
                found.insert(match task.body {
                    TaskBody::Analyze(work) => work.input.digest,
                    TaskBody::Render(work) => work.input.digest,
                });
            }
            Err(error) => tracing::debug!(error = one_line(&error), "a task cannot be read, and has no blob"),
        }
    }
    Ok(found)
}

/// Returns the blobs of a job, as far as its records name them.
pub(super) async fn blobs_of(farm: &Farm, job: JobId) -> Result<JobBlobs, SweepError> {
    let mut blobs = JobBlobs::default();
    let Some(spec) = manifest::read_from_farm(&farm.connection, job).await? else {
        return Ok(blobs);
    };
    blobs.results.push(spec.sound.blob.digest);
    blobs.inputs.push(spec.timeline.digest);
    let timeline = farm.store.get_bytes(&spec.timeline).await;
    match timeline.map(|bytes| wire::decode::<Timeline>(&bytes)) {
        Ok(Ok(timeline)) => blobs.inputs.extend(timeline.audio.iter().map(|blob| blob.digest)),
        // One that is gone or damaged names nothing.
        Ok(Err(_)) => {}
        Err(error) if !error.may_pass() => {}
        Err(error) => return Err(error.into()),
    }
    for record in SegmentLog::open(&farm.connection, job).await?.list().await? {
        if let CutRecord::Segment(segment) = record {
            blobs.inputs.push(segment.entry.blob.digest);
        }
    }
    for entry in DoneLog::new(&farm.connection).list(job).await? {
        let Ok(record) = entry.record else { continue };
        let of_its_kind = match record.chunk.work {
            WorkKind::Analyze | WorkKind::Border | WorkKind::SpotCheck => &mut blobs.inputs,
            WorkKind::Render => &mut blobs.results,
        };
        of_its_kind.push(record.artifact.digest);
    }
    Ok(blobs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::nats::storage::StorageLimit;

    const HOUR: u64 = 3600;

    fn digest(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    fn object(name: &str, mib: u64, age_s: u64) -> StoredObject {
        StoredObject::listed(digest(name), mib << 20, Duration::from_secs(age_s))
    }

    fn job(phase: JobPhase, ended_ms: u64, is_fetched: bool) -> SweptJob {
        SweptJob {
            job: JobId::from_digest(&digest("job")),
            phase,
            ended_ms,
            is_fetched,
            is_expired: false,
        }
    }

    fn blobs(results: &[&str], inputs: &[&str]) -> JobBlobs {
        let digests = |names: &[&str]| names.iter().map(|name| digest(name)).collect();
        JobBlobs {
            results: digests(results),
            inputs: digests(inputs),
        }
    }

    fn bounds(limit_mib: u64, wanted_mib: u64) -> Bounds {
        let room = StorageRoom {
            limited_by: StorageLimit::Bucket,
            used_bytes: 0,
            limit_bytes: limit_mib << 20,
        };
        let reason = Reason {
            is_due: false,
            may_take_spare: true,
            wanted_bytes: wanted_mib << 20,
        };
        Bounds::of(Some(room), reason)
    }

    fn removed(references: &References, objects: &[StoredObject], limit_mib: u64) -> Vec<Digest> {
        let surplus = references.surplus(objects, bounds(limit_mib, 0));
        surplus.into_iter().map(|object| object.digest).collect()
    }

    #[test]
    fn what_no_job_has_goes_when_it_is_old_and_nothing_else_while_there_is_room() {
        let mut references = References::default();
        references.add(&job(JobPhase::Complete, 5, true), &blobs(&["result"], &["input"]));
        references.add(&job(JobPhase::Running, 0, false), &blobs(&["half"], &["video"]));
        let objects = ["result", "input", "half", "video", "lost"].map(|name| object(name, 10, 2 * HOUR));
        assert_eq!(removed(&references, &objects, 1000), [digest("lost")]);
        let young = [object("lost", 10, HOUR)];
        assert_eq!(removed(&references, &young, 1000), []);
    }

    #[test]
    fn when_room_is_short_spare_blobs_go_the_oldest_first_and_needed_ones_never() {
        let mut references = References::default();
        references.add(
            &job(JobPhase::Complete, 5, true),
            &blobs(&["old result"], &["old input"]),
        );
        references.add(
            &job(JobPhase::Complete, 9, false),
            &blobs(&["result"], &["input", "old input"]),
        );
        references.add(&job(JobPhase::Cancelled, 9, false), &blobs(&["part"], &["video"]));
        let names = ["old result", "old input", "result", "input", "part", "video"];
        let objects = names.map(|name| object(name, 10, 60));
        assert_eq!(
            removed(&references, &objects, 80),
            [],
            "three quarters are not used"
        );
        // The input is shared with a job that ended later.
        assert_eq!(
            removed(&references, &objects, 70),
            ["old result", "old input", "input"].map(digest)[..3],
            "half the limit is 35 MiB"
        );
        assert_eq!(
            removed(&references, &objects, 79),
            ["old result", "old input", "input"].map(digest)[..3]
        );
        let young = names.map(|name| object(name, 10, 30));
        assert_eq!(
            removed(&references, &young, 10),
            [],
            "they may just have been put again"
        );
    }

    #[test]
    fn a_job_that_was_refused_gets_its_room_although_the_store_is_not_full() {
        let mut references = References::default();
        references.add(&job(JobPhase::Complete, 5, true), &blobs(&["one", "two"], &[]));
        let objects = ["one", "two"].map(|name| object(name, 10, 60));
        assert_eq!(removed(&references, &objects, 100), []);
        let with_wanted = |mib| references.surplus(&objects, bounds(100, mib)).len();
        assert_eq!([80, 81, 90, 91, 200].map(with_wanted), [0, 1, 1, 2, 2]);
        let coming = Reason {
            is_due: true,
            may_take_spare: false,
            wanted_bytes: 99 << 20,
        };
        assert!(references.surplus(&objects, Bounds::of(None, coming)).is_empty());
    }

    #[test]
    fn a_blob_that_an_open_job_shares_is_not_spare_and_nothing_of_an_expired_job_is_kept() {
        let mut references = References::default();
        references.add(&job(JobPhase::Complete, 5, true), &blobs(&["result"], &["video"]));
        references.add(&job(JobPhase::Queued, 0, false), &blobs(&[], &["video"]));
        let expired = SweptJob {
            is_expired: true,
            ..job(JobPhase::Complete, 1, false)
        };
        references.add(&expired, &blobs(&["expired"], &[]));
        let objects = ["result", "video", "expired"].map(|name| object(name, 10, 2 * HOUR));
        assert_eq!(
            removed(&references, &objects, 10),
            ["expired", "result"].map(digest)
        );
    }
}
