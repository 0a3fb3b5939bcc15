//! The simulated worker: it pulls tasks, runs them for as long as its machine takes, and commits what came out, in the order
//! of the real one. It does what commands ask for, and fails as its machine and the run have it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use latentfarm_common::ids::WorkerId;
use latentfarm_common::nats::signature::Signature;
use latentfarm_common::nats::topology::MAX_DELIVER;
use latentfarm_common::queues::ResourceClass;
use latentfarm_common::wire::outcome::{
    DoneRecord, Event, EventKind, Failure, TaskProgress, TaskStage, WorkerCommand, WorkerState,
};
use latentfarm_common::wire::task::{Task, TaskBody};
use tokio::time::{Instant, sleep, timeout};

use super::machine::{Flaw, Seat};
use super::outcome::{self, Outcome};
use super::task_queue::Delivery;
use super::world::{State, World, latency};

const HEARTBEAT: Duration = Duration::from_secs(2);
/// How often a worker that waits for tasks looks for some.
const POLL: Duration = Duration::from_secs(3);
const STEP: Duration = Duration::from_millis(500);
/// A worker that fails one task after another rests between them, longer each time.
const REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_mins(1);

/// A worker on its machine.
#[derive(Clone)]
pub(super) struct Worker {
    pub(super) world: Arc<World>,
    pub(super) name: WorkerId,
}

impl Worker {
    /// Runs until the worker has left, or has died of a task.
    pub(super) async fn run(self) {
        let beating = self.clone();
        tokio::select! {
            biased;
            () = beating.beat() => {}
            () = self.work() => {}
        }
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        self.world.with(act)
    }

    /// Does something with what is known of this worker.
    fn seat<T>(&self, act: impl FnOnce(&mut Seat) -> T) -> T {
        self.with(|state| act(state.seats.get_mut(&self.name).unwrap()))
    }

    async fn beat(&self) {
        loop {
            self.send_heartbeat();
            sleep(HEARTBEAT).await;
        }
    }

    fn send_heartbeat(&self) {
        self.with(|state| {
            let seat = state.seats.get_mut(&self.name).unwrap();
            if seat.is_cut_off {
                return;
            }
            seat.awake_since.get_or_insert_with(Instant::now);
            let heartbeat = seat.heartbeat(&self.name);
            state.publish_heartbeat(&heartbeat);
        });
    }

    /// Waits until the link to the server is up.
    async fn up(&self) {
        while self.seat(|seat| seat.is_cut_off) {
            sleep(STEP).await;
        }
    }

    async fn work(&self) {
        sleep(Duration::from_secs(1)).await;
        self.seat(|seat| seat.state = WorkerState::Idle);
        loop {
            self.obey(None);
            if self.seat(|seat| seat.is_asked_to_leave) {
                self.seat(|seat| seat.state = WorkerState::Left);
                self.up().await;
                self.send_heartbeat();
                self.with(|state| state.recorder.count("a worker has left"));
                return;
            }
            self.up().await;
            if self.is_off_duty() {
                sleep(STEP).await;
                continue;
            }
            let Some(delivery) = self.next() else {
                self.seat(|seat| seat.state = WorkerState::Idle);
                let notify = self.seat(|seat| Arc::clone(&seat.notify));
                let _news = timeout(POLL, notify.notified()).await;
                // Whose request is first is a matter of chance.
                let pause = self.with(|state| state.random.ms(1, 50));
                sleep(pause).await;
                continue;
            };
            latency(&self.world).await;
            if !self.take(delivery).await {
                self.with(|state| state.recorder.count("a worker has died of a task"));
                return;
            }
        }
    }

    /// Whether the worker takes no tasks now, by its own settings or as the coordinator asks.
    fn is_off_duty(&self) -> bool {
        let now = Instant::now();
        self.seat(|seat| {
            seat.rests_until.take_if(|until| *until <= now);
            seat.set_aside_until.take_if(|until| *until <= now);
            let state = if seat.rests_until.is_some() {
                WorkerState::Resting
            } else if seat.set_aside_until.is_some() {
                WorkerState::SetAside
            } else {
                return false;
            };
            (seat.state, seat.problem) = (state, Some("off duty".to_owned()));
            true
        })
    }

    /// The task that is run next: one that is held, or one of the queues that fit.
    fn next(&self) -> Option<Delivery> {
        let held = self.seat(|seat| seat.held.pop_front());
        held.or_else(|| {
            self.with(|state| {
                let queues = state.seats[&self.name].queues();
                let mut queues = queues.into_iter();
                queues.find_map(|queue| pull(state, queue, &self.name))
            })
        })
    }

    /// Does what commands ask for. Returns whether the task that runs is to be given up.
    fn obey(&self, running: Option<&Task>) -> bool {
        let now = Instant::now();
        self.with(|state| {
            let seat = state.seats.get_mut(&self.name).unwrap();
            let (mut gives_up, mut given_back) = (false, Vec::new());
            if seat.is_asked_to_leave {
                given_back.extend(seat.held.drain(..));
            }
            while let Some(command) = seat.commands.pop_front() {
                let is_meant = |task: &Task| match &command {
                    WorkerCommand::GiveBack(chunk) | WorkerCommand::Abandon(chunk) => task.chunk == *chunk,
                    WorkerCommand::Cancel(job) => task.chunk.job == *job,
                    WorkerCommand::Drain | WorkerCommand::SetAside { .. } => true,
                    WorkerCommand::FreeMemory => false,
                };
                let (meant, kept): (VecDeque<_>, VecDeque<_>) = seat
                    .held
                    .drain(..)
                    .partition(|held: &Delivery| is_meant(&held.task));
                seat.held = kept;
                given_back.extend(meant);
                if let WorkerCommand::SetAside { pause_ms, .. } = &command {
                    seat.set_aside_until = Some(now + Duration::from_millis(*pause_ms));
                }
                let stops = matches!(command, WorkerCommand::Cancel(_) | WorkerCommand::Abandon(_));
                gives_up |= stops && running.is_some_and(is_meant);
            }
            for delivery in given_back {
                give_back(state, &delivery, Duration::ZERO);
                state.recorder.count("a held task is given back");
            }
            gives_up
        })
    }

    /// Takes a task that was delivered. False if the worker has died of it.
    async fn take(&self, delivery: Delivery) -> bool {
        let task = &delivery.task;
        let lacks = self
            .seat(|seat| task.excluded.contains(&self.name) || !seat.machine.tags.cover(&task.needed_tags));
        if lacks {
            self.with(|state| state.recorder.count("a task is for others"));
            if delivery.deliveries + 1 >= MAX_DELIVER {
                self.report(task, EventKind::Released);
            }
            self.with(|state| give_back(state, &delivery, Duration::from_secs(1)));
            return true;
        }
        let is_done = self.with(|state| state.records.by_chunk.contains_key(&task.chunk));
        if is_done {
            self.with(|state| state.queue.end(delivery.sequence));
            return true;
        }
        let drawn = self.with(|state| outcome::draw(state, &self.name, task));
        self.begin(&delivery);
        let is_given_up = self.spend(&delivery, drawn.time).await;
        self.up().await;
        self.seat(|seat| seat.task = None);
        if is_given_up {
            self.report(task, EventKind::Released);
            self.with(|state| {
                state.recorder.count("a task is given up");
                state.queue.end(delivery.sequence);
            });
            return true;
        }
        match drawn.outcome {
            Outcome::Dies => return false,
            Outcome::GivesBack => {
                self.report(task, EventKind::Released);
                self.with(|state| give_back(state, &delivery, Duration::ZERO));
            }
            Outcome::Fails(failure) => self.fail(&delivery, failure).await,
            Outcome::Renders(record) => self.commit(&delivery, *record).await,
        }
        true
    }

    /// Reports that a task is begun, and takes more from its queue.
    fn begin(&self, delivery: &Delivery) {
        let task = &delivery.task;
        self.with(|state| {
            state.recorder.log(|| {
                let (name, attempt, queue) = (task.chunk, task.attempt, delivery.queue);
                format!(
                    "  {} begins {name} {attempt} of {queue}, delivery {}",
                    self.name, delivery.deliveries
                )
            });
            let wanted = match delivery.queue.lane.class {
                ResourceClass::Analyze => 0,
                ResourceClass::Cpu(_) | ResourceClass::Gpu(_) => state.seats[&self.name].machine.holds,
            };
            while state.seats[&self.name].held.len() < wanted {
                let Some(held) = pull(state, delivery.queue, &self.name) else {
                    break;
                };
                let seat = state.seats.get_mut(&self.name).unwrap();
                seat.held.push_back(held);
            }
            let seat = state.seats.get_mut(&self.name).unwrap();
            seat.state = WorkerState::Working;
            seat.problem = None;
            seat.task = Some(progress(delivery));
        });
        self.report(task, EventKind::Started);
    }

    /// Works on a task for so long. Returns whether it is to be given up.
    async fn spend(&self, delivery: &Delivery, time: Duration) -> bool {
        let (begun, mut spent) = (Instant::now(), Duration::ZERO);
        while spent < time {
            sleep(STEP.min(time.saturating_sub(spent))).await;
            spent = begun.elapsed();
            if self.obey(Some(&delivery.task)) {
                return true;
            }
            self.with(|state| {
                let now = Instant::now();
                let seat = state.seats.get_mut(&self.name).unwrap();
                if let Some(task) = &mut seat.task {
                    let share = spent.as_secs_f64() / time.as_secs_f64();
                    task.frames_done = if share < 0.5 { 0 } else { task.frames_total / 2 };
                }
                if !seat.is_cut_off {
                    let held: Vec<u64> = seat.held.iter().map(|held| held.sequence).collect();
                    for sequence in held.into_iter().chain([delivery.sequence]) {
                        state.queue.in_progress(sequence, &self.name, now);
                    }
                }
            });
        }
        false
    }

    fn report(&self, task: &Task, kind: EventKind) -> bool {
        let event = Event {
            chunk: task.chunk,
            attempt: task.attempt,
            worker: self.name.clone(),
            kind,
        };
        self.with(|state| !state.seats[&self.name].is_cut_off && state.publish_event(&event))
    }

    /// Reports a failure and ends the task, unless the report is lost or the worker is unfit.
    async fn fail(&self, delivery: &Delivery, failure: Failure) {
        let is_unfit = matches!(failure, Failure::WorkerUnfit { .. });
        if let Failure::WorkerUnfit { message } = &failure {
            self.seat(|seat| {
                (seat.state, seat.problem) = (WorkerState::Unfit, Some(message.clone()));
                seat.unfit_at = Some(Instant::now());
            });
        }
        let is_stored = self.report(&delivery.task, EventKind::Failed(failure));
        self.with(|state| {
            if is_unfit || !is_stored {
                give_back(state, delivery, Duration::from_secs(5));
            } else {
                state.queue.end(delivery.sequence);
            }
        });
        let failed = self.seat(|seat| {
            seat.failed_in_a_row += 1;
            seat.failed_in_a_row
        });
        if failed > 1 || is_unfit {
            self.with(|state| {
                let held = std::mem::take(&mut state.seats.get_mut(&self.name).unwrap().held);
                for delivery in held {
                    give_back(state, &delivery, Duration::ZERO);
                }
            });
            sleep((REST * (1 << failed.min(10))).min(LONGEST_REST)).await;
        }
    }

    /// Stores a result, writes its record, and answers for the task.
    async fn commit(&self, delivery: &Delivery, record: DoneRecord) {
        self.seat(|seat| seat.finishing.push(progress(delivery)));
        let pause = self.with(|state| {
            let is_late = state.fault("a result is committed late");
            if is_late {
                state.random.ms(2000, 20_000)
            } else {
                state.random.ms(5, 200)
            }
        });
        sleep(pause).await;
        self.up().await;
        let is_first = self.with(|state| state.commit(record.chunk, Some(record), Signature::Missing));
        latency(&self.world).await;
        self.with(|state| {
            // Without the answer to its commit the worker looks it up, and comes to the same.
            if state.fault("the answer to a commit is lost") {
                give_back(state, delivery, Duration::from_secs(5));
            } else {
                state.queue.end(delivery.sequence);
            }
            let seat = state.seats.get_mut(&self.name).unwrap();
            seat.finishing.clear();
            seat.finished += u64::from(is_first);
            seat.failed_in_a_row = 0;
        });
    }
}

fn pull(state: &mut State, queue: latentfarm_common::queues::Queue, worker: &WorkerId) -> Option<Delivery> {
    let skip = usize::from(state.fault("a task overtakes others")) * 2;
    state.queue.pull(queue, worker, skip, Instant::now())
}

/// Gives a task back to its queue, or ends it before its last delivery.
fn give_back(state: &mut State, delivery: &Delivery, delay: Duration) {
    if delivery.deliveries + 1 >= MAX_DELIVER {
        state.recorder.count("a task was delivered too often");
        state.queue.end(delivery.sequence);
    } else {
        state.queue.give_back(delivery.sequence, Instant::now() + delay);
    }
}

fn progress(delivery: &Delivery) -> TaskProgress {
    let range = match &delivery.task.body {
        TaskBody::Analyze(task) => task.range,
        TaskBody::Render(task) => task.range,
    };
    TaskProgress {
        chunk: delivery.task.chunk,
        attempt: delivery.task.attempt,
        frames_done: 0,
        frames_total: u32::try_from(range.len()).unwrap(),
        stage: TaskStage::Starting,
        queue: Some(delivery.queue),
        plan: None,
    }
}

impl Flaw {
    /// The failure of every task, if the flaw is one.
    pub(super) fn failure(self) -> Option<Failure> {
        let message = "the machine is broken".to_owned();
        match self {
            Self::None | Self::WrongFrames => None,
            Self::Fails => Some(Failure::Transient { message }),
            Self::RefusesInputs => Some(Failure::BadInput { message }),
            Self::Unfit => Some(Failure::WorkerUnfit { message }),
        }
    }
}
