//! The client of the engine process: sends the requests of one render task (load the weights, encode the
//! audio, render a window) and follows each to its final reply. `render.rs` makes one for each task. Every
//! memory sample on the way goes to the task's record, the heartbeats and the reservation.

use std::time::{Duration, Instant};

use latentfarm_common::audio::silence::{SILENT_TRACK_SAMPLES, silent_track};
use latentfarm_common::audio::windows::pcm_range;
use latentfarm_common::awake;
use latentfarm_common::time::{FrameRange, WINDOW_FRAMES};
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::engine::{
    AudioRequest, EngineFailure, EngineReply, EngineRequest, EngineStage, EngineTimings, SilentFrames,
    WindowRequest,
};
use latentfarm_common::wire::memory::{MemorySample, MemoryStage};
use latentfarm_common::wire::outcome::Failure;
use latentfarm_common::wire::task::{Mouth, RenderFrame, RenderInput, RenderTask};

use super::activity::RenderActivity;
use super::admitted_task::AdmittedTask;
use super::analyze::unexpected_reply;
use super::child::ChildError;
use super::failure_class::{engine_failed, engine_lost};
use super::fetch::Fetcher;
use super::hang_detector::RequestKind;
use super::memory_recorder::{MemoryRecorder, log};
use super::oom_bounds::WindowShape;
use super::progress_reporter::ProgressReporter;
use super::task_reservations::ReservedMemory;
use super::warm_engine::{EngineProcess, WarmEngine};

const MIB: u64 = 1 << 20;

/// One task's client of the engine.
pub(super) struct EngineClient<'a> {
    pub(super) process: &'a mut EngineProcess,
    pub(super) warm_engine: &'a mut WarmEngine,
    pub(super) admitted: &'a AdmittedTask,
    pub(super) body: &'a RenderTask,
    /// The silent frames of each window, as [`silent_frames`] returns them.
    pub(super) silent: Vec<u16>,
    pub(super) reporter: &'a ProgressReporter,
    pub(super) activity: &'a RenderActivity,
    /// The engine's numerics fingerprint under the present plan, once the weights are loaded.
    pub(super) numerics_fingerprint: Option<String>,
    /// Whether a window of the task is rendered already.
    pub(super) are_rendered: bool,
}

impl EngineClient<'_> {
    /// Has the engine load the job's weights, if they are not loaded.
    pub(super) async fn load(&mut self) -> Result<(), Failure> {
        self.reporter.report_engine_stage(EngineStage::Loading);
        let request = self.load_request();
        match self.exchange_in_place(request).await? {
            reply @ EngineReply::Loaded { .. } => {
                self.process.has_loaded = true;
                self.keep_fingerprint(reply)
            }
            other => Err(self.failure(other)),
        }
    }

    fn load_request(&self) -> EngineRequest {
        EngineRequest::Load {
            weights_dir: self.warm_engine.weights.dir().display().to_string(),
            expected: self.body.model.weights,
            plan: self.admitted.admission().plan,
        }
    }

    /// Keeps the numerics fingerprint of the reply to a request to load.
    fn keep_fingerprint(&mut self, reply: EngineReply) -> Result<(), Failure> {
        let EngineReply::Loaded {
            numerics_fingerprint, ..
        } = reply
        else {
            return Err(self.failure(reply));
        };
        self.numerics_fingerprint = Some(numerics_fingerprint);
        Ok(())
    }

    /// Has the engine encode the speech of a chunk with Whisper, and silence too if some frames are
    /// conditioned on it.
    pub(super) async fn encode_audio(
        &mut self,
        input: &RenderInput,
        fetcher: &Fetcher,
    ) -> Result<(), Failure> {
        self.reporter.report_engine_stage(EngineStage::Audio);
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
            if !self.send_audio(request.clone()).await? {
                let pcm = samples(blob, fetcher).await?;
                self.send_audio(AudioRequest { pcm, ..request }).await?;
            }
        }
        if self.silent.iter().any(|&frames| frames != 0) {
            let request = request(silent_track(audio.log_mel_max), SILENT_TRACK_SAMPLES, 0);
            if !self.send_audio(request.clone()).await? {
                let samples = pcm_range(0, SILENT_TRACK_SAMPLES, request.layout);
                let pcm = vec![0; usize::try_from(samples.end - samples.start).unwrap_or(0)];
                self.send_audio(AudioRequest { pcm, ..request }).await?;
            }
        }
        Ok(())
    }

    /// Sends an audio request. Returns false if it has no samples and the engine does not have the window: it
    /// is sent without them first, as the window may have been encoded for a neighbouring chunk.
    async fn send_audio(&mut self, request: AudioRequest) -> Result<bool, Failure> {
        let has_samples = !request.pcm.is_empty();
        match self.exchange_in_place(EngineRequest::Audio(request)).await? {
            EngineReply::AudioReady { .. } => Ok(true),
            EngineReply::Failed(EngineFailure::AudioMissing { .. }) if !has_samples => Ok(false),
            other => Err(self.failure(other)),
        }
    }

    /// Renders the crops of one window; returns the rendered crops.
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
        let request = EngineRequest::Window(WindowRequest {
            model: body.model.clone(),
            track: body.audio.digest,
            track_samples: body.audio.samples,
            layout: body.audio.windows,
            first_frame: window.start,
            rate: body.encoder.rate,
            faces,
            silence: silence.filter(|silence| silence.frames != 0),
            plan: self.admitted.admission().plan,
        });
        match self.exchange_in_place(request).await? {
            EngineReply::Window {
                faces,
                timings,
                memory,
            } => {
                self.process.check_for_leak(&memory);
                self.are_rendered = true;
                Ok((faces, timings))
            }
            other => Err(self.failure(other)),
        }
    }

    /// Sends a request, and sends it again under a leaner memory plan whenever the engine has run out of memory and freed
    /// what it held, as long as there is such a plan. Returns the final reply, which may be a failure.
    async fn exchange_in_place(&mut self, mut request: EngineRequest) -> Result<EngineReply, Failure> {
        loop {
            let reply = self.exchange(&request).await?;
            let EngineReply::Failed(failure @ EngineFailure::OutOfMemory { .. }) = &reply else {
                return Ok(reply);
            };
            let Failure::OutOfMemory(shortage) = engine_failed(failure.clone(), &self.admitted.admission())
            else {
                return Ok(reply);
            };
            let leaner = self
                .warm_engine
                .go_leaner(self.admitted, &shortage, self.are_rendered);
            let Some(leaner) = leaner else {
                return Ok(reply);
            };
            match &mut request {
                EngineRequest::Load { plan, .. } => {
                    *plan = leaner;
                    continue;
                }
                EngineRequest::Window(window) => window.plan = leaner,
                EngineRequest::Audio(_) => {}
            }
            // The engine has the weights: this tells it the plan, and has it return all unused memory.
            let load = self.load_request();
            let loaded = self.exchange(&load).await?;
            self.keep_fingerprint(loaded)?;
        }
    }

    /// Sends a request, records progress and memory, and returns the final reply, which may be a failure.
    async fn exchange(&mut self, request: &EngineRequest) -> Result<EngineReply, Failure> {
        let (kind, mut stage) = match request {
            EngineRequest::Load { expected, .. } => (RequestKind::Load(*expected), EngineStage::Loading),
            EngineRequest::Audio(_) => {
                let weights = self.body.model.weights;
                (RequestKind::Audio(weights), EngineStage::Audio)
            }
            EngineRequest::Window(window) => {
                let (shape, plan) = (WindowShape::of(&window.model), window.plan);
                let kind = RequestKind::Window { shape, plan };
                (kind, EngineStage::VaeEncode { frame: 0 })
            }
        };
        let limit = self.warm_engine.hang_detector.silence_limit(kind);
        let mut longest = Duration::ZERO;
        let mut since = Instant::now();
        self.activity.set_request_pending(true);
        let sent = self.send(request, limit).await;
        sent.map_err(|error| self.lost(&error, stage))?;
        loop {
            let received = self
                .reporter
                .receive::<EngineReply>(&mut self.process.child, limit)
                .await;
            let reply = received.map_err(|error| self.lost(&error, stage))?;
            // A silence above the limit holds time in which this process was stopped.
            longest = longest.max(since.elapsed().min(limit));
            since = Instant::now();
            let sample = match &reply {
                EngineReply::Progress { stage, memory } => Some((stage.memory_stage(), memory)),
                EngineReply::Loaded { memory, .. } => Some((MemoryStage::Load, memory)),
                EngineReply::AudioReady { memory, .. } => Some((MemoryStage::Audio, memory)),
                EngineReply::Window { memory, .. } => Some((MemoryStage::Idle, memory)),
                EngineReply::Failed(_) => None,
            };
            if let Some((stage, memory)) = sample {
                self.record(stage, memory);
            }
            if let EngineReply::Progress { stage: reached, .. } = reply {
                stage = reached;
                self.reporter.report_engine_stage(stage);
                continue;
            }
            self.activity.set_request_pending(false);
            log(self.admitted.recorder(MemoryRecorder::end_stage));
            if !matches!(reply, EngineReply::Failed(_)) {
                self.warm_engine.hang_detector.record(kind, longest);
            }
            return Ok(reply);
        }
    }

    /// Sends a request to the engine. An engine that does not read it is killed after `limit`, as one that
    /// sends nothing.
    async fn send(&mut self, request: &EngineRequest, limit: Duration) -> Result<(), ChildError> {
        if let Some(sent) = awake::within(limit, self.process.child.send(request)).await {
            return sent;
        }
        let (_, receiver) = self.process.child.split();
        Err(receiver.kill_silent(limit))
    }

    fn record(&mut self, stage: MemoryStage, sample: &MemorySample) {
        log(self.admitted.recorder(|recorder| recorder.record(stage, *sample)));
        let warm_engine = &mut *self.warm_engine;
        warm_engine.monitor.record_engine_sample(sample);
        warm_engine
            .heartbeat_state
            .update(|heartbeat| heartbeat.memory = Some(*sample));
        warm_engine.reservations.write(ReservedMemory {
            device_mib: self.admitted.need_mib().saturating_sub(sample.own / MIB),
            host_mib: warm_engine.monitor.host_growth_mib(),
        });
    }

    fn lost(&self, error: &ChildError, stage: EngineStage) -> Failure {
        let has_loaded = self.process.has_loaded;
        engine_lost(error, stage, has_loaded, &self.admitted.admission())
    }

    /// Returns the failure for a final reply that is not the one that was asked for.
    fn failure(&self, reply: EngineReply) -> Failure {
        match reply {
            EngineReply::Failed(failure) => engine_failed(failure, &self.admitted.admission()),
            other => unexpected_reply(&other),
        }
    }
}

/// Returns, for each window of a chunk, the frames that are conditioned on silence: bit `n` stands for frame
/// `n` of the window. Padding in a short last window is as its last frame.
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

/// Fetches 16-bit samples, which a blob holds in little-endian order.
async fn samples(blob: &BlobRef, fetcher: &Fetcher) -> Result<Vec<i16>, Failure> {
    let bytes = fetcher.kept_bytes(blob).await?;
    let (pairs, rest) = bytes.as_chunks::<2>();
    if rest.is_empty() {
        return Ok(pairs.iter().map(|pair| i16::from_le_bytes(*pair)).collect());
    }
    Err(Failure::BadInput {
        message: format!("audio blob {} ends in the middle of a sample", blob.digest),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_silent_frame_sets_its_bit_and_padding_repeats_the_last_frame() {
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
