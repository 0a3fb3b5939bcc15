use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::AckKind;
use latentfarm_common::blob::Store;
use latentfarm_common::ids::{ChunkId, WorkerId};
use latentfarm_common::nats::done::{CommitOutcome, DoneLog};
use latentfarm_common::nats::pull::{Pulled, try_pull, wait_for_task};
use latentfarm_common::nats::topology::MAX_DELIVER;
use latentfarm_common::nats::{Connection, events, heartbeats};
use latentfarm_common::queues::{Available, Queue, ResourceClass, fitting};
use latentfarm_common::wire;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::outcome::{
    DoneBody, DoneRecord, Event, EventKind, FaceObservations, Failure, FrameObservation, Heartbeat,
    StageTimings, TaskProgress, TaskStage, WorkerState,
};
use latentfarm_common::wire::task::{RenderInput, Task, TaskBody};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::LIMIT;
use super::machine::FakeMachine;

/// What a fake worker does with a task.
#[derive(Clone, Debug)]
pub enum Act {
    Succeed,
    /// Commits a record, commits another one as if the first answer was lost, and acknowledges neither.
    SucceedTwice,
    /// Succeeds, but finds no face in any frame.
    FindNoFace,
    Fail(Failure),
    /// Reports, like a worker that cannot decode the task, a failure without an epoch.
    Refuse,
    /// Begins the task and ends without a report.
    Die,
    /// Begins the task, waits until the gate opens, and succeeds.
    Wait(watch::Receiver<bool>),
}

/// Chooses what to do with a task; the number says how often its chunk was begun before.
pub type Script = Arc<dyn Fn(&Task, usize) -> Act + Send + Sync>;

/// Counts how often each chunk was begun, over all workers, and keeps which task was delivered to which worker.
#[derive(Clone, Debug, Default)]
pub struct AttemptCounter {
    begun: Arc<Mutex<BTreeMap<ChunkId, usize>>>,
    delivered: Arc<Mutex<BTreeMap<WorkerId, Vec<Task>>>>,
}

impl AttemptCounter {
    pub fn begun(&self) -> BTreeMap<ChunkId, usize> {
        self.begun.lock().unwrap().clone()
    }

    /// The tasks that were delivered to a worker, whether it began them or gave them back.
    pub fn delivered_to(&self, worker: &str) -> Vec<Task> {
        let delivered = self.delivered.lock().unwrap();
        delivered
            .get(&worker.parse::<WorkerId>().unwrap())
            .cloned()
            .unwrap_or_default()
    }

    fn deliver(&self, worker: &WorkerId, task: &Task) {
        let mut delivered = self.delivered.lock().unwrap();
        delivered.entry(worker.clone()).or_default().push(task.clone());
    }

    /// Counts one more attempt, and returns the number of earlier ones.
    fn begin(&self, chunk: ChunkId) -> usize {
        let mut begun = self.begun.lock().unwrap();
        let count = begun.entry(chunk).or_default();
        *count += 1;
        *count - 1
    }
}

/// A worker inside the test's process. Dropping it kills it.
pub struct FakeWorker {
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for FakeWorker {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl FakeWorker {
    pub fn start(
        name: &str,
        connection: Connection,
        counter: AttemptCounter,
        script: Script,
        machine: FakeMachine,
    ) -> Self {
        let (at_work, task_on) = watch::channel(None);
        let worker = Worker {
            id: name.parse().unwrap(),
            connection,
            counter,
            script,
            machine,
            at_work,
        };
        let heartbeats = send_heartbeats(worker.id.clone(), worker.connection.clone(), machine, task_on);
        let heartbeats = tokio::spawn(heartbeats);
        let abort_heartbeats = heartbeats.abort_handle();
        let work = tokio::spawn(async move {
            worker.work().await;
            abort_heartbeats.abort();
        });
        Self {
            tasks: vec![heartbeats, work],
        }
    }
}

async fn send_heartbeats(
    worker: WorkerId,
    connection: Connection,
    machine: FakeMachine,
    task: watch::Receiver<Option<TaskProgress>>,
) {
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    loop {
        ticks.tick().await;
        let task = task.borrow().clone();
        let state = if task.is_some() {
            WorkerState::Working
        } else {
            WorkerState::Idle
        };
        let heartbeat = Heartbeat {
            state,
            device_free_mib: 8000,
            device_total_mib: 8000,
            host_rss_mib: 10,
            capacity: machine.capacity,
            available: Available {
                analyze: true,
                memory: machine.available(),
            },
            task,
            kind: Some(machine.kind()),
            tags: machine.tags(),
            ..Heartbeat::starting(worker.clone(), machine.device().to_owned())
        };
        // A heartbeat is lost while the server is being restarted.
        let _ = heartbeats::publish(&connection, &heartbeat).await;
    }
}

struct Worker {
    id: WorkerId,
    connection: Connection,
    counter: AttemptCounter,
    script: Script,
    machine: FakeMachine,
    at_work: watch::Sender<Option<TaskProgress>>,
}

impl Worker {
    /// Runs tasks until one of them kills the worker.
    async fn work(&self) {
        let available = Available {
            analyze: true,
            memory: self.machine.available(),
        };
        let analyze = Queue::any(ResourceClass::Analyze, 1);
        // The lowest priority has no tests, and the last queue is waited at.
        let queues: Vec<Queue> = fitting(&available, Some(self.machine.kind()), &self.machine.tags())
            .into_iter()
            .filter(|queue| queue.priority <= 1 && *queue != analyze)
            .collect();
        loop {
            let mut pulled = Ok(Pulled::NoQueue);
            for queue in &queues {
                pulled = try_pull(&self.connection, *queue).await;
                if matches!(pulled, Ok(Pulled::Task(_))) {
                    break;
                }
            }
            if !matches!(pulled, Ok(Pulled::Task(_))) {
                let wait = Duration::from_millis(100);
                pulled = wait_for_task(&self.connection, analyze, wait, std::future::pending()).await;
            }
            match pulled {
                Ok(Pulled::Task(message)) => {
                    let task: Task = wire::decode(&message.payload).unwrap();
                    if !self.run(&task, &message).await {
                        return;
                    }
                }
                Ok(Pulled::Empty | Pulled::Interrupted) => {}
                // There is no queue yet, or the server is being restarted.
                Ok(Pulled::NoQueue) | Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Runs one task; false if the worker died of it.
    async fn run(&self, task: &Task, message: &async_nats::jetstream::Message) -> bool {
        self.counter.deliver(&self.id, task);
        if task.excluded.contains(&self.id) || !self.machine.tags().cover(&task.needed_tags) {
            // The server gives up a message after its last delivery.
            let is_last = message.info().is_ok_and(|info| info.delivered + 1 >= MAX_DELIVER);
            let answer = if is_last {
                self.report(task, EventKind::Released).await;
                AckKind::Term
            } else {
                AckKind::Nak(Some(Duration::from_millis(50)))
            };
            let _ = message.ack_with(answer).await;
            return true;
        }
        let before = self.counter.begin(task.chunk);
        self.at_work.send_replace(Some(TaskProgress {
            chunk: task.chunk,
            attempt: task.attempt,
            frames_done: 1,
            frames_total: 16,
            stage: TaskStage::Starting,
            queue: None,
            plan: None,
        }));
        self.report(task, EventKind::Started).await;
        let mut act = (self.script)(task, before);
        if let (Act::Succeed, TaskBody::Render(render)) = (&act, &task.body)
            && let Err(failure) = self.machine.run(&render.memory)
        {
            act = Act::Fail(failure);
        }
        match act {
            Act::Die => return false,
            Act::Refuse => {
                let mut unread = task.clone();
                unread.attempt.epoch = 0;
                self.report(&unread, EventKind::Failed(super::transient())).await;
                let _ = message.ack_with(AckKind::Term).await;
            }
            Act::Fail(failure) => {
                self.report(task, EventKind::Failed(failure)).await;
                // The coordinator may have removed the message already.
                let _ = message.ack_with(AckKind::Term).await;
            }
            Act::SucceedTwice => {
                let record = self.render(task, false).await;
                let log = DoneLog::new(&self.connection);
                assert!(matches!(
                    log.commit(&record).await.unwrap(),
                    CommitOutcome::Won { .. }
                ));
                let again = DoneRecord {
                    attempt: record.attempt.next(),
                    ..record
                };
                assert!(matches!(
                    log.commit(&again).await.unwrap(),
                    CommitOutcome::Lost(_)
                ));
            }
            Act::Wait(mut gate) => {
                gate.wait_for(|open| *open).await.unwrap();
                self.commit(task, false, message).await;
            }
            Act::Succeed => self.commit(task, false, message).await,
            Act::FindNoFace => self.commit(task, true, message).await,
        }
        self.at_work.send_replace(None);
        true
    }

    async fn commit(&self, task: &Task, without_face: bool, message: &async_nats::jetstream::Message) {
        let record = self.render(task, without_face).await;
        DoneLog::new(&self.connection).commit(&record).await.unwrap();
        let _ = message.ack().await;
    }

    async fn report(&self, task: &Task, kind: EventKind) {
        let event = Event {
            chunk: task.chunk,
            attempt: task.attempt,
            worker: self.id.clone(),
            kind,
        };
        events::publish(&self.connection, &event, LIMIT).await.unwrap();
    }

    async fn render(&self, task: &Task, without_face: bool) -> DoneRecord {
        let store = Store::open(&task.store, None).unwrap();
        let (artifact, body) = match &task.body {
            TaskBody::Analyze(analyze) => observe(&store, analyze.range.len(), without_face).await,
            TaskBody::Render(render) => {
                let input: RenderInput =
                    wire::decode(&store.get_bytes(&render.input).await.unwrap()).unwrap();
                assert_eq!(input.frames.len() as u64, render.range.len());
                let synced = input.frames.iter().filter(|frame| frame.face.is_some()).count();
                let segment = format!("segment {} attempt {}", task.chunk, task.attempt.number);
                let body = DoneBody::Render {
                    frame_hashes: input.frames.iter().map(|_| self.machine.frame_hash()).collect(),
                    lips: vec![None; input.frames.len()],
                    synced: u32::try_from(synced).unwrap(),
                    passed: u32::try_from(input.frames.len() - synced).unwrap(),
                };
                (store.put_bytes(segment.into_bytes()).await.unwrap(), body)
            }
        };
        DoneRecord {
            chunk: task.chunk,
            attempt: task.attempt,
            worker: self.id.clone(),
            numerics_fingerprint: self.machine.rounds_like.to_owned(),
            kind: Some(self.machine.kind()),
            artifact,
            body,
            timings: StageTimings {
                denoise_ms: 10,
                engine_ms: self.machine.frame_ms * 16,
                ..StageTimings::default()
            },
            memory: match &task.body {
                TaskBody::Analyze(_) => None,
                TaskBody::Render(render) => self.machine.run(&render.memory).ok(),
            },
        }
    }
}

async fn observe(store: &Store, frames: u64, without_face: bool) -> (BlobRef, DoneBody) {
    let mut seen = super::observations(frames, 20.0);
    if without_face {
        let empty = FrameObservation {
            cut: false,
            faces: Vec::new(),
        };
        seen.fill(empty);
    }
    let body = DoneBody::Analyze {
        frames: u32::try_from(frames).unwrap(),
        with_face: if without_face {
            0
        } else {
            u32::try_from(frames).unwrap()
        },
    };
    let bytes = wire::encode(&FaceObservations { frames: seen }).unwrap();
    (store.put_bytes(bytes).await.unwrap(), body)
}
