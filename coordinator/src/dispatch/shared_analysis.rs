//! Jobs of a farm that show the same video analyse each of its frames once: while one of them has an analysis under way,
//! the others wait for it, and its result becomes theirs.
//!
//! What earlier jobs have analysed is taken over when a job begins; this module is about jobs that are dispatched at the
//! same time, such as the languages of a batch.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use latentfarm_common::digest::Digest;
use latentfarm_common::error::one_line;
use latentfarm_common::ids::{ChunkId, JobId, WorkKind};
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::outcome::DoneRecord;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::farm_link::FarmLink;
use super::job::Job;
use crate::job::chunk::state::Phase;
use crate::job::record::ChunkRecord;

/// How long an analysis waits for the record that another job's analysis becomes, before it is made all the same.
const RECORD_WAIT: Duration = Duration::from_secs(10);

/// The analyses of videos that several jobs show, as far as one of the jobs has them under way.
pub(super) struct SharedAnalyses<'a> {
    shared_videos: HashSet<Digest>,
    claims: HashMap<(Digest, FrameRange), Vec<Claim<'a>>>,
}

struct Claim<'a> {
    job: &'a Job,
    is_running: bool,
}

impl<'a> SharedAnalyses<'a> {
    /// Collects the analyses that are queued or running.
    pub(super) fn under_way(jobs: impl Iterator<Item = &'a Job> + Clone) -> Self {
        let mut videos = HashSet::new();
        let is_repeated = |job: &&Job| !videos.insert(job.spec.video_digest);
        let shared_videos = jobs.clone().filter(is_repeated).map(|job| job.spec.video_digest);
        let mut analyses = Self {
            shared_videos: shared_videos.collect(),
            claims: HashMap::new(),
        };
        for job in jobs {
            // Most jobs have a video of their own.
            if !analyses.shared_videos.contains(&job.spec.video_digest) {
                continue;
            }
            let records = job.chunks.analyze.iter();
            for record in records.filter(|record| record.state().is_under_way()) {
                analyses.claim(job, record.range, is_running(record));
            }
        }
        analyses
    }

    /// Whether another job has the analysis under way, in a queue that is not less urgent and from which all workers pull
    /// that this job can be given to. Otherwise it is this job that has it from now on.
    pub(super) fn is_elsewhere(&mut self, job: &'a Job, range: FrameRange) -> bool {
        let claims = self.claims.get(&(job.spec.video_digest, range));
        let is_elsewhere = claims.into_iter().flatten().any(|claim| {
            let (own, other) = (&job.settings, &claim.job.settings);
            let is_for_all = own.needed_tags.cover(&other.needed_tags);
            let is_soon = claim.is_running || is_for_all && other.priority <= own.priority;
            is_soon && claim.job.spec.id != job.spec.id && claim.job.spec.has_video_of(&job.spec)
        });
        if !is_elsewhere {
            self.claim(job, range, false);
        }
        is_elsewhere
    }

    fn claim(&mut self, job: &'a Job, range: FrameRange, is_running: bool) {
        let video = job.spec.video_digest;
        if self.shared_videos.contains(&video) {
            let claims = self.claims.entry((video, range)).or_default();
            claims.push(Claim { job, is_running });
        }
    }
}

/// Writes records of one job as those of others, in tasks beside the dispatcher's. Dropping it aborts them.
pub(super) struct RecordSharer {
    link: Arc<dyn FarmLink>,
    running: JoinSet<()>,
}

impl RecordSharer {
    pub(super) fn new(link: &Arc<dyn FarmLink>) -> Self {
        Self {
            link: Arc::clone(link),
            running: JoinSet::new(),
        }
    }

    /// Gives a record that counts to the other jobs that show the same video, if it is of an analysis.
    pub(super) fn share(&mut self, jobs: &mut BTreeMap<JobId, Job>, record: &DoneRecord) {
        let known = jobs
            .get(&record.chunk.job)
            .and_then(|job| Some((job, job.chunks.get(record.chunk)?)));
        let Some((job, chunk)) = known.filter(|(_, chunk)| chunk.id.work == WorkKind::Analyze) else {
            return;
        };
        let (spec, range) = (job.spec.clone(), chunk.range);
        for other in jobs.values_mut().filter(|other| other.spec.id != spec.id) {
            if other.spec.has_video_of(&spec) {
                self.give(record, range, other);
            }
        }
    }

    /// Gives a job that begins the analyses of its video that other jobs have.
    pub(super) fn supply(&mut self, jobs: &mut BTreeMap<JobId, Job>, id: JobId) {
        let Some(mut job) = jobs.remove(&id) else {
            return;
        };
        for other in jobs.values() {
            let is_same = other.spec.has_video_of(&job.spec);
            for chunk in other.chunks.analyze.iter().filter(|_| is_same) {
                if let Some(done) = chunk.state().record() {
                    self.give(done, chunk.range, &mut job);
                }
            }
        }
        jobs.insert(id, job);
    }

    /// Gives the result of an analysis to another job, unless that is of other frames or has a result already. The
    /// record then comes from the done log, like any other.
    fn give(&mut self, record: &DoneRecord, range: FrameRange, to: &mut Job) {
        while self.running.try_join_next().is_some() {}
        let chunk = ChunkId {
            job: to.spec.id,
            ..record.chunk
        };
        let known = to.chunks.get_mut(chunk);
        let Some(known) = known.filter(|known| known.range == range && is_wanted(known, record)) else {
            return;
        };
        known.not_before = Some(Instant::now() + RECORD_WAIT);
        let (link, record) = (
            Arc::clone(&self.link),
            DoneRecord {
                chunk,
                ..record.clone()
            },
        );
        self.running.spawn(async move {
            if let Err(error) = link.commit(record).await {
                tracing::warn!(%chunk, error = one_line(&error), "an analysis is made again");
            }
        });
    }
}

fn is_running(record: &ChunkRecord) -> bool {
    matches!(record.state().phase, Phase::Running { .. })
}

fn is_wanted(chunk: &ChunkRecord, record: &DoneRecord) -> bool {
    let is_open = !chunk.state().is_settled() && !chunk.being_verified && chunk.pending_retraction.is_none();
    is_open && chunk.retracted.is_none_or(|last| record.attempt > last)
}
