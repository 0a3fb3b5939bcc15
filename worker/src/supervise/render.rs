//! A `Render` task: crops from the media child to the engine, rendered crops back, both at work at once.
//!
//! ```text
//! media    crops 0 │ crops 1 │ paste 0, crops 2 │ paste 1, crops 3 ...
//! engine           │ window 0         │ window 1        │ window 2 ...
//! ```
//! The crops of one window lie ready here while the engine is at work on the one before it.

use std::time::{Duration, Instant};

use candle_core::DType;
use latentfarm_common::frame::FrameHash;
use latentfarm_common::time::{FrameRange, milliseconds};
use latentfarm_common::wire::engine::EngineTimings;
use latentfarm_common::wire::media::{MediaReply, MediaRequest, MediaTimings, RenderRequest};
use latentfarm_common::wire::memory::{DeviceKind, MemoryStage};
use latentfarm_common::wire::outcome::{DoneBody, Failure, StageTimings, TaskStage};
use latentfarm_common::wire::task::{RenderFrame, RenderInput, RenderTask, Task};
use tokio::sync::mpsc;

use super::analyze::{media_failure, out_of_step};
use super::child::{ChildError, ChildReceiver, ChildSender};
use super::fetch::Fetcher;
use super::loss::media_lost;
use super::overlap::{EngineTime, Turn, timed};
use super::settings::RunnerSettings;
use super::sight::Sight;
use super::talk::{EngineTalk, silent_frames};
use super::teller::{ALIVE_INTERVAL, Teller};
use super::warm_engine::{Run, WarmEngine};
use super::warm_media::WarmMedia;
use crate::consume::{Artifact, Finished};
use latentfarm_common::host;
use latentfarm_engine::numerics_fingerprint;

/// Crops that lie ready for the engine: one window's.
const READY_WINDOWS: usize = 1;

/// A window of crops on its way to the engine.
type Crops = (FrameRange, Vec<u8>);

/// What the media child made of a chunk.
struct Composited {
    frame_hashes: Vec<FrameHash>,
    synced: u32,
    passed: u32,
    timings: MediaTimings,
}

/// What the engine made of it.
#[derive(Default)]
struct Computed {
    numerics_fingerprint: Option<String>,
    timings: EngineTimings,
    audio: Duration,
    time: EngineTime,
}

/// Renders a chunk with both children.
pub(super) async fn render(
    media: &mut WarmMedia,
    engine: &mut WarmEngine,
    task: &Task,
    body: &RenderTask,
    fetcher: &Fetcher<'_>,
    teller: &Teller<'_>,
) -> Result<Finished, Failure> {
    let started = Instant::now();
    let mut input: RenderInput = fetcher.message(&body.input).await?;
    let segments = fetcher.slices(&input.segments).await?;
    let fetch_ms = milliseconds(started.elapsed());

    // A chunk that shows no rendered mouth needs no model.
    let is_rendered = input.frames.iter().any(RenderFrame::is_rendered);
    let (mut warm, run) = if is_rendered {
        let (warm, run) = engine.begin(body).await?;
        (Some(warm), Some(run))
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

    let turn = Turn::new();
    let (crops_sender, crops) = mpsc::channel(READY_WINDOWS);
    let (media_sender, media_receiver) = child.split();
    let conversation = Conversation {
        settings: &media.settings,
        sight: &media.sight,
        teller,
        turn: &turn,
        run: run.as_ref(),
    };
    let computing = async {
        let (Some(warm), Some(run)) = (&mut warm, &run) else {
            return Ok(Computed::default());
        };
        let asking = EngineTalk {
            engine: warm,
            keeper: &mut *engine,
            run,
            body,
            silent,
            teller,
            turn: &turn,
        };
        conversation
            .compute(asking, &input, fetcher, crops, media_sender)
            .await
    };
    let compositing = conversation.composite(media_receiver, crops_sender);
    let outcome = tokio::try_join!(compositing, computing);
    let memory = run.map(Run::finish);
    if let Some(warm) = warm {
        engine.keep(warm, &turn).await;
    }
    let (composited, computed) = outcome?;
    media.keep(child);
    let timings = stage_timings(started, fetch_ms, &composited, &computed);
    Ok(Finished {
        artifact: Artifact::File(output),
        body: DoneBody::Render {
            frame_hashes: composited.frame_hashes,
            synced: composited.synced,
            passed: composited.passed,
        },
        timings,
        memory,
        numerics_fingerprint: computed
            .numerics_fingerprint
            .unwrap_or_else(|| numerics_fingerprint("cpu", DType::F32)),
    })
}

fn stage_timings(
    started: Instant,
    fetch_ms: u64,
    composited: &Composited,
    computed: &Computed,
) -> StageTimings {
    let EngineTime { load, busy, waiting } = computed.time;
    let edge = started.elapsed().saturating_sub(load + busy + waiting);
    StageTimings {
        fetch_ms,
        decode_ms: composited.timings.decode_ms,
        face_ms: composited.timings.face_ms,
        audio_ms: milliseconds(computed.audio),
        vae_encode_ms: computed.timings.vae_encode_ms,
        denoise_ms: computed.timings.denoise_ms,
        vae_decode_ms: computed.timings.vae_decode_ms,
        paste_ms: composited.timings.paste_ms,
        encode_ms: composited.timings.encode_ms,
        commit_ms: 0,
        engine_ms: milliseconds(busy),
        media_wait_ms: milliseconds(waiting),
        edge_ms: computed
            .numerics_fingerprint
            .as_ref()
            .map_or(0, |_| milliseconds(edge)),
    }
}

/// One chunk's talk with both children.
struct Conversation<'a> {
    settings: &'a RunnerSettings,
    teller: &'a Teller<'a>,
    turn: &'a Turn,
    sight: &'a Sight,
    /// `None` where no model runs.
    run: Option<&'a Run>,
}

impl Conversation<'_> {
    /// Hears the media child to its end; its crops go to `crops`, which never is full, as the child sends one
    /// window ahead at most.
    async fn composite(
        &self,
        mut media: ChildReceiver<'_>,
        crops: mpsc::Sender<Crops>,
    ) -> Result<Composited, Failure> {
        loop {
            let reply = self.next_reply(&mut media).await;
            self.turn.media_spoke();
            match reply.map_err(|error| self.media_lost(&error))? {
                MediaReply::Progress { frames_done } => {
                    self.book_media([MemoryStage::Paste, MemoryStage::Encode]);
                    self.sight
                        .rendered(self.teller.frames(frames_done, TaskStage::Encoded));
                }
                MediaReply::Crops { window, faces } => {
                    self.book_media([MemoryStage::Decode, MemoryStage::Align]);
                    if crops.send((window, faces)).await.is_err() {
                        return Err(Failure::Transient {
                            message: format!(
                                "the media child sent crops for {window}, which is not rendered"
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
                    return Ok(Composited {
                        frame_hashes,
                        synced,
                        passed,
                        timings,
                    });
                }
                MediaReply::Failed(failure) => return Err(media_failure(failure)),
                other @ MediaReply::Analyzed { .. } => return Err(out_of_step(&other)),
            }
        }
    }

    /// The media child's next word. It is taken for hung if it owes one for too long; while the engine computes
    /// it owes none.
    async fn next_reply(&self, media: &mut ChildReceiver<'_>) -> Result<MediaReply, ChildError> {
        let limit = self.settings.silence_limit;
        let heard = {
            let reply = media.receive();
            tokio::pin!(reply);
            loop {
                tokio::select! {
                    reply = &mut reply => break Some(reply),
                    () = tokio::time::sleep(ALIVE_INTERVAL.min(limit)) => {
                        if self.turn.media_silent_for() >= limit {
                            break None;
                        }
                        if !self.turn.engine_busy() {
                            self.teller.progress.step();
                        }
                    }
                }
            }
        };
        heard.unwrap_or_else(|| Err(media.silent(limit)))
    }

    fn book_media(&self, stages: [MemoryStage; 2]) {
        if let (Some(run), Some(pid)) = (self.run, self.sight.media_pid()) {
            run.meter(|meter| meter.media(stages, host::held_mib(pid), host::rss_mib(pid)));
        }
    }

    fn media_lost(&self, error: &ChildError) -> Failure {
        let on_host = self.settings.device.kind() == DeviceKind::Cpu;
        let beside = self.run.filter(|_| on_host);
        media_lost(error, "media", beside.map(|run| &run.admission))
    }

    /// Prepares the engine while the media child decodes, then renders windows as their crops come.
    async fn compute(
        &self,
        mut talk: EngineTalk<'_>,
        input: &RenderInput,
        fetcher: &Fetcher<'_>,
        mut crops: mpsc::Receiver<Crops>,
        mut media: ChildSender<'_>,
    ) -> Result<Computed, Failure> {
        let turn = self.turn;
        let mut computed = Computed::default();
        turn.engine(true);
        computed.numerics_fingerprint = Some(timed(&mut computed.time.load, talk.load()).await?);
        timed(&mut computed.audio, talk.hear(input, fetcher)).await?;
        computed.time.busy += computed.audio;
        turn.engine(false);
        loop {
            let waiting_since = Instant::now();
            let Some((window, faces)) = crops.recv().await else {
                return Ok(computed);
            };
            computed.time.waiting += waiting_since.elapsed();
            turn.engine(true);
            let rendering = talk.render(window, faces);
            let (faces, took) = timed(&mut computed.time.busy, rendering).await?;
            turn.engine(false);
            computed.timings.vae_encode_ms += took.vae_encode_ms;
            computed.timings.denoise_ms += took.denoise_ms;
            computed.timings.vae_decode_ms += took.vae_decode_ms;
            let is_heard = media
                .send(&MediaRequest::Synced { window, faces })
                .await
                .map_err(|error| self.media_lost(&error))?;
            if !is_heard {
                // The other side of the conversation says how the media child ended.
                std::future::pending::<()>().await;
            }
        }
    }
}
