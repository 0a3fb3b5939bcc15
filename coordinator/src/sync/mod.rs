//! Measures whether the lips of a video file follow a speech. `latentfarm sync` calls [`measure`].
//!
//! The inputs are examined as those of a job, so that times mean the same: the frames are those of a constant
//! rate, and the sound of the video file itself keeps its place against the pictures. The faces come from the
//! media processes of `latentfarm-worker`, several at once; the coordinator runs no network.

mod faces;
mod observe;

use std::path::{Path, PathBuf};

use latentfarm_common::error::FileError;
use latentfarm_common::lip_sync::{self, LipOpening, LipSync};
use latentfarm_common::media::{self, AudioOffset, Container, TrackChoice};
use latentfarm_common::shutdown::Shutdown;
use latentfarm_common::time::FrameRate;
use latentfarm_common::wire::job::{AudioWindows, SilenceMode, SourceSpec};

use crate::ingest::{self, IngestError, IngestRequest, OnShort, RateChoice, SEGMENT_LIMITS};
use crate::local::{ToolError, worker_program};
pub use faces::FaceLips;
pub use observe::ObserveError;

/// The files to measure.
#[derive(Clone, Debug)]
pub struct SyncRequest {
    pub video: PathBuf,
    /// The file with the speech; that of the video if none is given.
    pub audio: Option<PathBuf>,
    pub audio_track: TrackChoice,
    /// The number of media processes, at least 1.
    pub processes: usize,
}

/// What was measured of a video.
#[derive(Clone, Debug)]
pub struct SyncReport {
    pub rate: FrameRate,
    /// How loud the speech is in each frame, 0 to 255.
    pub loudness: Vec<u8>,
    /// The opening of the largest face's lips in each frame.
    pub lips: Vec<Option<LipOpening>>,
    /// How they fit the speech; `None` if too few mouths are seen.
    pub fit: Option<LipSync>,
    /// Each face of each shot that is seen for at least two seconds, in order of time.
    pub faces: Vec<FaceLips>,
}

/// Why a video could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    #[error(transparent)]
    Input(#[from] IngestError),
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error("cannot find the faces of `{}`", path.display())]
    Faces {
        path: PathBuf,
        #[source]
        source: ObserveError,
    },
    #[error(transparent)]
    File(#[from] FileError),
    #[error("no face is seen in `{}`", path.display())]
    NoFace { path: PathBuf },
    #[error("stopped on request")]
    Stopped,
}

/// Measures a video. `progress` is told how many of how many frames have been looked at.
///
/// # Errors
/// See [`SyncError`]; one that is about the inputs says so by [`SyncError::is_bad_input`].
pub fn measure(
    request: &SyncRequest,
    shutdown: &Shutdown,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<SyncReport, SyncError> {
    let worker = worker_program()?;
    let place = std::env::temp_dir();
    let scratch = tempfile::tempdir().map_err(FileError::at("make a scratch folder in", &place))?;
    let rate = media::probe_video(&request.video)
        .map_err(IngestError::from)?
        .average_rate
        .unwrap_or(FrameRate::FPS_25);
    let inputs = ingest::examine(&ingest_request(request, rate, scratch.path()))?;
    let loudness = inputs.loudness();
    let outputs = inputs.table.outputs.clone();
    let source = SourceSpec {
        picture: inputs.video.picture,
        time_base: inputs.video.time_base,
        frames: inputs.cut_frames,
    };
    let keep_on = || {
        if shutdown.is_running() {
            Ok(())
        } else {
            Err(std::io::Error::other("stopped on request"))
        }
    };
    let slices = match inputs.into_video().cut_to_files(scratch.path(), &keep_on) {
        Err(_) if !shutdown.is_running() => return Err(SyncError::Stopped),
        cut => cut?,
    };
    let observed = observe::observe(&worker, &source, &slices, request.processes, shutdown, progress);
    let observations = match observed {
        Err(_) if !shutdown.is_running() => return Err(SyncError::Stopped),
        observed => observed.map_err(|source| SyncError::Faces {
            path: request.video.clone(),
            source,
        })?,
    };
    let shown: Vec<usize> = outputs
        .iter()
        .map(|output| usize::try_from(output.source).unwrap_or(usize::MAX))
        .collect();
    let lips: Vec<Option<LipOpening>> = shown
        .iter()
        .map(|source| Some(observations.get(*source)?.faces.first()?.lips))
        .collect();
    if lips.iter().all(Option::is_none) {
        return Err(SyncError::NoFace {
            path: request.video.clone(),
        });
    }
    Ok(SyncReport {
        fit: lip_sync::measure(&lips, &loudness, rate),
        faces: faces::by_person(&observations, &shown, &loudness, rate),
        rate,
        loudness,
        lips,
    })
}

impl SyncError {
    /// Returns whether the cause is in the user's files, and not in this machine.
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Input(error) => error.is_bad_input(),
            Self::Faces { source, .. } => matches!(source, ObserveError::BadInput(_)),
            Self::NoFace { .. } => true,
            Self::Tool(_) | Self::File(_) | Self::Stopped => false,
        }
    }
}

fn ingest_request(request: &SyncRequest, rate: FrameRate, scratch: &Path) -> IngestRequest {
    IngestRequest {
        video: request.video.clone(),
        audio: request.audio.clone().unwrap_or_else(|| request.video.clone()),
        audio_track: request.audio_track.clone(),
        audio_offset: AudioOffset::default(),
        exact_audio: false,
        container: Container::Matroska,
        scratch: scratch.to_owned(),
        rate: RateChoice::Fixed(rate),
        on_short: OnShort::Cut,
        keep_tail: false,
        windows: AudioWindows::Overlapping,
        silence: SilenceMode::Off,
        limits: SEGMENT_LIMITS,
    }
}
