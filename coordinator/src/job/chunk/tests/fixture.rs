//! States, events and failures in few words.

use latentfarm_common::digest::Digest;
use latentfarm_common::ids::{ChunkId, JobId, Work};
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::memory::Rung;
use latentfarm_common::wire::outcome::{DoneBody, StageTimings};

use super::super::*;

pub(super) fn at(number: u32) -> Attempt {
    Attempt { epoch: 7, number }
}

pub(super) fn worker(name: &str) -> WorkerId {
    name.parse().unwrap()
}

pub(super) fn record(attempt: Attempt) -> Arc<DoneRecord> {
    Arc::new(DoneRecord {
        chunk: ChunkId {
            job: JobId::from_digest(&Digest::of(b"job")),
            work: Work::Render,
            index: 3,
        },
        attempt: attempt.number,
        epoch: attempt.epoch,
        worker: worker("w1"),
        numeric_kind: "test".to_owned(),
        artifact: BlobRef {
            digest: Digest::of(b"segment"),
            bytes: 7,
        },
        body: DoneBody::Render {
            frame_hashes: Vec::new(),
            synced: 16,
            passed: 0,
        },
        timings: StageTimings::default(),
        memory: None,
    })
}

pub(super) const NONE: Tries = Tries {
    failed: 0,
    excused: 0,
    out_of_memory: 0,
    no_room: 0,
};
pub(super) const FAILED: Tries = Tries { failed: 1, ..NONE };
pub(super) const EXCUSED: Tries = Tries { excused: 1, ..NONE };
pub(super) const OUT_OF_MEMORY: Tries = Tries {
    out_of_memory: 1,
    ..NONE
};
pub(super) const NO_ROOM: Tries = Tries { no_room: 1, ..NONE };

pub(super) fn waiting() -> ChunkState {
    ChunkState::Waiting {
        attempt: at(0),
        tries: NONE,
    }
}

pub(super) fn backlog(number: u32, tries: Tries) -> ChunkState {
    ChunkState::Backlog {
        attempt: at(number),
        tries,
    }
}

pub(super) fn queued(number: u32) -> ChunkState {
    ChunkState::Queued {
        attempt: at(number),
        tries: NONE,
    }
}

pub(super) fn running(number: u32, by: &str) -> ChunkState {
    ChunkState::Running {
        attempt: at(number),
        tries: NONE,
        worker: worker(by),
    }
}

pub(super) fn done(number: u32) -> ChunkState {
    ChunkState::Done {
        attempt: at(number),
        tries: NONE,
        record: record(at(number)),
    }
}

pub(super) fn quarantined(number: u32, tries: Tries, reason: &str) -> ChunkState {
    ChunkState::Quarantined {
        attempt: at(number),
        tries,
        reason: reason.to_owned(),
    }
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
        failure,
    }
}

pub(super) fn enqueued(number: u32) -> ChunkEvent {
    ChunkEvent::Enqueued { attempt: at(number) }
}

pub(super) fn retracted(number: u32) -> ChunkEvent {
    ChunkEvent::Retracted {
        attempt: at(number),
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
    Failure::OutOfMemory {
        device: "cpu".to_owned(),
        stage: "denoise".to_owned(),
        rung: Rung::default(),
        needed_at_least_mib: None,
        free_before_mib: 100,
        suspected: false,
    }
}

pub(super) fn no_room() -> Failure {
    Failure::NoRoom {
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
