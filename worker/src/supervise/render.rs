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
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::engine::EngineTimings;
use latentfarm_common::wire::media::{MediaReply, MediaRequest, MediaTimings, RenderRequest};
use latentfarm_common::wire::outcome::{DoneBody, Failure, StageTimings};
use latentfarm_common::wire::task::{RenderFrame, RenderInput, RenderTask, Task};
use tokio::sync::mpsc;

use super::analyze::{elapsed_ms, media_failure, out_of_step};
use super::child::{Child, ChildError, ChildReceiver, ChildSender};
use super::fetch::Fetcher;
use super::overlap::{EngineTime, Turn, milliseconds, timed};
use super::{ALIVE_INTERVAL, Runner, RunnerSettings, Teller, child_failure, windows};
use crate::consume::{Artifact, Finished};
use crate::numeric_kind;

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
    numeric_kind: Option<String>,
    timings: EngineTimings,
    audio: Duration,
    time: EngineTime,
}

impl Runner {
    pub(super) async fn render(
        &mut self,
        task: &Task,
        body: &RenderTask,
        fetcher: &Fetcher<'_>,
        teller: &Teller<'_>,
    ) -> Result<Finished, Failure> {
        let started = Instant::now();
        let mut input: RenderInput = fetcher.message(&body.input).await?;
        let segments = fetcher.slices(&input.segments).await?;
        let fetch_ms = elapsed_ms(started);

        // A chunk that shows no rendered mouth needs no model.
        let is_rendered = input.frames.iter().any(RenderFrame::is_rendered);
        let mut engine = is_rendered.then(|| self.take_engine()).transpose()?;
        let silent = windows::silent_frames(&input.frames);

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
            frames: std::mem::take(&mut input.frames),
            output: output.display().to_string(),
        };
        let mut media = self.take_media()?;
        media
            .send(&MediaRequest::Render(request))
            .await
            .map_err(|error| child_failure(&error, &self.settings, "media"))?;

        let turn = Turn::new();
        let (crops_sender, crops) = mpsc::channel(READY_WINDOWS);
        let (media_sender, media_receiver) = media.split();
        let conversation = Conversation {
            body,
            settings: &self.settings,
            teller,
            turn: &turn,
        };
        let computing = async {
            match &mut engine {
                Some(engine) => {
                    conversation
                        .compute(engine, &input, &silent, fetcher, crops, media_sender)
                        .await
                }
                None => Ok(Computed::default()),
            }
        };
        let compositing = conversation.composite(media_receiver, crops_sender);
        let outcome = tokio::try_join!(compositing, computing);
        // An engine in mid-computation is never talked to again.
        if outcome.is_ok() || !turn.engine_busy() {
            self.engine = engine;
        }
        let (composited, computed) = outcome?;
        self.media = Some(media);
        let timings = stage_timings(started, fetch_ms, &composited, &computed);
        Ok(Finished {
            artifact: Artifact::File(output),
            body: DoneBody::Render {
                frame_hashes: composited.frame_hashes,
                synced: composited.synced,
                passed: composited.passed,
            },
            timings,
            numeric_kind: computed
                .numeric_kind
                .unwrap_or_else(|| numeric_kind("cpu", DType::F32)),
        })
    }
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
        edge_ms: computed.numeric_kind.as_ref().map_or(0, |_| milliseconds(edge)),
    }
}

/// One chunk's talk with both children.
struct Conversation<'a> {
    body: &'a RenderTask,
    settings: &'a RunnerSettings,
    teller: &'a Teller<'a>,
    turn: &'a Turn,
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
            match reply.map_err(|error| child_failure(&error, self.settings, "media"))? {
                MediaReply::Progress { frames_done } => self.teller.frames(frames_done, "encoded"),
                MediaReply::Crops { window, faces } => {
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

    /// Prepares the engine while the media child decodes, then renders windows as their crops come.
    async fn compute(
        &self,
        engine: &mut Child,
        input: &RenderInput,
        silent: &[u16],
        fetcher: &Fetcher<'_>,
        mut crops: mpsc::Receiver<Crops>,
        mut media: ChildSender<'_>,
    ) -> Result<Computed, Failure> {
        let Self {
            body,
            settings,
            teller,
            turn,
        } = self;
        let mut computed = Computed::default();
        turn.engine(true);
        let loading = windows::load(engine, body, settings, teller);
        computed.numeric_kind = Some(timed(&mut computed.time.load, loading).await?);
        let hearing = windows::hear(engine, body, input, silent, fetcher, settings, teller);
        timed(&mut computed.audio, hearing).await?;
        computed.time.busy += computed.audio;
        turn.engine(false);
        loop {
            let waiting_since = Instant::now();
            let Some((window, faces)) = crops.recv().await else {
                return Ok(computed);
            };
            computed.time.waiting += waiting_since.elapsed();
            turn.engine(true);
            let rendering = windows::render(engine, body, window, faces, silent, settings, teller);
            let (faces, took) = timed(&mut computed.time.busy, rendering).await?;
            turn.engine(false);
            computed.timings.vae_encode_ms += took.vae_encode_ms;
            computed.timings.denoise_ms += took.denoise_ms;
            computed.timings.vae_decode_ms += took.vae_decode_ms;
            let is_heard = media
                .send(&MediaRequest::Synced { window, faces })
                .await
                .map_err(|error| child_failure(&error, settings, "media"))?;
            if !is_heard {
                // The other side of the conversation says how the media child ended.
                std::future::pending::<()>().await;
            }
        }
    }
}
