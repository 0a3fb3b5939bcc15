//! The checks before any work starts: they refuse bad inputs, weights and a full disk, and describe the job.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Instant;

use latentfarm_common::error::FileError;
use latentfarm_common::ids::JobId;
use latentfarm_common::media::{self, TrackChoice};
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::job::{EncoderSpec, JobSpec, ModelSpec};

use super::error::RenderError;
use super::estimate::{Estimate, InputBytes, job_needs, picture_bytes};
use super::room::{NoRoom, Volume};
use super::settings::RenderSettings;
use super::weights::WeightsInfo;
use crate::dispatch::JobNeeds;
use crate::ingest::{self, ExaminedInputs, Ingested};
use crate::local::worker_program;
use crate::plan::identity::Identity;

/// The description of a job before any work starts.
#[derive(Clone, Debug)]
pub struct Preflight {
    pub settings: RenderSettings,
    /// The time at which the check began, from which the report counts.
    pub(super) started: Instant,
    pub job: JobId,
    pub model: ModelSpec,
    pub encoder: EncoderSpec,
    pub estimate: Estimate,
    /// Memory that a chunk needs, by kind of device.
    pub needs: JobNeeds,
    /// Path of the program `latentfarm-worker`.
    pub(super) worker: PathBuf,
}

impl Preflight {
    /// Checks both inputs, the weights and the disk. The function blocks while it reads both files once.
    pub(super) fn check(settings: RenderSettings) -> Result<(Self, ExaminedInputs), RenderError> {
        let started = Instant::now();
        media::init();
        for input in [&settings.ingest.video, &settings.ingest.audio] {
            ensure_readable(input)?;
        }
        let scratch = &settings.ingest.scratch;
        tempfile::tempfile_in(scratch).map_err(|source| RenderError::Scratch {
            path: scratch.clone(),
            source,
        })?;
        let examined = ingest::examine(&settings.ingest)?;
        let worker = worker_program()?;
        let weights = WeightsInfo::read(&worker, &settings.weights)?;
        let model = ModelSpec {
            weights: weights.identity,
            weights_kind: weights.kind,
            resolution_px: weights.resolution_px,
            steps: settings.steps.of(&weights),
            guidance_scale: settings.guidance_scale,
            seed: settings.seed,
        };
        let encoder = EncoderSpec {
            rate: examined.rate,
            crf: settings.crf,
            preset: settings.x264_preset.clone(),
        };
        let identity = Identity {
            video: examined.video_digest,
            audio: examined.audio_digest,
            on_short: settings.ingest.on_short,
            keep_tail: settings.ingest.keep_tail,
            audio_track: match &settings.ingest.audio_track {
                TrackChoice::Default => None,
                TrackChoice::Named(name) => Some(name),
            },
            audio_offset_us: settings.ingest.audio_offset.microseconds(),
            exact_audio: settings.ingest.exact_audio,
            container: settings.ingest.container.extension(),
            audio_windows: settings.ingest.windows,
            silence: settings.ingest.silence,
            model: &model,
            encoder: &encoder,
            chunk_frames: settings.chunk_frames,
            analyze_frames: settings.analyze_frames,
        };
        let job = identity.job_id()?;
        let size = |path: &Path| fs::metadata(path).map_err(FileError::at("read", path));
        let input = InputBytes {
            video: size(&settings.ingest.video)?.len(),
            sound: examined.sound_bytes(),
        };
        let needs = job_needs(&weights, model.is_guided(), picture_bytes(&examined));
        let estimate = Estimate::of(&settings, &examined, input, &model, &weights, &needs);
        NoRoom::check(&estimate.places, Volume::of)?;
        let preflight = Self {
            settings,
            started,
            job,
            model,
            encoder,
            estimate,
            needs,
            worker,
        };
        Ok((preflight, examined))
    }

    /// Returns the manifest of the job, whose blobs have been stored.
    pub(crate) fn manifest(&self, ingested: &Ingested, timeline: BlobRef) -> JobSpec {
        JobSpec {
            id: self.job,
            video_digest: ingested.video_digest,
            audio_digest: ingested.audio_digest,
            source: ingested.source.clone(),
            audio: ingested.audio.clone(),
            sound: ingested.sound.clone(),
            model: self.model.clone(),
            encoder: self.encoder.clone(),
            frames: ingested.frames,
            chunk_frames: self.settings.chunk_frames.get(),
            analyze_frames: self.settings.analyze_frames.get(),
            face_frames: ingested.timeline.face_frames(),
            timeline,
        }
    }
}

/// Refuses an input that this user may not read. Everything else that may be wrong with it is found by reading it.
fn ensure_readable(input: &Path) -> Result<(), FileError> {
    // Opening a pipe would wait for its writer.
    match fs::metadata(input) {
        Ok(found) if found.is_file() => File::open(input).map(drop),
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
    .map_err(FileError::at("read", input))
}
