//! The farm outside the coordinators: its server with the task queue, the done log, the events and the lease, and what is
//! known of every process. All of it changes under one lock, at points in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use latentfarm_common::digest::Digest;
use latentfarm_common::ids::{Attempt, ChunkId, JobId, WorkerId};
use latentfarm_common::nats::signature::Signature;
use latentfarm_common::queues::Queue;
use latentfarm_common::wire::outcome::{DoneRecord, Event, Heartbeat, WorkerCommand};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::jobs::StoredJob;
use super::lease::LeaseKey;
use super::machine::Seat;
use super::random::Random;
use super::rates::Rates;
use super::recorder::Recorder;
use super::records::{Records, Stored};
use super::task_queue::TaskQueue;
use crate::dispatch::farm_message::FarmMessage;

/// The farm of one run.
#[derive(Debug)]
pub(super) struct World(Mutex<State>);

#[derive(Debug)]
pub(super) struct State {
    pub(super) random: Random,
    pub(super) rates: Rates,
    pub(super) recorder: Recorder,
    pub(super) queue: TaskQueue,
    pub(super) records: Records,
    /// The attempts whose publish was not answered.
    pub(super) unanswered: BTreeSet<(ChunkId, Attempt)>,
    pub(super) lease: LeaseKey,
    pub(super) jobs: BTreeMap<JobId, StoredJob>,
    pub(super) seats: BTreeMap<WorkerId, Seat>,
    /// The artifacts that do not verify.
    pub(super) broken: BTreeSet<Digest>,
    /// The artifacts whose pictures look wrong.
    pub(super) odd: BTreeSet<Digest>,
    /// The workers of which a coordinator has stored the keys.
    pub(super) signers: BTreeSet<WorkerId>,
    /// The coordinators whose link to the server is down, with the time since when.
    pub(super) cut_off: BTreeMap<usize, Instant>,
    /// The coordinators that are asked to end when what runs is done.
    pub(super) asked_to_drain: BTreeSet<usize>,
    /// Since when there are no faults any more.
    pub(super) calm_since: Option<Instant>,
    /// Whether machines have joined at the end of the faults that can do everything.
    pub(super) has_large_machines: bool,
    /// Whether results are rendered again by other workers.
    pub(super) has_spot_checks: bool,
    listeners: Vec<Listener>,
    /// The number of artifacts that were made.
    pub(super) artifacts: u64,
}

/// A subscription of a coordinator. What it gets comes in order, some time later.
#[derive(Debug)]
struct Listener {
    coordinator: usize,
    /// The job whose events and records it gets; `None` if it gets the heartbeats of workers.
    job: Option<JobId>,
    to: mpsc::UnboundedSender<(Instant, FarmMessage)>,
    last: Instant,
}

impl World {
    pub(super) fn new(seed: u64, is_logged: bool) -> Self {
        let mut random = Random::new(seed);
        let rates = Rates::draw(&mut random);
        let has_spot_checks = random.chance(250);
        Self(Mutex::new(State {
            rates,
            random,
            recorder: Recorder::new(is_logged),
            queue: TaskQueue::default(),
            records: Records::default(),
            unanswered: BTreeSet::new(),
            lease: LeaseKey::default(),
            jobs: BTreeMap::new(),
            seats: BTreeMap::new(),
            broken: BTreeSet::new(),
            odd: BTreeSet::new(),
            signers: BTreeSet::new(),
            cut_off: BTreeMap::new(),
            asked_to_drain: BTreeSet::new(),
            calm_since: None,
            has_large_machines: false,
            has_spot_checks,
            listeners: Vec::new(),
            artifacts: 0,
        }))
    }

    /// Does something with the state, at once.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.0.lock().unwrap())
    }
}

impl State {
    /// Draws whether a fault happens now, and counts it.
    pub(super) fn fault(&mut self, name: &'static str) -> bool {
        let happens = self.random.chance(self.rates.of(name));
        if happens {
            self.recorder.count(name);
        }
        happens
    }

    /// Begins to pass messages to a coordinator. Those of the log from `first_done` on come first.
    pub(super) fn listen(
        &mut self,
        coordinator: usize,
        job: Option<(JobId, u64)>,
    ) -> mpsc::UnboundedReceiver<(Instant, FarmMessage)> {
        let (to, messages) = mpsc::unbounded_channel();
        self.listeners.retain(|listener| !listener.to.is_closed());
        self.listeners.push(Listener {
            coordinator,
            job: job.map(|(job, _)| job),
            to,
            last: Instant::now(),
        });
        if let Some((job, first_done)) = job {
            let index = self.listeners.len() - 1;
            let missed = self.records.list(|chunk| chunk.job == job);
            for stored in missed.iter().filter(|stored| stored.sequence >= first_done) {
                self.deliver(index, FarmMessage::Done(stored.entry()));
            }
        }
        messages
    }

    /// Passes a message to one listener, after a while.
    fn deliver(&mut self, index: usize, message: FarmMessage) {
        let mut lag = self.random.ms(1, 40);
        if self.fault("a message is late") {
            lag += self.random.ms(200, 12_000);
        }
        let listener = &mut self.listeners[index];
        listener.last = listener.last.max(Instant::now() + lag);
        // One that has ended gets nothing.
        let _gone = listener.to.send((listener.last, message));
    }

    fn deliver_to_followers(&mut self, job: JobId, message: impl Fn() -> FarmMessage) {
        for index in 0..self.listeners.len() {
            if self.listeners[index].job == Some(job) {
                self.deliver(index, message());
                if self.fault("a message comes twice") {
                    self.deliver(index, message());
                }
            }
        }
    }

    /// Stores an event. Returns false if it could not be stored.
    pub(super) fn publish_event(&mut self, event: &Event) -> bool {
        if self.fault("an event is lost") {
            return false;
        }
        self.recorder.log(|| {
            let kind = format!("{:?}", event.kind);
            format!(
                "  event of {}: {} {} {kind:.90}",
                event.worker, event.chunk, event.attempt
            )
        });
        self.deliver_to_followers(event.chunk.job, || FarmMessage::Event(event.clone()));
        true
    }

    /// Sends a heartbeat to the coordinators that listen.
    pub(super) fn publish_heartbeat(&mut self, heartbeat: &Heartbeat) {
        for index in 0..self.listeners.len() {
            let Listener { coordinator, job, .. } = self.listeners[index];
            if job.is_some() || self.cut_off.contains_key(&coordinator) || self.fault("a heartbeat is lost") {
                continue;
            }
            self.signers.insert(heartbeat.worker.clone());
            let heartbeat = heartbeat.clone();
            self.deliver(index, FarmMessage::Heartbeat { heartbeat, key: None });
        }
    }

    /// Makes a record its chunk's result, unless there is one. Returns whether it was the first.
    pub(super) fn commit(
        &mut self,
        chunk: ChunkId,
        record: Option<DoneRecord>,
        signature: Signature,
    ) -> bool {
        let by = record
            .as_ref()
            .map(|record| (record.worker.clone(), record.attempt));
        let Some(stored) = self.records.commit(chunk, record, signature) else {
            self.recorder.count("a result comes second");
            return false;
        };
        self.recorder
            .log(|| format!("  record {} of {} by {by:?}", stored.sequence, chunk));
        self.deliver_to_followers(chunk.job, || FarmMessage::Done(stored.entry()));
        true
    }

    /// Removes a record from the log, as a coordinator of this epoch asks.
    pub(super) fn retract(&mut self, chunk: ChunkId, sequence: u64, epoch: u64) {
        let Some(Stored { record, .. }) = self.records.retract(chunk, sequence) else {
            return;
        };
        self.recorder
            .log(|| format!("  epoch {epoch} removes record {sequence} of {chunk}"));
        let of = record.map(|record| record.attempt);
        let (standing, counted) = (self.lease.epoch(), self.jobs.get(&chunk.job));
        let counted = counted.and_then(|job| job.counted.get(&chunk).copied());
        if counted.is_some_and(|(by, attempt)| by == standing && by != epoch && Some(attempt) == of) {
            // It was asked for in time, and came late: its process was stopped in between.
            self.recorder
                .count("an old coordinator removes a record that counts");
        }
    }

    /// Sends a command to one worker, or to all.
    pub(super) fn command(&mut self, to: Option<&WorkerId>, command: &WorkerCommand) {
        self.recorder.log(|| format!("  command to {to:?}: {command:?}"));
        let names: Vec<WorkerId> = self.seats.keys().cloned().collect();
        for name in names {
            if to.is_some_and(|to| *to != name) || self.fault("a command is lost") {
                continue;
            }
            if let Some(seat) = self.seats.get_mut(&name) {
                seat.commands.push_back(command.clone());
                seat.notify.notify_one();
            }
        }
    }

    /// Has the workers that wait look into a queue.
    pub(super) fn announce(&mut self, queue: Queue) {
        self.recorder.log(|| format!("  queue {queue} is announced"));
        if !self.fault("a command is lost") {
            for seat in self.seats.values() {
                seat.notify.notify_one();
            }
        }
    }
}

/// A short time of the network.
pub(super) async fn latency(world: &World) {
    let pause = world.with(|state| {
        if state.fault("an answer is slow") {
            state.random.ms(100, 3000)
        } else {
            state.random.ms(0, 8)
        }
    });
    if pause > Duration::ZERO {
        tokio::time::sleep(pause).await;
    }
}
