//! The messages with which workers report: done records, which are the truth, and events and heartbeats,
//! which are telemetry. It also holds the commands to workers and what the coordinator learns from tasks.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Message;
use super::blob::BlobRef;
use super::engine::EngineStage;
use super::memory::{MemoryObservation, MemoryPlan, MemorySample, MemoryUse, OutOfMemory, RenderMemory};
use crate::frame::FrameHash;
use crate::ids::{Attempt, ChunkId, JobId, WorkerId};
use crate::lip_sync::LipOpening;
use crate::numeric_kind::NumericKind;
use crate::queues::{Available, Queue};
use crate::tags::Tags;

/// The one record that makes a chunk done. It is written by compare-and-set on its subject, so that the first
/// writer wins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DoneRecord {
    /// The chunk that is done.
    pub chunk: ChunkId,
    /// The attempt that finished it.
    pub attempt: Attempt,
    /// The worker that finished it.
    pub worker: WorkerId,
    /// Fingerprint of build, instruction set and device: results with equal fingerprints are equal bit for
    /// bit.
    pub numerics_fingerprint: String,
    /// Numeric kind of the machine that finished it, if that is known: only such machines take tasks that are
    /// for this kind.
    pub kind: Option<NumericKind>,
    /// Blob of the [`FaceObservations`] of an `Analyze` chunk, or of the encoded segment of a `Render` chunk.
    pub artifact: BlobRef,
    /// Facts about the chunk's result.
    pub body: DoneBody,
    /// Time spent in each stage.
    pub timings: StageTimings,
    /// Memory that the model used; `None` if no model ran.
    pub memory: Option<MemoryUse>,
}

impl Message for DoneRecord {
    const KIND: u8 = 6;
}

/// Facts about the result of a chunk, by its kind of work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum DoneBody {
    /// The chunk's faces were found.
    Analyze {
        /// Number of source frames in the chunk.
        frames: u32,
        /// Number of frames with at least one usable face.
        with_face: u32,
    },
    /// The chunk's frames were rendered.
    Render {
        /// Hash of every composited frame, before the encoder.
        frame_hashes: Vec<FrameHash>,
        /// Number of frames whose mouth was rendered.
        synced: u32,
        /// Number of frames that stayed as they were.
        passed: u32,
        /// How far the mouth is open in each frame that shows a rendered one; `None` for the others and where
        /// no mouth is seen.
        lips: Vec<Option<LipOpening>>,
    },
}

/// Wall time of each stage in milliseconds, summed over the chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageTimings {
    /// Milliseconds of fetching the inputs from the blob store.
    pub fetch_ms: u64,
    /// Milliseconds of decoding source frames.
    pub decode_ms: u64,
    /// Milliseconds of finding or aligning faces.
    pub face_ms: u64,
    /// Milliseconds of encoding speech with Whisper.
    pub audio_ms: u64,
    /// Milliseconds of encoding crops with the VAE.
    pub vae_encode_ms: u64,
    /// Milliseconds of denoising with the UNet.
    pub denoise_ms: u64,
    /// Milliseconds of decoding latents with the VAE.
    pub vae_decode_ms: u64,
    /// Milliseconds of pasting rendered crops into the frames.
    pub paste_ms: u64,
    /// Milliseconds of encoding the segment.
    pub encode_ms: u64,
    /// Milliseconds of storing the artifact.
    pub commit_ms: u64,
    /// Milliseconds in which the engine worked on speech and windows, requests and replies included.
    pub engine_ms: u64,
    /// Milliseconds in which the engine was idle within the chunk, as the crops of the next window were not
    /// there yet.
    pub media_wait_ms: u64,
    /// Milliseconds in which the engine was idle before the chunk: since its last window, if the worker held the task
    /// then; otherwise since the task was begun. Loading the model is not in it.
    pub edge_ms: u64,
}

/// The result of an `Analyze` chunk, which is stored as a blob.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FaceObservations {
    /// One entry for each source frame of the chunk's range.
    pub frames: Vec<FrameObservation>,
}

impl Message for FaceObservations {
    const KIND: u8 = 7;
}

/// The faces in one source frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrameObservation {
    /// Whether a shot begins here, as the picture differs much from the one before.
    pub cut: bool,
    /// The usable faces, largest first.
    pub faces: Vec<FaceObservation>,
}

/// One face in one frame. Coordinates are in pixels and not rounded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FaceObservation {
    /// Upright box around the face's mesh: x, y, width, height.
    pub bbox: [f32; 4],
    /// Confidence of the face detector, in 0..=1.
    pub score: f32,
    /// Points (x, y) of the left brow, the right brow and the nose, with left and right as in the picture.
    pub points: [[f32; 2]; 3],
    /// How far the mouth is open.
    pub lips: LipOpening,
}

/// An event in the life of a task. Events are kept for the audit and for the coordinator's decisions to queue
/// again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The chunk of the task.
    pub chunk: ChunkId,
    /// The attempt of the task.
    pub attempt: Attempt,
    /// The worker that reports the event.
    pub worker: WorkerId,
    /// What happened to the task.
    pub kind: EventKind,
}

impl Message for Event {
    const KIND: u8 = 8;
}

/// What happened to a task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum EventKind {
    /// A worker started on the task.
    Started,
    /// The task failed for the reason given.
    Failed(Failure),
    /// A worker that drains gave the task back unfinished.
    Released,
}

/// The reason why a task failed. It decides what the coordinator does next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Failure {
    /// The device ran out of memory.
    OutOfMemory(OutOfMemory),
    /// Memory that was free when the task was pulled is no longer free. Nothing was tried, so that this does
    /// not count against the chunk.
    InsufficientMemory {
        /// Text form of the device: `cpu` or `cuda:0 NVIDIA L4`.
        device: String,
        /// Requirement of the leanest plan, in MiB.
        needed_mib: u64,
        /// Free memory of the device in MiB.
        free_mib: u64,
    },
    /// The input is at fault, so that no worker can do the task.
    BadInput {
        /// The error with its causes; it names file and frame.
        message: String,
    },
    /// The worker cannot do this kind of task (its weights are missing or other ones, or its driver is
    /// broken). This does not count against the chunk.
    WorkerUnfit {
        /// The error with its causes.
        message: String,
    },
    /// Another try may succeed, here or on another worker.
    Transient {
        /// The error with its causes.
        message: String,
    },
    /// A child process of the worker ended or hung.
    EngineLost {
        /// The error with its causes.
        message: String,
    },
}

/// The state of one worker, which it publishes every 2 s on `farm.hb.<worker>`. Heartbeats are not stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The worker that publishes the heartbeat.
    pub worker: WorkerId,
    /// What the worker does at the moment.
    pub state: WorkerState,
    /// Text form of the device: `cpu` or `cuda:0 NVIDIA L4`.
    pub device: String,
    /// What keeps the worker from its work, or from a better device of its machine, in one line for people; `None` if
    /// nothing does.
    pub problem: Option<String>,
    /// Numeric kind of the machine; `None` if it takes only tasks that are for any.
    pub kind: Option<NumericKind>,
    /// The tags of the worker: it takes the tasks that need none but these.
    pub tags: Tags,
    /// Free memory of the device in MiB.
    pub device_free_mib: u64,
    /// Memory of the device in all, in MiB.
    pub device_total_mib: u64,
    /// Resident set of supervisor, engine and media process together, in MiB.
    pub host_rss_mib: u64,
    /// Memory that the worker could offer to a task if nothing else ran on the machine.
    pub capacity: RenderMemory,
    /// What the worker could offer to a task now, beside the other programs of the machine; what its own
    /// processes hold counts as free.
    pub available: Available,
    /// The task that the worker runs, if there is one.
    pub task: Option<TaskProgress>,
    /// Tasks whose last frames are encoded, or whose results are stored, beside the one that runs.
    pub finishing: Vec<TaskProgress>,
    /// The chunks whose tasks the worker holds and has not begun.
    pub held: Vec<ChunkId>,
    /// The engine's last measurement, if an engine runs.
    pub memory: Option<MemorySample>,
    /// Status of the GPU, if the device is one.
    pub gpu: Option<GpuStatus>,
    /// Rate at which this worker rendered frames over the last minute.
    pub frames_per_second: f32,
    /// Number of chunks that the worker finished since it started.
    pub finished: u64,
}

impl Heartbeat {
    /// Iterates over the tasks that the worker has begun and not answered for.
    pub fn tasks(&self) -> impl Iterator<Item = &TaskProgress> {
        self.task.iter().chain(&self.finishing)
    }

    /// Returns the heartbeat of a worker that just started, with nothing measured and nothing done.
    pub fn starting(worker: WorkerId, device: String) -> Self {
        Self {
            worker,
            state: WorkerState::Starting,
            device,
            problem: None,
            kind: None,
            tags: Tags::NONE,
            device_free_mib: 0,
            device_total_mib: 0,
            host_rss_mib: 0,
            capacity: RenderMemory::default(),
            available: Available::default(),
            task: None,
            finishing: Vec::new(),
            held: Vec::new(),
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

/// The state of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerState {
    /// The worker measures its device and does not pull tasks yet.
    Starting,
    /// The worker waits for a task.
    Idle,
    /// The worker holds a task.
    Working,
    /// The worker finishes its task and then ends.
    Draining,
    /// The worker cannot work; [`Heartbeat::problem`] says why.
    Unfit,
    /// The worker has ended and holds no task. This is in its last heartbeat.
    Left,
    /// The worker takes no task for a while, because the coordinator has set it aside; [`Heartbeat::problem`] says why.
    SetAside,
    /// The worker takes no task for a while by its own settings, as outside its hours; [`Heartbeat::problem`] says why.
    Resting,
}

/// The progress of a task that a worker holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskProgress {
    /// The chunk of the task.
    pub chunk: ChunkId,
    /// The attempt of the task.
    pub attempt: Attempt,
    /// Number of frames that are finished; fractions of the others are added up and rounded down.
    pub frames_done: u32,
    /// Number of frames of the chunk.
    pub frames_total: u32,
    /// The stage of the task.
    pub stage: TaskStage,
    /// The queue from which the task was pulled.
    pub queue: Option<Queue>,
    /// The memory plan of the task; `None` until it is chosen.
    pub plan: Option<MemoryPlan>,
}

/// The stage of a task. The text forms are those of the lists of workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskStage {
    /// No stage was reported yet.
    Starting,
    /// The media process finds faces.
    FaceAnalysis,
    /// The engine works on a request.
    Engine(EngineStage),
    /// The media process encoded frames.
    Encoded,
    /// The result cannot be stored yet, as the store is full.
    StoreFull,
}

impl fmt::Display for TaskStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting => f.write_str("start"),
            Self::FaceAnalysis => f.write_str("face analysis"),
            Self::Engine(stage) => stage.fmt(f),
            Self::Encoded => f.write_str("encoded"),
            Self::StoreFull => f.write_str("store full"),
        }
    }
}

/// The status of a GPU as NVML reports it. A figure is `None` if the driver does not report it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuStatus {
    /// Temperature of the GPU in degrees Celsius.
    pub temperature_c: Option<u32>,
    /// Share of the time in which a kernel ran, in percent.
    pub utilization_percent: Option<u32>,
    /// Power draw of the GPU in watts.
    pub power_w: Option<u32>,
}

/// A command of the coordinator to one worker (on `farm.ctl.<worker>`) or to all (on `farm.ctl.all`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum WorkerCommand {
    /// Stops the work on any chunk of this job.
    Cancel(JobId),
    /// Makes the worker finish its chunk and then end.
    Drain,
    /// Makes a worker without a task end its engine, because a chunk waits for memory.
    FreeMemory,
    /// Makes the worker that holds this chunk's task, and has not begun it, give it back.
    GiveBack(ChunkId),
    /// Stops the work on this chunk, because it is done.
    Abandon(ChunkId),
    /// Makes the worker take no task for this time, because it fails what other workers finish.
    SetAside {
        /// Milliseconds after which it may take one.
        pause_ms: u64,
        /// The reason, in one line for people.
        reason: String,
    },
}

impl Message for WorkerCommand {
    const KIND: u8 = 10;
}

/// What was measured on tasks with one kind of device, checkpoint, resolution and guidance. The coordinator
/// keeps it in a bucket.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LearnedNeeds {
    /// Observed memory requirements, in the order in which they were made.
    pub observations: Vec<MemoryObservation>,
    /// Milliseconds that one worker needs for a frame; `None` if none was observed.
    pub frame_ms: Option<f64>,
}

impl Message for LearnedNeeds {
    const KIND: u8 = 15;
}
