//! What the dispatcher is told to do about the jobs of its farm, by whoever takes the operator's commands.

use std::sync::Arc;

use latentfarm_common::ids::JobId;
use latentfarm_common::wire::job::{JobSpec, Timeline};
use latentfarm_common::wire::outcome::DoneRecord;
use tokio::sync::{mpsc, oneshot};

use super::error::DispatchError;
use super::job_event::JobEvent;
use super::report::JobReport;
use super::settings::JobSettings;
use crate::job::chunks::Ending;
use crate::job::segments::VideoNews;

/// One order. An order about a job that the farm does not have is ignored: the job may just have ended.
#[derive(Debug)]
pub enum Order {
    /// Dispatch a job. Its manifest is stored on the farm.
    Admit(Box<Admission>),
    /// End a job without its result. What its workers hold of it, they give up.
    Cancel(JobId),
    /// Publish nothing more of a job, or go on with it. Chunks that are running are finished.
    Pause {
        /// The job to pause or to resume.
        job: JobId,
        /// False if the job goes on.
        is_paused: bool,
    },
    /// Give a job another priority, which concerns all chunks that no worker has begun.
    SetPriority {
        /// The job that gets the priority.
        job: JobId,
        /// The new priority, as in [`JobSettings::priority`].
        priority: u8,
    },
}

/// A job that the farm is to dispatch.
#[derive(Debug)]
pub struct Admission {
    /// The job.
    pub planned: PlannedJob,
    /// How it is dispatched.
    pub settings: JobSettings,
    /// Gets the events of the job, and those of the farm while it has the job.
    pub observer: mpsc::UnboundedSender<JobEvent>,
    /// Gets the end of the job, or the error with which it could not begin. It is dropped if the whole
    /// dispatcher fails.
    pub ended: oneshot::Sender<Result<JobEnd, DispatchError>>,
}

/// A job whose inputs have been examined, and whose sound and timeline are stored.
#[derive(Debug)]
pub struct PlannedJob {
    pub spec: JobSpec,
    pub timeline: Timeline,
    /// Brings the segments of the source video while that is cut, in order. The job is complete only when
    /// their end has come.
    pub video: mpsc::UnboundedReceiver<VideoNews>,
}

/// How a job ended, and the records of its output.
#[derive(Debug)]
pub struct JobEnd {
    pub ending: Ending,
    /// Verified records of the render chunks that are done, in frame order.
    pub records: Vec<Arc<DoneRecord>>,
    pub report: JobReport,
}

impl JobEnd {
    /// The end of a job that the farm did not come to.
    pub(super) fn not_begun() -> Self {
        Self {
            ending: Ending::Interrupted {
                frames_done: 0,
                frames: 0,
            },
            records: Vec::new(),
            report: JobReport::default(),
        }
    }
}
