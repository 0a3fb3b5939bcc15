//! The end of a render: stitch, check the lease, give the file its name, report.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;
use latentfarm_common::digest::DigestWriter;
use latentfarm_common::frame::FrameHash;
use latentfarm_common::ids::Work;
use latentfarm_common::media::AudioLength;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::job::JobSpec;
use latentfarm_common::wire::outcome::{DoneBody, DoneRecord};
use tokio::sync::mpsc;

use super::farm::{LocalFarm, local_copy};
use super::preflight::Preflight;
use super::progress::Ui;
use super::render::blocking;
use super::report::RenderReport;
use super::settings::Settings;
use super::watch::FinishedJob;
use super::{CommandError, Ending};
use crate::dispatch;
use crate::job::state::GivenUp;
use crate::local::JobFolder;
use crate::stitch::{self, Assembled, StitchRequest, StitchStep};

/// Stitches a complete job; tells why another one is not. Nothing appears under the output's name but a whole,
/// verified file.
pub(super) async fn finish(
    finished: FinishedJob,
    settings: &Settings,
    preflight: &Preflight,
    folder: &JobFolder,
    farm: &LocalFarm,
    ui: &mut Ui,
    started: Instant,
) -> Result<Ending, CommandError> {
    let FinishedJob {
        spec,
        result,
        resumed_chunks,
    } = finished;
    let mut report = RenderReport {
        job: &result.report,
        output: None,
        frames: spec.frames,
        rate: spec.encoder.rate,
        elapsed: started.elapsed(),
        resumed_chunks,
        frames_digest: None,
        synthetic: preflight.weights.synthetic,
        silence: spec.audio.silence,
        sound: None,
        given_up: Vec::new(),
    };
    let ending = match &result.ending {
        dispatch::Ending::Complete => {
            let records: Vec<&DoneRecord> = result.records.iter().map(AsRef::as_ref).collect();
            let segments = segments(&spec, &records, farm, folder).await?;
            let assembled = assemble(&spec, &records, segments, settings, preflight, ui).await?;
            if !result.lease.is_held() {
                let error = anyhow::anyhow!("another coordinator took over: it finishes the job");
                return Err(CommandError::failed(error));
            }
            let stitched = blocking(move || assembled.commit()).await?;
            let stitched = stitched
                .context("cannot give the result its name")
                .map_err(CommandError::failed)?;
            report.output = Some(settings.target.path());
            report.frames_digest = Some(frames_digest(&records));
            report.sound = Some(stitched.sound.to_string());
            Ending::Complete
        }
        dispatch::Ending::NoFace => {
            ui.warn(
                "no face was found in the whole video, so nothing was written: --allow-no-face writes the \
                 untouched picture",
            );
            Ending::Incomplete
        }
        dispatch::Ending::Incomplete { quarantined } | dispatch::Ending::Failed { quarantined } => {
            report.given_up = given_up(quarantined);
            let path = folder.path().display();
            ui.warn(&format!(
                "incomplete: {} chunks were given up, so nothing was written; what is finished is kept in \
                 `{path}`, and the same command tries the rest again",
                quarantined.len()
            ));
            Ending::Incomplete
        }
        dispatch::Ending::Interrupted { .. } => Ending::Interrupted,
    };
    report.elapsed = started.elapsed();
    ui.finish();
    ui.event(&report.to_json());
    ui.result(&report.to_text());
    result.lease.release().await;
    Ok(ending)
}

/// Every chunk's segment as a file on this machine, fetched if it lies elsewhere.
async fn segments(
    spec: &JobSpec,
    records: &[&DoneRecord],
    farm: &LocalFarm,
    folder: &JobFolder,
) -> Result<Vec<(FrameRange, PathBuf, BlobRef)>, CommandError> {
    let store = &farm.farm.store;
    let mut segments = Vec::with_capacity(records.len());
    for record in records {
        let start = u64::from(record.chunk.index) * u64::from(spec.chunk_frames);
        let range = FrameRange::new(start, (start + u64::from(spec.chunk_frames)).min(spec.frames));
        let blob = record.artifact;
        let path = local_copy(store, &blob, &folder.scratch())
            .await
            .map_err(CommandError::failed)?;
        segments.push((range, path, blob));
    }
    Ok(segments)
}

/// Joins and verifies, with a bar for each pass.
async fn assemble(
    spec: &JobSpec,
    records: &[&DoneRecord],
    segments: Vec<(FrameRange, PathBuf, BlobRef)>,
    settings: &Settings,
    preflight: &Preflight,
    ui: &mut Ui,
) -> Result<Assembled, CommandError> {
    let request = StitchRequest {
        segments,
        picture: spec.source.picture,
        rate: spec.encoder.rate,
        frames: spec.frames,
        audio: settings.audio.clone(),
        exact_audio: settings.exact_audio,
        // A kept tail has no speech; everywhere else sound and picture end together.
        audio_length: if settings.keep_tail {
            AudioLength::MayEndEarly
        } else {
            AudioLength::LikeVideo
        },
        lossless: spec
            .encoder
            .crf
            .is_none()
            .then(|| frame_hashes(records).collect()),
        metadata: metadata(spec, preflight),
        output: settings.target.clone(),
    };
    ui.begin("stitch", spec.frames, "frames");
    let (sender, mut steps) = mpsc::unbounded_channel();
    let mut work = tokio::task::spawn_blocking(move || {
        stitch::assemble(&request, &mut |step| {
            let _nobody_watches = sender.send(step);
        })
    });
    let assembled = loop {
        tokio::select! {
            Some(step) = steps.recv() => match step {
                StitchStep::Checked { frames } => ui.advance(frames, "checking segments"),
                StitchStep::Joined { frames } => ui.advance(frames, "joining"),
                StitchStep::Verifying => ui.advance(spec.frames, "verifying the result"),
            },
            assembled = &mut work => break assembled.context("a task broke off").map_err(CommandError::failed)?,
        }
    };
    assembled
        .context("cannot stitch the result")
        .map_err(CommandError::failed)
}

fn metadata(spec: &JobSpec, preflight: &Preflight) -> Vec<(String, String)> {
    let model = &spec.model;
    let mut comment = format!(
        "lip-synced by latentfarm {}: job {}, weights {}, {} steps, guidance {}, seed {}",
        env!("CARGO_PKG_VERSION"),
        spec.id,
        &model.weights.to_string()[..16],
        model.steps,
        model.guidance_scale,
        model.seed
    );
    if preflight.weights.synthetic {
        comment.insert_str(0, "SYNTHETIC WEIGHTS; ");
    }
    vec![("comment".to_owned(), comment)]
}

/// Hashes of all composited frames, in frame order.
fn frame_hashes(records: &[&DoneRecord]) -> impl Iterator<Item = FrameHash> {
    records
        .iter()
        .flat_map(|record| match &record.body {
            DoneBody::Render { frame_hashes, .. } => frame_hashes.as_slice(),
            DoneBody::Analyze { .. } => &[],
        })
        .copied()
}

/// SHA-256 over the hashes of all composited frames, in frame order.
fn frames_digest(records: &[&DoneRecord]) -> String {
    let mut digest = DigestWriter::new();
    frame_hashes(records).for_each(|hash| digest.update(&hash.0));
    digest.finish().0.to_string()
}

fn given_up(quarantined: &[GivenUp]) -> Vec<(FrameRange, String)> {
    let text = |chunk: &GivenUp| match chunk.work {
        Work::Analyze => format!("face analysis: {}", chunk.reason),
        Work::Render => chunk.reason.clone(),
    };
    quarantined
        .iter()
        .map(|chunk| (chunk.range, text(chunk)))
        .collect()
}
