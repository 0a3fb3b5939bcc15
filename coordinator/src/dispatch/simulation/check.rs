//! What must hold after each step, whatever happens.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use latentfarm_common::ids::{Attempt, ChunkId, JobId, WorkKind, WorkerId};
use latentfarm_common::queues::Queue;
use latentfarm_common::wire::memory::DeviceKind;
use latentfarm_common::wire::outcome::WorkerState;
use latentfarm_common::wire::task::{Task, TaskBody};
use tokio::time::Instant;

use super::machine::Flaw;
use super::world::State;
use crate::dispatch::dispatcher::Dispatcher;
use crate::dispatch::order::JobEnd;
use crate::job::chunk::probe::{self, Note};
use crate::job::chunk::state::Phase;
use crate::job::chunks::Ending;
use crate::placement::{CpuFallback, options};

/// A worker whose heartbeats have come for so long is known to the coordinator.
const KNOWN_AFTER: Duration = Duration::from_secs(8);
/// Two failures on each of three workers, or of all that can run it; two workers that cannot use its input; or so many
/// failures that nobody else will succeed.
const FAILURES: u32 = 2;
const WORKERS: usize = 3;
const REFUSING_WORKERS: usize = 2;
const MOST_FAILURES: u32 = 32;
/// A chunk may be given up for what happened before the faults ended.
const CALM_AFTER: Duration = Duration::from_mins(1);
/// The most turns of a dispatcher at one point in time, each of which does something.
const MOST_TURNS: u32 = 1000;
/// The most tasks of one chunk in the queues, by what the dispatcher does: one, its backup, and one whose removal failed.
const TASKS_OF_A_CHUNK: usize = 8;

/// What a coordinator has decided so far.
#[derive(Debug)]
pub(super) struct Book {
    coordinator: usize,
    epoch: u64,
    failures: BTreeMap<ChunkId, BTreeMap<WorkerId, u32>>,
    retracted: BTreeMap<ChunkId, Attempt>,
    done: BTreeSet<ChunkId>,
    /// The turns of the dispatcher at one point in time.
    turns: (Instant, u32),
}

impl Book {
    pub(super) fn new(coordinator: usize, epoch: u64) -> Self {
        drop(probe::take(coordinator));
        Self {
            coordinator,
            epoch,
            failures: BTreeMap::new(),
            retracted: BTreeMap::new(),
            done: BTreeSet::new(),
            turns: (Instant::now(), 0),
        }
    }
}

/// A task that is published fits the memory that its queue promises.
pub(super) fn task(state: &mut State, queue: Queue, task: &Task) {
    let TaskBody::Render(render) = &task.body else {
        return;
    };
    let overhead = match (render.memory.kind, state.jobs.get(&task.chunk.job)) {
        (DeviceKind::Cpu, Some(job)) => job.settings.needs.media_mib,
        (DeviceKind::Cuda, _) | (_, None) => 0,
    };
    let need = render.memory.needs.leanest() + overhead;
    if need > queue.lane.class.mib() || queue.lane.class.kind() != Some(render.memory.kind) {
        let name = task.chunk;
        state
            .recorder
            .violation(format!("the task of {name} needs {need} MiB in queue {queue}"));
    }
}

/// A coordinator asks for something although its lease has lapsed, by its own account.
pub(super) fn acted_without_lease(state: &mut State, epoch: u64, what: &str) {
    let name = "a coordinator acts although its lease has lapsed";
    state.recorder.count(name);
    // A task of an old epoch is ignored. A record that is gone is gone.
    if what == REMOVES {
        let text = format!("the coordinator of epoch {epoch} {what} without its lease");
        state.recorder.violation(text);
    }
}

/// The one thing that the server does for a coordinator without looking at its epoch, and that cannot be made good.
pub(super) const REMOVES: &str = "removes a record";

/// Checks what a dispatcher has done in a turn.
pub(super) fn dispatcher(state: &mut State, book: &mut Book, dispatcher: &Dispatcher<'_>) {
    for note in probe::take(book.coordinator) {
        let Note { event, phases, .. } = note;
        state.recorder.log(|| {
            let (from, to) = phases;
            format!("  epoch {}: {} {event}: {from} -> {to}", book.epoch, note.chunk)
        });
        // An attempt whose publish was not answered may have been enqueued all the same.
        let reported = note.attempt.map(|attempt| (note.chunk, attempt));
        let is_unanswered = reported.is_some_and(|reported| state.unanswered.contains(&reported));
        if note.denied.is_some() && is_unanswered {
            let name = "a task is reported whose publish was not answered";
            state.recorder.count(name);
        } else if let Some(reason) = &note.denied {
            let name = note.chunk;
            state.recorder.violation(format!(
                "{event} of {name} contradicts its state {}: {reason}",
                phases.0
            ));
        }
        if !note.moved {
            state.recorder.cover(&format!("{event} is ignored"));
            continue;
        }
        state
            .recorder
            .cover(&format!("{event}: {} to {}", phases.0, phases.1));
        moved(state, book, dispatcher, &note);
    }
    left_to_the_lost(state, dispatcher);
    bounded(state, dispatcher);
    let now = Instant::now();
    book.turns = if book.turns.0 == now {
        (now, book.turns.1 + 1)
    } else {
        (now, 0)
    };
    if book.turns.1 > MOST_TURNS {
        let text = "the dispatcher goes on and on without waiting for anything";
        state.recorder.violation(text.to_owned());
    }
}

fn moved(state: &mut State, book: &mut Book, dispatcher: &Dispatcher<'_>, note: &Note) {
    let (chunk, name) = (note.chunk, note.chunk);
    if let Some(worker) = &note.failed_on {
        let failures = book.failures.entry(chunk).or_default();
        *failures.entry(worker.clone()).or_default() += 1;
    }
    match (note.event, note.attempt) {
        ("DoneSeen", Some(attempt)) => {
            if !book.done.insert(chunk) {
                state.recorder.violation(format!("{name} was counted twice"));
            }
            if book.retracted.get(&chunk).is_some_and(|last| attempt <= *last) {
                state.recorder.violation(format!(
                    "the record of attempt {attempt} counts for {name}, and one that is not older was retracted"
                ));
            }
            if let Some(job) = state.jobs.get_mut(&chunk.job) {
                job.counted.insert(chunk, (book.epoch, attempt));
            }
        }
        ("Retracted", Some(attempt)) => {
            book.done.remove(&chunk);
            let last = book.retracted.entry(chunk).or_insert(attempt);
            *last = attempt.max(*last);
            if let Some(job) = state.jobs.get_mut(&chunk.job) {
                job.counted.remove(&chunk);
            }
        }
        ("Blocked", _) => given_up(
            state,
            book,
            dispatcher,
            chunk,
            note.reason.as_deref().unwrap_or(""),
        ),
        _ if note.phases.0 == "Done" => {
            state
                .recorder
                .violation(format!("{} undid {name}, which was done", note.event));
        }
        _ => {}
    }
}

/// A chunk was given up: no healthy worker that can run it is left that has not failed it often enough.
fn given_up(state: &mut State, book: &Book, dispatcher: &Dispatcher<'_>, chunk: ChunkId, reason: &str) {
    let kind = if reason.contains("(waited") {
        "a chunk is given up for want of memory"
    } else if reason.starts_with("the faces around") {
        "a chunk is given up for want of its analysis"
    } else {
        "a chunk is given up after failures"
    };
    state.recorder.count(kind);
    state.recorder.log(|| format!("{chunk} is given up: {reason}"));
    let is_late = state.calm_since.is_some_and(|since| since.elapsed() > CALM_AFTER);
    let job = state.jobs.get(&chunk.job);
    if is_late && job.is_some_and(|job| job.poisoned.is_none()) && state.has_large_machines {
        state.recorder.violation(format!(
            "{chunk} was given up although there are no faults any more, and large machines: {reason}"
        ));
    }
    if kind != "a chunk is given up after failures" {
        return;
    }
    let none = BTreeMap::new();
    let failures = book.failures.get(&chunk).unwrap_or(&none);
    let is_refused = reason.starts_with("bad input");
    let (enough, workers) = if is_refused {
        (1, REFUSING_WORKERS)
    } else {
        (FAILURES, WORKERS)
    };
    let tried = failures.values().filter(|count| **count >= enough).count();
    let total: u32 = failures.values().map(|count| (*count).min(FAILURES)).sum();
    if tried >= workers || total >= MOST_FAILURES {
        return;
    }
    let left = able(state, dispatcher, chunk)
        .into_iter()
        .find(|worker| failures.get(worker).copied().unwrap_or(0) < enough);
    if let Some(worker) = left {
        state.recorder.violation(format!(
            "{chunk} was given up after {failures:?} although {worker} is healthy: {reason}"
        ));
    }
}

/// The healthy workers that the coordinator knows and that can run a chunk.
fn able(state: &State, dispatcher: &Dispatcher<'_>, chunk: ChunkId) -> Vec<WorkerId> {
    let now = Instant::now();
    let Some(job) = dispatcher.jobs.get(&chunk.job) else {
        return Vec::new();
    };
    let needed = &job.settings.needed_tags;
    let known = dispatcher.workers.healthy_capacities(needed);
    let Some(record) = job.chunks.get(chunk) else {
        return Vec::new();
    };
    let can_run = |worker: &WorkerId| {
        let Some(seat) = state.seats.get(worker) else {
            return false;
        };
        let is_awake = seat.awake_since.is_some_and(|since| now - since > KNOWN_AFTER);
        let was_fit = seat.unfit_at.is_none_or(|at| now - at > KNOWN_AFTER * 8);
        let is_steady = was_fit && now - seat.taken_since > KNOWN_AFTER;
        let is_at_work = matches!(seat.state, WorkerState::Idle | WorkerState::Working);
        is_awake && is_steady && is_at_work && seat.machine.flaw == Flaw::None
    };
    let fits = |machine: &&crate::placement::WorkerCapacity| {
        if chunk.work == WorkKind::Analyze {
            return true;
        }
        let observations = |kind| dispatcher.estimator.observations(&job.spec.model, kind);
        let needs = job.settings.needs.corrected(observations);
        let own = options(&needs, &record.memory, std::slice::from_ref(*machine));
        own.gpu.is_some() || own.cpu.is_some() && job.settings.cpu_fallback != CpuFallback::Never
    };
    let able = known.iter().filter(fits).map(|machine| machine.worker.clone());
    able.filter(can_run).collect()
}

/// No chunk is left to a worker that is gone.
fn left_to_the_lost(state: &mut State, dispatcher: &Dispatcher<'_>) {
    let chunks = dispatcher.jobs.values().flat_map(|job| job.chunks.iter());
    for record in chunks.filter(|record| !record.being_verified) {
        if let Phase::Running { worker } = &record.state().phase
            && !dispatcher.workers.knows(worker)
        {
            let text = format!("{} is left to {worker}, which is gone", record.id);
            state.recorder.violation(text);
        }
    }
}

/// Nothing grows without end.
fn bounded(state: &mut State, dispatcher: &Dispatcher<'_>) {
    let chunks: usize = dispatcher
        .jobs
        .values()
        .map(|job| job.chunks.iter().count())
        .sum();
    let claims = dispatcher.claims.len();
    if claims > 4 * chunks + 8 {
        state
            .recorder
            .violation(format!("{claims} records of {chunks} chunks wait for a report"));
    }
    let most = state.queue.most_of_a_chunk;
    if most > TASKS_OF_A_CHUNK {
        state
            .recorder
            .violation(format!("a chunk has {most} tasks in the queues at the same time"));
    }
}

/// A job has ended: what it has counts, and is there.
pub(super) fn end(state: &mut State, id: JobId, end: &JobEnd) {
    let name = match &end.ending {
        Ending::Complete => "a job is complete",
        Ending::Incomplete { .. } => "a job is incomplete",
        Ending::Failed { .. } => "a job has failed",
        Ending::NoWorker { .. } => "a job has no worker",
        Ending::NoVideo { .. } => "a job has no video",
        Ending::NoFace => "a job has no face",
        Ending::Cancelled => "a job is over as it was cancelled",
        Ending::Interrupted { .. } => "a job is interrupted",
    };
    state.recorder.count(name);
    let is_late = state.calm_since.is_some_and(|since| since.elapsed() > CALM_AFTER);
    let Some(job) = state.jobs.get_mut(&id) else {
        return;
    };
    if matches!(end.ending, Ending::Interrupted { .. }) {
        return;
    }
    job.ending = Some(end.ending.clone());
    if is_late && matches!(end.ending, Ending::NoWorker { .. }) && state.has_large_machines {
        state.recorder.violation(format!(
            "job {id} has large machines, and ended: {:?}",
            end.ending
        ));
    }
    for record in &end.records {
        let chunk = record.chunk;
        let stored = state.records.by_chunk.get(&chunk);
        let is_there = stored.is_some_and(|stored| stored.record.as_ref() == Some(&**record));
        if !is_there {
            let text = format!("{chunk} counts in the end of its job, and is not in the done log");
            state.recorder.violation(text);
        }
        if state.broken.contains(&record.artifact.digest) {
            let text = format!("{chunk} counts although its result does not verify");
            state.recorder.violation(text);
        }
    }
    let frames = state.jobs[&id].spec.frames;
    if end.ending == Ending::Complete && end.records.len() as u64 != frames / 16 {
        let text = format!(
            "job {id} is complete with {} records of {frames} frames",
            end.records.len()
        );
        state.recorder.violation(text);
    }
}
