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
use latentfarm_common::wire::task::{Mouth, RenderFrame, RenderInput};

use super::analyze::out_of_step;
use super::fetch::Fetcher;
use super::loss::engine_failed;
use super::pace::Work;
use super::talk::EngineTalk;

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

impl EngineTalk<'_> {
    /// Loads the job's weights unless they are loaded; returns the numeric kind.
    pub(super) async fn load(&mut self) -> Result<String, Failure> {
        self.teller.engine(EngineStage::Loading);
        let weights = self.body.model.weights;
        let request = EngineRequest::Load {
            weights_dir: self.weights_dir.display().to_string(),
            expected: weights,
            plan: self.books.run.admission.plan,
        };
        match self
            .ask(&request, Work::Load(weights), EngineStage::Loading)
            .await?
        {
            EngineReply::Loaded { numeric_kind, .. } => Ok(numeric_kind),
            other => Err(out_of_step(&other)),
        }
    }

    /// Has the speech of a chunk encoded, and silence where some of its frames hear that.
    pub(super) async fn hear(
        &mut self,
        input: &RenderInput,
        silent: &[u16],
        fetcher: &Fetcher<'_>,
    ) -> Result<(), Failure> {
        self.teller.engine(EngineStage::Audio);
        let audio = &self.body.audio;
        let request = |track, track_samples, window| AudioRequest {
            track,
            track_samples,
            layout: audio.windows,
            log_mel_max: audio.log_mel_max,
            window,
            pcm: Vec::new(),
        };
        for (window, blob) in &input.audio {
            let request = request(audio.digest, audio.samples, *window);
            if !self.is_encoded(&request).await? {
                let pcm = samples(blob, fetcher).await?;
                self.encode(AudioRequest { pcm, ..request }).await?;
            }
        }
        if silent.iter().any(|&frames| frames != 0) {
            let request = request(silent_track(audio.log_mel_max), SILENT_TRACK_SAMPLES, 0);
            if !self.is_encoded(&request).await? {
                let samples = pcm_range(0, SILENT_TRACK_SAMPLES, request.layout);
                let pcm = vec![0; usize::try_from(samples.end - samples.start).unwrap_or(0)];
                self.encode(AudioRequest { pcm, ..request }).await?;
            }
        }
        Ok(())
    }

    /// Asks without the samples: a neighbouring chunk may have had the window encoded.
    async fn is_encoded(&mut self, request: &AudioRequest) -> Result<bool, Failure> {
        let request = EngineRequest::Audio(request.clone());
        let work = Work::Audio(self.body.model.weights);
        match self.ask_for_any(&request, work, EngineStage::Audio).await? {
            EngineReply::AudioReady { .. } => Ok(true),
            EngineReply::Failed(EngineFailure::AudioMissing { .. }) => Ok(false),
            EngineReply::Failed(failure) => Err(engine_failed(failure, &self.books.run.admission)),
            other => Err(out_of_step(&other)),
        }
    }

    async fn encode(&mut self, request: AudioRequest) -> Result<(), Failure> {
        let work = Work::Audio(self.body.model.weights);
        match self
            .ask(&EngineRequest::Audio(request), work, EngineStage::Audio)
            .await?
        {
            EngineReply::AudioReady { .. } => Ok(()),
            other => Err(out_of_step(&other)),
        }
    }

    /// Renders one window's crops.
    pub(super) async fn render(
        &mut self,
        window: FrameRange,
        faces: Vec<u8>,
        silent: &[u16],
    ) -> Result<(Vec<u8>, EngineTimings), Failure> {
        let body = self.body;
        let index = usize::try_from((window.start - body.range.start) / WINDOW_FRAMES).unwrap_or(usize::MAX);
        let silence = silent.get(index).map(|&frames| SilentFrames {
            track: silent_track(body.audio.log_mel_max),
            frames,
        });
        let plan = self.books.run.admission.plan;
        let work = Work::Window {
            weights: body.model.weights,
            resolution_px: body.model.resolution_px,
            is_guided: body.model.is_guided(),
            plan,
        };
        let request = EngineRequest::Window(WindowRequest {
            model: body.model.clone(),
            track: body.audio.digest,
            track_samples: body.audio.samples,
            layout: body.audio.windows,
            first_frame: window.start,
            rate: body.encoder.rate,
            faces,
            silence: silence.filter(|silence| silence.frames != 0),
            plan,
        });
        match self
            .ask(&request, work, EngineStage::VaeEncode { frame: 0 })
            .await?
        {
            EngineReply::Window {
                faces,
                timings,
                memory,
            } => {
                self.growth.after_window(&memory);
                Ok((faces, timings))
            }
            other => Err(out_of_step(&other)),
        }
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
