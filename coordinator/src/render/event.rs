//! The events of a render, which it sends to an observer: the progress of its own phases, and the reports of
//! the dispatcher and of the processes of a private farm.

use std::path::PathBuf;

use tokio::sync::mpsc;

use crate::dispatch::JobEvent;
use crate::local::LocalNotice;
use crate::stitch::StitchStep;

/// Something that happened to a render.
#[derive(Clone, Debug)]
pub enum RenderEvent {
    /// The job folder holds the same job, which is resumed.
    Resuming {
        folder: PathBuf,
    },
    /// The sound is being stored, before the job of so many source frames begins.
    IngestBegins {
        source_frames: u64,
    },
    /// The first `source_frames` of `of` source frames have been checked, cut and stored. The events of
    /// chunks come between.
    IngestProgress {
        source_frames: u64,
        of: u64,
    },
    /// A sentence that the user should read about the inputs.
    Note(String),
    /// The whole video has been checked and cut.
    Ingested {
        source_frames: u64,
        segments: usize,
        /// Number of windows of the speech that Whisper encodes.
        audio_windows: usize,
        /// Number of output frames of the job.
        frames: u64,
    },
    /// The dispatcher starts with a job of so many output frames.
    DispatchBegins {
        frames: u64,
    },
    Job(Box<JobEvent>),
    Local(LocalNotice),
    /// The process received a signal. The running chunks are finished before the render ends.
    Draining,
    StitchBegins {
        frames: u64,
    },
    Stitch(StitchStep),
}

/// The sending half of the channel of a render's events. The render goes on if the receiver is dropped.
#[derive(Clone, Debug)]
pub struct Observer {
    events: mpsc::UnboundedSender<RenderEvent>,
}

impl Observer {
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<RenderEvent>) {
        let (events, receiver) = mpsc::unbounded_channel();
        (Self { events }, receiver)
    }

    pub(crate) fn send(&self, event: RenderEvent) {
        let _no_receiver = self.events.send(event);
    }
}
