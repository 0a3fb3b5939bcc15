//! Short constructors of states, events and failures.

use latentfarm_common::digest::Digest;
pub(super) use latentfarm_common::ids::Attempt;
use latentfarm_common::ids::{ChunkId, JobId, WorkKind};
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemoryStage, OutOfMemory};

pub(super) use std::sync::Arc;

pub(super) use latentfarm_common::ids::WorkerId;
pub(super) use latentfarm_common::wire::outcome::{DoneRecord, Failure};

pub(super) use super::super::event::ChunkEvent;
pub(super) use super::super::state::{ChunkState, DenyReason, Phase, Step};
use crate::job::test_support::done_record;
pub(super) use crate::job::tries::Tries;

pub(super) fn at(number: u32) -> Attempt {
    Attempt { epoch: 7, number }
}

pub(super) fn worker(name: &str) -> WorkerId {
    name.parse().unwrap()
}

pub(super) fn record(attempt: Attempt) -> Arc<DoneRecord> {
    let chunk = ChunkId {
        job: JobId::from_digest(&Digest::of(b"job")),
        work: WorkKind::Render,
        index: 3,
    };
    Arc::new(done_record(chunk, attempt, worker("w1")))
}

pub(super) const NONE: Tries = Tries {
    failed: 0,
    excused: 0,
    out_of_memory: 0,
    insufficient_memory: 0,
};
pub(super) const FAILED: Tries = Tries { failed: 1, ..NONE };
pub(super) const EXCUSED: Tries = Tries { excused: 1, ..NONE };
pub(super) const OUT_OF_MEMORY: Tries = Tries {
    out_of_memory: 1,
    ..NONE
};
pub(super) const INSUFFICIENT_MEMORY: Tries = Tries {
    insufficient_memory: 1,
    ..NONE
};

fn state(number: u32, tries: Tries, phase: Phase) -> ChunkState {
    let attempt = at(number);
    ChunkState {
        attempt,
        tries,
        phase,
    }
}

pub(super) fn waiting(number: u32) -> ChunkState {
    state(number, NONE, Phase::Waiting)
}

pub(super) fn backlog(number: u32, tries: Tries) -> ChunkState {
    state(number, tries, Phase::Backlog)
}

pub(super) fn queued(number: u32) -> ChunkState {
    state(number, NONE, Phase::Queued)
}

pub(super) fn running(number: u32, by: &str) -> ChunkState {
    let worker = worker(by);
    state(number, NONE, Phase::Running { worker })
}

pub(super) fn done(number: u32) -> ChunkState {
    done_by(number, number)
}

/// A done chunk whose record may be of an older attempt than the current one.
pub(super) fn done_by(number: u32, recorded: u32) -> ChunkState {
    let record = record(at(recorded));
    state(number, NONE, Phase::Done { record })
}

pub(super) fn quarantined(number: u32, tries: Tries, reason: &str) -> ChunkState {
    let reason = reason.to_owned();
    state(number, tries, Phase::Quarantined { reason })
}

pub(super) fn started(number: u32, by: &str) -> ChunkEvent {
    ChunkEvent::Started {
        attempt: at(number),
        worker: worker(by),
    }
}

pub(super) fn failed(number: u32, failure: Failure) -> ChunkEvent {
    ChunkEvent::Failed {
        attempt: at(number),
        worker: worker("w1"),
        failure,
    }
}

pub(super) fn enqueued(number: u32) -> ChunkEvent {
    ChunkEvent::Enqueued { attempt: at(number) }
}

pub(super) fn retracted(number: u32) -> ChunkEvent {
    ChunkEvent::Retracted {
        attempt: at(number),
        worker: Some(worker("w1")),
        reason: "16 frames decode, 32 are due".to_owned(),
    }
}

pub(super) fn lost(number: u32) -> ChunkEvent {
    ChunkEvent::QueueLost { attempt: at(number) }
}

pub(super) fn done_seen(number: u32) -> ChunkEvent {
    ChunkEvent::DoneSeen {
        record: record(at(number)),
    }
}

pub(super) fn transient() -> Failure {
    Failure::Transient {
        message: "blob store timed out".to_owned(),
    }
}

pub(super) fn out_of_memory() -> Failure {
    Failure::OutOfMemory(OutOfMemory {
        kind: DeviceKind::Cpu,
        device: "cpu".to_owned(),
        stage: Some(MemoryStage::Denoise),
        plan: MemoryPlan::default(),
        needed_at_least_mib: None,
        free_before_mib: 100,
        suspected: false,
    })
}

pub(super) fn insufficient_memory() -> Failure {
    Failure::InsufficientMemory {
        device: "cuda:0".to_owned(),
        needed_mib: 3000,
        free_mib: 2000,
    }
}

pub(super) fn bad_input() -> Failure {
    Failure::BadInput {
        message: "frame 5 of `a.mp4` cannot be decoded".to_owned(),
    }
}

pub(super) fn unfit() -> Failure {
    Failure::WorkerUnfit {
        message: "no weights".to_owned(),
    }
}

pub(super) fn worker_lost(name: &str) -> ChunkEvent {
    ChunkEvent::WorkerLost { worker: worker(name) }
}
