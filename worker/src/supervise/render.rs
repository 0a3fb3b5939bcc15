//! A `Render` task: crops from the media child to the engine, rendered crops back.

use std::time::Instant;

use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::engine::{
    AudioRequest, EngineFailure, EngineReply, EngineRequest, EngineStage, EngineTimings, WindowRequest,
};
use latentfarm_common::wire::media::{MediaReply, MediaRequest, RenderRequest};
use latentfarm_common::wire::outcome::{DoneBody, Failure, StageTimings};
use latentfarm_common::wire::task::{RenderInput, RenderTask, Task};

use super::analyze::{elapsed_ms, media_failure, out_of_step};
use super::child::Child;
use super::fetch::Fetcher;
use super::{Runner, RunnerSettings, Teller, child_failure};
use crate::consume::{Artifact, Finished};
use crate::numeric_kind;

impl Runner {
    pub(super) async fn render(
        &mut self,
        task: &Task,
        body: &RenderTask,
        fetcher: &Fetcher<'_>,
        teller: &Teller<'_>,
    ) -> Result<Finished, Failure> {
        let started = Instant::now();
        let input: RenderInput = fetcher.message(&body.input).await?;
        let segments = fetcher.slices(&input.segments).await?;
        let mut timings = StageTimings {
            fetch_ms: elapsed_ms(started),
            ..StageTimings::default()
        };

        // A chunk without a single face needs no model.
        let has_face = input.frames.iter().any(|frame| frame.face.is_some());
        let mut session = None;
        if has_face {
            let mut engine = self.take_engine()?;
            let kind = load(&mut engine, body, &self.settings, teller).await?;
            for (window, blob) in &input.audio {
                let audio_started = Instant::now();
                let pcm = || fetcher.bytes(blob);
                encode_audio(&mut engine, body, *window, blob, pcm, &self.settings, teller).await?;
                timings.audio_ms += elapsed_ms(audio_started);
            }
            session = Some((engine, kind));
        }

        let output = self
            .settings
            .scratch
            .join(format!("{}.{}.nut", task.chunk, task.attempt));
        let request = RenderRequest {
            source: body.source.clone(),
            encoder: body.encoder.clone(),
            resolution_px: body.model.resolution_px,
            range: body.range,
            segments,
            frames: input.frames,
            output: output.display().to_string(),
        };
        let mut media = self.take_media()?;
        let media_lost = |error| child_failure(&error, &self.settings, "media");
        media
            .send(&MediaRequest::Render(request))
            .await
            .map_err(media_lost)?;
        let (frame_hashes, synced, passed, media_timings) = loop {
            match teller
                .receive(&mut media, self.settings.silence_limit)
                .await
                .map_err(media_lost)?
            {
                MediaReply::Progress { frames_done } => teller.frames(frames_done, "encoded"),
                MediaReply::Crops { window, faces } => {
                    let (engine, _) = session.as_mut().ok_or_else(|| Failure::Transient {
                        message: "the media child sent crops for a chunk without a face".to_owned(),
                    })?;
                    let rendered = render_window(engine, body, window, faces, &self.settings, teller);
                    let (faces, took) = rendered.await?;
                    timings.vae_encode_ms += took.vae_encode_ms;
                    timings.denoise_ms += took.denoise_ms;
                    timings.vae_decode_ms += took.vae_decode_ms;
                    media
                        .send(&MediaRequest::Synced { window, faces })
                        .await
                        .map_err(media_lost)?;
                }
                MediaReply::Rendered {
                    frame_hashes,
                    synced,
                    passed,
                    timings,
                } => {
                    break (frame_hashes, synced, passed, timings);
                }
                MediaReply::Failed(failure) => {
                    // Crops may be on their way to the media child, so it is not talked to again.
                    self.engine = session.map(|(engine, _)| engine);
                    return Err(media_failure(failure));
                }
                other @ MediaReply::Analyzed { .. } => return Err(out_of_step(&other)),
            }
        };
        self.media = Some(media);
        let numeric_kind = match session {
            Some((engine, kind)) => {
                self.engine = Some(engine);
                kind
            }
            None => numeric_kind("cpu"),
        };
        timings.decode_ms = media_timings.decode_ms;
        timings.face_ms = media_timings.face_ms;
        timings.paste_ms = media_timings.paste_ms;
        timings.encode_ms = media_timings.encode_ms;
        Ok(Finished {
            artifact: Artifact::File(output),
            body: DoneBody::Render {
                frame_hashes,
                synced,
                passed,
            },
            timings,
            numeric_kind,
        })
    }
}

/// Loads the job's weights unless they are loaded; returns the numeric kind.
async fn load(
    engine: &mut Child,
    body: &RenderTask,
    settings: &RunnerSettings,
    teller: &Teller<'_>,
) -> Result<String, Failure> {
    teller.stage("loading the model");
    let request = EngineRequest::Load {
        weights_dir: settings.weights_dir.display().to_string(),
        expected: body.model.weights,
    };
    match ask(engine, &request, settings, teller, "load").await? {
        EngineReply::Loaded { numeric_kind, .. } => Ok(numeric_kind),
        other => Err(out_of_step(&other)),
    }
}

async fn encode_audio<F>(
    engine: &mut Child,
    body: &RenderTask,
    window: u32,
    blob: &BlobRef,
    pcm: impl FnOnce() -> F,
    settings: &RunnerSettings,
    teller: &Teller<'_>,
) -> Result<(), Failure>
where
    F: Future<Output = Result<Vec<u8>, Failure>>,
{
    teller.stage("encoding speech");
    let mut request = AudioRequest {
        track: body.audio.digest,
        track_samples: body.audio.samples,
        layout: body.audio.windows,
        log_mel_max: body.audio.log_mel_max,
        window,
        pcm: Vec::new(),
    };
    // Asked without the samples first: a neighbouring chunk may have had the window encoded.
    engine
        .send(&EngineRequest::Audio(request.clone()))
        .await
        .map_err(|e| child_failure(&e, settings, "audio"))?;
    let first: EngineReply = teller
        .receive(engine, settings.silence_limit)
        .await
        .map_err(|e| child_failure(&e, settings, "audio"))?;
    match first {
        EngineReply::AudioReady { .. } => return Ok(()),
        EngineReply::Failed(EngineFailure::AudioMissing { .. }) => {}
        EngineReply::Failed(failure) => return Err(engine_failure(failure, settings)),
        other => return Err(out_of_step(&other)),
    }
    let bytes = pcm().await?;
    if !bytes.len().is_multiple_of(2) {
        return Err(Failure::BadInput {
            message: format!("audio blob {} is cut in a sample", blob.digest),
        });
    }
    request.pcm = bytes
        .chunks_exact(2)
        .map(|pair| i16::from_le_bytes([pair[0], pair[1]]))
        .collect();
    match ask(engine, &EngineRequest::Audio(request), settings, teller, "audio").await? {
        EngineReply::AudioReady { .. } => Ok(()),
        other => Err(out_of_step(&other)),
    }
}

async fn render_window(
    engine: &mut Child,
    body: &RenderTask,
    window: FrameRange,
    faces: Vec<u8>,
    settings: &RunnerSettings,
    teller: &Teller<'_>,
) -> Result<(Vec<u8>, EngineTimings), Failure> {
    let request = WindowRequest {
        model: body.model.clone(),
        track: body.audio.digest,
        track_samples: body.audio.samples,
        layout: body.audio.windows,
        first_frame: window.start,
        rate: (body.encoder.rate.num(), body.encoder.rate.den()),
        faces,
    };
    match ask(
        engine,
        &EngineRequest::Window(request),
        settings,
        teller,
        "window",
    )
    .await?
    {
        EngineReply::Window { faces, timings } => Ok((faces, timings)),
        other => Err(out_of_step(&other)),
    }
}

/// Sends a request and reports progress until its final reply.
async fn ask(
    engine: &mut Child,
    request: &EngineRequest,
    settings: &RunnerSettings,
    teller: &Teller<'_>,
    what: &str,
) -> Result<EngineReply, Failure> {
    let mut stage = what.to_owned();
    engine
        .send(request)
        .await
        .map_err(|error| child_failure(&error, settings, &stage))?;
    loop {
        let reply = teller.receive(engine, settings.silence_limit).await;
        match reply.map_err(|error| child_failure(&error, settings, &stage))? {
            EngineReply::Progress {
                stage: reached,
                memory_mib,
            } => {
                stage = stage_text(reached);
                tracing::debug!(stage, memory_mib, "engine");
                teller.stage(&stage);
            }
            EngineReply::Failed(failure) => return Err(engine_failure(failure, settings)),
            reply => return Ok(reply),
        }
    }
}

fn engine_failure(failure: EngineFailure, settings: &RunnerSettings) -> Failure {
    match failure {
        EngineFailure::OutOfMemory {
            stage,
            needed_at_least_mib,
            free_before_mib,
        } => Failure::OutOfMemory {
            device: settings.device.clone(),
            stage,
            needed_at_least_mib,
            free_before_mib,
        },
        EngineFailure::Unfit { message } => Failure::WorkerUnfit { message },
        EngineFailure::AudioMissing { window } => Failure::Transient {
            message: format!("audio window {window} is not in the engine"),
        },
        EngineFailure::Other { message } => Failure::Transient { message },
    }
}

fn stage_text(stage: EngineStage) -> String {
    match stage {
        EngineStage::Loading => "loading the model".to_owned(),
        EngineStage::Audio => "encoding speech".to_owned(),
        EngineStage::VaeEncode { frame } => format!("VAE encode, frame {frame}"),
        EngineStage::Denoise { step, of } => format!("denoise, step {step} of {of}"),
        EngineStage::VaeDecode { frame } => format!("VAE decode, frame {frame}"),
    }
}
