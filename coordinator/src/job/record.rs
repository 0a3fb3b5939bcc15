//! Everything that the dispatcher knows of one chunk, in one place.

use latentfarm_common::ids::{Attempt, ChunkId, Work};
use latentfarm_common::queues::ResourceClass;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::memory::{MemoryConstraints, OutOfMemory};
use tokio::time::Instant;

use super::chunk::event::ChunkEvent;
use super::chunk::state::{ChunkState, Phase, Step};
use crate::placement::{ChunkMemory, Fit, JobNeeds, Raised, Shortage};

/// Workers that fell silent over the same chunk before that counts as out of memory: machines die of it too.
const LOSSES: u32 = 2;

/// One chunk. What is known of its life is its [`ChunkState`], which only [`ChunkRecord::apply`] moves; the other
/// fields say what is still to be done about it and what was found out.
#[derive(Clone, Debug)]
pub struct ChunkRecord {
    pub id: ChunkId,
    pub range: FrameRange,
    state: ChunkState,
    /// It is not published before this time.
    pub not_before: Option<Instant>,
    /// A done record of it is being verified.
    pub in_check: bool,
    /// Place in the done log of a record that failed verification and is still to be removed.
    pub pending_retraction: Option<u64>,
    /// Records of this attempt and of older ones do not count: one of them failed verification.
    pub retracted: Option<Attempt>,
    /// The queue may hold a task of an earlier attempt.
    pub maybe_queued: bool,
    /// The attempt that an earlier coordinator had in its queue, and that a worker may still be at work on.
    pub inherited: Option<Attempt>,
    /// The stored input of its task.
    pub input: Option<BlobRef>,
    /// Since when the worker that runs it has been saying that it works on something else.
    pub silent_since: Option<Instant>,
    /// What it ran out of memory under.
    pub memory: ChunkMemory,
    /// How often a worker fell silent in the middle of it.
    pub losses: u32,
    /// Where the last placement sends it; only a chunk of the backlog has one.
    pub planned: Option<Planned>,
    /// It fits no live worker.
    pub unplaced: Option<Unplaced>,
    /// Where it was published last.
    pub published: Option<Fit>,
}

/// A queue that a chunk of the backlog may be published to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    pub fit: Fit,
    /// The reason for this queue in one phrase.
    pub why: &'static str,
}

/// A render chunk that fits no live worker.
#[derive(Clone, Debug)]
pub struct Unplaced {
    pub since: Instant,
    pub shortages: Vec<Shortage>,
}

impl Unplaced {
    /// The shortages in words.
    pub fn text(&self) -> String {
        if self.shortages.is_empty() {
            return "what it needs of a GPU is not known, and the CPU is not allowed".to_owned();
        }
        let parts: Vec<String> = self.shortages.iter().map(ToString::to_string).collect();
        parts.join("; ")
    }

    /// The largest need among the shortages, in MiB.
    pub fn need_mib(&self) -> Option<u64> {
        self.shortages.iter().map(|shortage| shortage.need_mib).max()
    }
}

impl ChunkRecord {
    /// A chunk that nothing has happened to.
    pub fn new(id: ChunkId, range: FrameRange) -> Self {
        Self {
            id,
            range,
            state: ChunkState::default(),
            not_before: None,
            in_check: false,
            pending_retraction: None,
            retracted: None,
            maybe_queued: false,
            inherited: None,
            input: None,
            silent_since: None,
            memory: ChunkMemory::default(),
            losses: 0,
            planned: None,
            unplaced: None,
            published: None,
        }
    }

    pub fn state(&self) -> &ChunkState {
        &self.state
    }

    /// Whether the chunk may be published now, once it is known where to.
    pub fn may_be_published(&self, now: Instant) -> bool {
        self.state.phase == Phase::Backlog
            && self.not_before.is_none_or(|at| at <= now)
            && !self.in_check
            && self.pending_retraction.is_none()
    }

    /// Whether a placement is missing that the chunk could be published by now.
    pub fn lacks_placement(&self, now: Instant) -> bool {
        self.id.work == Work::Render
            && self.planned.is_none()
            && self.unplaced.is_none()
            && self.may_be_published(now)
    }

    /// The class of the queue to which the chunk is to be published now; `None` if it is not to be published.
    pub fn class_to_publish(&self, now: Instant) -> Option<ResourceClass> {
        let class = match self.id.work {
            Work::Analyze => Some(ResourceClass::Analyze),
            Work::Render => self.planned.map(|planned| planned.fit.class),
        };
        class.filter(|_| self.may_be_published(now))
    }

    /// The class of the queue in which a task of the chunk is queued or running.
    pub fn class_under_way(&self) -> Option<ResourceClass> {
        let class = match self.id.work {
            Work::Analyze => Some(ResourceClass::Analyze),
            Work::Render => self.published.map(|fit| fit.class),
        };
        class.filter(|_| self.state.is_under_way())
    }

    /// Notes that an attempt ran out of memory; `predicted` are the uncorrected needs of the job.
    /// `class` is that of the queue from which it was pulled, if that is known.
    pub fn note_oom(
        &mut self,
        predicted: &JobNeeds,
        oom: &OutOfMemory,
        class: Option<ResourceClass>,
    ) -> Raised {
        let (needs, beside_mib) = (predicted.of(oom.kind), predicted.beside(oom.kind));
        needs.map_or(Raised::Nothing, |needs| {
            self.memory.note(oom, class, needs, beside_mib)
        })
    }

    /// Notes that the chunk's worker fell silent in the middle of it, and says what follows. Once may be anything;
    /// what kills machine after machine is given a leaner plan.
    pub fn note_loss(&mut self, predicted: &JobNeeds) -> Option<String> {
        self.losses += 1;
        let fit = self.published.filter(|_| self.losses.is_multiple_of(LOSSES))?;
        let MemoryConstraints { kind, floor, .. } = fit.constraints;
        let oom = OutOfMemory {
            kind,
            device: kind.to_string(),
            stage: None,
            plan: floor,
            needed_at_least_mib: None,
            free_before_mib: fit.need_mib,
            suspected: true,
        };
        let raised = self.note_oom(predicted, &oom, Some(fit.class)).text(kind);
        Some(format!(
            "{LOSSES} workers were lost over it, so it may have been memory: {raised}"
        ))
    }

    /// Moves the chunk's state, and forgets what no longer holds in the new one.
    pub fn apply(&mut self, event: ChunkEvent) -> Step {
        let is_end = event.class().is_some();
        let step = self.state.on(event);
        let Step::Moved(next) = &step else { return step };
        self.state = next.clone();
        self.silent_since = None;
        self.planned = None;
        match self.state.phase {
            Phase::Waiting => {}
            Phase::Backlog => self.maybe_queued |= is_end,
            Phase::Queued | Phase::Running { .. } | Phase::Done { .. } => {
                self.not_before = None;
                self.inherited = None;
                self.unplaced = None;
            }
            Phase::Quarantined { .. } => {
                self.maybe_queued = true;
                self.unplaced = None;
            }
        }
        if matches!(self.state.phase, Phase::Done { .. }) {
            self.input = None;
        }
        step
    }
}
