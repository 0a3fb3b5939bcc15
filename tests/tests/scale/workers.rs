//! Workers without engines: the worker's own loop, whose tasks take the time that a simulation says and end with what a real
//! worker made of the same chunk of another job.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use farm_tests::Access;
use latentfarm_common::backoff::RetryLimit;
use latentfarm_common::blob::Store;
use latentfarm_common::ids::{ChunkId, JobId, WorkKind, WorkerId};
use latentfarm_common::nats::done::DoneLog;
use latentfarm_common::nats::{Connection, Identity, Role, connect};
use latentfarm_common::numeric_kind::NumericKind;
use latentfarm_common::queues::Available;
use latentfarm_common::shutdown::{self, Shutdown, Trigger};
use latentfarm_common::wire::memory::{OutOfMemory, RenderMemory};
use latentfarm_common::wire::outcome::{DoneBody, Failure, StageTimings, TaskStage};
use latentfarm_common::wire::task::{Task, TaskBody};
use latentfarm_worker::consume::{
    Artifact, Assignment, Finish, HeartbeatState, Settings, Summary, TaskOutput, TaskRunner, serve,
};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::sleep;

const DEVICE: &str = "cuda:0 simulated";

/// The results of a job that was rendered, by kind of work and index of the chunk.
#[derive(Debug)]
pub(crate) struct Recorded {
    results: BTreeMap<(WorkKind, u32), (DoneBody, Vec<u8>)>,
    fingerprint: String,
    kind: Option<NumericKind>,
}

impl Recorded {
    /// Reads the results of a complete job.
    pub(crate) fn of(access: &Access, job: JobId) -> Self {
        access.connected("observer", async |connection| {
            let store = Store::open_existing("nats://farm-media", Some(&connection.client));
            let store = store.expect("the store");
            let mut recorded = Self {
                results: BTreeMap::new(),
                fingerprint: String::new(),
                kind: None,
            };
            for entry in DoneLog::new(&connection).list(job).await.expect("the done log") {
                let record = entry.record.expect("a record");
                let artifact = store.get_bytes(&record.artifact).await.expect("an artifact");
                let at = (record.chunk.work, record.chunk.index);
                recorded.results.insert(at, (record.body, artifact));
                recorded.fingerprint = record.numerics_fingerprint;
                recorded.kind = record.kind;
            }
            recorded
        })
    }

    /// How many chunks of video were rendered.
    pub(crate) fn chunks(&self) -> usize {
        let works = self.results.keys().map(|(work, _)| work);
        works.filter(|work| **work == WorkKind::Render).count()
    }
}

/// What happened to the tasks of all workers.
#[derive(Debug, Default)]
pub(crate) struct Log {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the first task of each job was begun.
    first: BTreeMap<JobId, Instant>,
    /// The chunks that ran out of memory once.
    out_of_memory: BTreeSet<ChunkId>,
    /// How many chunks of video were rendered.
    rendered: usize,
    last: Option<Instant>,
}

impl Log {
    pub(crate) fn first_of(&self, job: JobId) -> Option<Instant> {
        self.state.lock().expect("the log").first.get(&job).copied()
    }

    /// When the first task was begun and the last chunk of video was rendered.
    pub(crate) fn span(&self) -> Option<(Instant, Instant)> {
        let state = self.state.lock().expect("the log");
        Some((*state.first.values().min()?, state.last?))
    }

    /// How many chunks of video were rendered.
    pub(crate) fn rendered(&self) -> usize {
        self.state.lock().expect("the log").rendered
    }
}

/// How a worker is.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    pub(crate) name: WorkerId,
    /// The machine whose key it has.
    pub(crate) key: String,
    pub(crate) memory_mib: u64,
    /// How long it takes for a chunk of video; the faces of a range take no time.
    pub(crate) chunk_time: Duration,
}

/// Runs the tasks of one worker.
struct Simulated {
    machine: Machine,
    recorded: Arc<Recorded>,
    log: Arc<Log>,
    /// Of so many chunks one runs out of memory at its first attempt; 0 for none.
    out_of_memory_each: u32,
}

impl Simulated {
    fn memory(&self) -> RenderMemory {
        RenderMemory {
            host_mib: None,
            device_mib: Some(self.machine.memory_mib),
        }
    }

    /// Whether the task runs out of memory: chunks by their index, once each.
    fn runs_out(&self, task: &Task) -> bool {
        let (chunk, each) = (task.chunk, self.out_of_memory_each);
        let is_chosen = each > 0 && chunk.work == WorkKind::Render && chunk.index % each == 0;
        is_chosen
            && self
                .log
                .state
                .lock()
                .expect("the log")
                .out_of_memory
                .insert(chunk)
    }
}

impl TaskRunner for Simulated {
    async fn available(&mut self) -> Available {
        Available {
            analyze: true,
            memory: self.memory(),
        }
    }

    async fn run(&mut self, assignment: Assignment<'_>) -> Result<Finish, Failure> {
        let begun = Instant::now();
        let task = assignment.task;
        let chunk = task.chunk;
        {
            let mut state = self.log.state.lock().expect("the log");
            state.first.entry(chunk.job).or_insert(begun);
        }
        let is_render = chunk.work == WorkKind::Render;
        let time = if is_render {
            self.machine.chunk_time
        } else {
            Duration::ZERO
        };
        let runs_out = self.runs_out(task);
        // Memory runs out somewhere in the middle of a chunk.
        let time = if runs_out { time / 2 } else { time };
        let until = begun + time;
        assignment.progress.report(0, TaskStage::Starting);
        while Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            sleep(left.min(Duration::from_secs(1))).await;
            assignment.progress.step();
            if *assignment.stop.borrow() {
                let message = "stopped".to_owned();
                return Err(Failure::Transient { message });
            }
        }
        if runs_out && let TaskBody::Render(render) = &task.body {
            let memory = &render.memory;
            let plan = memory.needs.fastest_within(memory.floor, self.machine.memory_mib);
            return Err(Failure::OutOfMemory(OutOfMemory {
                kind: memory.kind,
                device: DEVICE.to_owned(),
                stage: None,
                plan: plan.expect("a plan that fits: the queue says so"),
                needed_at_least_mib: None,
                free_before_mib: self.machine.memory_mib,
                suspected: false,
            }));
        }
        let found = self.recorded.results.get(&(chunk.work, chunk.index));
        let (body, artifact) = found.expect("a result of this chunk").clone();
        if is_render {
            let mut state = self.log.state.lock().expect("the log");
            state.rendered += 1;
            state.last = Some(Instant::now());
        }
        let output = TaskOutput {
            artifact: Artifact::Bytes(artifact),
            body,
            timings: StageTimings::default(),
            numerics_fingerprint: self.recorded.fingerprint.clone(),
            memory: None,
        };
        Ok(Box::pin(std::future::ready(Ok(output))))
    }
}

/// The workers of a farm, in this process. Dropping it kills them.
pub(crate) struct Workers {
    pub(crate) log: Arc<Log>,
    recorded: Arc<Recorded>,
    out_of_memory_each: u32,
    running: Vec<(Trigger, JoinHandle<Summary>)>,
    runtime: Runtime,
}

impl Workers {
    pub(crate) fn new(recorded: Recorded, out_of_memory_each: u32) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        Self {
            log: Arc::default(),
            recorded: Arc::new(recorded),
            out_of_memory_each,
            running: Vec::new(),
            runtime: runtime.expect("a runtime"),
        }
    }

    /// Starts a worker.
    pub(crate) fn start(&mut self, access: &Access, machine: Machine) {
        let identity = Identity {
            role: Role::Worker(machine.name.clone()),
            nkey_seed: Some(access.key(&format!("worker-{}", machine.key)).1),
            authority: None,
            client: None,
            name: machine.name.to_string(),
        };
        let url = access.url.clone();
        let connection = self.runtime.block_on(async {
            let connected = connect(&url, &identity, RetryLimit::Tries(3)).await;
            connected.expect("a connection")
        });
        let (trigger, shutdown, _drain) = shutdown::channel();
        let mut runner = Simulated {
            machine,
            recorded: Arc::clone(&self.recorded),
            log: Arc::clone(&self.log),
            out_of_memory_each: self.out_of_memory_each,
        };
        let kind = self.recorded.kind;
        let running = self
            .runtime
            .spawn(async move { work(connection, &mut runner, kind, shutdown).await });
        self.running.push((trigger, running));
    }

    /// Kills a worker: it says nothing more.
    pub(crate) fn kill(&mut self, index: usize) {
        self.running[index].1.abort();
    }

    /// Has all workers leave in order. Returns how many chunks they have finished.
    pub(crate) fn leave(self) -> u64 {
        for (trigger, _) in &self.running {
            trigger.drain();
        }
        let mut finished = 0;
        for (_, running) in self.running {
            // One that was killed has no summary.
            if let Ok(summary) = self.runtime.block_on(running) {
                finished += summary.finished;
            }
        }
        finished
    }
}

async fn work(
    connection: Connection,
    runner: &mut Simulated,
    kind: Option<NumericKind>,
    shutdown: Shutdown,
) -> Summary {
    let name = runner.machine.name.clone();
    let state = HeartbeatState::new(name.clone(), DEVICE.to_owned());
    let memory = runner.memory();
    let memory_mib = runner.machine.memory_mib;
    state.update(|heartbeat| {
        heartbeat.capacity = memory;
        heartbeat.available = Available {
            analyze: true,
            memory,
        };
        heartbeat.device_free_mib = memory_mib;
        heartbeat.device_total_mib = memory_mib;
    });
    let settings = Settings {
        kind,
        ..Settings::new(name)
    };
    // The future is large.
    let serving = Box::pin(serve(&connection, &settings, runner, &state, shutdown));
    let summary = serving.await.expect("a worker that serves");
    connection.close().await;
    summary
}
