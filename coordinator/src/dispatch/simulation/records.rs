//! The done log: one record for each chunk, written by compare-and-set.

use std::collections::BTreeMap;

use latentfarm_common::ids::ChunkId;
use latentfarm_common::nats::done::DoneEntry;
use latentfarm_common::nats::signature::Signature;
use latentfarm_common::wire::WireError;
use latentfarm_common::wire::outcome::DoneRecord;

/// A record in the log.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) chunk: ChunkId,
    pub(super) sequence: u64,
    /// `None` if it cannot be decoded.
    pub(super) record: Option<DoneRecord>,
    pub(super) signature: Signature,
}

impl Stored {
    /// The entry as it is read.
    pub(super) fn entry(&self) -> DoneEntry {
        DoneEntry {
            chunk: self.chunk,
            sequence: self.sequence,
            record: self.record.clone().ok_or(WireError::UnknownSchema { found: 0 }),
            signature: self.signature.clone(),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) by_chunk: BTreeMap<ChunkId, Stored>,
    last: u64,
}

impl Records {
    /// Stores a record, unless its chunk has one.
    pub(super) fn commit(
        &mut self,
        chunk: ChunkId,
        record: Option<DoneRecord>,
        signature: Signature,
    ) -> Option<Stored> {
        if self.by_chunk.contains_key(&chunk) {
            return None;
        }
        self.last += 1;
        let stored = Stored {
            chunk,
            sequence: self.last,
            record,
            signature,
        };
        self.by_chunk.insert(chunk, stored.clone());
        Some(stored)
    }

    /// Removes a record if it is still there.
    pub(super) fn retract(&mut self, chunk: ChunkId, sequence: u64) -> Option<Stored> {
        let is_meant = self
            .by_chunk
            .get(&chunk)
            .is_some_and(|stored| stored.sequence == sequence);
        is_meant.then(|| self.by_chunk.remove(&chunk)).flatten()
    }

    /// The records that `is_meant` accepts, oldest first.
    pub(super) fn list(&self, is_meant: impl Fn(ChunkId) -> bool) -> Vec<Stored> {
        let mut found: Vec<Stored> = self
            .by_chunk
            .values()
            .filter(|stored| is_meant(stored.chunk))
            .cloned()
            .collect();
        found.sort_by_key(|stored| stored.sequence);
        found
    }
}
