//! What workers report: done records (truth), events and heartbeats (telemetry).

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Message;
use super::blob::BlobRef;
use super::engine::EngineStage;
use super::memory::{MemoryObservation, MemoryPlan, MemorySample, MemoryUse, OutOfMemory, RenderMemory};
use crate::frame::FrameHash;
use crate::ids::{Attempt, ChunkId, JobId, WorkerId};
use crate::queues::Queue;

/// The one record that makes a chunk done. Written by compare-and-set on its subject: the first writer wins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DoneRecord {
    pub chunk: ChunkId,
    pub attempt: Attempt,
    pub worker: WorkerId,
    /// Build + instruction set + device: results of equal kinds are equal bit for bit.
    pub numerics_fingerprint: String,
    /// [`FaceObservations`] of an `Analyze` chunk, or the encoded segment of a `Render` chunk.
    pub artifact: BlobRef,
    pub body: DoneBody,
    pub timings: StageTimings,
    /// `None` where no model ran.
    pub memory: Option<MemoryUse>,
}

impl Message for DoneRecord {
    const KIND: u8 = 6;
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum DoneBody {
    Analyze {
        /// Source frames looked at.
        frames: u32,
        /// Frames with at least one usable face.
        with_face: u32,
    },
    Render {
        /// Hash of every composited frame, before the encoder.
        frame_hashes: Vec<FrameHash>,
        /// Frames whose mouth was rendered.
        synced: u32,
        /// Frames that passed through untouched.
        passed: u32,
    },
}

/// Wall milliseconds by stage, summed over the chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageTimings {
    pub fetch_ms: u64,
    pub decode_ms: u64,
    pub face_ms: u64,
    pub audio_ms: u64,
    pub vae_encode_ms: u64,
    pub denoise_ms: u64,
    pub vae_decode_ms: u64,
    pub paste_ms: u64,
    pub encode_ms: u64,
    pub commit_ms: u64,
    /// The engine at work on speech and windows, requests and answers included.
    pub engine_ms: u64,
    /// The engine idle inside the chunk: ready for a window whose crops were not there yet.
    pub media_wait_ms: u64,
    /// The engine idle at the chunk's ends: inputs fetched before, the last window pasted, encoded and checked after.
    pub edge_ms: u64,
}

/// Blob of an `Analyze` chunk's result: one entry for each source frame of its range.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FaceObservations {
    pub frames: Vec<FrameObservation>,
}

impl Message for FaceObservations {
    const KIND: u8 = 7;
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrameObservation {
    /// The picture differs so much from the one before that a shot begins here.
    pub cut: bool,
    /// Usable faces, largest first.
    pub faces: Vec<FaceObservation>,
}

/// One face in one frame. Coordinates are pixels, float, never rounded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FaceObservation {
    /// x, y, width, height of the upright box around the face's mesh.
    pub bbox: [f32; 4],
    /// Detector confidence, 0..=1.
    pub score: f32,
    /// Left brow, right brow, nose (left and right as in the picture): (x, y) each.
    pub points: [[f32; 2]; 3],
}

/// Something that happened to a task. Kept for the audit and the coordinator's requeue decisions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    pub chunk: ChunkId,
    pub attempt: Attempt,
    pub worker: WorkerId,
    pub kind: EventKind,
}

impl Message for Event {
    const KIND: u8 = 8;
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum EventKind {
    Started,
    Failed(Failure),
    /// Given back unfinished by a worker that is draining.
    Released,
}

/// Why a chunk was not finished; the class decides what happens next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Failure {
    /// The device ran out of memory.
    OutOfMemory(OutOfMemory),
    /// Memory that was free when the task was pulled is not any more: nothing was tried, the chunk loses nothing.
    NoRoom {
        device: String,
        /// Need of the leanest allowed plan.
        needed_mib: u64,
        free_mib: u64,
    },
    /// Nothing that any worker can mend: names file, frame and cause.
    BadInput { message: String },
    /// The worker cannot do this work (weights missing or other ones, broken driver): the chunk loses nothing.
    WorkerUnfit { message: String },
    /// May work next time or elsewhere.
    Transient { message: String },
    /// A child process died or hung.
    EngineLost { message: String },
}

/// Telemetry of one worker, published every 2 s on `farm.hb.<worker>`; not stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    pub worker: WorkerId,
    pub state: WorkerState,
    /// Short text: `cpu` or `cuda:0 NVIDIA L4`.
    pub device: String,
    pub device_free_mib: u64,
    pub device_total_mib: u64,
    /// Of supervisor, engine and media child together.
    pub host_rss_mib: u64,
    /// What the worker could offer to a task were nothing else at work on the machine.
    pub capacity: RenderMemory,
    pub task: Option<TaskProgress>,
    /// The engine's last reading.
    pub memory: Option<MemorySample>,
    pub gpu: Option<GpuStatus>,
    /// Frames of this worker's render tasks a second, over the last minute.
    pub frames_per_second: f32,
    /// Chunks finished since start.
    pub finished: u64,
}

impl Heartbeat {
    /// Of a worker that just started: nothing is known of its device, and nothing is done.
    pub fn starting(worker: WorkerId, device: String) -> Self {
        Self {
            worker,
            state: WorkerState::Starting,
            device,
            device_free_mib: 0,
            device_total_mib: 0,
            host_rss_mib: 0,
            capacity: RenderMemory::default(),
            task: None,
            memory: None,
            gpu: None,
            frames_per_second: 0.0,
            finished: 0,
        }
    }
}

impl Message for Heartbeat {
    const KIND: u8 = 9;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerState {
    Starting,
    Idle,
    Working,
    Draining,
    /// Cannot work; the reason is in its log.
    Unfit,
    /// Its last heartbeat: it is gone now, and holds no task.
    Left,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskProgress {
    pub chunk: ChunkId,
    pub attempt: Attempt,
    /// Frames finished of the chunk, may be fractional work rounded down.
    pub frames_done: u32,
    pub frames_total: u32,
    pub stage: TaskStage,
    /// The queue that it was pulled from.
    pub queue: Option<Queue>,
    /// Plan that it runs under, once chosen.
    pub plan: Option<MemoryPlan>,
}

/// What a task is at. Its text form is for heartbeats' readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskStage {
    /// Nothing was reported yet.
    Starting,
    /// The media process looks for faces.
    FaceAnalysis,
    Engine(EngineStage),
    /// The media process has encoded more frames.
    Encoded,
}

impl fmt::Display for TaskStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("start"),
            Self::FaceAnalysis => f.write_str("face analysis"),
            Self::Engine(stage) => stage.fmt(f),
            Self::Encoded => f.write_str("encoded"),
        }
    }
}

/// What NVML tells; each is missing where the driver does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuStatus {
    pub temperature_c: Option<u32>,
    pub utilization_percent: Option<u32>,
    pub power_w: Option<u32>,
}

/// Instructions from the coordinator on `farm.ctl.<worker>` and `farm.ctl.all`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Control {
    /// Stop work on any chunk of this job.
    Cancel(JobId),
    /// Finish the current chunk, then leave.
    Drain,
}

impl Message for Control {
    const KIND: u8 = 10;
}

/// What tasks showed on one kind of device, for one checkpoint, resolution and guidance. Kept by the coordinator in
/// a bucket.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LearnedNeeds {
    /// In the order in which they were made.
    pub observations: Vec<MemoryObservation>,
    /// Milliseconds of one worker for a frame; `None`: not observed.
    pub frame_ms: Option<f64>,
}

impl Message for LearnedNeeds {
    const KIND: u8 = 15;
}
