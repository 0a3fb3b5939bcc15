//! All chunks of one job, with the counts and the ending that follow from their states.

use std::sync::Arc;

use latentfarm_common::ids::{ChunkId, JobId, WorkKind};
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::outcome::DoneRecord;
use serde::{Deserialize, Serialize};

use super::chunk::state::Phase;
use super::record::{ChunkRecord, MemoryWait};

/// All chunks of one job, those of each kind of work in frame order.
#[derive(Clone, Debug)]
pub struct Chunks {
    job: JobId,
    /// The analysis chunks, which are ranges of source frames.
    pub analyze: Vec<ChunkRecord>,
    /// The render chunks, which are ranges of output frames.
    pub render: Vec<ChunkRecord>,
}

/// The number of chunks in each phase, and their frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// A chunk that was quarantined, which means given up for this run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantinedChunk {
    pub work: WorkKind,
    pub index: u32,
    pub range: FrameRange,
    pub reason: String,
}

/// The way in which a job ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// Every output frame was rendered.
    Complete,
    /// Some frames were rendered; the list holds the chunks that were not, and the analyses that they needed.
    Incomplete { quarantined: Vec<QuarantinedChunk> },
    /// No output frame could be rendered.
    Failed { quarantined: Vec<QuarantinedChunk> },
    /// No worker of the farm could go on with the job for too long; the finished chunks are kept.
    NoWorker { reason: String },
    /// The source video cannot be cut to its end, as it is damaged or has changed, or as a machine failed.
    NoVideo { reason: String },
    /// No frame of the video has a usable face, and the settings do not allow that.
    NoFace,
    /// An operator has cancelled the job.
    Cancelled,
    /// The coordinator was asked to end before the job was complete; the same job can be resumed from here.
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
            analyze: records(WorkKind::Analyze, analyze),
            render: records(WorkKind::Render, render),
        }
    }

    /// Returns the record of a chunk; `None` if the job has no such chunk.
    pub fn get(&self, chunk: ChunkId) -> Option<&ChunkRecord> {
        let chunks = match chunk.work {
            WorkKind::Analyze => &self.analyze,
            WorkKind::Render => &self.render,
            // What is rendered again beside the job is no chunk of it.
            WorkKind::Border | WorkKind::SpotCheck => return None,
        };
        let found = chunks.get(chunk.index as usize);
        found.filter(|_| chunk.job == self.job)
    }

    /// Returns the record of a chunk for changes; `None` if the job has no such chunk.
    pub fn get_mut(&mut self, chunk: ChunkId) -> Option<&mut ChunkRecord> {
        let chunks = match chunk.work {
            WorkKind::Analyze => &mut self.analyze,
            WorkKind::Render => &mut self.render,
            WorkKind::Border | WorkKind::SpotCheck => return None,
        };
        let found = chunks.get_mut(chunk.index as usize);
        found.filter(|_| chunk.job == self.job)
    }

    /// Iterates over the chunks of both kinds of work, the analyses first.
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
        let records = self.render.iter().filter_map(|chunk| chunk.state().record());
        records.cloned().collect()
    }

    /// The number of chunks that a worker is running.
    pub fn running(&self) -> usize {
        Counts::of(&self.analyze).running + Counts::of(&self.render).running
    }

    /// What each of the render chunks that wait for memory waits for.
    pub fn memory_waits(&self) -> impl Iterator<Item = MemoryWait<'_>> {
        self.render.iter().filter_map(ChunkRecord::memory_wait)
    }

    /// Whether some chunk fits no live worker.
    pub fn any_unschedulable(&self) -> bool {
        self.render.iter().any(|chunk| chunk.unschedulable.is_some())
    }

    /// The ending of a job that is stopped now.
    pub fn interrupted(&self) -> Ending {
        let counts = Counts::of(&self.render);
        Ending::Interrupted {
            frames_done: counts.frames_done,
            frames: counts.frames,
        }
    }

    /// The ending that follows from the states; `None` while a chunk is neither done nor quarantined.
    pub fn ending(&self) -> Option<Ending> {
        if !self.iter().all(|chunk| chunk.state().is_settled()) {
            return None;
        }
        let counts = Counts::of(&self.render);
        if counts.quarantined == 0 {
            return Some(Ending::Complete);
        }
        let given_up = |chunk: &ChunkRecord| match &chunk.state().phase {
            Phase::Quarantined { reason } => Some(QuarantinedChunk {
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
    use crate::job::test_support::done_record;
    use latentfarm_common::digest::Digest;
    use latentfarm_common::ids::Attempt;

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

    fn apply(job: &mut Chunks, work: WorkKind, index: u32, event: ChunkEvent) -> Option<Step> {
        let job_id = job.job;
        let chunk = job.get_mut(ChunkId {
            job: job_id,
            work,
            index,
        })?;
        Some(chunk.apply(event))
    }

    fn spoil(job: &mut Chunks, work: WorkKind, index: u32) {
        apply(job, work, index, ChunkEvent::Released);
        let reason = "bad input: broken".to_owned();
        apply(job, work, index, ChunkEvent::Blocked { reason });
    }

    #[test]
    fn a_job_without_open_chunks_has_ended() {
        let mut job = chunks(1, 2);
        assert_eq!(job.ending(), None);
        spoil(&mut job, WorkKind::Analyze, 0);
        spoil(&mut job, WorkKind::Render, 0);
        assert_eq!(job.ending(), None);
        spoil(&mut job, WorkKind::Render, 1);
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
                (WorkKind::Analyze, 0, reason),
                (WorkKind::Render, 0, reason),
                (WorkKind::Render, 1, reason)
            ]
        );
    }

    fn done(chunk: ChunkId, worker: &str) -> ChunkEvent {
        let record = done_record(chunk, Attempt::default(), worker.parse().unwrap());
        ChunkEvent::DoneSeen {
            record: Arc::new(record),
        }
    }

    #[test]
    fn counts_cover_every_chunk() {
        let attempt = Attempt::default();
        let lengths = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
        let ranges = lengths.map(|length| FrameRange::new(0, length));
        let mut job = Chunks::new(JobId::from_digest(&Digest::of(b"job")), vec![], ranges.to_vec());
        let ids = job.ids(|_| true);
        // Two of each state but for a single waiting chunk.
        for index in 1..=10 {
            apply(&mut job, WorkKind::Render, index, ChunkEvent::Released);
        }
        for index in 3..=6 {
            apply(
                &mut job,
                WorkKind::Render,
                index,
                ChunkEvent::Enqueued { attempt },
            );
        }
        for index in [5, 6] {
            let worker = "w1".parse().unwrap();
            apply(
                &mut job,
                WorkKind::Render,
                index,
                ChunkEvent::Started { attempt, worker },
            );
        }
        for index in [7, 8] {
            let event = done(ids[index as usize], "w1");
            apply(&mut job, WorkKind::Render, index, event);
        }
        for index in [9, 10] {
            spoil(&mut job, WorkKind::Render, index);
        }
        let expected = Counts {
            waiting: 1,
            backlog: 2,
            queued: 2,
            running: 2,
            done: 2,
            quarantined: 2,
            frames_done: 128 + 256,
            frames: 2047,
        };
        assert_eq!(Counts::of(&job.render), expected);
    }

    #[test]
    fn records_are_those_of_finished_render_chunks_in_frame_order() {
        let mut job = chunks(1, 3);
        for (chunk, worker) in job
            .ids(|chunk| chunk.id.index != 1)
            .into_iter()
            .rev()
            .zip(["c", "b", "a"])
        {
            apply(&mut job, chunk.work, chunk.index, done(chunk, worker));
        }
        let workers: Vec<String> = job
            .records()
            .iter()
            .map(|record| record.worker.to_string())
            .collect();
        assert_eq!(workers, ["b", "c"]);
    }

    #[test]
    fn a_job_does_not_have_the_chunks_past_its_end() {
        let mut job = chunks(1, 1);
        assert_eq!(apply(&mut job, WorkKind::Render, 1, ChunkEvent::Released), None);
    }
}
