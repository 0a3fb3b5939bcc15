//! The events that the dispatcher logs and sends to the observer of a job, such as a progress bar. Each
//! prints as one sentence.

use std::fmt;
use std::time::Duration;

use latentfarm_common::ids::{Attempt, ChunkId, JobId, WorkerId};
use latentfarm_common::tags::Tags;
use latentfarm_common::time::FrameRange;
use latentfarm_common::waiting::rough_time;
use latentfarm_common::wire::Message;
use latentfarm_common::wire::outcome::{Heartbeat, StageTimings};
use serde::{Deserialize, Serialize};

use super::wait_reason::WaitReason;
use super::workers::{SetAside, Workers};
use crate::job::chunks::{Chunks, Counts};
use crate::job::record::MemoryWait;

/// The progress of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The counts of analysis chunks and of source frames.
    pub analyze: Counts,
    /// The counts of render chunks and of output frames.
    pub render: Counts,
    /// The number of output frames that are finished inside chunks that are still running.
    pub frames_under_way: u64,
    /// The number of workers that accept tasks of the job.
    pub workers: usize,
    /// The number of render chunks that fit no live worker, or that those refuse.
    pub waiting_for_memory: usize,
    /// The shortage of the chunk with the largest need, if any waits.
    pub shortage: Option<String>,
}

impl Progress {
    /// Computes the progress of a job that needs these tags from the states of the chunks and the heartbeats of the workers.
    pub(super) fn of(chunks: &Chunks, job: JobId, workers: &Workers, needed: &Tags) -> Self {
        let is_done = |chunk| {
            chunks
                .get(chunk)
                .is_some_and(|record| record.state().is_settled())
        };
        Self {
            analyze: Counts::of(&chunks.analyze),
            render: Counts::of(&chunks.render),
            frames_under_way: workers.frames_under_way(job, is_done),
            workers: workers.live(needed),
            waiting_for_memory: chunks.memory_waits().count(),
            shortage: chunks
                .memory_waits()
                .max_by_key(MemoryWait::need_mib)
                .map(|worst| worst.describe()),
        }
    }
}

/// Something that happened to a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum JobEvent {
    /// The done log holds records of an earlier run.
    Resumed {
        records: usize,
    },
    WorkerJoined {
        worker: WorkerId,
        device: String,
    },
    /// The worker left as it had announced.
    WorkerLeft {
        worker: WorkerId,
    },
    WorkerLost {
        worker: WorkerId,
    },
    /// The worker gets no task for `pause`, because it fails what others finish; or it is unfit by its own report, and
    /// decides itself when it tries again.
    WorkerSetAside {
        worker: WorkerId,
        reason: String,
        pause: Option<Duration>,
    },
    ChunkStarted {
        chunk: ChunkId,
        range: FrameRange,
        worker: WorkerId,
        attempt: Attempt,
    },
    ChunkDone {
        chunk: ChunkId,
        range: FrameRange,
        worker: WorkerId,
        timings: StageTimings,
    },
    /// The chunk is back in the backlog, and is published again after `delay`.
    ChunkRequeued {
        chunk: ChunkId,
        range: FrameRange,
        reason: String,
        delay: Duration,
    },
    ChunkQuarantined {
        chunk: ChunkId,
        range: FrameRange,
        reason: String,
    },
    /// The chunk fits no live worker, or those that it fits refuse it, and it waits for more memory.
    ChunkUnschedulable {
        chunk: ChunkId,
        range: FrameRange,
        reason: String,
        at_most: Duration,
    },
    /// The job has waited for so long; `left` is the time after which it, or the first of its chunks, is given
    /// up.
    Waiting {
        reason: WaitReason,
        waited: Duration,
        left: Option<Duration>,
        /// What the operator can do about it.
        mend: String,
    },
    /// A wait that was reported is over; `kind` is that of its [`WaitReason`].
    WaitOver {
        kind: String,
        waited: Duration,
    },
    /// The link to the farm's server is down.
    ServerLost {
        url: String,
    },
    /// The link to the farm's server is up again.
    ServerBack {
        url: String,
        away: Duration,
    },
    Progress(Progress),
    Heartbeat(Box<Heartbeat>),
}

impl Message for JobEvent {
    const KIND: u8 = 22;
}

impl JobEvent {
    /// The event that a worker is unfit or set aside.
    pub(super) fn set_aside(out: &SetAside) -> Self {
        Self::WorkerSetAside {
            worker: out.worker.clone(),
            reason: out.reason.clone(),
            pause: out.pause,
        }
    }

    /// Writes the event to the log, except for progress, heartbeats and what others log.
    pub(super) fn log(&self) {
        match self {
            // The connection itself logs an outage.
            Self::Progress(_) | Self::Heartbeat(_) | Self::ServerLost { .. } | Self::ServerBack { .. } => {}
            Self::WorkerLost { .. }
            | Self::WorkerSetAside { .. }
            | Self::Waiting { .. }
            | Self::ChunkUnschedulable { .. }
            | Self::ChunkRequeued { .. }
            | Self::ChunkQuarantined { .. } => tracing::warn!("{self}"),
            Self::Resumed { .. }
            | Self::WaitOver { .. }
            | Self::WorkerJoined { .. }
            | Self::WorkerLeft { .. }
            | Self::ChunkStarted { .. }
            | Self::ChunkDone { .. } => tracing::info!("{self}"),
        }
    }
}

impl fmt::Display for JobEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resumed { records } => {
                write!(f, "found {records} chunks that are finished already")
            }
            Self::WorkerJoined { worker, device } => write!(f, "worker {worker} joined with {device}"),
            Self::WorkerLeft { worker } => write!(f, "worker {worker} left"),
            Self::WorkerLost { worker } => {
                write!(f, "worker {worker} is lost: its heartbeat stopped")
            }
            Self::WorkerSetAside {
                worker,
                reason,
                pause,
            } => {
                let time = pause.map(rough_time);
                let state = time.map_or("unfit".to_owned(), |time| format!("set aside for {time}"));
                write!(f, "worker {worker} is {state}: {reason}")
            }
            Self::ChunkStarted {
                chunk,
                range,
                worker,
                attempt,
            } => {
                write!(f, "{worker} began {chunk} (frames {range})")?;
                match attempt.number {
                    0 => Ok(()),
                    number => write!(f, ", attempt {}", u64::from(number) + 1),
                }
            }
            Self::ChunkDone {
                chunk, range, worker, ..
            } => write!(f, "{worker} finished {chunk} (frames {range})"),
            Self::ChunkRequeued {
                chunk,
                range,
                reason,
                delay,
            } => {
                let seconds = delay.as_secs_f64();
                write!(
                    f,
                    "{chunk} (frames {range}) goes back to the queue in {seconds:.1} s: {reason}"
                )
            }
            Self::ChunkQuarantined { chunk, range, reason } => {
                write!(f, "{chunk} (frames {range}) is given up: {reason}")
            }
            Self::ChunkUnschedulable {
                chunk,
                range,
                reason,
                at_most,
            } => {
                let seconds = at_most.as_secs_f64();
                write!(
                    f,
                    "{chunk} (frames {range}) waits for a worker with more memory, {seconds:.0} s at most: {reason}"
                )
            }
            Self::Waiting {
                reason,
                waited,
                left,
                mend,
            } => {
                write!(f, "waiting for {}: {reason}: {mend}", rough_time(*waited))?;
                left.map_or(Ok(()), |left| write!(f, "; given up in {}", rough_time(left)))
            }
            Self::WaitOver { kind, waited } => {
                write!(f, "the wait for the {kind} is over after {}", rough_time(*waited))
            }
            Self::ServerLost { url } => {
                write!(
                    f,
                    "lost the connection to the NATS server at {url}, trying to connect again"
                )
            }
            Self::ServerBack { url, away } => write!(
                f,
                "connected to the NATS server at {url} again, after {}",
                rough_time(*away)
            ),
            Self::Progress(progress) => {
                let done = progress.render.frames_done + progress.frames_under_way;
                let (total, workers) = (progress.render.frames, progress.workers);
                write!(f, "{done} of {total} frames, {workers} workers")
            }
            Self::Heartbeat(heartbeat) => {
                let (worker, state) = (&heartbeat.worker, heartbeat.state);
                write!(
                    f,
                    "{worker} is {state:?} with {} MiB free",
                    heartbeat.device_free_mib
                )
            }
        }
    }
}
