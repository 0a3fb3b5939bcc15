//! An `Analyze` task: the media child does it all.

use std::time::Instant;

use candle_core::DType;
use latentfarm_common::time::milliseconds;
use latentfarm_common::wire;
use latentfarm_common::wire::media::{MediaFailure, MediaReply, MediaRequest};
use latentfarm_common::wire::outcome::{DoneBody, Failure, StageTimings, TaskStage};
use latentfarm_common::wire::task::{AnalyzeInput, AnalyzeTask};

use super::fetch::Fetcher;
use super::loss::media_lost;
use super::teller::Teller;
use super::warm_engine::WarmEngine;
use super::warm_media::WarmMedia;
use crate::consume::{Artifact, Finished};
use latentfarm_engine::numerics_fingerprint;

/// Has the media child find the faces of a chunk of source frames.
pub(super) async fn analyze(
    media: &mut WarmMedia,
    engine: &mut WarmEngine,
    body: &AnalyzeTask,
    fetcher: &Fetcher<'_>,
    teller: &Teller<'_>,
) -> Result<Finished, Failure> {
    let started = Instant::now();
    let input: AnalyzeInput = fetcher.message(&body.input).await?;
    let segments = fetcher.slices(&input.segments).await?;
    let fetch_ms = milliseconds(started.elapsed());
    engine.make_room_for_media().await;
    let mut child = media.take()?;
    let lost = |error| media_lost(&error, "face analysis", None);
    let request = MediaRequest::Analyze {
        source: body.source.clone(),
        range: body.range,
        segments,
    };
    child.send(&request).await.map_err(lost)?;
    let (observations, timings) = loop {
        match teller
            .receive(&mut child, media.settings.silence_limit)
            .await
            .map_err(lost)?
        {
            MediaReply::Progress { frames_done } => {
                teller.frames(frames_done, TaskStage::FaceAnalysis);
            }
            MediaReply::Analyzed {
                observations,
                timings,
            } => break (observations, timings),
            MediaReply::Failed(failure) => {
                media.keep(child);
                return Err(media_failure(failure));
            }
            other => return Err(out_of_step(&other)),
        }
    };
    media.keep(child);
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
        message: format!("cannot encode the faces: {error}"),
    })?;
    Ok(Finished {
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

/// The children speak in turns; anything else is a bug in one of them.
pub(super) fn out_of_step(reply: &impl std::fmt::Debug) -> Failure {
    let text: String = format!("{reply:?}").chars().take(80).collect();
    Failure::EngineLost {
        message: format!("a child spoke out of turn: {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reply_is_cut_between_characters() {
        let Failure::EngineLost { message } = out_of_step(&"aé".repeat(100)) else {
            panic!("another failure");
        };
        assert!(message.ends_with('é') || message.ends_with('a'), "{message}");
        assert!(message.chars().count() < 120, "{message}");
    }
}
