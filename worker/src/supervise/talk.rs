//! One task's talk with the engine: requests to their final replies, with every sample booked on the way.

use std::path::Path;
use std::time::{Duration, Instant};

use latentfarm_common::wire::engine::{EngineReply, EngineRequest, EngineStage};
use latentfarm_common::wire::memory::{MemorySample, MemoryStage};
use latentfarm_common::wire::outcome::Failure;
use latentfarm_common::wire::task::RenderTask;

use super::Teller;
use super::child::{Child, ChildError};
use super::leak::Growth;
use super::loss::{engine_failed, engine_lost};
use super::meter::{Line, Meter};
use super::overlap::Turn;
use super::pace::{Pace, Work};
use super::sight::Sight;
use super::warm_engine::{Engine, Run};
use crate::consume::Vitals;
use crate::machine::claims::Claims;

const MIB: u64 = 1 << 20;

/// What a task's talk with the engine is about, and where its figures go.
pub(super) struct EngineTalk<'a> {
    pub(super) engine: &'a mut Child,
    pub(super) growth: &'a mut Growth,
    pub(super) body: &'a RenderTask,
    pub(super) weights_dir: &'a Path,
    pub(super) teller: &'a Teller<'a>,
    pub(super) turn: &'a Turn,
    pub(super) books: Books<'a>,
}

/// Where figures go.
pub(super) struct Books<'a> {
    pub(super) run: &'a Run,
    pub(super) pace: &'a mut Pace,
    pub(super) claims: &'a mut Claims,
    pub(super) sight: &'a Sight,
    pub(super) vitals: &'a Vitals,
}

impl<'a> EngineTalk<'a> {
    pub(super) fn new(
        engine: &'a mut Engine,
        body: &'a RenderTask,
        weights_dir: &'a Path,
        teller: &'a Teller<'a>,
        turn: &'a Turn,
        books: Books<'a>,
    ) -> Self {
        Self {
            engine: &mut engine.child,
            growth: &mut engine.growth,
            body,
            weights_dir,
            teller,
            turn,
            books,
        }
    }

    /// Sends a request and books progress until its final reply, which is no failure.
    pub(super) async fn ask(
        &mut self,
        request: &EngineRequest,
        work: Work,
        stage: EngineStage,
    ) -> Result<EngineReply, Failure> {
        match self.ask_for_any(request, work, stage).await? {
            EngineReply::Failed(failure) => Err(engine_failed(failure, &self.books.run.admission)),
            reply => Ok(reply),
        }
    }

    /// As [`EngineTalk::ask`], where a failure is an answer.
    pub(super) async fn ask_for_any(
        &mut self,
        request: &EngineRequest,
        work: Work,
        mut stage: EngineStage,
    ) -> Result<EngineReply, Failure> {
        let limit = self.books.pace.limit(work);
        let mut longest = Duration::ZERO;
        let mut since = Instant::now();
        self.turn.asked(true);
        let sent = self.send(request, limit).await;
        sent.map_err(|error| self.lost(&error, stage))?;
        loop {
            let heard = self.teller.receive::<EngineReply>(self.engine, limit).await;
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
            say(self.books.run.meter(Meter::stage_ends));
            if !matches!(reply, EngineReply::Failed(_)) {
                self.books.pace.finished(work, longest);
            }
            return Ok(reply);
        }
    }

    /// An engine that does not even listen is not waited for longer than one that does not speak.
    async fn send(&mut self, request: &EngineRequest, limit: Duration) -> Result<(), ChildError> {
        if let Ok(sent) = tokio::time::timeout(limit, self.engine.send(request)).await {
            return sent;
        }
        let (_, mut receiver) = self.engine.split();
        Err(receiver.silent(limit))
    }

    fn book(&mut self, stage: MemoryStage, sample: &MemorySample) {
        say(self.books.run.meter(|meter| meter.sample(stage, *sample)));
        self.books.sight.engine_said(sample);
        self.books
            .vitals
            .update(|heartbeat| heartbeat.memory = Some(*sample));
        let outstanding_mib = self.books.run.need_mib.saturating_sub(sample.own / MIB);
        self.books.claims.write(outstanding_mib);
    }

    fn lost(&self, error: &ChildError, stage: EngineStage) -> Failure {
        engine_lost(error, stage, &self.books.run.admission)
    }
}

fn say(line: Option<Line>) {
    match line {
        Some(Line { text, is_news: true }) => tracing::info!("{text}"),
        Some(Line { text, is_news: false }) => tracing::debug!("{text}"),
        None => {}
    }
}
