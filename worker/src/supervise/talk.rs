//! One render task's talk with the engine: its model, the speech, and window after window. Every request goes to its
//! final reply, with every sample booked on the way.

use std::time::{Duration, Instant};

use latentfarm_common::audio::silence::{SILENT_TRACK_SAMPLES, silent_track};
use latentfarm_common::audio::windows::pcm_range;
use latentfarm_common::time::{FrameRange, WINDOW_FRAMES};
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::engine::{
    AudioRequest, EngineFailure, EngineReply, EngineRequest, EngineStage, EngineTimings, SilentFrames,
    WindowRequest,
};
use latentfarm_common::wire::memory::{MemorySample, MemoryStage};
use latentfarm_common::wire::outcome::Failure;
use latentfarm_common::wire::task::{Mouth, RenderFrame, RenderInput, RenderTask};

use super::analyze::out_of_step;
use super::child::ChildError;
use super::fetch::Fetcher;
use super::lessons::Shape;
use super::loss::{engine_failed, engine_lost};
use super::meter::{Line, Meter};
use super::overlap::Turn;
use super::pace::Work;
use super::teller::Teller;
use super::warm_engine::{Engine, Run, WarmEngine};

const MIB: u64 = 1 << 20;

/// One task's talk with the engine: what it is about, and where its figures go.
pub(super) struct EngineTalk<'a> {
    pub(super) engine: &'a mut Engine,
    pub(super) keeper: &'a mut WarmEngine,
    pub(super) run: &'a Run,
    pub(super) body: &'a RenderTask,
    /// The frames of each window that hear silence, as [`silent_frames`] tells.
    pub(super) silent: Vec<u16>,
    pub(super) teller: &'a Teller<'a>,
    pub(super) turn: &'a Turn,
}

impl EngineTalk<'_> {
    /// Loads the job's weights unless they are loaded; returns the numeric kind.
    pub(super) async fn load(&mut self) -> Result<String, Failure> {
        self.teller.engine(EngineStage::Loading);
        let weights = self.body.model.weights;
        let request = EngineRequest::Load {
            weights_dir: self.keeper.settings.weights_dir.display().to_string(),
            expected: weights,
            plan: self.run.admission.plan,
        };
        match self
            .ask(&request, Work::Load(weights), EngineStage::Loading)
            .await?
        {
            EngineReply::Loaded {
                numerics_fingerprint, ..
            } => Ok(numerics_fingerprint),
            other => Err(out_of_step(&other)),
        }
    }

    /// Has the speech of a chunk encoded, and silence where some of its frames hear that.
    pub(super) async fn hear(&mut self, input: &RenderInput, fetcher: &Fetcher<'_>) -> Result<(), Failure> {
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
        if self.silent.iter().any(|&frames| frames != 0) {
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
            EngineReply::Failed(failure) => Err(engine_failed(failure, &self.run.admission)),
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
    ) -> Result<(Vec<u8>, EngineTimings), Failure> {
        let body = self.body;
        let index = usize::try_from((window.start - body.range.start) / WINDOW_FRAMES).unwrap_or(usize::MAX);
        let silence = self.silent.get(index).map(|&frames| SilentFrames {
            track: silent_track(body.audio.log_mel_max),
            frames,
        });
        let plan = self.run.admission.plan;
        let work = Work::Window {
            shape: Shape::of(&body.model),
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
                self.engine.growth.after_window(&memory);
                Ok((faces, timings))
            }
            other => Err(out_of_step(&other)),
        }
    }

    /// Sends a request and books progress until its final reply, which is no failure.
    async fn ask(
        &mut self,
        request: &EngineRequest,
        work: Work,
        stage: EngineStage,
    ) -> Result<EngineReply, Failure> {
        match self.ask_for_any(request, work, stage).await? {
            EngineReply::Failed(failure) => Err(engine_failed(failure, &self.run.admission)),
            reply => Ok(reply),
        }
    }

    /// As [`EngineTalk::ask`], where a failure is an answer.
    async fn ask_for_any(
        &mut self,
        request: &EngineRequest,
        work: Work,
        mut stage: EngineStage,
    ) -> Result<EngineReply, Failure> {
        let limit = self.keeper.pace.limit(work);
        let mut longest = Duration::ZERO;
        let mut since = Instant::now();
        self.turn.asked(true);
        let sent = self.send(request, limit).await;
        sent.map_err(|error| self.lost(&error, stage))?;
        loop {
            let heard = self
                .teller
                .receive::<EngineReply>(&mut self.engine.child, limit)
                .await;
            let reply = heard.map_err(|error| self.lost(&error, stage))?;
            longest = longest.max(since.elapsed());
            since = Instant::now();
            let booked = match &reply {
                EngineReply::Progress { stage, memory } => Some((stage.memory_stage(), memory)),
                EngineReply::Loaded { memory, .. } => Some((MemoryStage::Load, memory)),
                EngineReply::AudioReady { memory, .. } => Some((MemoryStage::Audio, memory)),
                EngineReply::Window { memory, .. } => Some((MemoryStage::Idle, memory)),
                EngineReply::Failed(_) => None,
            };
            if let Some((stage, memory)) = booked {
                self.book(stage, memory);
            }
            if let EngineReply::Progress { stage: reached, .. } = reply {
                stage = reached;
                self.teller.engine(stage);
                continue;
            }
            self.turn.asked(false);
            say(self.run.meter(Meter::stage_ends));
            if !matches!(reply, EngineReply::Failed(_)) {
                self.keeper.pace.finished(work, longest);
            }
            return Ok(reply);
        }
    }

    /// An engine that does not even listen is not waited for longer than one that does not speak.
    async fn send(&mut self, request: &EngineRequest, limit: Duration) -> Result<(), ChildError> {
        if let Ok(sent) = tokio::time::timeout(limit, self.engine.child.send(request)).await {
            return sent;
        }
        let (_, mut receiver) = self.engine.child.split();
        Err(receiver.silent(limit))
    }

    fn book(&mut self, stage: MemoryStage, sample: &MemorySample) {
        say(self.run.meter(|meter| meter.sample(stage, *sample)));
        self.keeper.sight.engine_said(sample);
        self.keeper
            .vitals
            .update(|heartbeat| heartbeat.memory = Some(*sample));
        let outstanding_mib = self.run.need_mib.saturating_sub(sample.own / MIB);
        self.keeper.claims.write(outstanding_mib);
    }

    fn lost(&self, error: &ChildError, stage: EngineStage) -> Failure {
        engine_lost(error, stage, &self.run.admission)
    }
}

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

fn say(line: Option<Line>) {
    match line {
        Some(Line { text, is_news: true }) => tracing::info!("{text}"),
        Some(Line { text, is_news: false }) => tracing::debug!("{text}"),
        None => {}
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
