//! Runs a `Render` task: carries crops from the media child to the engine and rendered crops back, while both
//! children compute. The runner calls it.
//!
//! ```text
//! media    crops 0 │ crops 1 │ paste 0, crops 2 │ paste 1, crops 3 ... │ paste, encode the rest
//! engine           │ window 0         │ window 1        │ window 2 ... │ window 0 of the next task
//! ```
//! The crops of one window lie ready here while the engine renders the window before it. A task that is held while
//! another one runs is opened meanwhile (`open_task.rs`): its inputs are fetched, and a second media child cuts out its
//! first crops. A task lets go of the engine after its last window, and the rest is [`Finish`].

use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::DType;
use latentfarm_common::host;
use latentfarm_common::time::{FrameRange, milliseconds};
use latentfarm_common::wire::engine::EngineTimings;
use latentfarm_common::wire::media::{MediaReply, MediaRequest, MediaTimings};
use latentfarm_common::wire::memory::{DeviceKind, MemoryStage};
use latentfarm_common::wire::outcome::{DoneBody, Failure, StageTimings, TaskStage};
use latentfarm_common::wire::task::{RenderFrame, RenderInput, RenderTask, Task};
use latentfarm_engine::numerics_fingerprint;
use tokio::sync::mpsc;

use super::activity::{EngineTime, RenderActivity, timed};
use super::admitted_task::AdmittedTask;
use super::analyze::{media_failure, unexpected_reply};
use super::background::Background;
use super::child::{ChildError, ChildReceiver, ChildSender};
use super::device_monitor::DeviceMonitor;
use super::engine_client::{EngineClient, silent_frames};
use super::failure_class::media_lost;
use super::fetch::Fetcher;
use super::open_task::{OpenedTask, StartedMedia};
use super::progress_reporter::{ALIVE_INTERVAL, ProgressReporter};
use super::settings::RunnerSettings;
use super::warm_engine::WarmEngine;
use super::warm_media::{MediaChild, WarmMedia};
use crate::consume::{Artifact, Finish, TaskOutput};

/// The number of windows whose crops lie ready for the engine.
const READY_WINDOWS: usize = 1;

/// The frames of a window; a chunk begins with a whole one.
const WINDOW: usize = 16;

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
    /// Time in which the engine was idle before the chunk.
    edge: Duration,
}

/// Renders a chunk with both children up to its last window. The rest encodes the segment.
pub(super) async fn render(
    media: &WarmMedia,
    engine: &mut WarmEngine,
    (task, body): (&Task, &RenderTask),
    opened: Option<OpenedTask>,
    was_held: bool,
    fetcher: &Fetcher,
    reporter: Arc<ProgressReporter>,
) -> Result<Finish, Failure> {
    let started = Instant::now();
    let mut opened = match opened {
        Some(opened) => opened,
        None => OpenedTask::fetch(body, fetcher).await?,
    };
    // A chunk without a frame to render needs no model.
    let is_rendered = opened.input.frames.iter().any(RenderFrame::is_rendered);
    let (mut process, admitted) = if is_rendered {
        let (weights, link) = (body.model.weights, fetcher.link.as_ref());
        engine.weights.prepare(weights, link, &reporter.progress).await?;
        let (process, admitted) = engine.begin(body).await?;
        (Some(process), Some(Arc::new(admitted)))
    } else {
        (None, None)
    };
    let silent = silent_frames(&opened.input.frames);
    if opened.media.is_none() {
        let child = media.take()?;
        opened.start(child, task, body, fetcher.scratch()).await?;
    }
    let OpenedTask {
        input, fetch, media, ..
    } = opened;
    let Some(StartedMedia { child, output }) = media else {
        return Err(Failure::Transient {
            message: "no media child was started".to_owned(),
        });
    };

    let activity = Arc::new(RenderActivity::new());
    let (crops_sender, crops) = mpsc::channel(READY_WINDOWS);
    let (requests, to_media) = mpsc::channel(1);
    let session = RenderSession {
        settings: Arc::clone(&engine.settings),
        monitor: engine.monitor.clone(),
        reporter: Arc::clone(&reporter),
        activity: Arc::clone(&activity),
        admitted: admitted.clone(),
        media_pid: child.pid(),
    };
    let mut compositing = Background::spawn(session.composite(child, to_media, crops_sender));
    let computing = async {
        let (Some(process), Some(admitted)) = (&mut process, &admitted) else {
            return Ok(Computed::default());
        };
        // Windows whose frames all pass through are not sent.
        let windows = input
            .frames
            .chunks(WINDOW)
            .filter(|frames| frames.iter().any(RenderFrame::is_rendered));
        let windows = windows.count();
        let idle_since = engine.last_used.filter(|_| was_held).unwrap_or(started);
        let client = EngineClient {
            process,
            warm_engine: &mut *engine,
            admitted,
            body,
            silent,
            reporter: &reporter,
            activity: &activity,
            numerics_fingerprint: None,
            are_rendered: false,
        };
        compute(client, (&input, windows), fetcher, crops, requests, idle_since).await
    };
    let computed = {
        tokio::pin!(computing);
        tokio::select! {
            computed = &mut computing => computed,
            // The media child may be done first, if it does not wait for the engine.
            composited = compositing.failed() => match composited {
                Some(failure) => Err(failure),
                None => computing.await,
            },
        }
    };
    if let Some(process) = process {
        engine.keep(process, &activity).await;
    }
    if let Some(admitted) = &admitted {
        admitted.record_kernel_peak();
    }
    let computed = computed?;
    Ok(Box::pin(async move {
        let (body, media_timings) = compositing.finish().await?;
        let memory = admitted.and_then(Arc::into_inner).map(AdmittedTask::finish);
        Ok(TaskOutput {
            artifact: Artifact::File(Arc::new(output)),
            body,
            timings: stage_timings(fetch, media_timings, &computed),
            memory,
            numerics_fingerprint: computed
                .numerics_fingerprint
                .unwrap_or_else(|| numerics_fingerprint("cpu", DType::F32)),
        })
    }))
}

fn stage_timings(fetch: Duration, media: MediaTimings, computed: &Computed) -> StageTimings {
    let EngineTime { busy, waiting } = computed.time;
    StageTimings {
        fetch_ms: milliseconds(fetch),
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
        edge_ms: milliseconds(computed.edge),
    }
}

/// The exchange of one chunk's crops with the media child.
struct RenderSession {
    settings: Arc<RunnerSettings>,
    reporter: Arc<ProgressReporter>,
    activity: Arc<RenderActivity>,
    monitor: DeviceMonitor,
    /// `None` if no model runs.
    admitted: Option<Arc<AdmittedTask>>,
    media_pid: Option<u32>,
}

impl RenderSession {
    /// Talks to the media child until it has written the segment, and keeps the child then. Its crops are passed on to
    /// `crops`, and `requests` to it.
    async fn composite(
        self,
        mut child: MediaChild,
        requests: mpsc::Receiver<MediaRequest>,
        crops: mpsc::Sender<Crops>,
    ) -> Result<(DoneBody, MediaTimings), Failure> {
        let (sender, receiver) = child.split();
        let composited = tokio::select! {
            composited = self.read(receiver, crops) => composited?,
            failure = self.write(sender, requests) => return Err(failure),
        };
        child.keep();
        Ok(composited)
    }

    /// Sends requests to the media child. Returns only if one cannot be sent.
    async fn write(&self, media: &mut ChildSender, mut requests: mpsc::Receiver<MediaRequest>) -> Failure {
        while let Some(request) = requests.recv().await {
            match media.send(&request).await {
                Ok(true) => {}
                // The loop that reads the media child returns how it ended.
                Ok(false) => break,
                Err(error) => return self.media_lost(&error),
            }
        }
        std::future::pending().await
    }

    /// Reads the media child's replies up to its result and passes its crops on to `crops`. That channel is
    /// never full, as the child sends one window ahead at most.
    async fn read(
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
                    lips,
                    timings,
                } => {
                    let body = DoneBody::Render {
                        frame_hashes,
                        synced,
                        passed,
                        lips,
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
        if let (Some(admitted), Some(pid)) = (&self.admitted, self.media_pid) {
            admitted
                .recorder(|recorder| recorder.record_media(stages, host::held_mib(pid), host::rss_mib(pid)));
        }
    }

    fn media_lost(&self, error: &ChildError) -> Failure {
        let on_host = self.settings.device.kind() == DeviceKind::Cpu;
        let rendering = self.admitted.as_ref().filter(|_| on_host);
        let admission = rendering.map(|admitted| admitted.admission());
        media_lost(error, "media", admission.as_ref())
    }
}

/// Loads the model and encodes the audio while the media child decodes, then renders windows as their crops come and
/// sends the rendered crops to the media child. The engine was idle since `idle_since`.
async fn compute(
    mut client: EngineClient<'_>,
    (input, windows): (&RenderInput, usize),
    fetcher: &Fetcher,
    mut crops: mpsc::Receiver<Crops>,
    media: mpsc::Sender<MediaRequest>,
    idle_since: Instant,
) -> Result<Computed, Failure> {
    let activity = client.activity;
    let mut computed = Computed::default();
    activity.set_engine_busy(true);
    let mut load = Duration::ZERO;
    timed(&mut load, client.load()).await?;
    computed.edge = idle_since.elapsed().saturating_sub(load);
    timed(&mut computed.audio, client.encode_audio(input, fetcher)).await?;
    computed.time.busy += computed.audio;
    activity.set_engine_busy(false);
    for _ in 0..windows {
        let waiting_since = Instant::now();
        let Some((window, faces)) = crops.recv().await else {
            break;
        };
        computed.time.waiting += waiting_since.elapsed();
        activity.set_engine_busy(true);
        let rendering = client.render(window, faces);
        let (faces, took) = timed(&mut computed.time.busy, rendering).await?;
        activity.set_engine_busy(false);
        client.warm_engine.last_used = Some(Instant::now());
        computed.timings.vae_encode_ms += took.vae_encode_ms;
        computed.timings.denoise_ms += took.denoise_ms;
        computed.timings.vae_decode_ms += took.vae_decode_ms;
        let sent = media.send(MediaRequest::Synced { window, faces });
        if sent.await.is_err() {
            // What talks to the media child knows how it ended.
            break;
        }
    }
    computed.numerics_fingerprint = client.numerics_fingerprint;
    Ok(computed)
}
