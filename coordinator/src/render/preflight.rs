//! The checks before any work starts: they refuse bad inputs, weights and a full disk, and describe the job.

use std::path::PathBuf;
use std::time::Instant;

use latentfarm_common::error::FileError;
use latentfarm_common::ids::JobId;
use latentfarm_common::media;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::job::{EncoderSpec, JobSpec, ModelSpec};

use super::error::RenderError;
use super::estimate::{Estimate, job_needs, picture_bytes};
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
        let examined = ingest::examine(&settings.ingest)?;
        let worker = worker_program()?;
        let weights = WeightsInfo::read(&worker, &settings.weights)?;
        let model = ModelSpec {
            weights: weights.identity,
            synthetic: weights.synthetic,
            resolution_px: weights.resolution_px,
            steps: settings.steps,
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
            audio_windows: settings.ingest.windows,
            silence: settings.ingest.silence,
            model: &model,
            encoder: &encoder,
            chunk_frames: settings.chunk_frames,
            analyze_frames: settings.analyze_frames,
        };
        let job = identity.job_id()?;
        let video = &settings.ingest.video;
        let read = std::fs::metadata(video).map_err(FileError::at("read", video))?;
        let needs = job_needs(&weights, model.is_guided(), picture_bytes(&examined));
        let estimate = Estimate::of(&settings, &examined, read.len(), &model, &weights, &needs);
        if let (false, Some(free_bytes)) = (estimate.fits_disk(), estimate.free_bytes) {
            return Err(RenderError::Disk {
                path: settings.work_dir,
                need_bytes: estimate.disk_bytes,
                free_bytes,
            });
        }
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
    pub(super) fn manifest(&self, ingested: &Ingested, timeline: BlobRef) -> JobSpec {
        JobSpec {
            id: self.job,
            video_digest: ingested.video_digest,
            audio_digest: ingested.audio_digest,
            source: ingested.source.clone(),
            audio: ingested.audio.clone(),
            model: self.model.clone(),
            encoder: self.encoder.clone(),
            frames: ingested.frames,
            chunk_frames: self.settings.chunk_frames.get(),
            analyze_frames: self.settings.analyze_frames.get(),
            timeline,
        }
    }
}
