//! An `Analyze` task: the media child does it all.

use std::time::Instant;

use candle_core::DType;
use latentfarm_common::wire;
use latentfarm_common::wire::media::{MediaFailure, MediaReply, MediaRequest};
use latentfarm_common::wire::outcome::{DoneBody, Failure, StageTimings, TaskStage};
use latentfarm_common::wire::task::{AnalyzeInput, AnalyzeTask};

use super::fetch::Fetcher;
use super::loss::media_lost;
use super::{Runner, Teller};
use crate::consume::{Artifact, Finished};
use crate::machine::choice;
use latentfarm_engine::numeric_kind;

impl Runner {
    pub(super) async fn analyze(
        &mut self,
        body: &AnalyzeTask,
        fetcher: &Fetcher<'_>,
        teller: &Teller<'_>,
    ) -> Result<Finished, Failure> {
        let started = Instant::now();
        let input: AnalyzeInput = fetcher.message(&body.input).await?;
        let segments = fetcher.slices(&input.segments).await?;
        let fetch_ms = elapsed_ms(started);
        self.make_room_for_media().await;
        let mut media = self.take_media()?;
        let lost = |error| media_lost(&error, "face analysis", None);
        let request = MediaRequest::Analyze {
            source: body.source.clone(),
            range: body.range,
            segments,
        };
        media.send(&request).await.map_err(lost)?;
        let (observations, timings) = loop {
            match teller
                .receive(&mut media, self.settings.silence_limit)
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
                    self.media = Some(media);
                    return Err(media_failure(failure));
                }
                other => return Err(out_of_step(&other)),
            }
        };
        self.media = Some(media);
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
            numeric_kind: numeric_kind("cpu", DType::F32),
            memory: None,
        })
    }

    /// Ends an idle engine where the host has no room for face analysis beside it.
    async fn make_room_for_media(&mut self) {
        let look = self.sight.look(0).await;
        if self.engine.is_some() && !choice::media_fits(&look.snapshot, &self.settings.limits) {
            tracing::info!("ends the idle engine: the host's memory is needed for face analysis");
            self.close_engine().await;
        }
    }
}

pub(super) fn media_failure(failure: MediaFailure) -> Failure {
    match failure {
        MediaFailure::BadInput { message } => Failure::BadInput { message },
        MediaFailure::Other { message } => Failure::Transient { message },
    }
}

/// The children speak in turns; anything else is a bug in one of them.
pub(super) fn out_of_step(reply: &impl std::fmt::Debug) -> Failure {
    let mut text = format!("{reply:?}");
    text.truncate(80);
    Failure::EngineLost {
        message: format!("a child spoke out of turn: {text}"),
    }
}

pub(super) fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
