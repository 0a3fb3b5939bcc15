//! What a render sends to whoever watches it: the progress of its own phases, and what the dispatcher and the
//! processes of a private farm report.

use std::path::PathBuf;

use tokio::sync::mpsc;

use crate::dispatch::JobEvent;
use crate::ingest::IngestProgress;
use crate::local::LocalNotice;
use crate::stitch::StitchStep;

/// Something that happened to a render.
#[derive(Clone, Debug)]
pub enum RenderEvent {
    /// The job folder holds this very job, which goes on from there.
    Resuming {
        folder: PathBuf,
    },
    IngestBegins {
        source_frames: u64,
    },
    Ingest(IngestProgress),
    /// A sentence that the user should read about the inputs.
    Note(String),
    Ingested {
        source_frames: u64,
        segments: usize,
        /// Pieces of the speech that Whisper encodes.
        audio_windows: usize,
        /// Output frames.
        frames: u64,
    },
    /// The dispatcher begins with a job of so many output frames.
    DispatchBegins {
        frames: u64,
    },
    Job(Box<JobEvent>),
    Local(LocalNotice),
    /// A signal was taken; the chunks in hand are finished first.
    Draining,
    StitchBegins {
        frames: u64,
    },
    Stitch(StitchStep),
}

/// The sending half of a render's events. A receiver that is gone changes nothing for the render.
#[derive(Clone, Debug)]
pub struct Observer {
    events: mpsc::UnboundedSender<RenderEvent>,
}

impl Observer {
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<RenderEvent>) {
        let (events, receiver) = mpsc::unbounded_channel();
        (Self { events }, receiver)
    }

    pub(super) fn send(&self, event: RenderEvent) {
        let _nobody_watches = self.events.send(event);
    }
}
