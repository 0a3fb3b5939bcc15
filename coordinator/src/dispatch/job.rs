//! One job on the farm: its chunks, the speaker track of its video, and what follows from each event. A job
//! has no access to the queue or the workers; the dispatcher passes on what concerns it.

use std::collections::BTreeMap;
use std::sync::Arc;

use latentfarm_common::error::one_line;
use latentfarm_common::ids::{Attempt, ChunkId, WorkKind, WorkerId};
use latentfarm_common::wire::WireError;
use latentfarm_common::wire::job::{JobSpec, Timeline};
use latentfarm_common::wire::outcome::{DoneRecord, FrameObservation};
use latentfarm_common::wire::task::Task;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::border::Mouths;
use super::border_samples::BorderSamples;
use super::doubtful::DoubtfulResults;
use super::error::DispatchError;
use super::job_event::{JobEvent, Progress};
use super::job_waits::{self, JobWaits};
use super::log::JobLog;
use super::release::ReleaseGate;
use super::settings::{JobSettings, Timeouts};
use super::spot_checks::SpotChecks;
use super::task_inputs;
use super::unverified::Unverified;
use super::wait_reason::{self, FarmView, WaitReason};
use super::workers::Workers;
use crate::job::chunk::event::ChunkEvent;
use crate::job::chunk::state::{Phase, Step};
use crate::job::chunks::{Chunks, Counts, Ending};
use crate::job::record::Scheduled;
use crate::job::retry::RetryClass;
use crate::job::segments::Segments;
use crate::journal::{self, JournalEntry};
use crate::placement::Fit;
use crate::plan::split::{ChunkFrames, analysis_ranges, split};

pub(super) struct Job {
    pub(super) spec: JobSpec,
    pub(super) timeline: Timeline,
    pub(super) settings: JobSettings,
    pub(super) chunks: Chunks,
    /// The segments of the source video that have been cut.
    pub(super) segments: Segments,
    pub(super) gate: ReleaseGate,
    pub(super) log: JobLog,
    /// Whether a render chunk has changed its state since the last call of [`Job::take_moved`].
    moved: bool,
    pub(super) waits: JobWaits,
    pub(super) border_samples: BorderSamples,
    pub(super) spot_checks: SpotChecks,
    /// The records that wait until it is known what they were rendered from.
    pub(super) unverified: BTreeMap<ChunkId, Unverified>,
    pub(super) doubtful: DoubtfulResults,
    /// Whether nothing of the job is published.
    pub(super) is_paused: bool,
    pub(super) timeouts: Timeouts,
}

impl Job {
    pub(super) fn new(
        spec: JobSpec,
        timeline: Timeline,
        settings: JobSettings,
        timeouts: Timeouts,
        observer: mpsc::UnboundedSender<JobEvent>,
    ) -> Result<Self, DispatchError> {
        task_inputs::check(&spec, &timeline)?;
        let analyze = analysis_ranges(&spec)?;
        let render = split(spec.frames, ChunkFrames::new(spec.chunk_frames)?);
        Ok(Self {
            gate: ReleaseGate::new(&spec, &timeline, &render),
            chunks: Chunks::new(spec.id, analyze, render),
            segments: Segments::new(spec.source.frames),
            log: JobLog::open(&settings.job_dir, observer),
            moved: false,
            waits: JobWaits::default(),
            border_samples: BorderSamples::default(),
            spot_checks: SpotChecks::default(),
            unverified: BTreeMap::new(),
            doubtful: DoubtfulResults::default(),
            is_paused: false,
            timeouts,
            spec,
            timeline,
            settings,
        })
    }

    /// Restores from the journal which attempts of earlier runs ran out of memory, and logs that this run
    /// begins.
    pub(super) fn begin(&mut self, epoch: u64) {
        match journal::read(&self.settings.job_dir) {
            Ok(lines) => {
                for line in &lines {
                    let (chunks, needs) = (&mut self.chunks, &self.settings.needs);
                    self.log.restore(&line.entry, chunks, needs);
                }
            }
            Err(error) => tracing::warn!(%error, "the journal of the earlier run cannot be read"),
        }
        self.log.append(JournalEntry::RunBegins {
            job: self.spec.id,
            epoch,
            analyze_chunks: self.chunks.analyze.len(),
            render_chunks: self.chunks.render.len(),
            frames: self.spec.frames,
            chunk_frames: self.spec.chunk_frames,
            cpu_fallback: Some(self.settings.cpu_fallback),
            unplaceable_wait_seconds: self.settings.unplaceable_wait.as_secs(),
            needed_tags: self.settings.needed_tags.clone(),
        });
    }

    /// Applies an event to one chunk, and does what follows from it.
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
                tracing::warn!(%chunk, %denied, "a report contradicts the state of its chunk and is ignored");
                return;
            }
        };
        self.moved |= chunk.work == WorkKind::Render;
        if let Some(cause) = &cause
            && next.phase != Phase::Waiting
        {
            let is_loss = cause.class == RetryClass::WorkerLost && chunk.work == WorkKind::Render;
            let consequence = is_loss.then(|| record.record_loss(&self.settings.needs));
            *self.log.retries.entry(cause.class).or_default() += 1;
            if !is_reported {
                self.log.append(JournalEntry::Ended {
                    chunk: chunk.name(),
                    attempt,
                    reason: cause.reason.clone(),
                    consequence: consequence.flatten(),
                });
            }
        }
        if matches!(next.phase, Phase::Quarantined { .. }) && chunk.work == WorkKind::Analyze {
            self.gate.track.mark_missing(range);
        }
        let requeued = cause.filter(|_| next.phase == Phase::Backlog).map(|cause| {
            let delay = self.timeouts.delay(cause.class.delay(), next.tries.total());
            record.not_before = Some(Instant::now() + delay);
            (cause, delay)
        });
        // The wait of a chunk that is refused again and again is reported, and not each refusal.
        let at_most = self.settings.unplaceable_wait;
        match record.refusals.as_ref().filter(|refusals| refusals.is_wait()) {
            Some(refusals) if requeued.as_ref().is_some_and(|(cause, _)| cause.is_refusal()) => {
                self.log.on_refused(chunk, range, refusals, at_most);
            }
            _ => self.log.on_move(chunk, range, next, requeued),
        }
    }

    /// Whether a render chunk has changed its state since the last call, so that chunks have to be placed
    /// again.
    pub(super) fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// Releases the analyses whose source frames have been cut, and the render chunks for whose frames the
    /// speaker track is final.
    pub(super) fn release(&mut self) {
        let (covered, allow_passthrough) = (self.segments.covered(), self.may_pass_through());
        let (timeline, chunks) = (&self.timeline, &self.chunks);
        for (chunk, event) in self.gate.open(timeline, covered, chunks, allow_passthrough) {
            self.apply(chunk, event);
        }
    }

    /// Whether a video without a face may be rendered: by the settings, or as some analyses failed.
    fn may_pass_through(&self) -> bool {
        self.settings.allow_no_face || Counts::of(&self.chunks.analyze).quarantined > 0
    }

    /// What decides which mouth the job's frames show.
    pub(super) fn mouths(&self) -> Mouths<'_> {
        Mouths {
            timeline: &self.timeline,
            track: &self.gate.track,
            silence: self.spec.audio.silence,
        }
    }

    /// How the job ended; `None` while a chunk, a record or the video is open and no drain `is_over`.
    pub(super) fn ending(&self, is_over: bool) -> Option<Ending> {
        if let Some(reason) = self.segments.failure().map(str::to_owned) {
            return Some(Ending::NoVideo { reason });
        }
        if self.chunks.iter().any(|record| record.being_verified) {
            return None;
        }
        let is_cut = self.segments.is_complete();
        if is_cut && self.gate.is_without_face() && !self.may_pass_through() {
            return Some(Ending::NoFace);
        }
        let no_worker = |reason: &str| Ending::NoWorker {
            reason: reason.to_owned(),
        };
        let starved = || self.waits.starved().map(no_worker);
        let interrupted = || is_over.then(|| self.chunks.interrupted());
        let settled = self.chunks.ending().filter(|_| is_cut);
        if settled.is_some() && !is_over && !self.border_samples.is_settled() {
            return None;
        }
        settled.or_else(starved).or_else(interrupted)
    }

    /// Takes a record from the done log, which counts once it is verified. Returns the record if it has to be
    /// verified (see [`Job::prepare_to_verify`]); `None` if it is of no use.
    pub(super) fn on_done_record(
        &mut self,
        chunk: ChunkId,
        sequence: u64,
        record: Result<DoneRecord, WireError>,
    ) -> Option<DoneRecord> {
        let Some(known) = self.chunks.get_mut(chunk) else {
            tracing::warn!(%chunk, "a done record is about a chunk that the job does not have");
            return None;
        };
        let is_repeated = sequence <= known.last_record;
        known.last_record = known.last_record.max(sequence);
        if is_repeated || matches!(known.state().phase, Phase::Done { .. }) {
            return None;
        }
        let current = known.state().attempt;
        let (result, reason) = match record {
            Err(error) => ((current, None), one_line(&error)),
            Ok(record) if record.chunk != chunk => {
                let reason = format!("it is a record of {}", record.chunk);
                ((current, Some(record.worker)), reason)
            }
            Ok(record) if known.retracted.is_some_and(|last| record.attempt <= last) => {
                let reason = "it is older than a result that was retracted".to_owned();
                ((record.attempt, None), reason)
            }
            Ok(record) => {
                known.being_verified = true;
                return Some(record);
            }
        };
        self.retract(chunk, sequence, result, reason);
        None
    }

    /// Counts a verified record. Returns whether a newer attempt is queued, which is no longer needed, or the
    /// reason why the record does not fit the job.
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
        if chunk.work == WorkKind::Analyze {
            let added = self.gate.track.add(range, observations);
            added.map_err(|error| one_line(&error))?;
        }
        if record.attempt.epoch == epoch {
            self.log.record_done(JournalEntry::Done {
                chunk: chunk.name(),
                attempt: record.attempt,
                worker: record.worker.clone(),
                frames: range.len(),
                numerics_fingerprint: record.numerics_fingerprint.clone(),
                memory: record.memory.clone(),
            });
        }
        let record = Arc::clone(record);
        self.apply(chunk, ChunkEvent::DoneSeen { record });
        Ok(is_queued)
    }

    /// Rejects a record. Its chunk is rendered again once the record is removed from the done log.
    pub(super) fn retract(
        &mut self,
        chunk: ChunkId,
        sequence: u64,
        (attempt, worker): (Attempt, Option<WorkerId>),
        reason: String,
    ) {
        tracing::warn!(%chunk, %attempt, reason, "retracting a result");
        let retracted = ChunkEvent::Retracted {
            attempt,
            worker,
            reason,
        };
        self.apply(chunk, retracted);
        if let Some(record) = self.chunks.get_mut(chunk) {
            record.retracted = record.retracted.max(Some(attempt));
            record.pending_retraction = Some(sequence);
        }
    }

    /// Rejects a record that is not that of the worker which it names. Its attempt says nothing, so the result of a
    /// worker that has begun the chunk still counts; the attempt that is under way ends, because its worker may have
    /// given it up in favour of this record.
    pub(super) fn reject(&mut self, chunk: ChunkId, sequence: u64, reason: String) {
        let Some(record) = self.chunks.get_mut(chunk) else {
            return;
        };
        record.being_verified = false;
        record.pending_retraction = Some(sequence);
        let attempt = record.state().attempt;
        if record.state().is_under_way() {
            self.apply(chunk, ChunkEvent::Forged { attempt, reason });
        } else {
            *self.log.retries.entry(RetryClass::ForgedResult).or_default() += 1;
        }
    }

    /// Records that a task was stored in the queue.
    pub(super) fn on_enqueued(&mut self, task: &Task) {
        let attempt = task.attempt;
        if let Some(record) = self.chunks.get_mut(task.chunk)
            && let Some(Scheduled { fit, why }) = record.scheduled
        {
            record.published = Some(fit);
            let queue = self.settings.queue(fit.lane());
            self.log.on_placed(task.chunk, attempt, queue, &fit, why);
        }
        self.apply(task.chunk, ChunkEvent::Enqueued { attempt });
    }

    /// Records that a second task of a running chunk was stored in the queue.
    pub(super) fn on_backup(&mut self, chunk: ChunkId, attempt: Attempt, fit: &Fit) {
        if let Some(record) = self.chunks.get_mut(chunk) {
            record.backup = Some(attempt);
            record.last_backup = Some(attempt);
        }
        let queue = self.settings.queue(fit.lane());
        let why = "an idle worker is likely to be done with the chunk before the one that has it";
        self.log.on_placed(chunk, attempt, queue, fit, why);
    }

    /// Records that a task that no worker had begun was removed from its queue. Its chunk is placed again.
    pub(super) fn on_reassigned(&mut self, chunk: ChunkId, why: String) {
        let Some(record) = self.chunks.get_mut(chunk) else {
            return;
        };
        let attempt = record.state().attempt;
        record.not_before = Some(Instant::now() + self.timeouts.reassign_delay);
        if let Some(fit) = record.published.take() {
            let queue = self.settings.queue(fit.lane());
            tracing::info!(%chunk, %queue, why, "removed a task from its queue, to be placed again");
            self.log.append(JournalEntry::Reassigned {
                chunk: chunk.name(),
                attempt,
                queue,
                why,
            });
        }
        self.apply(chunk, ChunkEvent::Reassigned { attempt });
    }

    /// Gives up the chunks that have waited too long for a worker with more memory, and reports what the job
    /// waits for, if a report is due.
    pub(super) fn check_waits(&mut self, workers: &Workers, farm: FarmView<'_>, now: Instant) {
        let (render, at_most) = (&mut self.chunks.render, self.settings.unplaceable_wait);
        let is_up = farm.is_up() && !self.is_paused;
        let needed = &self.settings.needed_tags;
        for (chunk, reason) in job_waits::overdue(render, (workers, needed), is_up, at_most, now) {
            self.apply(chunk, ChunkEvent::Blocked { reason });
        }
        let reason = if self.is_paused {
            Some(WaitReason::Paused)
        } else {
            wait_reason::reason(&self.chunks, &self.settings.needed_tags, workers, farm)
                .or_else(|| wait_reason::of_video(&self.chunks, &self.segments))
                .or_else(|| self.wait_for_spot_checks(workers))
        };
        let event = self
            .waits
            .observe(reason, &self.chunks.render, &self.settings, now);
        if let Some(event) = event {
            self.log.notify(event);
        }
    }

    pub(super) fn notify_progress(&self, workers: &Workers) {
        let progress = Progress::of(&self.chunks, self.spec.id, workers, &self.settings.needed_tags);
        self.log.notify(JobEvent::Progress(progress));
    }
}
