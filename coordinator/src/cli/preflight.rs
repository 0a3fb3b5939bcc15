//! Everything that can be known to be wrong before any work starts, and what the job will be.

use std::path::{Path, PathBuf};

use latentfarm_common::ids::JobId;
use latentfarm_common::media;
use latentfarm_common::wire::job::{EncoderSpec, JobSpec, ModelSpec};

use super::settings::Settings;
use crate::dispatch::JobNeeds;
use crate::ingest::{
    self, Examined, IngestError, IngestProgress, IngestRequest, Ingested, OnShort, SEGMENT_LIMITS,
};
use crate::local::{Estimate, EstimateInput, ToolError, WeightsInfo, WeightsProblem, worker_program};
use crate::plan::identity::Identity;

/// What was found out.
pub(super) struct Preflight {
    pub(super) job: JobId,
    /// Path of `latentfarm-worker`.
    pub(super) worker: PathBuf,
    pub(super) weights: WeightsInfo,
    pub(super) model: ModelSpec,
    pub(super) encoder: EncoderSpec,
    pub(super) estimate: Estimate,
    /// Memory that a chunk needs, by kind of device.
    pub(super) needs: JobNeeds,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum PreflightError {
    #[error(transparent)]
    Tools(#[from] ToolError),
    #[error(transparent)]
    Weights(#[from] WeightsProblem),
    #[error(transparent)]
    Ingest(#[from] IngestError),
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot describe the job")]
    Identity(#[from] serde_json::Error),
    #[error(
        "the job needs {} MiB on disk and `{}` has {} free: free some, or choose another --work-dir",
        need_bytes >> 20, path.display(), free_bytes >> 20
    )]
    Disk {
        path: PathBuf,
        need_bytes: u64,
        free_bytes: u64,
    },
}

impl PreflightError {
    /// Whether the user can mend it.
    pub(super) fn is_refusal(&self) -> bool {
        match self {
            Self::Ingest(error) => error.is_bad_input(),
            Self::Tools(_) | Self::Weights(_) | Self::Read { .. } | Self::Disk { .. } => true,
            Self::Identity(_) => false,
        }
    }
}

/// Looks at both inputs, the weights and the disk. Blocking: reads both files through once, and keeps a
/// scratch copy of the speech in `scratch`.
pub(super) fn check(
    settings: &Settings,
    scratch: &Path,
    progress: &mut dyn FnMut(IngestProgress),
) -> Result<(Preflight, Examined), PreflightError> {
    media::init();
    let examined = ingest::examine(&request(settings, scratch), progress)?;
    let worker = worker_program()?;
    let weights = WeightsInfo::read(&worker, &settings.weights)?;
    let model = ModelSpec {
        weights: weights.identity()?,
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
        on_short: on_short_name(settings.on_short),
        keep_tail: settings.keep_tail,
        audio_windows: settings.audio_windows,
        silence: settings.silence,
        model: &model,
        encoder: &encoder,
        chunk_frames: settings.chunk_frames,
        analyze_frames: settings.analyze_frames,
    };
    let job = identity.job_id()?;
    let picture = &examined.video.picture;
    let picture_bytes = u64::from(picture.width) * u64::from(picture.height) * 3 / 2;
    let video_bytes = std::fs::metadata(&settings.video)
        .map_err(|source| PreflightError::Read {
            path: settings.video.clone(),
            source,
        })?
        .len();
    let guided = settings.guidance_scale > 1.0;
    let needs = weights.needs(guided, picture_bytes);
    let estimate = Estimate::of(&EstimateInput {
        frames: examined.frames(),
        chunk_frames: settings.chunk_frames.get(),
        picture_bytes,
        video_bytes,
        audio_ms: examined.speech_ms(),
        lossless: settings.crf.is_none(),
        steps: settings.steps,
        guided,
        needs: &needs,
        weights: &weights,
        workers: settings.workers.len(),
        threads_per_worker: settings.threads_per_worker,
        folder: &settings.work_dir,
    });
    if let (false, Some(free_bytes)) = (estimate.fits_disk(), estimate.free_bytes) {
        let path = settings.work_dir.clone();
        return Err(PreflightError::Disk {
            path,
            need_bytes: estimate.disk_bytes,
            free_bytes,
        });
    }
    Ok((
        Preflight {
            job,
            worker,
            weights,
            model,
            encoder,
            estimate,
            needs,
        },
        examined,
    ))
}

impl Preflight {
    /// The manifest of the job, once its blobs are stored.
    pub(super) fn manifest(
        &self,
        settings: &Settings,
        ingested: &Ingested,
        timeline: latentfarm_common::wire::blob::BlobRef,
    ) -> JobSpec {
        JobSpec {
            id: self.job,
            video_digest: ingested.video_digest,
            audio_digest: ingested.audio_digest,
            source: ingested.source.clone(),
            audio: ingested.audio.clone(),
            model: self.model.clone(),
            encoder: self.encoder.clone(),
            frames: ingested.frames,
            chunk_frames: settings.chunk_frames.get(),
            analyze_frames: settings.analyze_frames.get(),
            timeline,
        }
    }
}

fn request(settings: &Settings, scratch: &Path) -> IngestRequest {
    IngestRequest {
        video: settings.video.clone(),
        audio: settings.audio.clone(),
        scratch: scratch.to_owned(),
        rate: settings.rate,
        on_short: settings.on_short,
        keep_tail: settings.keep_tail,
        windows: settings.audio_windows,
        silence: settings.silence,
        limits: SEGMENT_LIMITS,
    }
}

fn on_short_name(rule: OnShort) -> &'static str {
    match rule {
        OnShort::Bounce => "bounce",
        OnShort::Loop => "loop",
        OnShort::Hold => "hold",
        OnShort::Cut => "cut",
    }
}
