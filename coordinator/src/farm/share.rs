//! Takes over what another job has made of the same video, so that a video is cut, stored and analysed once however
//! many jobs it has: languages, seeds, settings.
//!
//! Segments and analyses are functions of the video alone, up to the last ones, which end where a job needs no more of
//! it. What is taken over is checked as if the job's own workers had made it: a segment whose blob is gone is cut again,
//! and an analysis that cannot be read is retracted and made again.

use latentfarm_common::ids::{ChunkId, JobId, WorkKind};
use latentfarm_common::nats::StreamError;
use latentfarm_common::nats::done::DoneLog;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::job::{CutRecord, JobSpec};
use latentfarm_common::wire::outcome::DoneRecord;

use crate::dispatch::Farm;
use crate::job::manifest::{self, ManifestError};
use crate::job::segment_log::{SegmentLog, SegmentLogError};

/// Why nothing could be taken over. The job goes on without.
#[derive(Debug, thiserror::Error)]
pub(super) enum ShareError {
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    Segments(#[from] SegmentLogError),
    #[error(transparent)]
    Done(#[from] StreamError),
}

/// Records the segments of another job's video as those of this one, as far as both need the same ones. Returns their
/// number. A job that has records of its own takes over none.
pub(super) async fn segments(farm: &Farm, spec: &JobSpec, others: &[JobId]) -> Result<usize, ShareError> {
    let log = SegmentLog::open(&farm.connection, spec.id).await?;
    if !log.list().await?.is_empty() {
        return Ok(0);
    }
    for other in others {
        let Some(donor) = manifest::read_from_farm(&farm.connection, *other).await? else {
            continue;
        };
        let records = SegmentLog::open(&farm.connection, *other).await?.list().await?;
        let records = shared_segments(spec, &donor, records);
        if records.is_empty() {
            continue;
        }
        for (number, record) in (0..).zip(&records) {
            log.append(number, record).await?;
        }
        return Ok(records.len());
    }
    Ok(0)
}

/// Records the analyses of other jobs' video as those of this one, where they are of the same frames. Returns their
/// number.
pub(super) async fn analyses(farm: &Farm, spec: &JobSpec, others: &[JobId]) -> Result<usize, ShareError> {
    let log = DoneLog::new(&farm.connection);
    let known = log.list(spec.id).await?;
    if known.iter().any(|entry| entry.chunk.work == WorkKind::Analyze) {
        return Ok(0);
    }
    for other in others {
        let Some(donor) = manifest::read_from_farm(&farm.connection, *other).await? else {
            continue;
        };
        let records = log
            .list(*other)
            .await?
            .into_iter()
            .filter_map(|entry| entry.record.ok());
        let records = shared_analyses(spec, &donor, records.collect());
        if records.is_empty() {
            continue;
        }
        for record in &records {
            log.commit(record).await?;
        }
        return Ok(records.len());
    }
    Ok(0)
}

/// Whether two jobs see the same pictures of the same video.
fn is_same_video(spec: &JobSpec, donor: &JobSpec) -> bool {
    let (ours, theirs) = (&spec.source, &donor.source);
    spec.video_digest == donor.video_digest
        && (&ours.picture, ours.time_base) == (&theirs.picture, theirs.time_base)
}

/// Returns the first records of another job's video that are those of this job's too.
fn shared_segments(spec: &JobSpec, donor: &JobSpec, records: Vec<CutRecord>) -> Vec<CutRecord> {
    if !is_same_video(spec, donor) {
        return Vec::new();
    }
    let (ours, theirs) = (spec.source.frames, donor.source.frames);
    let is_shared = |record: &CutRecord| match record {
        CutRecord::End => ours == theirs,
        CutRecord::Segment(segment) => {
            let end = segment.entry.first.saturating_add(segment.entry.frames);
            // The last one ends where its job ends.
            ours == theirs || end < ours.min(theirs)
        }
    };
    records.into_iter().take_while(is_shared).collect()
}

/// Returns the analyses of another job's video that are of the same frames as chunks of this job, as records of these.
fn shared_analyses(spec: &JobSpec, donor: &JobSpec, records: Vec<DoneRecord>) -> Vec<DoneRecord> {
    if !is_same_video(spec, donor) || spec.analyze_frames != donor.analyze_frames {
        return Vec::new();
    }
    let range = |spec: &JobSpec, index: u32| {
        let size = u64::from(spec.analyze_frames);
        let start = u64::from(index) * size;
        FrameRange::new(start, (start + size).min(spec.source.frames))
    };
    let is_shared = |record: &DoneRecord| {
        let index = record.chunk.index;
        record.chunk.work == WorkKind::Analyze
            && u64::from(index) * u64::from(spec.analyze_frames) < spec.source.frames.min(donor.source.frames)
            && range(spec, index) == range(donor, index)
    };
    let of_this_job = |record: DoneRecord| DoneRecord {
        chunk: ChunkId {
            job: spec.id,
            ..record.chunk
        },
        ..record
    };
    records.into_iter().filter(is_shared).map(of_this_job).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::benchmark_job::benchmark_job;
    use crate::job::test_support::{done_record, segment};
    use latentfarm_common::digest::Digest;
    use latentfarm_common::ids::Attempt;

    /// A job that needs so many frames of the video, analysed in chunks of 16.
    fn job(sources: u32) -> JobSpec {
        benchmark_job(sources, 32).0
    }

    fn analysis(job: &JobSpec, work: WorkKind, index: u32) -> DoneRecord {
        let chunk = ChunkId {
            job: job.id,
            work,
            index,
        };
        done_record(chunk, Attempt::default(), "w1".parse().unwrap())
    }

    #[test]
    fn segments_are_shared_up_to_the_one_that_ends_where_one_of_the_jobs_ends() {
        let all = || vec![segment(0, 30), segment(30, 30), segment(60, 20), CutRecord::End];
        let shared = |ours, theirs| shared_segments(&job(ours), &job(theirs), all()).len();
        assert_eq!(shared(80, 80), 4, "the same frames");
        assert_eq!(shared(100, 80), 2, "the third one is cut short");
        assert_eq!(shared(70, 80), 2);
        assert_eq!(
            shared(60, 80),
            1,
            "the second one may be another where it is the last"
        );
        assert_eq!(shared(20, 80), 0);
        let mut other = job(80);
        other.video_digest = Digest::of(b"another video");
        assert!(shared_segments(&other, &job(80), all()).is_empty());
        let mut other = job(80);
        other.source.picture.width = 320;
        assert!(shared_segments(&other, &job(80), all()).is_empty());
    }

    #[test]
    fn analyses_are_shared_where_their_chunks_are_of_the_same_frames() {
        let donor = job(40);
        let records = || {
            let mut records: Vec<DoneRecord> = (0..3)
                .map(|index| analysis(&donor, WorkKind::Analyze, index))
                .collect();
            records.push(analysis(&donor, WorkKind::Render, 0));
            records
        };
        let shared = |ours: u32| -> Vec<u32> {
            let spec = job(ours);
            let found = shared_analyses(&spec, &donor, records());
            assert!(found.iter().all(|record| record.chunk.job == spec.id));
            found.into_iter().map(|record| record.chunk.index).collect()
        };
        assert_eq!(shared(40), [0, 1, 2]);
        assert_eq!(shared(48), [0, 1], "the last one of the other job is shorter");
        assert_eq!(shared(36), [0, 1]);
        assert_eq!(shared(16), [0]);
        let mut other = job(40);
        other.analyze_frames = 32;
        assert!(shared_analyses(&other, &donor, records()).is_empty());
    }
}
