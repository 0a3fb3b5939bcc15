//! All chunks of one job, and what their states add up to.

use std::sync::Arc;

use latentfarm_common::ids::{ChunkId, JobId, Work};
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::outcome::DoneRecord;

use super::chunk::state::Phase;
use super::record::ChunkRecord;

/// All chunks of one job, those of each kind of work in frame order.
#[derive(Clone, Debug)]
pub struct Chunks {
    job: JobId,
    /// Over source frames.
    pub analyze: Vec<ChunkRecord>,
    /// Over output frames.
    pub render: Vec<ChunkRecord>,
}

/// How many chunks are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub waiting: usize,
    pub backlog: usize,
    pub queued: usize,
    pub running: usize,
    pub done: usize,
    pub quarantined: usize,
    /// Frames of the chunks that are done.
    pub frames_done: u64,
    pub frames: u64,
}

/// A chunk that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    pub work: Work,
    pub index: u32,
    pub range: FrameRange,
    pub reason: String,
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Every output frame is there.
    Complete,
    /// Some are there; the list holds the chunks that are not, and the analyses that they needed.
    Incomplete { quarantined: Vec<GivenUp> },
    /// No output frame could be made.
    Failed { quarantined: Vec<GivenUp> },
    /// No frame of the video has a usable face, and that was not allowed.
    NoFace,
    /// The coordinator was asked to end; the same job goes on from here.
    Interrupted { frames_done: u64, frames: u64 },
}

impl Counts {
    pub fn of(chunks: &[ChunkRecord]) -> Self {
        let mut counts = Self::default();
        for chunk in chunks {
            counts.frames += chunk.range.len();
            match chunk.state().phase {
                Phase::Waiting => counts.waiting += 1,
                Phase::Backlog => counts.backlog += 1,
                Phase::Queued => counts.queued += 1,
                Phase::Running { .. } => counts.running += 1,
                Phase::Done { .. } => {
                    counts.done += 1;
                    counts.frames_done += chunk.range.len();
                }
                Phase::Quarantined { .. } => counts.quarantined += 1,
            }
        }
        counts
    }
}

impl Chunks {
    pub fn new(job: JobId, analyze: Vec<FrameRange>, render: Vec<FrameRange>) -> Self {
        let records = |work, ranges: Vec<FrameRange>| {
            let indexed = (0_u32..).zip(ranges);
            let record = |(index, range)| ChunkRecord::new(ChunkId { job, work, index }, range);
            indexed.map(record).collect()
        };
        Self {
            job,
            analyze: records(Work::Analyze, analyze),
            render: records(Work::Render, render),
        }
    }

    /// `None` for a chunk that the job does not have.
    pub fn get(&self, chunk: ChunkId) -> Option<&ChunkRecord> {
        let chunks = match chunk.work {
            Work::Analyze => &self.analyze,
            Work::Render => &self.render,
        };
        let found = chunks.get(chunk.index as usize);
        found.filter(|_| chunk.job == self.job)
    }

    /// `None` for a chunk that the job does not have.
    pub fn get_mut(&mut self, chunk: ChunkId) -> Option<&mut ChunkRecord> {
        let chunks = match chunk.work {
            Work::Analyze => &mut self.analyze,
            Work::Render => &mut self.render,
        };
        let found = chunks.get_mut(chunk.index as usize);
        found.filter(|_| chunk.job == self.job)
    }

    /// The chunks of both kinds of work.
    pub fn iter(&self) -> impl Iterator<Item = &ChunkRecord> {
        self.analyze.iter().chain(&self.render)
    }

    /// The ids of the chunks that `wanted` accepts.
    pub fn ids(&self, wanted: impl Fn(&ChunkRecord) -> bool) -> Vec<ChunkId> {
        let found = self.iter().filter(|chunk| wanted(chunk));
        found.map(|chunk| chunk.id).collect()
    }

    /// Verified records of the render chunks that are done, in frame order.
    pub fn records(&self) -> Vec<Arc<DoneRecord>> {
        let record = |chunk: &ChunkRecord| match &chunk.state().phase {
            Phase::Done { record } => Some(Arc::clone(record)),
            Phase::Waiting
            | Phase::Backlog
            | Phase::Queued
            | Phase::Running { .. }
            | Phase::Quarantined { .. } => None,
        };
        self.render.iter().filter_map(record).collect()
    }

    /// How the job ended; `None` while a chunk is open.
    pub fn ending(&self) -> Option<Ending> {
        if !self.iter().all(|chunk| chunk.state().is_settled()) {
            return None;
        }
        let counts = Counts::of(&self.render);
        if counts.quarantined == 0 {
            return Some(Ending::Complete);
        }
        let given_up = |chunk: &ChunkRecord| match &chunk.state().phase {
            Phase::Quarantined { reason } => Some(GivenUp {
                work: chunk.id.work,
                index: chunk.id.index,
                range: chunk.range,
                reason: reason.clone(),
            }),
            Phase::Waiting | Phase::Backlog | Phase::Queued | Phase::Running { .. } | Phase::Done { .. } => {
                None
            }
        };
        let quarantined = self.iter().filter_map(given_up).collect();
        Some(if counts.done == 0 {
            Ending::Failed { quarantined }
        } else {
            Ending::Incomplete { quarantined }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::chunk::event::ChunkEvent;
    use crate::job::chunk::state::Step;
    use latentfarm_common::digest::Digest;
    use latentfarm_common::ids::Attempt;
    use latentfarm_common::wire::outcome::Failure;

    fn ranges(count: u64) -> Vec<FrameRange> {
        (0..count).map(|n| FrameRange::new(n * 16, n * 16 + 16)).collect()
    }

    fn chunks(analyze: u64, render: u64) -> Chunks {
        Chunks::new(
            JobId::from_digest(&Digest::of(b"job")),
            ranges(analyze),
            ranges(render),
        )
    }

    fn apply(job: &mut Chunks, work: Work, index: u32, event: ChunkEvent) -> Option<Step> {
        let job_id = job.job;
        let chunk = job.get_mut(ChunkId {
            job: job_id,
            work,
            index,
        })?;
        Some(chunk.apply(event))
    }

    fn spoil(job: &mut Chunks, work: Work, index: u32) {
        let attempt = Attempt::default();
        apply(job, work, index, ChunkEvent::Enqueued { attempt });
        let failure = Failure::BadInput {
            message: "broken".to_owned(),
        };
        apply(job, work, index, ChunkEvent::Failed { attempt, failure });
    }

    #[test]
    fn a_job_without_open_chunks_has_ended() {
        let mut job = chunks(1, 2);
        assert_eq!(job.ending(), None);
        spoil(&mut job, Work::Analyze, 0);
        spoil(&mut job, Work::Render, 0);
        assert_eq!(job.ending(), None);
        spoil(&mut job, Work::Render, 1);
        let Some(Ending::Failed { quarantined }) = job.ending() else {
            panic!("{job:?}")
        };
        let reasons: Vec<_> = quarantined
            .iter()
            .map(|g| (g.work, g.index, g.reason.as_str()))
            .collect();
        let reason = "bad input: broken";
        assert_eq!(
            reasons,
            [
                (Work::Analyze, 0, reason),
                (Work::Render, 0, reason),
                (Work::Render, 1, reason)
            ]
        );
    }

    #[test]
    fn counts_cover_every_chunk() {
        let mut job = chunks(1, 3);
        apply(&mut job, Work::Render, 0, ChunkEvent::Released);
        spoil(&mut job, Work::Render, 2);
        let expected = Counts {
            waiting: 1,
            backlog: 1,
            quarantined: 1,
            frames: 48,
            ..Counts::default()
        };
        assert_eq!(Counts::of(&job.render), expected);
    }

    #[test]
    fn a_job_does_not_have_the_chunks_past_its_end() {
        let mut job = chunks(1, 1);
        assert_eq!(apply(&mut job, Work::Render, 1, ChunkEvent::Released), None);
    }
}
