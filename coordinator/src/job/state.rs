//! The states of all chunks of one job, and what they add up to.

use latentfarm_common::ids::Work;
use latentfarm_common::time::FrameRange;

use super::chunk::{ChunkEvent, ChunkState, Step};

/// The chunks of one kind of work, in frame order.
#[derive(Clone, Debug)]
pub struct Chunks {
    ranges: Vec<FrameRange>,
    states: Vec<ChunkState>,
}

/// All chunks of one job.
#[derive(Clone, Debug)]
pub struct JobState {
    /// Over source frames.
    pub analyze: Chunks,
    /// Over output frames.
    pub render: Chunks,
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
pub enum Outcome {
    /// Every output frame is there.
    Complete,
    /// Some are there; the chunks that are not, and the analyses that they needed.
    Incomplete { quarantined: Vec<GivenUp> },
    /// None is there.
    Failed { quarantined: Vec<GivenUp> },
}

impl Chunks {
    pub fn new(ranges: Vec<FrameRange>) -> Self {
        let states = vec![ChunkState::new(); ranges.len()];
        Self { ranges, states }
    }

    pub fn len(&self) -> usize {
        self.states.len()
    }

    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// `None` for an index that the job does not have.
    pub fn get(&self, index: u32) -> Option<&ChunkState> {
        self.states.get(index as usize)
    }

    /// `None` for an index that the job does not have.
    pub fn range(&self, index: u32) -> Option<FrameRange> {
        self.ranges.get(index as usize).copied()
    }

    /// Index, range and state of every chunk.
    pub fn iter(&self) -> impl Iterator<Item = (u32, FrameRange, &ChunkState)> {
        let indexed = (0_u32..).zip(self.ranges.iter().copied()).zip(&self.states);
        indexed.map(|((index, range), state)| (index, range, state))
    }

    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for (_index, range, state) in self.iter() {
            counts.frames += range.len();
            match state {
                ChunkState::Waiting { .. } => counts.waiting += 1,
                ChunkState::Backlog { .. } => counts.backlog += 1,
                ChunkState::Queued { .. } => counts.queued += 1,
                ChunkState::Running { .. } => counts.running += 1,
                ChunkState::Done { .. } => {
                    counts.done += 1;
                    counts.frames_done += range.len();
                }
                ChunkState::Quarantined { .. } => counts.quarantined += 1,
            }
        }
        counts
    }

    fn is_settled(&self) -> bool {
        self.states.iter().all(ChunkState::is_settled)
    }

    fn given_up(&self, work: Work) -> impl Iterator<Item = GivenUp> {
        self.iter().filter_map(move |(index, range, state)| match state {
            ChunkState::Quarantined { reason, .. } => Some(GivenUp {
                work,
                index,
                range,
                reason: reason.clone(),
            }),
            ChunkState::Waiting { .. }
            | ChunkState::Backlog { .. }
            | ChunkState::Queued { .. }
            | ChunkState::Running { .. }
            | ChunkState::Done { .. } => None,
        })
    }
}

impl JobState {
    pub fn new(analyze: Vec<FrameRange>, render: Vec<FrameRange>) -> Self {
        Self {
            analyze: Chunks::new(analyze),
            render: Chunks::new(render),
        }
    }

    pub fn of(&self, work: Work) -> &Chunks {
        match work {
            Work::Analyze => &self.analyze,
            Work::Render => &self.render,
        }
    }

    /// Applies an event to one chunk; one that the job does not have ignores everything.
    pub fn apply(&mut self, work: Work, index: u32, event: ChunkEvent) -> Step {
        let chunks = match work {
            Work::Analyze => &mut self.analyze,
            Work::Render => &mut self.render,
        };
        let Some(state) = chunks.states.get_mut(index as usize) else {
            return Step::Ignored;
        };
        let step = state.on(event);
        if let Step::Moved(next) = &step {
            *state = next.clone();
        }
        step
    }

    /// How the job ended; `None` while a chunk is open.
    pub fn outcome(&self) -> Option<Outcome> {
        if !self.render.is_settled() || !self.analyze.is_settled() {
            return None;
        }
        let counts = self.render.counts();
        if counts.quarantined == 0 {
            return Some(Outcome::Complete);
        }
        let analyze = self.analyze.given_up(Work::Analyze);
        let quarantined = analyze.chain(self.render.given_up(Work::Render)).collect();
        Some(if counts.done == 0 {
            Outcome::Failed { quarantined }
        } else {
            Outcome::Incomplete { quarantined }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::wire::outcome::Failure;

    use super::super::attempt::Attempt;

    fn ranges(count: u64) -> Vec<FrameRange> {
        (0..count).map(|n| FrameRange::new(n * 16, n * 16 + 16)).collect()
    }

    fn spoil(job: &mut JobState, work: Work, index: u32) {
        let attempt = Attempt::default();
        job.apply(work, index, ChunkEvent::Enqueued { attempt });
        let failure = Failure::BadInput {
            message: "broken".to_owned(),
        };
        job.apply(work, index, ChunkEvent::Failed { attempt, failure });
    }

    #[test]
    fn a_job_without_open_chunks_has_an_outcome() {
        let mut job = JobState::new(ranges(1), ranges(2));
        assert_eq!(job.outcome(), None);
        spoil(&mut job, Work::Analyze, 0);
        spoil(&mut job, Work::Render, 0);
        assert_eq!(job.outcome(), None);
        spoil(&mut job, Work::Render, 1);
        let Some(Outcome::Failed { quarantined }) = job.outcome() else {
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
        let mut job = JobState::new(ranges(1), ranges(3));
        job.apply(Work::Render, 0, ChunkEvent::Released);
        spoil(&mut job, Work::Render, 2);
        let expected = Counts {
            waiting: 1,
            backlog: 1,
            quarantined: 1,
            frames: 48,
            ..Counts::default()
        };
        assert_eq!(job.render.counts(), expected);
    }

    #[test]
    fn events_about_unknown_chunks_are_ignored() {
        let mut job = JobState::new(ranges(1), ranges(1));
        assert_eq!(job.apply(Work::Render, 1, ChunkEvent::Released), Step::Ignored);
    }
}
