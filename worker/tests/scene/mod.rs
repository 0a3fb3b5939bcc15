//! A farm with one worker at work, whose engine is a stand-in.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use latentfarm_common::backoff::Backoff;
use latentfarm_common::blob::Store;
use latentfarm_common::nats::done::DoneLog;
use latentfarm_common::nats::events::{Follower, Start};
use latentfarm_common::nats::subjects::Subject;
use latentfarm_common::nats::tasks::TaskStream;
use latentfarm_common::queues::Available;
use latentfarm_common::shutdown::{self, Trigger};
use latentfarm_common::wire;
use latentfarm_common::wire::outcome::{
    Control, DoneBody, DoneRecord, Event, Failure, StageTimings, TaskStage,
};
use latentfarm_common::wire::task::Task;
use latentfarm_worker::consume::{
    Artifact, Assignment, Finished, Settings, Summary, TaskRunner, Vitals, serve,
};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::{Farm, LIMIT, chunk, eventually, job, queue, task, worker};

/// What the stand-in does with the next task.
#[derive(Clone)]
pub(crate) enum Act {
    Finish,
    Fail(Failure),
    /// Advances until it is told to stop.
    WorkUntilStopped,
    /// Finishes once told to go on.
    FinishLater(Arc<Notify>),
}

/// Follows a script, then finishes whatever comes.
#[derive(Clone, Default)]
pub(crate) struct Runner {
    pub(crate) script: Arc<Mutex<Vec<Act>>>,
    pub(crate) ran: Arc<Mutex<Vec<Task>>>,
}

impl Runner {
    pub(crate) fn with(acts: &[Act]) -> Self {
        let script = acts.iter().rev().cloned().collect();
        Self {
            script: Arc::new(Mutex::new(script)),
            ran: Arc::default(),
        }
    }

    pub(crate) fn runs(&self) -> usize {
        self.ran.lock().unwrap().len()
    }
}

impl TaskRunner for Runner {
    async fn available(&mut self) -> Available {
        Available {
            analyze: true,
            ..Available::default()
        }
    }

    async fn run(&mut self, mut assignment: Assignment<'_>) -> Result<Finished, Failure> {
        self.ran.lock().unwrap().push(assignment.task.clone());
        assignment.progress.report(1, TaskStage::FaceAnalysis);
        let act = self.script.lock().unwrap().pop().unwrap_or(Act::Finish);
        match act {
            Act::Finish => {}
            Act::Fail(failure) => return Err(failure),
            Act::FinishLater(go_on) => {
                let mut ticks = tokio::time::interval(Duration::from_millis(100));
                loop {
                    tokio::select! {
                        () = go_on.notified() => break,
                        _ = ticks.tick() => assignment.progress.step(),
                    }
                }
            }
            Act::WorkUntilStopped => {
                assignment.stop.wait_for(|stop| *stop).await.unwrap();
                let message = "stopped".to_owned();
                return Err(Failure::Transient { message });
            }
        }
        Ok(Finished {
            artifact: Artifact::Bytes(assignment.task.chunk.to_string().into_bytes()),
            body: DoneBody::Analyze {
                frames: 16,
                with_face: 1,
            },
            timings: StageTimings::default(),
            numerics_fingerprint: "fake".to_owned(),
            memory: None,
        })
    }
}

/// A farm with one worker at work.
pub(crate) struct Scene {
    pub(crate) farm: Farm,
    pub(crate) task_stream: TaskStream,
    pub(crate) events: Follower,
    pub(crate) runner: Runner,
    pub(crate) vitals: Vitals,
    pub(crate) trigger: Trigger,
    pub(crate) store: String,
    pub(crate) serving: JoinHandle<Summary>,
}

impl Scene {
    pub(crate) async fn start(acts: &[Act]) -> Self {
        Self::on(Farm::start().await, acts).await
    }

    pub(crate) async fn on(farm: Farm, acts: &[Act]) -> Self {
        let connection = farm.worker("w1").await;
        let runner = Runner::with(acts);
        let vitals = Vitals::new(worker("w1"), "fake device".to_owned());
        let (trigger, shutdown, _drain) = shutdown::channel();
        let settings = Settings {
            heartbeat: Duration::from_millis(50),
            tell_progress: Duration::from_millis(200),
            unfit_waits: Backoff::new(Duration::from_millis(10), Duration::from_millis(50)),
            ..Settings::new(worker("w1"))
        };
        let store = Store::file_url(&farm.dir.path().join("blobs")).unwrap();
        Store::open(&store, None).unwrap();
        let (mut own_runner, own_vitals) = (runner.clone(), vitals.clone());
        let serving = tokio::spawn(async move {
            serve(&connection, &settings, &mut own_runner, &own_vitals, shutdown)
                .await
                .unwrap()
        });
        Self {
            task_stream: TaskStream::new(&farm.coordinator, farm.topology),
            events: Follower::events(&farm.coordinator, None, Start::Oldest)
                .await
                .unwrap(),
            farm,
            runner,
            vitals,
            trigger,
            store,
            serving,
        }
    }

    pub(crate) fn task(&self, index: u32, attempt: u32) -> Task {
        task(chunk(index), attempt, &self.store)
    }

    pub(crate) async fn publish(&self, index: u32, attempt: u32) {
        self.task_stream
            .publish(queue(), &self.task(index, attempt))
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

    pub(crate) async fn instruct(&self, to: Subject, control: &Control) {
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
