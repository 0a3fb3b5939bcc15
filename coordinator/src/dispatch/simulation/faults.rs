//! The processes of a run, and what happens to them and to the farm.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use latentfarm_common::ids::{ChunkId, WorkKind, WorkerId};
use latentfarm_common::nats::signature::Signature;
use latentfarm_common::tags::Tags;
use latentfarm_common::wire::memory::RenderMemory;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::coordinator;
use super::gate::{Gate, Gated};
use super::machine::{Flaw, Machine, Seat};
use super::worker::Worker;
use super::world::{State, World};
use crate::job::test_support::done_record;

/// The number of coordinators, of which one has the lease.
const COORDINATORS: usize = 2;
/// The most workers of a run.
const MOST_WORKERS: usize = 8;

struct Process {
    gate: Arc<Gate>,
    handle: JoinHandle<()>,
}

/// What puts an end to a fault.
#[derive(Clone, Debug)]
enum Mend {
    GoOn(Arc<Gate>),
    StartCoordinator(usize),
    StartWorker(WorkerId, Machine),
    ConnectCoordinator(usize),
    ConnectWorker(WorkerId),
    FreeMemory(WorkerId),
}

/// All processes of the farm.
pub(super) struct Farm {
    world: Arc<World>,
    coordinators: BTreeMap<usize, Process>,
    workers: BTreeMap<WorkerId, Process>,
    mends: Vec<(Instant, Mend)>,
    names: u64,
}

impl Drop for Farm {
    fn drop(&mut self) {
        for process in self.coordinators.values().chain(self.workers.values()) {
            process.handle.abort();
        }
    }
}

impl Farm {
    pub(super) fn new(world: &Arc<World>) -> Self {
        let mut farm = Self {
            world: Arc::clone(world),
            coordinators: BTreeMap::new(),
            workers: BTreeMap::new(),
            mends: Vec::new(),
            names: 0,
        };
        for number in 0..COORDINATORS {
            farm.start_coordinator(number);
        }
        for _ in 0..farm.draw(|state| state.random.within(1, 5)) {
            farm.join();
        }
        farm
    }

    fn draw<T>(&self, draw: impl FnOnce(&mut State) -> T) -> T {
        self.world.with(draw)
    }

    fn start_coordinator(&mut self, number: usize) {
        let gate = Arc::<Gate>::default();
        let running = coordinator::run(Arc::clone(&self.world), number, Arc::clone(&gate));
        let handle = tokio::spawn(Gated::new(&gate, running).of_coordinator(number));
        self.coordinators.insert(number, Process { gate, handle });
    }

    fn join(&mut self) {
        let machine = self.draw(|state| Machine::draw(&mut state.random));
        let name = self.name();
        self.start_worker(name, machine);
    }

    fn name(&mut self) -> WorkerId {
        self.names += 1;
        format!("w{}", self.names).parse().unwrap()
    }

    fn start_worker(&mut self, name: WorkerId, machine: Machine) {
        self.draw(|state| {
            state.recorder.log(|| format!("{name} starts: {machine:?}"));
            state.seats.insert(name.clone(), Seat::new(machine));
        });
        let worker = Worker {
            world: Arc::clone(&self.world),
            name: name.clone(),
        };
        let gate = Arc::<Gate>::default();
        let handle = tokio::spawn(Gated::new(&gate, worker.run()));
        self.workers.insert(name, Process { gate, handle });
    }

    /// Makes a fault happen.
    pub(super) fn happen(&mut self, fault: &'static str) {
        let now = Instant::now();
        let names: Vec<WorkerId> = self.workers.keys().cloned().collect();
        let (worker, number, long) = self.draw(|state| {
            let worker = (!names.is_empty()).then(|| state.random.pick(&names));
            let number = usize::try_from(state.random.below(COORDINATORS as u64)).unwrap();
            (worker, number, now + state.random.ms(500, 45_000))
        });
        let Some(worker) = worker else {
            if fault == "a worker joins" {
                self.draw(|state| state.recorder.count(fault));
                self.join();
            }
            return;
        };
        self.draw(|state| {
            state.recorder.count(fault);
            state
                .recorder
                .log(|| format!("  ({worker}, coordinator {number})"));
        });
        match fault {
            "a coordinator is killed" => {
                if let Some(process) = self.coordinators.remove(&number) {
                    process.handle.abort();
                    self.mends.push((long, Mend::StartCoordinator(number)));
                }
            }
            "a coordinator is stopped for a while" => self.stop(number, long),
            "a coordinator is cut off" => {
                self.draw(|state| _ = state.cut_off.insert(number, now));
                self.mends.push((long, Mend::ConnectCoordinator(number)));
            }
            "a coordinator drains" => self.draw(|state| _ = state.asked_to_drain.insert(number)),
            "a worker is killed" => self.kill(&worker, worker.clone(), long),
            "a worker is killed and starts under another name" => {
                let other = self.name();
                self.kill(&worker, other, long);
            }
            "a worker is stopped for a while" => {
                let Process { gate, .. } = &self.workers[&worker];
                gate.stop();
                self.mends.push((long, Mend::GoOn(Arc::clone(gate))));
                self.seat(&worker, |seat| seat.awake_since = None);
            }
            "a worker is cut off" => {
                self.seat(&worker, |seat| (seat.is_cut_off, seat.awake_since) = (true, None));
                self.mends.push((long, Mend::ConnectWorker(worker)));
            }
            "a worker leaves" => self.seat(&worker, |seat| seat.is_asked_to_leave = true),
            "a worker joins" if self.workers.len() < MOST_WORKERS => self.join(),
            "a worker rests" => self.seat(&worker, |seat| seat.rests_until = Some(long)),
            "other programs take memory" => {
                let taken = self.draw(|state| state.random.pick(&[500, 2000, 5000, 20_000]));
                self.seat(&worker, |seat| (seat.taken_mib, seat.taken_since) = (taken, now));
                self.mends.push((long, Mend::FreeMemory(worker)));
            }
            _ => self.draw(|state| of_the_farm(state, fault)),
        }
    }

    fn stop(&mut self, number: usize, until: Instant) {
        if let Some(Process { gate, .. }) = self.coordinators.get(&number) {
            gate.stop();
            self.mends.push((until, Mend::GoOn(Arc::clone(gate))));
        }
    }

    fn kill(&mut self, worker: &WorkerId, next: WorkerId, at: Instant) {
        if let Some(process) = self.workers.remove(worker) {
            process.handle.abort();
            let machine = self.draw(|state| state.seats[worker].machine.clone());
            self.seat(worker, |seat| seat.awake_since = None);
            self.mends.push((at, Mend::StartWorker(next, machine)));
        }
    }

    fn seat(&self, worker: &WorkerId, act: impl FnOnce(&mut Seat)) {
        self.draw(|state| state.seats.get_mut(worker).map(act));
    }

    /// Does what is due, and returns when the next is. Workers that have ended start again some time.
    pub(super) fn mend(&mut self, all: bool) -> Option<Instant> {
        let now = Instant::now();
        let ended = self
            .workers
            .extract_if(.., |_, process| process.handle.is_finished());
        let ended: Vec<WorkerId> = ended.map(|(worker, _)| worker).collect();
        for worker in ended {
            let (machine, at) = self.draw(|state| {
                let seat = state.seats.get_mut(&worker).unwrap();
                seat.awake_since = None;
                (seat.machine.clone(), now + state.random.ms(500, 20_000))
            });
            self.mends.push((at, Mend::StartWorker(worker, machine)));
        }
        let due = self.mends.extract_if(.., |(at, _)| all || *at <= now);
        for (_, mend) in due.collect::<Vec<_>>() {
            match mend {
                Mend::GoOn(gate) => gate.go_on(),
                Mend::StartCoordinator(number) => self.start_coordinator(number),
                Mend::StartWorker(name, machine) => self.start_worker(name, machine),
                Mend::ConnectCoordinator(number) => self.draw(|state| _ = state.cut_off.remove(&number)),
                Mend::ConnectWorker(name) => self.seat(&name, |seat| seat.is_cut_off = false),
                Mend::FreeMemory(name) => {
                    self.seat(&name, |seat| (seat.taken_mib, seat.taken_since) = (0, now));
                }
            }
        }
        self.mends.iter().map(|(at, _)| *at).min()
    }

    /// Ends all faults: every process runs, flawed machines are replaced, and the operator lets the jobs go on.
    pub(super) fn calm(&mut self) {
        self.draw(|state| {
            state.recorder.log(|| "the faults are over".to_owned());
            state.rates.end();
            state.asked_to_drain.clear();
            state.calm_since = Some(Instant::now());
            for job in state.jobs.values_mut() {
                job.is_paused = false;
            }
            for seat in state.seats.values_mut() {
                seat.rests_until = None;
            }
        });
        self.mend(true);
        let flawed = self.draw(|state| {
            let flawed = state
                .seats
                .iter()
                .filter(|(_, seat)| seat.machine.flaw != Flaw::None);
            flawed
                .map(|(name, seat)| (name.clone(), seat.machine.clone()))
                .collect::<Vec<_>>()
        });
        for (name, machine) in flawed {
            if let Some(process) = self.workers.remove(&name) {
                process.handle.abort();
            }
            let flaw = Flaw::None;
            self.start_worker(name, Machine { flaw, ..machine });
        }
        if !self.draw(|state| state.random.chance(700)) {
            return;
        }
        self.draw(|state| state.has_large_machines = true);
        for (kind, host_mib, device_mib) in [("gpu one", None, Some(48_000)), ("cpu", Some(48_000), None)] {
            let machine = Machine {
                kind,
                capacity: RenderMemory { host_mib, device_mib },
                frame_ms: 100,
                tags: Tags::from("eu".parse().ok()),
                flaw: Flaw::None,
                holds: 1,
            };
            let name = self.name();
            self.start_worker(name, machine);
        }
    }
}

/// What happens to the farm, and not to a process.
fn of_the_farm(state: &mut State, fault: &str) {
    let jobs: Vec<_> = state.jobs.keys().copied().collect();
    let sequences: Vec<u64> = state.queue.entries.keys().copied().collect();
    match fault {
        "all tasks vanish" => state.queue.entries.clear(),
        "a task vanishes" | "a task is doubled" if !sequences.is_empty() => {
            let sequence = state.random.pick(&sequences);
            if fault == "a task vanishes" {
                state.queue.end(sequence);
            } else {
                let entry = state.queue.entries[&sequence].clone();
                state.queue.store(entry.queue, &entry.task);
            }
        }
        _ if jobs.is_empty() => {}
        "a record is forged" | "a record is garbled" => {
            let job = state.random.pick(&jobs);
            let chunks = state.jobs[&job].spec.frames / 16;
            let index = u32::try_from(state.random.below(chunks)).unwrap();
            let chunk = ChunkId {
                job,
                work: WorkKind::Render,
                index,
            };
            let workers: Vec<WorkerId> = state.seats.keys().cloned().collect();
            let worker = state.random.pick(&workers);
            let attempt = latentfarm_common::ids::Attempt {
                epoch: state.lease.epoch(),
                number: u32::try_from(state.random.below(4)).unwrap(),
            };
            let record = (fault == "a record is forged").then(|| done_record(chunk, attempt, worker));
            state.commit(chunk, record, Signature::Invalid("it does not fit"));
        }
        _ => {
            let job = state.random.pick(&jobs);
            let priority = u8::try_from(state.random.below(3)).unwrap();
            let Some(job) = state.jobs.get_mut(&job) else {
                return;
            };
            match fault {
                "a job is cancelled" => job.is_cancelled = true,
                "a job is paused" => job.is_paused = true,
                "a job goes on" => job.is_paused = false,
                "a job gets another priority" => job.settings.priority = priority,
                _ => {}
            }
        }
    }
}

/// The time until the next fault.
pub(super) fn until_next(state: &mut State) -> Duration {
    state.random.ms(50, 6000)
}
