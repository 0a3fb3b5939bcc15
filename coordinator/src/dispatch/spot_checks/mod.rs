//! Spot checks: a sample of the chunks is rendered again on another worker of the same numeric kind, which must come to
//! the same frames, bit for bit. If two workers come to different frames, a third one decides, and the odd one is wrong;
//! without a third one, or if all three differ, nobody can tell which is.
//!
//! The result of a chunk that is checked counts when the check is over. A check that cannot be made costs a wait that is
//! bounded, and the result counts without it.

mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use latentfarm_common::frame::FrameHash;
use latentfarm_common::ids::{ChunkId, WorkKind, WorkerId};
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::outcome::DoneRecord;
use tokio::time::Instant;

pub use report::{Disagreement, SpotCheckReport};

use crate::job::frame_hashes::frame_hashes;
use crate::placement::{Fit, WorkerCapacity};

/// A result waits this long for another worker to begin to render its chunk again. A worker that is at work on a long chunk
/// may be free by then.
const BEGUN_WITHIN: Duration = Duration::from_mins(10);
/// A task that nobody has begun is published again after this long: the broker gives up a task that idle workers, which may
/// not run it, have given back too often.
const PUBLISHED_AGAIN_AFTER: Duration = Duration::from_mins(2);

/// The spot checks of one job.
#[derive(Debug, Default)]
pub(super) struct SpotChecks {
    /// Those that are under way, by the index of the chunk.
    open: BTreeMap<u32, SpotCheck>,
    /// The chunks that were checked or passed over. None is checked twice.
    settled: BTreeSet<u32>,
    /// Results that came before their check was begun, from an earlier coordinator, by the index of the task.
    early: BTreeMap<u32, LoggedResult>,
    /// What two workers came to, for the chunks of which the first result was wrong.
    known: BTreeMap<u32, KnownFrames>,
    report: SpotCheckReport,
}

/// A result in the done log.
#[derive(Clone, Debug)]
pub(super) struct LoggedResult {
    pub(super) record: Arc<DoneRecord>,
    /// Its sequence number in the log.
    pub(super) sequence: u64,
}

/// The frames that two workers of a kind came to.
#[derive(Debug)]
struct KnownFrames {
    fingerprint: String,
    hashes: Vec<FrameHash>,
}

#[derive(Debug)]
struct SpotCheck {
    range: FrameRange,
    /// The result that waits for the check.
    held: LoggedResult,
    /// The workers that rendered the chunk again, with the frames that they came to.
    others: Vec<(WorkerId, Vec<FrameHash>)>,
    /// The machines that may render it again.
    fit: Fit,
    /// Since when it waits for the next rendering.
    since: Instant,
    published: Instant,
}

/// A task to be published: to render a chunk again.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Repeat {
    pub(super) chunk: ChunkId,
    /// The name of the rendering, by which its result is known.
    pub(super) task: ChunkId,
    pub(super) range: FrameRange,
    /// The workers that have rendered it.
    pub(super) excluded: Vec<WorkerId>,
    pub(super) fit: Fit,
}

/// What a result of rendering a chunk again leads to.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing waits for it.
    Ignored,
    /// It is from a worker that has rendered the chunk before, so that it says nothing, and another one is needed.
    NotIndependent,
    /// The frames differ, and another worker has to decide.
    Differs,
    /// The check is over.
    Settled(Conclusion),
}

/// The end of a check: the result that was held counts, unless its worker is the odd one.
#[derive(Debug)]
pub(super) struct Conclusion {
    pub(super) held: LoggedResult,
    pub(super) odd: Option<OddWorker>,
}

/// A worker that came to other frames than two others.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct OddWorker {
    pub(super) worker: WorkerId,
    /// What is the matter with it, as one clause.
    pub(super) reason: String,
}

/// What the renderings of a chunk show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    /// Another rendering is needed.
    Open,
    /// Nobody has rendered the chunk again.
    NotCompared,
    /// Two workers came to the same.
    Agreed,
    /// The worker at this place among the renderers came to other frames than two others.
    Odd(usize),
    /// Nobody can tell which rendering is wrong.
    Undecided,
}

/// What is to be done about a check whose next rendering nobody has begun.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// Its task is to be published again.
    Publish,
    /// It is given up, for this reason.
    GiveUp(String),
}

impl SpotChecks {
    /// Whether a chunk was checked, or is being checked.
    pub(super) fn knows(&self, chunk: u32) -> bool {
        self.settled.contains(&chunk) || self.open.contains_key(&chunk)
    }

    /// What is wrong with a result of a chunk whose frames are known from its check; `None` if nothing is known to be.
    pub(super) fn contradiction(&self, record: &DoneRecord) -> Option<String> {
        let known = self.known.get(&record.chunk.index)?;
        let is_comparable =
            record.chunk.work == WorkKind::Render && record.numerics_fingerprint == known.fingerprint;
        (is_comparable && frame_hashes(record) != known.hashes)
            .then(|| "its frames are not those that two workers of its kind rendered".to_owned())
    }

    /// Records that a chunk should be checked and cannot be.
    pub(super) fn pass_over(&mut self, chunk: u32) {
        self.settled.insert(chunk);
        self.report.not_compared += 1;
    }

    /// Begins the check of a result.
    pub(super) fn begin(&mut self, held: LoggedResult, range: FrameRange, fit: Fit, now: Instant) {
        let chunk = held.record.chunk.index;
        let check = SpotCheck {
            range,
            held,
            others: Vec::new(),
            fit,
            since: now,
            published: now,
        };
        self.open.insert(chunk, check);
    }

    /// Sets which machines may decide a check whose first two results differ.
    pub(super) fn ask_another(&mut self, chunk: u32, fit: Fit, now: Instant) {
        if let Some(check) = self.open.get_mut(&chunk) {
            check.fit = fit;
            (check.since, check.published) = (now, now);
        }
    }

    /// The result whose check is under way.
    pub(super) fn held(&self, chunk: u32) -> Option<&LoggedResult> {
        self.open.get(&chunk).map(|check| &check.held)
    }

    /// The workers that have rendered a chunk that is being checked.
    pub(super) fn renderers(&self, chunk: u32) -> Vec<WorkerId> {
        self.open
            .get(&chunk)
            .map(SpotCheck::renderers)
            .unwrap_or_default()
    }

    /// The task for the next rendering of a chunk that is being checked.
    pub(super) fn next(&self, chunk: u32) -> Option<Repeat> {
        self.open.get(&chunk).map(SpotCheck::next)
    }

    /// Records that the task for the next rendering was published again.
    pub(super) fn on_published(&mut self, chunk: u32, now: Instant) {
        if let Some(check) = self.open.get_mut(&chunk) {
            check.published = now;
        }
    }

    /// The result of an earlier coordinator for a task, if there is one.
    pub(super) fn take_early(&mut self, task: ChunkId) -> Option<LoggedResult> {
        self.early.remove(&task.index)
    }

    /// Takes the result of a task.
    pub(super) fn on_arrived(&mut self, task: u32, arrived: LoggedResult) -> Step {
        let chunk = task / 2;
        let Some(check) = self.open.get_mut(&chunk) else {
            if !self.settled.contains(&chunk) {
                self.early.insert(task, arrived);
            }
            return Step::Ignored;
        };
        if check.next().task.index != task {
            return Step::Ignored;
        }
        let record = arrived.record;
        if check.renderers().contains(&record.worker) {
            return Step::NotIndependent;
        }
        if record.numerics_fingerprint != check.held.record.numerics_fingerprint {
            let reason = format!("{} turned out to round differently", record.worker);
            return self.give_up(chunk, &reason).map_or(Step::Ignored, Step::Settled);
        }
        check
            .others
            .push((record.worker.clone(), frame_hashes(&record).to_vec()));
        match check.finding() {
            Finding::Open => Step::Differs,
            finding => self.settle(chunk, finding).map_or(Step::Ignored, Step::Settled),
        }
    }

    /// Gives up a check. The result that was held counts.
    pub(super) fn give_up(&mut self, chunk: u32, reason: &str) -> Option<Conclusion> {
        let check = self.open.get(&chunk)?;
        let (task, range) = (check.held.record.chunk, check.range);
        if check.others.is_empty() {
            tracing::info!(chunk = %task, %range, reason, "a result counts without its spot check");
            return self.settle(chunk, Finding::NotCompared);
        }
        tracing::warn!(chunk = %task, %range, reason, "no third worker can tell which of two results is wrong");
        self.settle(chunk, Finding::Undecided)
    }

    /// The chunks that are being checked.
    pub(super) fn open(&self) -> Vec<u32> {
        self.open.keys().copied().collect()
    }

    /// What is to be done about a check whose next rendering nobody has begun; `None` if it may wait.
    pub(super) fn overdue(&self, chunk: u32, capacities: &[WorkerCapacity], now: Instant) -> Option<Overdue> {
        let check = self.open.get(&chunk)?;
        let renderers = check.renderers();
        let can_take =
            |worker: &WorkerCapacity| worker.takes(check.fit.lane()) && !renderers.contains(&worker.worker);
        if !capacities.iter().any(can_take) {
            return Some(Overdue::GiveUp("no other worker of its kind is there".to_owned()));
        }
        if now - check.since > BEGUN_WITHIN {
            return Some(Overdue::GiveUp(format!(
                "no other worker of its kind has begun it within {} minutes",
                BEGUN_WITHIN.as_secs() / 60
            )));
        }
        (now - check.published > PUBLISHED_AGAIN_AFTER).then_some(Overdue::Publish)
    }

    /// What the checks came to.
    pub(super) fn report(&self) -> &SpotCheckReport {
        &self.report
    }

    /// Ends a check with this finding.
    fn settle(&mut self, chunk: u32, finding: Finding) -> Option<Conclusion> {
        let check = self.open.remove(&chunk)?;
        self.settled.insert(chunk);
        let odd = match finding {
            Finding::Odd(place) => check.odd_worker(place),
            Finding::Open | Finding::NotCompared | Finding::Agreed | Finding::Undecided => None,
        };
        match finding {
            Finding::Agreed => self.report.agreed += 1,
            Finding::NotCompared => self.report.not_compared += 1,
            Finding::Open | Finding::Odd(_) | Finding::Undecided => {
                self.report.disagreements.push(Disagreement {
                    frames: check.range,
                    workers: check.renderers(),
                    odd: odd.as_ref().map(|odd| odd.worker.clone()),
                });
            }
        }
        let SpotCheck { held, mut others, .. } = check;
        if finding == Finding::Odd(0) {
            let known = KnownFrames {
                fingerprint: held.record.numerics_fingerprint.clone(),
                hashes: others.swap_remove(0).1,
            };
            self.known.insert(chunk, known);
        }
        Some(Conclusion { held, odd })
    }
}

impl SpotCheck {
    /// The workers that have rendered the chunk, the one whose result is held first.
    fn renderers(&self) -> Vec<WorkerId> {
        let first = self.held.record.worker.clone();
        let others = self.others.iter().map(|(worker, _)| worker.clone());
        std::iter::once(first).chain(others).collect()
    }

    fn next(&self) -> Repeat {
        let chunk = self.held.record.chunk;
        let round = u32::from(!self.others.is_empty());
        Repeat {
            chunk,
            task: task_of(chunk, round),
            range: self.range,
            excluded: self.renderers(),
            fit: self.fit,
        }
    }

    /// The worker at this place among the renderers, and what is the matter with it.
    fn odd_worker(&self, place: usize) -> Option<OddWorker> {
        let mut others = self.renderers();
        let worker = (place < others.len()).then(|| others.remove(place))?;
        let others: Vec<&str> = others.iter().map(WorkerId::as_str).collect();
        Some(OddWorker {
            worker,
            reason: format!(
                "its frames {} are not those that {} both rendered, on machines of the same kind",
                self.range,
                others.join(" and ")
            ),
        })
    }

    /// Compares what the workers came to.
    fn finding(&self) -> Finding {
        let own = frame_hashes(&self.held.record);
        match self.others.as_slice() {
            [(_, second)] if *second == own => Finding::Agreed,
            [] | [_] => Finding::Open,
            [_, (_, third), ..] if *third == own => Finding::Odd(1),
            [(_, second), (_, third), ..] if second == third => Finding::Odd(0),
            [_, _, ..] => Finding::Undecided,
        }
    }
}

/// The names of the tasks that render a chunk again.
pub(super) fn tasks_of(chunk: ChunkId) -> [ChunkId; 2] {
    [task_of(chunk, 0), task_of(chunk, 1)]
}

fn task_of(chunk: ChunkId, round: u32) -> ChunkId {
    ChunkId {
        work: WorkKind::SpotCheck,
        index: chunk.index * 2 + round,
        ..chunk
    }
}

#[cfg(test)]
mod tests;
