//! Results whose pictures are implausible. A single look can be wrong, so such a result is taken back like a damaged one,
//! but counts if another attempt, made independently, comes to the same: then the pictures are what the model makes of
//! this source, however odd they are.

use std::collections::BTreeMap;

use latentfarm_common::frame::FrameHash;
use latentfarm_common::ids::{ChunkId, WorkerId};
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::outcome::DoneRecord;
use serde::{Deserialize, Serialize};

use crate::job::frame_hashes::frame_hashes;

/// The doubtful results of one job.
#[derive(Debug, Default)]
pub(super) struct DoubtfulResults {
    rejected: BTreeMap<ChunkId, Vec<Rejected>>,
    /// Those that count, by their first frame.
    accepted: BTreeMap<u64, DoubtfulChunk>,
}

/// What is remembered of a result that was taken back.
#[derive(Debug)]
struct Rejected {
    worker: WorkerId,
    fingerprint: String,
    hashes: Vec<FrameHash>,
}

/// A chunk whose pictures look wrong, and whose result counts because two attempts came to the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoubtfulChunk {
    /// The output frames of the chunk.
    pub frames: FrameRange,
    /// What looks wrong, as one clause.
    pub reason: String,
}

impl DoubtfulResults {
    /// Decides about a result whose pictures are implausible for `reason`. It counts if another worker came to the same,
    /// or this one did so before and no other `could_help`; workers of different numeric kinds never come to the same, so
    /// that it is enough that both results are doubtful.
    ///
    /// # Errors
    /// The reason, if the result does not count.
    pub(super) fn weigh(
        &mut self,
        record: &DoneRecord,
        range: FrameRange,
        reason: String,
        could_help: bool,
    ) -> Result<(), String> {
        let hashes = frame_hashes(record);
        let confirms = |earlier: &Rejected| {
            let is_other = earlier.worker != record.worker;
            let is_same = earlier.hashes == hashes;
            let is_other_kind = earlier.fingerprint != record.numerics_fingerprint;
            if is_other {
                is_same || is_other_kind
            } else {
                is_same && !could_help
            }
        };
        let rejected = self.rejected.entry(record.chunk).or_default();
        if rejected.iter().any(confirms) {
            let frames = range;
            self.accepted
                .insert(range.start, DoubtfulChunk { frames, reason });
            return Ok(());
        }
        rejected.push(Rejected {
            worker: record.worker.clone(),
            fingerprint: record.numerics_fingerprint.clone(),
            hashes: hashes.to_vec(),
        });
        Err(reason)
    }

    /// The chunks whose doubtful results count, in the order of their frames.
    pub(super) fn accepted(&self) -> Vec<DoubtfulChunk> {
        self.accepted.values().cloned().collect()
    }
}
