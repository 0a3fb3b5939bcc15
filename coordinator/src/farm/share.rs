//! Takes over what another job has made of the same video, so that a video is cut, stored and analysed once however
//! many jobs it has: languages, seeds, settings.
//!
//! Segments and analyses are functions of the video alone: their bounds do not depend on how much of it a job shows, so
//! two jobs share all that both show. What is taken over is checked as if the job's own workers had made it: a segment
//! whose blob is gone is cut again, and an analysis that cannot be read is retracted and made again.

use std::collections::BTreeMap;

use latentfarm_common::ids::{ChunkId, JobId, WorkKind};
use latentfarm_common::nats::StreamError;
use latentfarm_common::nats::done::DoneLog;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::job::{CutRecord, JobSpec};
use latentfarm_common::wire::outcome::DoneRecord;

use crate::dispatch::{Authorship, Farm, Signers};
use crate::job::manifest::{self, ManifestError};
use crate::job::segment_log::{SegmentLog, SegmentLogError};
use crate::job::segments::Segments;
use crate::plan::split::analysis_ranges;

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

/// Records the segments of another job's video as those of this one, as far as this one needs them, from the job that has
/// most of them. Returns their number. A job that has records of its own takes over none.
pub(super) async fn segments(farm: &Farm, spec: &JobSpec, others: &[JobId]) -> Result<usize, ShareError> {
    let log = SegmentLog::open(&farm.connection, spec.id).await?;
    if !log.list().await?.is_empty() {
        return Ok(0);
    }
    let mut longest = Vec::new();
    for donor in donors(farm, spec, others).await? {
        let records = SegmentLog::open(&farm.connection, donor.id).await?.list().await?;
        let records = shared_segments(spec, records);
        if records.len() > longest.len() {
            longest = records;
        }
        if matches!(longest.last(), Some(CutRecord::End)) {
            break;
        }
    }
    for (number, record) in (0..).zip(&longest) {
        log.append(number, record).await?;
    }
    Ok(longest.len())
}

/// Records the analyses of other jobs' video as those of this one, where they are of the same frames and this one has
/// none yet. Returns their number.
pub(super) async fn analyses(farm: &Farm, spec: &JobSpec, others: &[JobId]) -> Result<usize, ShareError> {
    let log = DoneLog::new(&farm.connection);
    let mut missing = analyzed(spec);
    for entry in log.list(spec.id).await? {
        missing.remove(&entry.chunk);
    }
    let mut shared = 0;
    let donors = donors(farm, spec, others).await?;
    if donors.is_empty() {
        return Ok(0);
    }
    let signers = Signers::read(&farm.connection).await?;
    for donor in donors {
        if missing.is_empty() {
            break;
        }
        let theirs = analyzed(&donor);
        for entry in log.list(donor.id).await? {
            let range = theirs.get(&entry.chunk);
            let chunk = ChunkId {
                job: spec.id,
                ..entry.chunk
            };
            // The copy is signed by this coordinator, so it must not be one of a forged record.
            let is_genuine = |record: &DoneRecord| match signers.author(&record.worker, &entry.signature) {
                Authorship::Worker | Authorship::Coordinator => true,
                Authorship::Unknown(_) | Authorship::Other(_) => false,
            };
            if let Ok(record) = entry.record
                && is_genuine(&record)
                && range.is_some_and(|range| missing.get(&chunk) == Some(range))
            {
                log.commit(&DoneRecord { chunk, ..record }).await?;
                missing.remove(&chunk);
                shared += 1;
            }
        }
    }
    Ok(shared)
}

/// Returns those of the other jobs that see the same pictures of the same video.
async fn donors(farm: &Farm, spec: &JobSpec, others: &[JobId]) -> Result<Vec<JobSpec>, ShareError> {
    let mut donors = Vec::new();
    for other in others {
        let found = manifest::read_from_farm(&farm.connection, *other).await?;
        donors.extend(found.filter(|donor| spec.has_video_of(donor)));
    }
    Ok(donors)
}

/// Returns the records of a video as far as a job needs them, with the end if they go as far.
fn shared_segments(spec: &JobSpec, records: Vec<CutRecord>) -> Vec<CutRecord> {
    let mut segments = Segments::new(spec.source.frames);
    let mut shared = Vec::new();
    for record in records {
        if segments.covered() >= spec.source.frames || segments.add(&record).is_err() {
            break;
        }
        shared.push(record);
    }
    if segments.covered() >= spec.source.frames {
        shared.push(CutRecord::End);
    }
    shared
}

/// Returns the source frames of each analysis chunk of a job.
fn analyzed(spec: &JobSpec) -> BTreeMap<ChunkId, FrameRange> {
    // The coordinator refuses a job with a chunk length that is off the grid.
    let ranges = analysis_ranges(spec).unwrap_or_default();
    let chunks = (0..).zip(ranges).map(|(index, range)| {
        let (job, work) = (spec.id, WorkKind::Analyze);
        (ChunkId { job, work, index }, range)
    });
    chunks.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::benchmark_job::benchmark_job;
    use crate::job::test_support::segment;
    use latentfarm_common::digest::Digest;

    /// A job that needs so many frames of the video, analysed in chunks of 16.
    fn job(sources: u32) -> JobSpec {
        benchmark_job(sources, 32).0
    }

    #[test]
    fn segments_are_shared_as_far_as_a_job_needs_them() {
        let all = || vec![segment(0, 30), segment(30, 30), segment(60, 20), CutRecord::End];
        let shared = |frames: u32, records| {
            let shared = shared_segments(&job(frames), records);
            (shared.len(), shared.last() == Some(&CutRecord::End))
        };
        assert_eq!(shared(80, all()), (4, true));
        assert_eq!(
            shared(70, all()),
            (4, true),
            "the last one holds more than is needed"
        );
        assert_eq!(shared(60, all()), (3, true));
        assert_eq!(shared(20, all()), (2, true));
        assert_eq!(
            shared(100, all()),
            (3, false),
            "the rest is cut by the job itself"
        );
        let begun = vec![segment(0, 30)];
        assert_eq!(
            shared(80, begun),
            (1, false),
            "the other job's video is still being cut"
        );
        assert_eq!(shared(80, Vec::new()), (0, false));
    }

    #[test]
    fn analyses_have_the_same_frames_whatever_a_job_shows() {
        let ranges = |faces: u64, sources: u32| {
            let mut spec = job(sources);
            spec.face_frames = faces;
            let ranges: Vec<_> = analyzed(&spec)
                .into_values()
                .map(|range| (range.start, range.end))
                .collect();
            ranges
        };
        assert_eq!(ranges(20, 80), [(0, 16), (16, 32)]);
        assert_eq!(ranges(33, 80), [(0, 16), (16, 32), (32, 48)]);
        assert_eq!(
            ranges(33, 40),
            [(0, 16), (16, 32), (32, 40)],
            "the video ends there"
        );
        assert_eq!(ranges(0, 40), []);
    }

    #[test]
    fn the_same_video_is_one_that_shows_the_same_pictures() {
        let donor = job(80);
        assert!(job(60).has_video_of(&donor));
        let mut other = job(80);
        other.video_digest = Digest::of(b"another video");
        assert!(!other.has_video_of(&donor));
        let mut other = job(80);
        other.source.picture.width = 320;
        assert!(!other.has_video_of(&donor));
    }
}
