//! The machines of workers: what they have, how they are, and what of it a worker reports.

use std::collections::VecDeque;
use std::sync::Arc;

use latentfarm_common::ids::WorkerId;
use latentfarm_common::numeric_kind::NumericKind;
use latentfarm_common::queues::{Available, Queue, fitting};
use latentfarm_common::tags::Tags;
use latentfarm_common::wire::memory::RenderMemory;
use latentfarm_common::wire::outcome::{Heartbeat, TaskProgress, WorkerCommand, WorkerState};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::random::Random;
use super::task_queue::Delivery;

/// What a worker does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    None,
    /// It fails everything.
    Fails,
    /// It says of every input that it cannot be used.
    RefusesInputs,
    /// It renders other frames than others of its kind.
    WrongFrames,
    /// It is unfit for every task.
    Unfit,
}

/// A machine with its worker.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    /// The name of its numeric kind.
    pub(super) kind: &'static str,
    /// What it has for render tasks, in MiB.
    pub(super) capacity: RenderMemory,
    pub(super) frame_ms: u64,
    pub(super) tags: Tags,
    pub(super) flaw: Flaw,
    /// The number of tasks that it holds besides the one that it runs.
    pub(super) holds: usize,
}

impl Machine {
    pub(super) fn draw(random: &mut Random) -> Self {
        let (kind, capacity, frame_ms) = match random.below(5) {
            0 | 1 => {
                let gpu = random.pick(&[3000, 8000, 24_000]);
                ("gpu one", (None, Some(gpu)), random.within(20, 200))
            }
            2 => ("gpu two", (Some(6000), Some(16_000)), random.within(20, 200)),
            _ => {
                let host = random.pick(&[2500, 6000, 16_000]);
                ("cpu", (Some(host), None), random.within(200, 1500))
            }
        };
        let flaw = if random.chance(250) {
            random.pick(&[Flaw::Fails, Flaw::RefusesInputs, Flaw::WrongFrames, Flaw::Unfit])
        } else {
            Flaw::None
        };
        Self {
            kind,
            capacity: RenderMemory {
                host_mib: capacity.0,
                device_mib: capacity.1,
            },
            frame_ms,
            tags: if random.chance(400) {
                Tags::from("eu".parse().ok())
            } else {
                Tags::NONE
            },
            flaw,
            holds: usize::try_from(random.below(3)).unwrap(),
        }
    }

    pub(super) fn numeric_kind(&self) -> NumericKind {
        NumericKind::of(self.kind)
    }

    /// What it offers while other programs have so much of its memory.
    pub(super) fn available(&self, taken_mib: u64) -> Available {
        let left = |mib: Option<u64>| mib.map(|mib| mib.saturating_sub(taken_mib));
        Available {
            analyze: true,
            memory: RenderMemory {
                host_mib: left(self.capacity.host_mib),
                device_mib: left(self.capacity.device_mib),
            },
        }
    }
}

/// A worker as it is now.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) machine: Machine,
    pub(super) state: WorkerState,
    pub(super) task: Option<TaskProgress>,
    pub(super) finishing: Vec<TaskProgress>,
    pub(super) held: VecDeque<Delivery>,
    pub(super) finished: u64,
    /// The tasks that it failed since it did one.
    pub(super) failed_in_a_row: u32,
    /// The memory that other programs have, in MiB.
    pub(super) taken_mib: u64,
    /// Since when they have so much.
    pub(super) taken_since: Instant,
    pub(super) problem: Option<String>,
    pub(super) commands: VecDeque<WorkerCommand>,
    pub(super) notify: Arc<Notify>,
    pub(super) is_cut_off: bool,
    pub(super) is_asked_to_leave: bool,
    pub(super) rests_until: Option<Instant>,
    pub(super) set_aside_until: Option<Instant>,
    /// Since when its heartbeats reach the server without a break; `None` if they do not.
    pub(super) awake_since: Option<Instant>,
    /// When it last reported that it was unfit.
    pub(super) unfit_at: Option<Instant>,
}

impl Seat {
    pub(super) fn new(machine: Machine) -> Self {
        Self {
            machine,
            state: WorkerState::Starting,
            task: None,
            finishing: Vec::new(),
            held: VecDeque::new(),
            finished: 0,
            failed_in_a_row: 0,
            taken_mib: 0,
            taken_since: Instant::now(),
            problem: None,
            commands: VecDeque::new(),
            notify: Arc::default(),
            is_cut_off: false,
            is_asked_to_leave: false,
            rests_until: None,
            set_aside_until: None,
            awake_since: None,
            unfit_at: None,
        }
    }

    pub(super) fn queues(&self) -> Vec<Queue> {
        let Machine { tags, .. } = &self.machine;
        let kind = self.machine.numeric_kind();
        fitting(&self.machine.available(self.taken_mib), Some(kind), tags)
    }

    pub(super) fn heartbeat(&self, worker: &WorkerId) -> Heartbeat {
        let capacity = if self.state == WorkerState::Starting {
            RenderMemory::default()
        } else {
            self.machine.capacity
        };
        Heartbeat {
            state: self.state,
            problem: self.problem.clone(),
            kind: Some(self.machine.numeric_kind()),
            tags: self.machine.tags.clone(),
            capacity,
            available: self.machine.available(self.taken_mib),
            task: self.task.clone(),
            finishing: self.finishing.clone(),
            held: self.held.iter().map(|delivery| delivery.task.chunk).collect(),
            finished: self.finished,
            ..Heartbeat::starting(worker.clone(), self.machine.kind.to_owned())
        }
    }
}
