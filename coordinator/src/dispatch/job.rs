//! One job: its chunks, the track of its video, and what follows from each event. It knows neither the queue nor the
//! workers; the dispatcher passes on what concerns it.

use std::sync::Arc;

use latentfarm_common::error::one_line;
use latentfarm_common::ids::{Attempt, ChunkId, ChunkName, Work, WorkerId};
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::WireError;
use latentfarm_common::wire::job::{JobSpec, Timeline};
use latentfarm_common::wire::memory::OutOfMemory;
use latentfarm_common::wire::outcome::{DoneRecord, Failure, FrameObservation, Heartbeat};
use latentfarm_common::wire::task::Task;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::error::DispatchError;
use super::inputs;
use super::log::{JobLog, OomNote};
use super::notice::{JobEvent, Progress};
use super::release::ReleaseGate;
use super::report::JobReport;
use super::settings::{JobSettings, Pace};
use super::workers::Workers;
use crate::job::chunk::event::ChunkEvent;
use crate::job::chunk::state::{Phase, Step};
use crate::job::chunks::{Chunks, Counts, Ending};
use crate::job::record::{ChunkRecord, Unplaced};
use crate::job::retry::RetryClass;
use crate::journal::{self, Entry};
use crate::plan::split::{ChunkFrames, split};

pub(super) struct Job {
    pub(super) spec: JobSpec,
    pub(super) timeline: Timeline,
    pub(super) settings: JobSettings,
    pub(super) chunks: Chunks,
    pub(super) gate: ReleaseGate,
    pub(super) log: JobLog,
    /// A render chunk has moved since [`Job::take_moved`] was asked.
    moved: bool,
    pace: Pace,
}

impl Job {
    pub(super) fn new(
        spec: JobSpec,
        timeline: Timeline,
        settings: JobSettings,
        pace: Pace,
        observer: mpsc::UnboundedSender<JobEvent>,
    ) -> Result<Self, DispatchError> {
        inputs::check(&spec, &timeline)?;
        let analyzed = inputs::analyzed_frames(&timeline);
        let analyze = split(analyzed, ChunkFrames::new(spec.analyze_frames)?);
        let render = split(spec.frames, ChunkFrames::new(spec.chunk_frames)?);
        Ok(Self {
            gate: ReleaseGate::new(&spec, &timeline, analyzed, &render),
            chunks: Chunks::new(spec.id, analyze, render),
            log: JobLog::open(&settings.job_dir, observer),
            moved: false,
            pace,
            spec,
            timeline,
            settings,
        })
    }

    /// Recalls what an earlier run found out about the chunks, and notes that this one begins.
    pub(super) fn begin(&mut self, epoch: u64) {
        match journal::read(&self.settings.job_dir) {
            Ok(lines) => lines.iter().for_each(|line| self.recall(&line.entry)),
            Err(error) => tracing::warn!(%error, "the journal of the earlier run cannot be read"),
        }
        self.log.begin(&self.spec, &self.settings, &self.chunks, epoch);
    }

    fn recall(&mut self, entry: &Entry) {
        let (Entry::Failed { chunk, queue, .. }, Some(note)) = (entry, OomNote::of(entry)) else {
            return;
        };
        let job = self.spec.id;
        let ChunkName { work, index } = *chunk;
        // Without a queue it was an attempt that did not count.
        if work == Work::Render
            && let Some(queue) = queue
            && let Some(record) = self.chunks.get_mut(ChunkId { job, work, index })
        {
            record.note_oom(&self.settings.needs, &note.oom, Some(queue.class));
        }
        self.log.recall(note);
    }

    /// Applies an event to one chunk and does what follows from it.
    pub(super) fn apply(&mut self, chunk: ChunkId, event: ChunkEvent) {
        let Some(record) = self.chunks.get_mut(chunk) else {
            tracing::warn!(%chunk, "the job has no such chunk");
            return;
        };
        let (range, attempt, cause) = (record.range, record.state().attempt, event.cause());
        let is_reported = matches!(event, ChunkEvent::Failed { .. });
        let next = match record.apply(event) {
            Step::Moved(next) => next,
            Step::Ignored => return,
            Step::Denied(denied) => {
                tracing::warn!(%chunk, %denied, "a report does not fit what is known");
                return;
            }
        };
        self.moved |= chunk.work == Work::Render;
        if let Some(cause) = &cause
            && next.phase != Phase::Waiting
        {
            let is_loss = cause.class == RetryClass::WorkerLost && chunk.work == Work::Render;
            let then = is_loss.then(|| record.note_loss(&self.settings.needs)).flatten();
            self.log.on_end(chunk, attempt, cause, is_reported, then);
        }
        if matches!(next.phase, Phase::Quarantined { .. }) && chunk.work == Work::Analyze {
            self.gate.track.lose(range);
        }
        let requeued = cause.filter(|_| next.phase == Phase::Backlog).map(|cause| {
            let delay = self.pace.delay(cause.class.wait(), next.tries.total());
            record.not_before = Some(Instant::now() + delay);
            (cause.reason, delay)
        });
        self.log.on_move(chunk, range, next, requeued);
    }

    /// Whether a render chunk has moved since this was last asked, so that chunks have to be placed anew.
    pub(super) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Render chunks whose frames' track is final may go.
    pub(super) fn release(&mut self) {
        let may_be_untouched = self.may_render_untouched();
        let (timeline, render) = (&self.timeline, &self.chunks.render);
        for (chunk, event) in self.gate.open(timeline, render, may_be_untouched) {
            self.apply(chunk, event);
        }
    }

    /// Analyses need nothing: they may all go at once.
    pub(super) fn release_analyses(&mut self) {
        for chunk in self.chunks.ids(|record| record.id.work == Work::Analyze) {
            self.apply(chunk, ChunkEvent::Released);
        }
    }

    /// Without any face: allowed by the user, or part of the video could not be looked at.
    fn may_render_untouched(&self) -> bool {
        self.settings.allow_no_face || Counts::of(&self.chunks.analyze).quarantined > 0
    }

    /// How the job ended; `None` while something is being verified, or open unless a drain `is_over`.
    pub(super) fn ending(&self, is_over: bool) -> Option<Ending> {
        if self.chunks.iter().any(|record| record.in_check) {
            return None;
        }
        if self.gate.is_without_face() && !self.may_render_untouched() {
            return Some(Ending::NoFace);
        }
        let interrupted = || is_over.then(|| self.interrupted());
        self.chunks.ending().or_else(interrupted)
    }

    pub(super) fn interrupted(&self) -> Ending {
        let counts = Counts::of(&self.chunks.render);
        Ending::Interrupted {
            frames_done: counts.frames_done,
            frames: counts.frames,
        }
    }

    /// Chunks that a worker is at work on.
    pub(super) fn running(&self) -> usize {
        Counts::of(&self.chunks.analyze).running + Counts::of(&self.chunks.render).running
    }

    /// A record in the done log: it counts once it is verified. Returns what is to be verified of it, if anything.
    pub(super) fn examine(
        &mut self,
        chunk: ChunkId,
        sequence: u64,
        record: Result<DoneRecord, WireError>,
    ) -> Option<(DoneRecord, FrameRange)> {
        let Some(known) = self.chunks.get_mut(chunk) else {
            tracing::warn!(%chunk, "a done record is about a chunk that the job does not have");
            return None;
        };
        if matches!(known.state().phase, Phase::Done { .. }) {
            return None;
        }
        let current = known.state().attempt;
        let (attempt, reason) = match record {
            Err(error) => (current, one_line(&error)),
            Ok(record) if record.chunk != chunk => (current, format!("it names {}", record.chunk)),
            Ok(record) if known.retracted.is_some_and(|last| record.attempt <= last) => {
                let reason = "it is older than a result that was taken back".to_owned();
                (record.attempt, reason)
            }
            Ok(record) => {
                known.in_check = true;
                return Some((record, known.range));
            }
        };
        self.retract(chunk, sequence, attempt, reason);
        None
    }

    /// Counts a verified record; says what is wrong if it does not fit. Returns whether a newer attempt is queued
    /// that nobody needs any more.
    pub(super) fn count(
        &mut self,
        record: &Arc<DoneRecord>,
        observations: Vec<FrameObservation>,
        epoch: u64,
    ) -> Result<bool, String> {
        let chunk = record.chunk;
        let Some(known) = self.chunks.get(chunk) else {
            return Ok(false);
        };
        let (range, is_queued) = (known.range, known.state().phase == Phase::Queued);
        if chunk.work == Work::Analyze {
            let added = self.gate.track.add(range, observations);
            added.map_err(|error| one_line(&error))?;
        }
        if record.attempt.epoch == epoch {
            self.log.on_done(record, range.len());
        }
        let record = Arc::clone(record);
        self.apply(chunk, ChunkEvent::DoneSeen { record });
        Ok(is_queued)
    }

    /// Gives up on a record, so that the chunk can be done again once the record is out of the done log.
    pub(super) fn retract(&mut self, chunk: ChunkId, sequence: u64, attempt: Attempt, reason: String) {
        tracing::warn!(%chunk, %attempt, reason, "taking a result back");
        self.apply(chunk, ChunkEvent::Retracted { attempt, reason });
        if let Some(record) = self.chunks.get_mut(chunk) {
            record.retracted = record.retracted.max(Some(attempt));
            record.pending_retraction = Some(sequence);
        }
    }

    /// A worker said that it began a chunk.
    pub(super) fn on_started(&mut self, chunk: ChunkId, attempt: Attempt, worker: WorkerId) {
        self.log.on_started(chunk, attempt, &worker);
        self.apply(chunk, ChunkEvent::Started { attempt, worker });
    }

    /// A worker reported that an attempt failed. Returns what it ran out of, if that says something of the needs.
    pub(super) fn on_failed(
        &mut self,
        chunk: ChunkId,
        attempt: Attempt,
        worker: &WorkerId,
        failure: Failure,
    ) -> Option<OutOfMemory> {
        tracing::debug!(%chunk, %worker, ?failure, "an attempt failed");
        let record = self.chunks.get_mut(chunk)?;
        let is_current = record.state().is_current(attempt);
        let published = record.published.filter(|_| is_current);
        let class = published.map(|fit| fit.class);
        let oom = match &failure {
            // An analysis needs no engine: there is no leaner plan for it.
            Failure::OutOfMemory(oom) if is_current && chunk.work == Work::Render => Some(oom.clone()),
            Failure::OutOfMemory(_)
            | Failure::NoRoom { .. }
            | Failure::BadInput { .. }
            | Failure::WorkerUnfit { .. }
            | Failure::Transient { .. }
            | Failure::EngineLost { .. } => None,
        };
        let then = match (&oom, &failure) {
            _ if !is_current => Some("another attempt counts already".to_owned()),
            (Some(oom), _) => {
                let raised = record.note_oom(&self.settings.needs, oom, class);
                Some(raised.text(oom.kind))
            }
            (None, Failure::NoRoom { .. }) => Some("nothing was tried: it is tried again".to_owned()),
            (None, _) => None,
        };
        let entry = Entry::Failed {
            chunk: chunk.name(),
            attempt,
            worker: worker.clone(),
            failure: failure.clone(),
            queue: class.map(|class| self.settings.queue(class)),
            then,
        };
        if is_current {
            self.log.note_failure(entry);
        } else {
            self.log.note_late_failure(entry);
        }
        self.apply(chunk, ChunkEvent::Failed { attempt, failure });
        oom
    }

    /// A worker that is still at work on a task of an earlier coordinator keeps it. One that was started anew under
    /// its name has forgotten its chunk, which is given to another long before the queue would.
    pub(super) fn on_heartbeat(&mut self, heartbeat: &Heartbeat, now: Instant) {
        let worker = &heartbeat.worker;
        let working_on = heartbeat.task.as_ref();
        if let Some(task) = working_on
            && let Some(record) = self.chunks.get_mut(task.chunk)
            && let Some(attempt) = record.inherited.take_if(|attempt| *attempt == task.attempt)
        {
            record.not_before = None;
            let worker = worker.clone();
            self.apply(task.chunk, ChunkEvent::Started { attempt, worker });
        }
        for chunk in self.running_on(worker) {
            let Some(record) = self.chunks.get_mut(chunk) else {
                continue;
            };
            if working_on.is_some_and(|task| task.chunk == chunk) {
                record.silent_since = None;
            } else if now - *record.silent_since.get_or_insert(now) > self.pace.worker_silence / 2 {
                let worker = worker.clone();
                self.apply(chunk, ChunkEvent::WorkerLost { worker });
            }
        }
    }

    /// A worker is gone, and with it what it was at work on.
    pub(super) fn on_worker_gone(&mut self, worker: &WorkerId) {
        for chunk in self.running_on(worker) {
            let worker = worker.clone();
            self.apply(chunk, ChunkEvent::WorkerLost { worker });
        }
    }

    fn running_on(&self, worker: &WorkerId) -> Vec<ChunkId> {
        let is_lost = |record: &ChunkRecord| record.state().is_running_on(worker) && !record.in_check;
        self.chunks.ids(is_lost)
    }

    /// A task is in the queue.
    pub(super) fn on_enqueued(&mut self, task: &Task) {
        let attempt = task.attempt;
        if let Some(record) = self.chunks.get_mut(task.chunk)
            && let Some(planned) = record.planned
        {
            record.published = Some(planned.fit);
            let queue = self.settings.queue(planned.fit.class);
            self.log.on_placed(task, queue, planned);
        }
        self.apply(task.chunk, ChunkEvent::Enqueued { attempt });
    }

    /// The task of a chunk that nobody has begun was taken out of the queue, to be placed anew.
    pub(super) fn on_taken_back(&mut self, chunk: ChunkId, why: String) {
        let Some(record) = self.chunks.get_mut(chunk) else {
            return;
        };
        let attempt = record.state().attempt;
        record.not_before = Some(Instant::now() + self.pace.take_back_wait);
        if let Some(fit) = record.published.take() {
            let queue = self.settings.queue(fit.class);
            self.log.on_taken_back(chunk, attempt, queue, why);
        }
        self.apply(chunk, ChunkEvent::TakenBack { attempt });
    }

    /// Gives up the chunks that have waited for a bigger worker for too long.
    pub(super) fn give_up_unplaceable(&mut self) {
        let wait = self.settings.unplaceable_wait;
        let is_over = |unplaced: &&Unplaced| unplaced.since.elapsed() >= wait;
        let over = self.chunks.render.iter().filter_map(|record| {
            let unplaced = record.unplaced.as_ref().filter(is_over)?;
            Some((record.id, unplaced.text()))
        });
        for (chunk, text) in over.collect::<Vec<_>>() {
            let reason = format!("{text} (waited {:.0} s for a bigger node)", wait.as_secs_f64());
            self.apply(chunk, ChunkEvent::Blocked { reason });
        }
    }

    pub(super) fn notify_progress(&self, workers: &Workers) {
        let progress = Progress::of(&self.chunks, self.spec.id, workers);
        self.log.notify(JobEvent::Progress(progress));
    }

    pub(super) fn report(&self) -> JobReport {
        JobReport::new(
            &self.chunks,
            &self.gate.track,
            &self.timeline,
            self.spec.audio.silence,
            self.log.retries().clone(),
            self.log.ooms().to_vec(),
        )
    }
}
