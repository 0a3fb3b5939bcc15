//! The harness of the tests of the worker's loop: a farm with one worker, whose runner follows a script.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use latentfarm_common::backoff::Backoff;
use latentfarm_common::blob::Store;
use latentfarm_common::nats::done::DoneLog;
use latentfarm_common::nats::events::{Follower, StartFrom};
use latentfarm_common::nats::subjects::Subject;
use latentfarm_common::nats::tasks::TaskStream;
use latentfarm_common::queues::{Available, Queue};
use latentfarm_common::shutdown::{self, Trigger};
use latentfarm_common::tags::Tags;
use latentfarm_common::wire;
use latentfarm_common::wire::memory::RenderMemory;
use latentfarm_common::wire::outcome::{
    DoneBody, DoneRecord, Event, Failure, StageTimings, TaskStage, WorkerCommand,
};
use latentfarm_common::wire::task::Task;
use latentfarm_worker::consume::{
    Artifact, Assignment, Finish, HeartbeatState, OffDuty, Settings, Summary, TaskOutput, TaskRunner, serve,
};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::{Farm, LIMIT, chunk, eventually, job, queue, task, worker};

/// The action of the scripted runner on the next task.
#[derive(Clone)]
pub(crate) enum ScriptedAction {
    Finish,
    Fail(Failure),
    /// Runs until the loop requests a stop.
    WorkUntilStopped,
    /// Makes progress until it is notified, then finishes.
    FinishLater(Arc<Notify>),
    /// Lets go of the device at once, and finishes when it is notified.
    FinishBeside(Arc<Notify>),
}

/// A runner that follows a script, and finishes every task after the end of the script.
#[derive(Clone, Default)]
pub(crate) struct ScriptedRunner {
    pub(crate) script: Arc<Mutex<Vec<ScriptedAction>>>,
    pub(crate) ran: Arc<Mutex<Vec<Task>>>,
    /// How often the loop asked for memory.
    pub(crate) freed: Arc<AtomicU32>,
    /// The memory that it offers to render tasks.
    pub(crate) memory: RenderMemory,
    /// The memory that it offers once the loop has asked for the device.
    pub(crate) withheld: RenderMemory,
    /// How often the loop asked for the device, and had no task.
    pub(crate) asked: Arc<AtomicU32>,
    pub(crate) rested: Arc<AtomicU32>,
}

impl ScriptedRunner {
    pub(crate) fn with(actions: &[ScriptedAction]) -> Self {
        let script = actions.iter().rev().cloned().collect();
        Self {
            script: Arc::new(Mutex::new(script)),
            ran: Arc::default(),
            freed: Arc::default(),
            ..Self::default()
        }
    }

    pub(crate) fn runs(&self) -> usize {
        self.ran.lock().unwrap().len()
    }
}

impl TaskRunner for ScriptedRunner {
    async fn available(&mut self) -> Available {
        if self.asked.load(Ordering::SeqCst) > 0 && self.withheld != RenderMemory::default() {
            self.memory = std::mem::take(&mut self.withheld);
        }
        Available {
            analyze: true,
            memory: self.memory,
        }
    }

    fn withheld(&self) -> RenderMemory {
        self.withheld
    }

    fn need_device(&mut self) {
        self.asked.fetch_add(1, Ordering::SeqCst);
    }

    async fn rest(&mut self) {
        self.rested.fetch_add(1, Ordering::SeqCst);
    }

    async fn free_memory(&mut self) {
        self.freed.fetch_add(1, Ordering::SeqCst);
    }

    async fn run(&mut self, mut assignment: Assignment<'_>) -> Result<Finish, Failure> {
        self.ran.lock().unwrap().push(assignment.task.clone());
        assignment.progress.report(1, TaskStage::FaceAnalysis);
        let action = self
            .script
            .lock()
            .unwrap()
            .pop()
            .unwrap_or(ScriptedAction::Finish);
        let mut beside = None;
        match action {
            ScriptedAction::Finish => {}
            ScriptedAction::FinishBeside(go_on) => beside = Some(go_on),
            ScriptedAction::Fail(failure) => return Err(failure),
            ScriptedAction::FinishLater(go_on) => {
                let mut ticks = tokio::time::interval(Duration::from_millis(100));
                loop {
                    tokio::select! {
                        () = go_on.notified() => break,
                        _ = ticks.tick() => assignment.progress.step(),
                    }
                }
            }
            ScriptedAction::WorkUntilStopped => {
                assignment.stop.wait_for(|stop| *stop).await.unwrap();
                let message = "stopped".to_owned();
                return Err(Failure::Transient { message });
            }
        }
        let output = TaskOutput {
            artifact: Artifact::Bytes(assignment.task.chunk.to_string().into_bytes()),
            body: DoneBody::Analyze {
                frames: 16,
                with_face: 1,
            },
            timings: StageTimings::default(),
            numerics_fingerprint: "fake".to_owned(),
            memory: None,
        };
        Ok(Box::pin(async move {
            if let Some(go_on) = beside {
                go_on.notified().await;
            }
            Ok(output)
        }))
    }
}

/// A farm with one worker, whose loop runs in the background.
pub(crate) struct WorkerHarness {
    pub(crate) farm: Farm,
    pub(crate) task_stream: TaskStream,
    pub(crate) events: Follower,
    pub(crate) runner: ScriptedRunner,
    pub(crate) heartbeat_state: HeartbeatState,
    pub(crate) trigger: Trigger,
    /// Why the worker is off duty; `None` if it is not.
    pub(crate) off_duty: watch::Sender<Option<String>>,
    pub(crate) store: String,
    pub(crate) serving: JoinHandle<Summary>,
}

impl WorkerHarness {
    pub(crate) async fn start(actions: &[ScriptedAction]) -> Self {
        Self::on(Farm::start().await, actions).await
    }

    pub(crate) async fn on(farm: Farm, actions: &[ScriptedAction]) -> Self {
        Self::with(farm, ScriptedRunner::with(actions)).await
    }

    pub(crate) async fn with(farm: Farm, runner: ScriptedRunner) -> Self {
        Self::with_tags(farm, runner, Tags::NONE).await
    }

    pub(crate) async fn with_tags(farm: Farm, runner: ScriptedRunner, tags: Tags) -> Self {
        let connection = farm.worker("w1").await;
        let heartbeat_state = HeartbeatState::new(worker("w1"), "fake device".to_owned());
        let (trigger, shutdown, _drain) = shutdown::channel();
        let (off_duty, reason) = watch::channel(None);
        let settings = Settings {
            off_duty: OffDuty::of([reason]),
            tags,
            heartbeat_interval: Duration::from_millis(50),
            progress_interval: Duration::from_millis(200),
            unfit_backoff: Backoff::new(Duration::from_millis(10), Duration::from_millis(50)),
            ..Settings::new(worker("w1"))
        };
        let store = Store::file_url(&farm.dir.path().join("blobs")).unwrap();
        Store::open(&store, None).unwrap();
        let (mut own_runner, own_state) = (runner.clone(), heartbeat_state.clone());
        let serving = tokio::spawn(async move {
            // The future is large.
            let serving = Box::pin(serve(
                &connection,
                &settings,
                &mut own_runner,
                &own_state,
                shutdown,
            ));
            serving.await.unwrap()
        });
        Self {
            task_stream: TaskStream::new(&farm.coordinator, farm.topology),
            events: Follower::events(&farm.coordinator, None, StartFrom::Oldest)
                .await
                .unwrap(),
            farm,
            runner,
            heartbeat_state,
            trigger,
            off_duty,
            store,
            serving,
        }
    }

    pub(crate) fn task(&self, index: u32, attempt: u32) -> Task {
        task(chunk(index), attempt, &self.store)
    }

    pub(crate) async fn publish(&self, index: u32, attempt: u32) {
        self.publish_to(queue(), index, attempt).await;
    }

    pub(crate) async fn publish_to(&self, queue: Queue, index: u32, attempt: u32) {
        self.task_stream
            .publish(queue, &self.task(index, attempt))
            .await
            .unwrap();
    }

    pub(crate) async fn next_event(&mut self) -> Event {
        let followed = timeout(LIMIT, self.events.next()).await.expect("an event");
        wire::decode(&followed.payload).unwrap()
    }

    pub(crate) async fn done(&self, index: u32) -> DoneRecord {
        let log = DoneLog::new(&self.farm.coordinator);
        let entry = eventually("a done record", async || {
            log.get(chunk(index)).await.ok().flatten()
        })
        .await;
        entry.record.unwrap()
    }

    pub(crate) async fn queue_is_empty(&self) {
        eventually("the queue is empty", async || {
            let queued = self.task_stream.queued(job("a job")).await.ok()?;
            queued.is_empty().then_some(())
        })
        .await;
    }

    pub(crate) async fn instruct(&self, to: Subject, control: &WorkerCommand) {
        let payload = Bytes::from(wire::encode(control).unwrap());
        self.farm
            .coordinator
            .client
            .publish(to.to_string(), payload)
            .await
            .unwrap();
        self.farm.coordinator.client.flush().await.unwrap();
    }

    pub(crate) async fn leave(self) -> Summary {
        self.trigger.drain();
        timeout(LIMIT, self.serving)
            .await
            .expect("the worker leaves")
            .unwrap()
    }
}
