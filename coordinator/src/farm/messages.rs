//! What the operators' commands and the farm's coordinator say to each other, and what the coordinator keeps
//! of each job. Both are the same program, so the messages are here and not in `common`; their envelope is that
//! of all messages.

use std::time::Duration;

use clap::ValueEnum;
use latentfarm_common::digest::Digest;
use latentfarm_common::ids::{JobId, WorkerId};
use latentfarm_common::tags::Tags;
use latentfarm_common::wire::Message;
use latentfarm_common::wire::job::JobSpec;
use serde::{Deserialize, Serialize};
use strum::{Display, EnumString};

use crate::dispatch::{CpuFallback, Ending, JobNeeds, JobReport, OneKind};

/// The most bytes of a job's name and of the other texts that its submitter chooses.
pub(super) const MAX_TEXT_BYTES: usize = 256;
/// So long after the last question for it, the events of a job are published.
pub(super) const WATCH_TIME: Duration = Duration::from_secs(30);
/// The most jobs that one answer lists, so that it stays below the limit of a message.
pub const PAGE: usize = 64;

/// How a job is dispatched, and what becomes of it. Its submitter decides that once; nothing of it changes the
/// frames, which follow from the [`JobSpec`] alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobOrder {
    /// What people call the job, by default the name of its output file.
    pub name: String,
    /// Who has submitted it: user and machine.
    pub submitter: String,
    /// The priority at first, in `0..PRIORITIES`; 0 goes first.
    pub priority: u8,
    /// The predicted memory needs by kind of device.
    pub needs: JobNeeds,
    pub cpu_fallback: CpuFallback,
    /// What is rendered by machines of one numeric kind only; `None` if the kinds may mix.
    pub one_kind: Option<OneKind>,
    /// The tags that a worker must have to be given any task of the job.
    pub needed_tags: Tags,
    /// How long a chunk that fits no live worker waits for a bigger one, and the job for any worker at all.
    pub unplaceable_wait: Duration,
    /// Whether the job is rendered even if no frame has a face.
    pub allow_no_face: bool,
    /// Whether the output keeps the part of the video after the end of the speech, which has no sound.
    pub keeps_tail: bool,
    /// The extension of the output file: `mp4` or `mkv`.
    pub extension: String,
    /// The job begins only when this one is complete.
    pub after: Option<JobId>,
    /// The time after its submission in which the job is wanted.
    pub deadline: Option<Duration>,
    /// Bytes that the inputs, and then the results, take in the farm's store at most.
    pub input_bytes: u64,
    pub result_bytes: u64,
    /// The file below the coordinator's output folder to which the output is written.
    pub deliver: Option<String>,
    /// Digest of the video: jobs with the same one share what was made of it.
    pub video: Digest,
    /// The folder of the weights on the submitter's machine, for people who start a worker.
    pub weights: String,
}

impl Message for JobOrder {
    const KIND: u8 = 17;
}

/// Where a job stands, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Display, EnumString, Serialize, Deserialize)]
#[strum(serialize_all = "lowercase")]
pub enum JobPhase {
    /// It waits for its turn.
    Queued,
    /// Its chunks are on the farm.
    Running,
    /// An operator has paused it.
    Paused,
    /// Every frame is rendered; the output can be fetched.
    Complete,
    /// Some frames could not be rendered.
    Incomplete,
    /// It cannot be rendered.
    Failed,
    /// An operator has cancelled it.
    Cancelled,
}

impl JobPhase {
    /// Whether nothing more is done for the job unless somebody asks for it.
    pub fn is_over(self) -> bool {
        match self {
            Self::Queued | Self::Running | Self::Paused => false,
            Self::Complete | Self::Incomplete | Self::Failed | Self::Cancelled => true,
        }
    }
}

/// What becomes of a job's output at the coordinator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    /// Somebody fetches it.
    Fetched,
    /// It is written when the job is complete.
    Wanted,
    /// It is being written, or was when a coordinator ended.
    Begun,
    /// It is written.
    Done,
    /// It could not be written.
    Failed { reason: String },
}

/// What the coordinator records of a job while it goes through the farm. Times are in milliseconds since the
/// Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRecord {
    /// The place of the job in the order of submission.
    pub number: u64,
    pub phase: JobPhase,
    /// Why the job ended before it was complete.
    pub reason: Option<String>,
    /// The priority, which an operator may have changed.
    pub priority: u8,
    pub submitted_ms: u64,
    /// When the job came to the dispatcher last.
    pub begun_ms: Option<u64>,
    pub ended_ms: Option<u64>,
    /// Number of output frames.
    pub frames: u64,
    /// Number of output frames that are rendered, as far as that was recorded.
    pub frames_done: u64,
    /// What becomes of the output at the coordinator.
    pub delivery: Delivery,
    /// When the job is wanted, if anybody has said so.
    pub deadline_ms: Option<u64>,
    /// When the output was written last where somebody fetched it.
    pub fetched_ms: Option<u64>,
    /// The first forecast that was made when a part of the job was rendered.
    pub forecast: Option<MadeForecast>,
}

/// When somebody expected what; both times are in milliseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeForecast {
    pub made_ms: u64,
    /// When the job was expected to be done.
    pub done_ms: u64,
}

/// What is to be expected of some jobs together: a batch, or all of the farm.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outlook {
    /// Number of them that are not over.
    pub open: usize,
    /// Number of frames that are still to be rendered.
    pub frames_left: u64,
    /// The time until the last of them is done at the present rates, if these are known.
    pub done_in: Option<Duration>,
    /// What one more worker would change.
    pub one_more: Option<OneMore>,
}

/// A worker as the farm has one already, and the time by which a further one would shorten [`Outlook::done_in`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OneMore {
    pub like: WorkerId,
    /// Memory of its device in MiB.
    pub device_mib: u64,
    pub saves: Duration,
}

impl JobRecord {
    /// The place of the job among those that wait for their turn: the least goes first.
    pub(super) fn turn(&self) -> (u8, u64, u64) {
        let deadline = self.deadline_ms.unwrap_or(u64::MAX);
        (self.priority, deadline, self.number)
    }
}

impl Message for JobRecord {
    const KIND: u8 = 18;
}

/// How a job ended on the dispatcher, with its figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobOutcome {
    pub ending: Ending,
    pub report: JobReport,
}

impl Message for JobOutcome {
    const KIND: u8 = 21;
}

/// One job as a command shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    pub job: JobId,
    pub name: String,
    pub submitter: String,
    pub record: JobRecord,
    /// What the job waits for now, in one sentence, if it waits.
    pub waits_for: Option<String>,
    /// The tags that a worker must have to be given a task of the job.
    pub needed_tags: Tags,
    /// The time until the job is done at the present rates, if they are known.
    pub done_in: Option<Duration>,
    pub extension: String,
    pub keeps_tail: bool,
}

/// A job that is handed to the farm. Its sound, speech and timeline are stored; its video may still be cut.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Submission {
    pub spec: JobSpec,
    pub order: JobOrder,
}

/// What an operator wants to happen to a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    Pause,
    Resume,
    Cancel,
    /// The new priority, in `0..PRIORITIES`.
    SetPriority(u8),
    /// Render again what is missing of a job that ended without being complete.
    Retry,
}

/// The jobs that are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListFilter {
    /// Only jobs in these phases; all if it is empty.
    pub phases: Vec<JobPhase>,
    /// Only jobs whose name or id contains this text.
    pub text: String,
    pub sort: JobSort,
    /// So many jobs are passed over.
    pub offset: usize,
}

/// The order in which jobs are listed. Each variant's comment is its help on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum JobSort {
    /// The newest first
    #[default]
    Newest,
    /// The oldest first
    Oldest,
    /// In the order in which those that wait have their turn
    Turn,
    /// By name
    Name,
}

/// A request to the coordinator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum FarmRequest {
    /// Asks whether the farm has this job already, and room for so many bytes of it.
    Announce {
        job: JobId,
        store_bytes: u64,
        /// Digest of the video.
        video: Digest,
    },
    Submit(Box<Submission>),
    /// Tells that the video of a job cannot be cut to its end.
    VideoFailed {
        job: JobId,
        reason: String,
    },
    /// Tells that the output of a complete job is written where it is wanted.
    Fetched {
        job: JobId,
    },
    /// Forgets a job that is over, with its results.
    Delete {
        job: JobId,
    },
    Control {
        job: JobId,
        control: Control,
    },
    Show {
        job: JobId,
    },
    /// Like [`FarmRequest::Show`], and asks for the events of the job to be published for half a minute.
    Watch {
        job: JobId,
    },
    List(ListFilter),
    /// Asks for the journal of a job from this byte on.
    Journal {
        job: JobId,
        offset: u64,
    },
    /// Asks a worker to finish what it has begun, and then to end.
    Drain {
        worker: WorkerId,
    },
}

impl FarmRequest {
    /// Whether the request changes nothing, so that observers may make it.
    pub(super) fn is_question(&self) -> bool {
        match self {
            Self::Show { .. } | Self::Watch { .. } | Self::List(_) | Self::Journal { .. } => true,
            Self::Announce { .. }
            | Self::Submit(_)
            | Self::VideoFailed { .. }
            | Self::Fetched { .. }
            | Self::Delete { .. }
            | Self::Control { .. }
            | Self::Drain { .. } => false,
        }
    }
}

impl Message for FarmRequest {
    const KIND: u8 = 19;
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum FarmReply {
    /// The farm does not have the job, and has room for it; these other jobs have the same video.
    Room { same_video: Vec<JobId> },
    /// The job as it is after the request.
    Job(Box<JobView>),
    /// One page of jobs, in the order of the filter, with the number and the outlook of all that the filter selects.
    Jobs {
        jobs: Vec<JobView>,
        total: usize,
        outlook: Outlook,
    },
    /// Lines of a journal, and the byte after them if there may be more.
    Journal { text: String, next: Option<u64> },
    /// The job is forgotten.
    Deleted,
    /// The farm has no such job.
    NoSuchJob { job: JobId },
    /// The farm's store has no room for the job now.
    Full { reason: String },
    /// The request is not carried out, for this reason; it says what the operator can do.
    Refused { reason: String },
    /// The worker is asked to end, if it is there.
    DrainSent,
}

impl Message for FarmReply {
    const KIND: u8 = 20;
}
