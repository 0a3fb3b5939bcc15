//! What comes of a task on a machine: a result, or one of the ways to fail.

use std::time::Duration;

use latentfarm_common::digest::Digest;
use latentfarm_common::frame::FrameHash;
use latentfarm_common::ids::{WorkKind, WorkerId};
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemoryStage, MemoryUse, OutOfMemory};
use latentfarm_common::wire::outcome::{DoneBody, DoneRecord, Failure, StageTimings};
use latentfarm_common::wire::task::{Task, TaskBody};

use super::machine::{Flaw, Machine};
use super::world::State;

/// How a task ends.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    Renders(Box<DoneRecord>),
    Fails(Failure),
    /// The worker ends without a word.
    Dies,
    GivesBack,
}

/// How a task ends, and after which time.
#[derive(Clone, Debug)]
pub(super) struct Drawn {
    pub(super) outcome: Outcome,
    pub(super) time: Duration,
}

/// Draws what comes of a task that a worker begins now.
pub(super) fn draw(state: &mut State, worker: &WorkerId, task: &Task) -> Drawn {
    let seat = &state.seats[worker];
    let (machine, taken) = (seat.machine.clone(), seat.taken_mib);
    let (range, memory) = match &task.body {
        TaskBody::Analyze(task) => (task.range, None),
        TaskBody::Render(task) => (task.range, Some(task.memory)),
    };
    let per_frame = if memory.is_some() { machine.frame_ms } else { 20 };
    let whole = Duration::from_millis(per_frame * range.len());
    let failed = |failure, share: u32| Drawn {
        outcome: Outcome::Fails(failure),
        time: whole / share,
    };
    if let Some(failure) = machine.flaw.failure() {
        return failed(failure, 4);
    }
    let job = state.jobs.get(&task.chunk.job);
    let is_poisoned =
        task.chunk.work == WorkKind::Render && job.and_then(|job| job.poisoned) == Some(task.chunk.index);
    let message = "a fault of the simulation".to_owned();
    if is_poisoned {
        return failed(Failure::EngineLost { message }, 2);
    }
    let mut used = None;
    if let Some(constraints) = memory {
        let kind = constraints.kind;
        let available = machine.available(taken).memory.of(kind).unwrap_or(0);
        let overhead = match (kind, job) {
            (DeviceKind::Cpu, Some(job)) => job.settings.needs.media_mib,
            (DeviceKind::Cuda, _) | (_, None) => 0,
        };
        let free = available.saturating_sub(overhead);
        let Some(plan) = constraints.needs.fastest_within(constraints.floor, free) else {
            let refused = Failure::InsufficientMemory {
                device: machine.kind.to_owned(),
                needed_mib: constraints.needs.leanest(),
                free_mib: free,
            };
            return failed(refused, 16);
        };
        let need = job.map_or(0, |job| job.true_need(kind, plan));
        let by_chance = state.fault("memory runs out by chance");
        if need > free || by_chance {
            state.recorder.cover("memory runs out");
            let is_known = need > free && state.random.chance(700);
            let oom = OutOfMemory {
                kind,
                device: machine.kind.to_owned(),
                stage: Some(MemoryStage::Denoise),
                plan,
                needed_at_least_mib: is_known.then_some(free + 1),
                free_before_mib: free,
                suspected: !is_known && state.random.chance(500),
            };
            return failed(Failure::OutOfMemory(oom), 3);
        }
        used = Some((kind, plan, need, free));
    }
    let by_chance: [(&'static str, Outcome); 6] = [
        (
            "a worker fails a task",
            Outcome::Fails(Failure::Transient {
                message: message.clone(),
            }),
        ),
        (
            "a worker refuses an input",
            Outcome::Fails(Failure::BadInput {
                message: message.clone(),
            }),
        ),
        (
            "an engine ends",
            Outcome::Fails(Failure::EngineLost {
                message: message.clone(),
            }),
        ),
        (
            "a worker is unfit for a task",
            Outcome::Fails(Failure::WorkerUnfit { message }),
        ),
        ("a worker dies of a task", Outcome::Dies),
        ("a worker gives a task back", Outcome::GivesBack),
    ];
    for (name, outcome) in by_chance {
        if state.fault(name) {
            return Drawn {
                outcome,
                time: whole / 2,
            };
        }
    }
    let record = record(state, worker, &machine, task, range, used);
    Drawn {
        outcome: Outcome::Renders(Box::new(record)),
        time: whole,
    }
}

type Used = (DeviceKind, MemoryPlan, u64, u64);

fn record(
    state: &mut State,
    worker: &WorkerId,
    machine: &Machine,
    task: &Task,
    range: FrameRange,
    used: Option<Used>,
) -> DoneRecord {
    state.artifacts += 1;
    let artifact = Digest::of(format!("artifact {}", state.artifacts).as_bytes());
    if state.fault("a result does not verify") {
        state.broken.insert(artifact);
    } else if used.is_some() && state.fault("a result looks wrong") {
        state.odd.insert(artifact);
    }
    let frames = u32::try_from(range.len()).unwrap();
    let plan = used.map(|(_, plan, ..)| plan);
    let is_wrong = machine.flaw == Flaw::WrongFrames;
    let hash = |frame: u64| {
        let wrong = if is_wrong { worker.as_str() } else { "" };
        FrameHash::of([format!("{} {frame} {} {wrong}", task.chunk.job, rounding(machine, plan)).as_bytes()])
    };
    let body = if used.is_some() {
        DoneBody::Render {
            frame_hashes: range.frames().map(hash).collect(),
            lips: vec![None; range.frames().count()],
            synced: frames,
            passed: 0,
        }
    } else {
        DoneBody::Analyze {
            frames,
            with_face: frames,
        }
    };
    DoneRecord {
        chunk: task.chunk,
        attempt: task.attempt,
        worker: worker.clone(),
        numerics_fingerprint: rounding(machine, plan),
        kind: Some(machine.numeric_kind()),
        artifact: BlobRef {
            digest: artifact,
            bytes: 10,
        },
        body,
        timings: StageTimings {
            engine_ms: machine.frame_ms * range.len(),
            ..StageTimings::default()
        },
        memory: used.map(|(kind, plan, peak_mib, free)| MemoryUse {
            kind,
            device: machine.kind.to_owned(),
            plan,
            predicted_mib: peak_mib,
            peak_mib,
            least_free_mib: free.saturating_sub(peak_mib),
            stages: Vec::new(),
            shortages: Vec::new(),
        }),
    }
}

/// How the results of a machine are rounded under a plan.
fn rounding(machine: &Machine, plan: Option<MemoryPlan>) -> String {
    let alike = MemoryPlan::equal_on_cuda();
    let group = plan.and_then(|plan| {
        alike
            .iter()
            .position(|(first, last)| (*first..=*last).contains(&plan))
    });
    format!("{} {group:?}", machine.kind)
}
