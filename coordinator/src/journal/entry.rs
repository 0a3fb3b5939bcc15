//! What a journal holds.

use latentfarm_common::wire::memory::{DeviceKind, MemoryUse, Needs, Rung};
use latentfarm_common::wire::outcome::Failure;
use serde::{Deserialize, Serialize};

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    #[serde(flatten)]
    pub entry: Entry,
}

/// Something that was decided or that happened. Chunks are named by their text form without the job:
/// `r00003`, `a00000`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "snake_case")]
pub enum Entry {
    /// A coordinator took the job on.
    RunBegins {
        job: String,
        epoch: u64,
        analyze_chunks: usize,
        render_chunks: usize,
        frames: u64,
        chunk_frames: u32,
        cpu_fallback: String,
        unplaceable_wait_seconds: u64,
    },
    /// Published.
    Placed {
        chunk: String,
        attempt: u32,
        lane: String,
        kind: DeviceKind,
        floor: Rung,
        /// Of the leanest plan, all in all.
        need_mib: u64,
        needs: Needs,
        why: String,
    },
    /// Taken out of the queue to be placed anew.
    TakenBack {
        chunk: String,
        attempt: u32,
        lane: String,
        why: String,
    },
    /// Fits no live worker.
    Waits {
        chunk: String,
        why: String,
    },
    Started {
        chunk: String,
        attempt: u32,
        worker: String,
    },
    Failed {
        chunk: String,
        attempt: u32,
        worker: String,
        failure: Failure,
        /// Kind of device that it was placed on, and the lane.
        kind: Option<DeviceKind>,
        lane: Option<String>,
        /// What followed for the next attempt.
        then: Option<String>,
    },
    /// The attempt ended without a word of its worker: lost worker, lost task, bad result.
    Ended {
        chunk: String,
        attempt: u32,
        reason: String,
        then: Option<String>,
    },
    Done {
        chunk: String,
        attempt: u32,
        worker: String,
        frames: u64,
        numeric_kind: String,
        memory: Option<MemoryUse>,
    },
    GivenUp {
        chunk: String,
        reason: String,
    },
}

impl Entry {
    /// The chunk that it is about.
    pub fn chunk(&self) -> Option<&str> {
        match self {
            Self::RunBegins { .. } => None,
            Self::Placed { chunk, .. }
            | Self::TakenBack { chunk, .. }
            | Self::Waits { chunk, .. }
            | Self::Started { chunk, .. }
            | Self::Failed { chunk, .. }
            | Self::Ended { chunk, .. }
            | Self::Done { chunk, .. }
            | Self::GivenUp { chunk, .. } => Some(chunk),
        }
    }
}
