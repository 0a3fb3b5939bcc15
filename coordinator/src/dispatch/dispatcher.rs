//! The one task that owns a job.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use latentfarm_common::ids::{ChunkId, Work};
use latentfarm_common::nats::done::DoneLog;
use latentfarm_common::nats::lease::Lease;
use latentfarm_common::nats::tasks::TaskQueue;
use latentfarm_common::shutdown::{Phase, Shutdown};
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::job::{JobSpec, Timeline};
use latentfarm_common::wire::outcome::DoneRecord;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::intake::{Input, Intake};
use super::memory::ChunkMemory;
use super::memory::learned::Learned;
use super::notice::JobEvent;
use super::placing::{Placed, Unplaced};
use super::report::{JobReport, RetryClass};
use super::settings::{DispatchError, DispatchSettings};
use super::shortfall::OomNote;
use super::verify::{Verdict, Verifier};
use super::workers::Workers;
use super::{Ending, Farm, inputs};
use crate::job::attempt::Attempt;
use crate::job::chunk::{ChunkEvent, ChunkState};
use crate::job::state::{JobState, Outcome};
use crate::journal::{self, Entry, Journal};
use crate::plan::split::{ChunkFrames, split};
use crate::track::{Track, lookahead_frames};

const TICK: Duration = Duration::from_millis(500);

pub(super) struct Dispatcher<'a> {
    pub(super) farm: &'a Farm,
    pub(super) lease: &'a Lease,
    pub(super) queue: TaskQueue,
    pub(super) done_log: DoneLog,
    pub(super) spec: Arc<JobSpec>,
    pub(super) timeline: Arc<Timeline>,
    pub(super) settings: DispatchSettings,
    pub(super) state: JobState,
    pub(super) track: Track,
    pub(super) verifier: Verifier,
    pub(super) workers: Workers,
    /// Chunks of the backlog that have to wait.
    pub(super) not_before: BTreeMap<ChunkId, Instant>,
    /// Chunks that may have a task in the queue from an earlier attempt.
    pub(super) stale: BTreeSet<ChunkId>,
    /// Input blobs that are stored already.
    pub(super) stored: BTreeMap<ChunkId, BlobRef>,
    /// Chunks that an earlier coordinator had in its queue.
    pub(super) leftovers: BTreeMap<ChunkId, Attempt>,
    /// Records of these attempts and older ones do not count.
    pub(super) retracted: BTreeMap<ChunkId, Attempt>,
    /// The analysed prefix of the source that each render chunk needs.
    fronts: Vec<u64>,
    /// The length of the final track for which chunks were last released.
    released_to: Option<u64>,
    /// Records to be taken out of the done log, by chunk; until then the chunk is not published.
    pub(super) condemned: BTreeMap<ChunkId, u64>,
    /// Running chunks whose worker says that it is at something else, and since when.
    pub(super) dropped: BTreeMap<ChunkId, Instant>,
    /// Set while the farm does not take tasks.
    pub(super) trouble: Option<Trouble>,
    pub(super) retries: BTreeMap<RetryClass, u64>,
    /// Needs and rates, as tasks showed them.
    pub(super) learned: Learned,
    /// Render chunks that ran out of memory, by index.
    pub(super) memory: BTreeMap<u32, ChunkMemory>,
    /// How often a worker fell silent over a render chunk, by index.
    pub(super) losses: BTreeMap<u32, u32>,
    /// Where render chunks were published last.
    pub(super) placed: BTreeMap<ChunkId, Placed>,
    /// Render chunks that fit no live worker, by index.
    pub(super) unplaced: BTreeMap<u32, Unplaced>,
    /// Attempts that ran out of memory, in order, those of earlier runs first.
    pub(super) ooms: Vec<OomNote>,
    pub(super) journal: Journal,
    pub(super) observer: mpsc::UnboundedSender<JobEvent>,
    draining_since: Option<Instant>,
    next_reconcile: Instant,
}

/// The farm does not take tasks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trouble {
    pub(super) since: Instant,
    pub(super) again_at: Instant,
}

/// What a dispatcher is made of.
pub(super) struct Parts<'a> {
    pub(super) farm: &'a Farm,
    pub(super) lease: &'a Lease,
    pub(super) spec: Arc<JobSpec>,
    pub(super) timeline: Arc<Timeline>,
    pub(super) settings: DispatchSettings,
    pub(super) verifier: Verifier,
    pub(super) learned: Learned,
    pub(super) observer: mpsc::UnboundedSender<JobEvent>,
}

impl<'a> Dispatcher<'a> {
    pub(super) fn new(parts: Parts<'a>) -> Result<Self, DispatchError> {
        let (spec, timeline) = (parts.spec, parts.timeline);
        inputs::check(&spec, &timeline)?;
        let analyzed = inputs::analyzed_frames(&timeline);
        let analyze = split(analyzed, ChunkFrames::new(spec.analyze_frames)?);
        let render = split(spec.frames, ChunkFrames::new(spec.chunk_frames)?);
        let fronts = render
            .iter()
            .map(|range| inputs::front_of(&timeline, *range))
            .collect();
        let lookahead = lookahead_frames(&timeline.source_pts, spec.source.time_base);
        let pace = parts.settings.pace;
        Ok(Self {
            farm: parts.farm,
            lease: parts.lease,
            queue: TaskQueue::new(&parts.farm.connection, parts.farm.topology),
            done_log: DoneLog::new(&parts.farm.connection),
            state: JobState::new(analyze, render),
            track: Track::new(analyzed, lookahead, spec.model.resolution_px),
            verifier: parts.verifier,
            workers: Workers::new(pace.worker_silence, pace.tenant_patience),
            not_before: BTreeMap::new(),
            stale: BTreeSet::new(),
            stored: BTreeMap::new(),
            leftovers: BTreeMap::new(),
            retracted: BTreeMap::new(),
            fronts,
            released_to: None,
            condemned: BTreeMap::new(),
            dropped: BTreeMap::new(),
            trouble: None,
            retries: BTreeMap::new(),
            learned: parts.learned,
            memory: BTreeMap::new(),
            losses: BTreeMap::new(),
            placed: BTreeMap::new(),
            unplaced: BTreeMap::new(),
            ooms: Vec::new(),
            journal: Journal::open(&parts.settings.job_dir),
            observer: parts.observer,
            draining_since: None,
            next_reconcile: Instant::now() + pace.reconcile_every,
            settings: parts.settings,
            spec,
            timeline,
        })
    }

    /// Runs the job to its end.
    pub(super) async fn run(
        &mut self,
        mut verdicts: mpsc::UnboundedReceiver<Verdict>,
        mut shutdown: Shutdown,
    ) -> Result<Ending, DispatchError> {
        self.begin_journal();
        let first_done = self.take_stock().await?;
        let mut intake = Intake::open(&self.farm.connection, self.spec.id, first_done).await?;
        let mut stop = shutdown.clone();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for index in 0..u32::try_from(self.state.analyze.len()).unwrap_or(u32::MAX) {
            self.apply(self.chunk(Work::Analyze, index), ChunkEvent::Released, None);
        }
        loop {
            tokio::select! {
                Some(input) = intake.inputs.recv() => {
                    self.on_input(input).await;
                    while let Ok(input) = intake.inputs.try_recv() {
                        self.on_input(input).await;
                    }
                }
                Some(verdict) = verdicts.recv() => self.on_verdict(verdict).await,
                _ = ticks.tick() => self.on_tick().await,
                () = self.lease.lost() => return Err(DispatchError::LeaseLost),
                () = stop.reached(Phase::Stopping) => return Ok(self.interrupted()),
                () = shutdown.reached(Phase::Draining), if self.draining_since.is_none() => self.drain().await,
            }
            if !self.lease.is_held() {
                return Err(DispatchError::LeaseLost);
            }
            self.release();
            if let Some(ending) = self.ending() {
                return Ok(ending);
            }
            if self.draining_since.is_none() {
                self.publish().await?;
            }
        }
    }

    async fn on_input(&mut self, input: Input) {
        match input {
            Input::Done {
                chunk,
                sequence,
                record,
            } => self.on_done(chunk, sequence, record).await,
            Input::Event(event) => self.on_event(event),
            Input::Heartbeat(heartbeat) => self.on_heartbeat(heartbeat),
        }
    }

    async fn on_tick(&mut self) {
        let now = Instant::now();
        self.expire_workers(now);
        if now >= self.next_reconcile {
            self.next_reconcile = now + self.settings.pace.reconcile_every;
            self.reconcile().await;
        }
        self.execute_condemned().await;
        self.keep_learned(false).await;
        self.tell_progress();
    }

    /// Only the coordinator writes what is learned.
    pub(super) async fn keep_learned(&mut self, last: bool) {
        let connection = &self.farm.connection;
        let is_up = connection.client.connection_state() == State::Connected;
        if is_up && self.lease.is_held() {
            self.learned.write(connection, last).await;
        }
    }

    /// Render chunks whose frames' track is final may go. None goes before it is known that the video has a
    /// face at all, or that it has none.
    fn release(&mut self) {
        let no_face_is_fine = self.track.is_complete() && self.may_render_untouched();
        if !self.track.has_face() && !no_face_is_fine {
            return;
        }
        let ready = self.track.ready();
        if self.released_to == Some(ready) {
            return;
        }
        self.released_to = Some(ready);
        let waiting: Vec<(u32, FrameRange)> = self
            .state
            .render
            .iter()
            .filter(|(index, _, state)| {
                matches!(state, ChunkState::Waiting { .. }) && self.fronts[*index as usize] <= ready
            })
            .map(|(index, range, _)| (index, range))
            .collect();
        for (index, range) in waiting {
            let event = match inputs::readiness(&self.timeline, &self.track, range) {
                inputs::Readiness::Open => continue,
                inputs::Readiness::Ready => ChunkEvent::Released,
                inputs::Readiness::Blocked(frame) => ChunkEvent::Blocked {
                    reason: format!(
                        "the faces around source frame {frame} are unknown: their analysis was given up"
                    ),
                },
            };
            self.apply(self.chunk(Work::Render, index), event, None);
        }
    }

    /// Without any face: allowed by the user, or part of the video could not be looked at.
    fn may_render_untouched(&self) -> bool {
        self.settings.allow_no_face || self.state.analyze.counts().quarantined > 0
    }

    fn ending(&self) -> Option<Ending> {
        if !self.verifier.under_way().is_empty() {
            return None;
        }
        if self.track.is_complete() && !self.track.has_face() && !self.may_render_untouched() {
            return Some(Ending::NoFace);
        }
        match self.state.outcome() {
            Some(Outcome::Complete) => Some(Ending::Complete),
            Some(Outcome::Incomplete { quarantined }) => Some(Ending::Incomplete { quarantined }),
            Some(Outcome::Failed { quarantined }) => Some(Ending::Failed { quarantined }),
            None => {
                let since = self.draining_since?;
                let running = self.state.analyze.counts().running + self.state.render.counts().running;
                let over = running == 0 || since.elapsed() >= self.settings.pace.drain_limit;
                over.then(|| self.interrupted())
            }
        }
    }

    fn interrupted(&self) -> Ending {
        let counts = self.state.render.counts();
        Ending::Interrupted {
            frames_done: counts.frames_done,
            frames: counts.frames,
        }
    }

    /// Recalls what an earlier run found out, and notes that this one begins.
    fn begin_journal(&mut self) {
        let folder = &self.settings.job_dir;
        match journal::read(folder) {
            Ok(lines) => self.recall(&lines),
            Err(error) => tracing::warn!(%error, "the journal of the earlier run cannot be read"),
        }
        self.journal.note(Entry::RunBegins {
            job: self.spec.id.to_string(),
            epoch: self.lease.epoch(),
            analyze_chunks: self.state.analyze.len(),
            render_chunks: self.state.render.len(),
            frames: self.spec.frames,
            chunk_frames: self.spec.chunk_frames,
            cpu_fallback: self.settings.cpu_fallback.to_string(),
            unplaceable_wait_seconds: self.settings.unplaceable_wait.as_secs(),
        });
    }

    /// Takes nothing new: what is queued goes, what is under way finishes.
    async fn drain(&mut self) {
        self.draining_since = Some(Instant::now());
        for work in [Work::Analyze, Work::Render] {
            let queued: Vec<u32> = self
                .state
                .of(work)
                .iter()
                .filter(|(_, _, state)| matches!(state, ChunkState::Queued { .. }))
                .map(|(index, _, _)| index)
                .collect();
            for index in queued {
                self.remove_tasks(self.chunk(work, index)).await;
            }
        }
    }

    pub(super) fn chunk(&self, work: Work, index: u32) -> ChunkId {
        let job = self.spec.id;
        ChunkId { job, work, index }
    }

    /// Verified records of the render chunks, in frame order.
    pub(super) fn records(&self) -> Vec<Arc<DoneRecord>> {
        let records = self.state.render.iter().filter_map(|(_, _, state)| match state {
            ChunkState::Done { record, .. } => Some(Arc::clone(record)),
            ChunkState::Waiting { .. }
            | ChunkState::Backlog { .. }
            | ChunkState::Queued { .. }
            | ChunkState::Running { .. }
            | ChunkState::Quarantined { .. } => None,
        });
        records.collect()
    }

    pub(super) fn report(&self) -> JobReport {
        JobReport::new(
            &self.state,
            &self.track,
            &self.timeline,
            self.spec.audio.silence,
            self.retries.clone(),
            self.ooms.clone(),
        )
    }
}
