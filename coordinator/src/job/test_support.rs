//! Made-up records, for the tests of the chunks and of the dispatcher.

use latentfarm_common::digest::Digest;
use latentfarm_common::ids::{Attempt, ChunkId, WorkerId};
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::job::{CutRecord, SegmentEntry, SegmentRecord};
use latentfarm_common::wire::outcome::{DoneBody, DoneRecord, StageTimings};

/// The record of a render chunk of 16 frames.
pub(crate) fn done_record(chunk: ChunkId, attempt: Attempt, worker: WorkerId) -> DoneRecord {
    DoneRecord {
        chunk,
        attempt,
        worker,
        numerics_fingerprint: "test".to_owned(),
        kind: None,
        artifact: BlobRef {
            digest: Digest::of(b"segment"),
            bytes: 7,
        },
        body: DoneBody::Render {
            frame_hashes: Vec::new(),
            lips: Vec::new(),
            synced: 16,
            passed: 0,
        },
        timings: StageTimings::default(),
        memory: None,
    }
}

/// The record of the source frames `first..first + frames`.
pub(crate) fn segment(first: u64, frames: u64) -> CutRecord {
    let blob = BlobRef {
        digest: Digest::of(&first.to_le_bytes()),
        bytes: 8,
    };
    CutRecord::Segment(SegmentRecord {
        entry: SegmentEntry { blob, first, frames },
        reencoded: false,
        defects: Vec::new(),
    })
}
