//! What a render asks of the engine: its model, the speech, and window after window.

use latentfarm_common::audio::silence::{SILENT_TRACK_SAMPLES, silent_track};
use latentfarm_common::audio::windows::pcm_range;
use latentfarm_common::time::{FrameRange, WINDOW_FRAMES};
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::engine::{
    AudioRequest, EngineFailure, EngineReply, EngineRequest, EngineStage, EngineTimings, SilentFrames,
    WindowRequest,
};
use latentfarm_common::wire::outcome::Failure;
use latentfarm_common::wire::task::{Mouth, RenderFrame, RenderInput, RenderTask};

use super::analyze::out_of_step;
use super::child::Child;
use super::fetch::Fetcher;
use super::{RunnerSettings, Teller, child_failure};

/// The frames of each window of a chunk that hear silence. In a short last window the padding does what its last
/// frame does.
pub(super) fn silent_frames(frames: &[RenderFrame]) -> Vec<u16> {
    let window_frames = usize::try_from(WINDOW_FRAMES).unwrap_or(16);
    frames
        .chunks(window_frames)
        .map(|window| {
            (0..window_frames)
                .filter(|&slot| window[slot.min(window.len() - 1)].mouth == Mouth::Closed)
                .fold(0, |bits, slot| bits | 1 << slot)
        })
        .collect()
}

/// Loads the job's weights unless they are loaded; returns the numeric kind.
pub(super) async fn load(
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

/// Has the speech of a chunk encoded, and silence where some of its frames hear that.
pub(super) async fn hear(
    engine: &mut Child,
    body: &RenderTask,
    input: &RenderInput,
    silent: &[u16],
    fetcher: &Fetcher<'_>,
    settings: &RunnerSettings,
    teller: &Teller<'_>,
) -> Result<(), Failure> {
    teller.stage("encoding speech");
    let request = |track, track_samples, window| AudioRequest {
        track,
        track_samples,
        layout: body.audio.windows,
        log_mel_max: body.audio.log_mel_max,
        window,
        pcm: Vec::new(),
    };
    for (window, blob) in &input.audio {
        let request = request(body.audio.digest, body.audio.samples, *window);
        if !is_encoded(engine, &request, settings, teller).await? {
            let pcm = samples(blob, fetcher).await?;
            encode(engine, AudioRequest { pcm, ..request }, settings, teller).await?;
        }
    }
    if silent.iter().any(|&frames| frames != 0) {
        let request = request(silent_track(body.audio.log_mel_max), SILENT_TRACK_SAMPLES, 0);
        if !is_encoded(engine, &request, settings, teller).await? {
            let samples = pcm_range(0, SILENT_TRACK_SAMPLES, request.layout);
            let pcm = vec![0; usize::try_from(samples.end - samples.start).unwrap_or(0)];
            encode(engine, AudioRequest { pcm, ..request }, settings, teller).await?;
        }
    }
    Ok(())
}

/// Asks without the samples: a neighbouring chunk may have had the window encoded.
async fn is_encoded(
    engine: &mut Child,
    request: &AudioRequest,
    settings: &RunnerSettings,
    teller: &Teller<'_>,
) -> Result<bool, Failure> {
    let lost = |error| child_failure(&error, settings, "audio");
    engine
        .send(&EngineRequest::Audio(request.clone()))
        .await
        .map_err(lost)?;
    match teller
        .receive(engine, settings.silence_limit)
        .await
        .map_err(lost)?
    {
        EngineReply::AudioReady { .. } => Ok(true),
        EngineReply::Failed(EngineFailure::AudioMissing { .. }) => Ok(false),
        EngineReply::Failed(failure) => Err(engine_failure(failure, settings)),
        other => Err(out_of_step(&other)),
    }
}

async fn encode(
    engine: &mut Child,
    request: AudioRequest,
    settings: &RunnerSettings,
    teller: &Teller<'_>,
) -> Result<(), Failure> {
    match ask(engine, &EngineRequest::Audio(request), settings, teller, "audio").await? {
        EngineReply::AudioReady { .. } => Ok(()),
        other => Err(out_of_step(&other)),
    }
}

async fn samples(blob: &BlobRef, fetcher: &Fetcher<'_>) -> Result<Vec<i16>, Failure> {
    let bytes = fetcher.bytes(blob).await?;
    let (pairs, rest) = bytes.as_chunks::<2>();
    if rest.is_empty() {
        return Ok(pairs.iter().map(|pair| i16::from_le_bytes(*pair)).collect());
    }
    Err(Failure::BadInput {
        message: format!("audio blob {} is cut in a sample", blob.digest),
    })
}

/// Renders one window's crops.
pub(super) async fn render(
    engine: &mut Child,
    body: &RenderTask,
    window: FrameRange,
    faces: Vec<u8>,
    silent: &[u16],
    settings: &RunnerSettings,
    teller: &Teller<'_>,
) -> Result<(Vec<u8>, EngineTimings), Failure> {
    let index = usize::try_from((window.start - body.range.start) / WINDOW_FRAMES).unwrap_or(usize::MAX);
    let silence = silent.get(index).map(|&frames| SilentFrames {
        track: silent_track(body.audio.log_mel_max),
        frames,
    });
    let request = WindowRequest {
        model: body.model.clone(),
        track: body.audio.digest,
        track_samples: body.audio.samples,
        layout: body.audio.windows,
        first_frame: window.start,
        rate: (body.encoder.rate.num(), body.encoder.rate.den()),
        faces,
        silence: silence.filter(|silence| silence.frames != 0),
    };
    let request = EngineRequest::Window(request);
    match ask(engine, &request, settings, teller, "window").await? {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_frame_has_its_bit_and_padding_that_of_the_last_frame() {
        let frames = |closed: &[usize]| -> Vec<RenderFrame> {
            (0..20)
                .map(|index| RenderFrame {
                    source: 0,
                    face: None,
                    mouth: if closed.contains(&index) {
                        Mouth::Closed
                    } else {
                        Mouth::Speech
                    },
                })
                .collect()
        };
        assert_eq!(silent_frames(&frames(&[])), [0, 0]);
        assert_eq!(
            silent_frames(&frames(&[0, 3, 15, 17])),
            [0b1000_0000_0000_1001, 0b10]
        );
        assert_eq!(silent_frames(&frames(&[19])), [0, 0b1111_1111_1111_1000]);
    }
}
