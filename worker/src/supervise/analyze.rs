//! Runs an `Analyze` task: the media child finds the faces in a chunk of source frames. The runner calls it.

use std::time::Instant;

use candle_core::DType;
use latentfarm_common::time::milliseconds;
use latentfarm_common::wire;
use latentfarm_common::wire::media::{MediaFailure, MediaReply, MediaRequest};
use latentfarm_common::wire::outcome::{DoneBody, Failure, StageTimings, TaskStage};
use latentfarm_common::wire::task::{AnalyzeInput, AnalyzeTask};

use super::failure_class::media_lost;
use super::fetch::Fetcher;
use super::progress_reporter::ProgressReporter;
use super::warm_engine::WarmEngine;
use super::warm_media::WarmMedia;
use crate::consume::{Artifact, TaskOutput};
use latentfarm_engine::numerics_fingerprint;

/// Has the media child find the faces, and returns them with the timings.
pub(super) async fn analyze(
    media: &WarmMedia,
    engine: &mut WarmEngine,
    body: &AnalyzeTask,
    fetcher: &Fetcher,
    reporter: &ProgressReporter,
) -> Result<TaskOutput, Failure> {
    let started = Instant::now();
    let input: AnalyzeInput = fetcher.message(&body.input).await?;
    let segments = fetcher.slices(&input.segments).await?;
    let fetch_ms = milliseconds(started.elapsed());
    engine.free_memory_for_media().await;
    let mut child = media.take()?;
    let lost = |error| media_lost(&error, "face analysis", None);
    let request = MediaRequest::Analyze {
        source: body.source.clone(),
        range: body.range,
        segments,
    };
    child.send(&request).await.map_err(lost)?;
    let (observations, timings) = loop {
        match reporter
            .receive(&mut child, media.settings.silence_limit)
            .await
            .map_err(lost)?
        {
            MediaReply::Progress { frames_done } => {
                reporter.report_frames(frames_done, TaskStage::FaceAnalysis);
            }
            MediaReply::Analyzed {
                observations,
                timings,
            } => break (observations, timings),
            MediaReply::Failed(failure) => {
                child.keep();
                return Err(media_failure(failure));
            }
            other => return Err(unexpected_reply(&other)),
        }
    };
    child.keep();
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let with_face = observations
        .frames
        .iter()
        .filter(|frame| !frame.faces.is_empty())
        .count();
    let body = DoneBody::Analyze {
        frames: count(observations.frames.len()),
        with_face: count(with_face),
    };
    let bytes = wire::encode(&observations).map_err(|error| Failure::Transient {
        message: format!("cannot encode the face observations: {error}"),
    })?;
    Ok(TaskOutput {
        artifact: Artifact::Bytes(bytes),
        body,
        timings: StageTimings {
            fetch_ms,
            decode_ms: timings.decode_ms,
            face_ms: timings.face_ms,
            ..StageTimings::default()
        },
        numerics_fingerprint: numerics_fingerprint("cpu", DType::F32),
        memory: None,
    })
}

pub(super) fn media_failure(failure: MediaFailure) -> Failure {
    match failure {
        MediaFailure::BadInput { message } => Failure::BadInput { message },
        MediaFailure::Other { message } => Failure::Transient { message },
    }
}

/// Returns the failure for a reply that does not belong to the request: a bug in the child.
pub(super) fn unexpected_reply(reply: &impl std::fmt::Debug) -> Failure {
    let text: String = format!("{reply:?}").chars().take(80).collect();
    Failure::EngineLost {
        message: format!("a child sent an unexpected reply: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reply_is_cut_between_characters() {
        let Failure::EngineLost { message } = unexpected_reply(&"aé".repeat(100)) else {
            panic!("another failure");
        };
        assert!(message.ends_with('é') || message.ends_with('a'), "{message}");
        assert!(message.chars().count() < 120, "{message}");
    }
}
