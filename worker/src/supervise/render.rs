//! Runs a `Render` task: carries crops from the media child to the engine and rendered crops back, while both
//! children compute. The runner calls it.
//!
//! ```text
//! media    crops 0 │ crops 1 │ paste 0, crops 2 │ paste 1, crops 3 ...
//! engine           │ window 0         │ window 1        │ window 2 ...
//! ```
//! The crops of one window lie ready here while the engine renders the window before it.

use std::time::{Duration, Instant};

use candle_core::DType;
use latentfarm_common::time::{FrameRange, milliseconds};
use latentfarm_common::wire::engine::EngineTimings;
use latentfarm_common::wire::media::{MediaReply, MediaRequest, MediaTimings, RenderRequest};
use latentfarm_common::wire::memory::{DeviceKind, MemoryStage};
use latentfarm_common::wire::outcome::{DoneBody, Failure, StageTimings, TaskStage};
use latentfarm_common::wire::task::{RenderFrame, RenderInput, RenderTask, Task};
use tokio::sync::mpsc;

use super::activity::{EngineTime, RenderActivity, timed};
use super::analyze::{media_failure, unexpected_reply};
use super::child::{ChildError, ChildReceiver, ChildSender};
use super::device_monitor::DeviceMonitor;
use super::engine_client::{EngineClient, silent_frames};
use super::failure_class::media_lost;
use super::fetch::Fetcher;
use super::progress_reporter::{ALIVE_INTERVAL, ProgressReporter};
use super::settings::RunnerSettings;
use super::warm_engine::{AdmittedTask, WarmEngine};
use super::warm_media::WarmMedia;
use crate::consume::{Artifact, TaskOutput};
use latentfarm_common::host;
use latentfarm_engine::numerics_fingerprint;

/// The number of windows whose crops lie ready for the engine.
const READY_WINDOWS: usize = 1;

/// The crops of a window, on their way to the engine.
type Crops = (FrameRange, Vec<u8>);

/// The engine's result of a chunk; the default if no model ran.
#[derive(Default)]
struct Computed {
    numerics_fingerprint: Option<String>,
    timings: EngineTimings,
    /// Time to encode audio, which is part of the busy time too.
    audio: Duration,
    time: EngineTime,
}

/// Renders a chunk with both children; the result is a segment file in the scratch folder.
pub(super) async fn render(
    media: &mut WarmMedia,
    engine: &mut WarmEngine,
    task: &Task,
    body: &RenderTask,
    fetcher: &Fetcher<'_>,
    reporter: &ProgressReporter<'_>,
) -> Result<TaskOutput, Failure> {
    let started = Instant::now();
    let mut input: RenderInput = fetcher.message(&body.input).await?;
    let segments = fetcher.slices(&input.segments).await?;
    let fetch_ms = milliseconds(started.elapsed());

    // A chunk without a frame to render needs no model.
    let is_rendered = input.frames.iter().any(RenderFrame::is_rendered);
    let (mut process, admitted) = if is_rendered {
        let (process, admitted) = engine.begin(body).await?;
        (Some(process), Some(admitted))
    } else {
        (None, None)
    };
    let silent = silent_frames(&input.frames);

    let output = fetcher
        .scratch
        .join(format!("{}.{}.nut", task.chunk, task.attempt.number));
    let request = RenderRequest {
        source: body.source.clone(),
        encoder: body.encoder.clone(),
        resolution_px: body.model.resolution_px,
        range: body.range,
        segments,
        frames: std::mem::take(&mut input.frames),
        output: output.display().to_string(),
    };
    let mut child = media.take()?;
    child
        .send(&MediaRequest::Render(request))
        .await
        .map_err(|error| media_lost(&error, "media", None))?;

    let activity = RenderActivity::new();
    let (crops_sender, crops) = mpsc::channel(READY_WINDOWS);
    let (media_sender, media_receiver) = child.split();
    let session = RenderSession {
        settings: &media.settings,
        monitor: &media.monitor,
        reporter,
        activity: &activity,
        admitted: admitted.as_ref(),
    };
    let computing = async {
        let (Some(process), Some(admitted)) = (&mut process, &admitted) else {
            return Ok(Computed::default());
        };
        let client = EngineClient {
            process,
            warm_engine: &mut *engine,
            admitted,
            body,
            silent,
            reporter,
            activity: &activity,
        };
        session
            .compute(client, &input, fetcher, crops, media_sender)
            .await
    };
    let compositing = session.composite(media_receiver, crops_sender);
    let outcome = tokio::try_join!(compositing, computing);
    let memory = admitted.map(AdmittedTask::finish);
    if let Some(process) = process {
        engine.keep(process, &activity).await;
    }
    let ((body, media_timings), computed) = outcome?;
    media.keep(child);
    let timings = stage_timings(started, fetch_ms, media_timings, &computed);
    Ok(TaskOutput {
        artifact: Artifact::File(output),
        body,
        timings,
        memory,
        numerics_fingerprint: computed
            .numerics_fingerprint
            .unwrap_or_else(|| numerics_fingerprint("cpu", DType::F32)),
    })
}

fn stage_timings(started: Instant, fetch_ms: u64, media: MediaTimings, computed: &Computed) -> StageTimings {
    let EngineTime { load, busy, waiting } = computed.time;
    let edge = started.elapsed().saturating_sub(load + busy + waiting);
    StageTimings {
        fetch_ms,
        decode_ms: media.decode_ms,
        face_ms: media.face_ms,
        audio_ms: milliseconds(computed.audio),
        vae_encode_ms: computed.timings.vae_encode_ms,
        denoise_ms: computed.timings.denoise_ms,
        vae_decode_ms: computed.timings.vae_decode_ms,
        paste_ms: media.paste_ms,
        encode_ms: media.encode_ms,
        commit_ms: 0,
        engine_ms: milliseconds(busy),
        media_wait_ms: milliseconds(waiting),
        edge_ms: computed
            .numerics_fingerprint
            .as_ref()
            .map_or(0, |_| milliseconds(edge)),
    }
}

/// The exchange of one chunk's crops with both children.
struct RenderSession<'a> {
    settings: &'a RunnerSettings,
    reporter: &'a ProgressReporter<'a>,
    activity: &'a RenderActivity,
    monitor: &'a DeviceMonitor,
    /// `None` if no model runs.
    admitted: Option<&'a AdmittedTask>,
}

impl RenderSession<'_> {
    /// Reads the media child's replies up to its result and passes its crops on to `crops`. That channel is
    /// never full, as the child sends one window ahead at most.
    async fn composite(
        &self,
        media: &mut ChildReceiver,
        crops: mpsc::Sender<Crops>,
    ) -> Result<(DoneBody, MediaTimings), Failure> {
        loop {
            let reply = self.next_reply(media).await;
            self.activity.media_replied();
            match reply.map_err(|error| self.media_lost(&error))? {
                MediaReply::Progress { frames_done } => {
                    self.record_media_memory([MemoryStage::Paste, MemoryStage::Encode]);
                    let new_frames = self.reporter.report_frames(frames_done, TaskStage::Encoded);
                    self.monitor.add_rendered_frames(new_frames);
                }
                MediaReply::Crops { window, faces } => {
                    self.record_media_memory([MemoryStage::Decode, MemoryStage::Align]);
                    if crops.send((window, faces)).await.is_err() {
                        return Err(Failure::Transient {
                            message: format!(
                                "the media child sent crops of frames {window}, which are not to be rendered"
                            ),
                        });
                    }
                }
                MediaReply::Rendered {
                    frame_hashes,
                    synced,
                    passed,
                    timings,
                } => {
                    let body = DoneBody::Render {
                        frame_hashes,
                        synced,
                        passed,
                    };
                    return Ok((body, timings));
                }
                MediaReply::Failed(failure) => return Err(media_failure(failure)),
                other @ MediaReply::Analyzed { .. } => return Err(unexpected_reply(&other)),
            }
        }
    }

    /// Returns the media child's next reply. The child is killed as hung if it has owed one for too long;
    /// while the engine computes it owes none.
    async fn next_reply(&self, media: &mut ChildReceiver) -> Result<MediaReply, ChildError> {
        let limit = self.settings.silence_limit;
        let interval = ALIVE_INTERVAL.min(limit);
        let received = {
            let reply = media.receive();
            tokio::pin!(reply);
            loop {
                let looked_at = Instant::now();
                tokio::select! {
                    reply = &mut reply => break Some(reply),
                    () = tokio::time::sleep(interval) => {
                        // Time in which this process was stopped counts against no child.
                        if looked_at.elapsed() > interval * 2 {
                            self.activity.media_replied();
                        }
                        if self.activity.media_silence() >= limit {
                            break None;
                        }
                        if !self.activity.engine_busy() {
                            self.reporter.progress.step();
                        }
                    }
                }
            }
        };
        received.unwrap_or_else(|| Err(media.kill_silent(limit)))
    }

    fn record_media_memory(&self, stages: [MemoryStage; 2]) {
        if let (Some(admitted), Some(pid)) = (self.admitted, self.monitor.media_pid()) {
            admitted
                .recorder(|recorder| recorder.record_media(stages, host::held_mib(pid), host::rss_mib(pid)));
        }
    }

    fn media_lost(&self, error: &ChildError) -> Failure {
        let on_host = self.settings.device.kind() == DeviceKind::Cpu;
        let rendering = self.admitted.filter(|_| on_host);
        media_lost(error, "media", rendering.map(|admitted| &admitted.admission))
    }

    /// Loads the model and encodes the audio while the media child decodes, then renders windows as their
    /// crops come and sends the rendered crops to the media child.
    async fn compute(
        &self,
        mut client: EngineClient<'_>,
        input: &RenderInput,
        fetcher: &Fetcher<'_>,
        mut crops: mpsc::Receiver<Crops>,
        media: &mut ChildSender,
    ) -> Result<Computed, Failure> {
        let activity = self.activity;
        let mut computed = Computed::default();
        activity.set_engine_busy(true);
        computed.numerics_fingerprint = Some(timed(&mut computed.time.load, client.load()).await?);
        timed(&mut computed.audio, client.encode_audio(input, fetcher)).await?;
        computed.time.busy += computed.audio;
        activity.set_engine_busy(false);
        loop {
            let waiting_since = Instant::now();
            let Some((window, faces)) = crops.recv().await else {
                return Ok(computed);
            };
            computed.time.waiting += waiting_since.elapsed();
            activity.set_engine_busy(true);
            let rendering = client.render(window, faces);
            let (faces, took) = timed(&mut computed.time.busy, rendering).await?;
            activity.set_engine_busy(false);
            computed.timings.vae_encode_ms += took.vae_encode_ms;
            computed.timings.denoise_ms += took.denoise_ms;
            computed.timings.vae_decode_ms += took.vae_decode_ms;
            let was_read = media
                .send(&MediaRequest::Synced { window, faces })
                .await
                .map_err(|error| self.media_lost(&error))?;
            if !was_read {
                // The loop that reads the media child returns how it ended.
                std::future::pending::<()>().await;
            }
        }
    }
}
