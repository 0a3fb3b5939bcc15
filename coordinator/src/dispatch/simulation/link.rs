//! The link of one coordinator to the simulated farm.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use latentfarm_common::blob::BlobError;
use latentfarm_common::digest::Digest;
use latentfarm_common::frame::PictureDifference;
use latentfarm_common::ids::{ChunkId, JobId, WorkKind, WorkerId};
use latentfarm_common::nats::Outage;
use latentfarm_common::nats::done::DoneEntry;
use latentfarm_common::nats::signature::Signature;
use latentfarm_common::nats::tasks::Published;
use latentfarm_common::nats::topology::QueueLoad;
use latentfarm_common::queues::Queue;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::job::ModelSpec;
use latentfarm_common::wire::outcome::{DoneRecord, FrameObservation, WorkerCommand};
use latentfarm_common::wire::task::Task;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::check;
use super::gate::{Gate, Gated};
use super::lease::Standing;
use super::world::{State, World, latency};
use crate::dispatch::error::DispatchError;
use crate::dispatch::farm_link::{Answer, FarmLink};
use crate::dispatch::farm_message::FarmMessage;
use crate::dispatch::need_estimator::NeedEstimator;
use crate::dispatch::signers::Signers;
use crate::dispatch::test_support::observations;
use crate::segment_check::{BadSegment, ExpectedPictures};

/// How long an operation waits for a server that it does not reach.
const TIME_LIMIT: Duration = Duration::from_secs(5);

pub(super) struct SimulatedLink {
    pub(super) world: Arc<World>,
    pub(super) coordinator: usize,
    pub(super) epoch: u64,
    pub(super) gate: Arc<Gate>,
    pub(super) standing: Arc<Standing>,
}

/// The error of an operation that may succeed later.
fn failed() -> DispatchError {
    let (digest, place) = (Digest::of(b"simulation"), "the simulation".to_owned());
    DispatchError::Store(Box::new(BlobError::Missing { digest, place }))
}

impl SimulatedLink {
    /// Does something on the server some time later, unless that fails, and gets the answer some time after that.
    async fn ask<T: Send>(&self, act: impl FnOnce(&mut State) -> T + Send) -> Result<T, DispatchError> {
        latency(&self.world).await;
        let is_cut_off = || {
            self.world
                .with(|state| state.cut_off.contains_key(&self.coordinator))
        };
        if is_cut_off() {
            tokio::time::sleep(TIME_LIMIT).await;
            if is_cut_off() {
                return Err(failed());
            }
        }
        let answer = self.world.with(|state| {
            if state.fault("an operation fails") {
                return Err(failed());
            }
            Ok(act(state))
        })?;
        latency(&self.world).await;
        Ok(answer)
    }

    /// Notes whether the coordinator acts without its lease, by its own account.
    fn act(&self, what: &str) {
        if !self.standing.is_held() {
            self.world
                .with(|state| check::acted_without_lease(state, self.epoch, what));
        }
    }

    fn forward(
        &self,
        mut messages: mpsc::UnboundedReceiver<(Instant, FarmMessage)>,
        to: mpsc::Sender<FarmMessage>,
    ) -> JoinSet<()> {
        let (world, coordinator) = (Arc::clone(&self.world), self.coordinator);
        let forwarding = async move {
            while let Some((at, message)) = messages.recv().await {
                tokio::time::sleep_until(at).await;
                // What the server has stored comes when the link is up again.
                while world.with(|state| state.cut_off.contains_key(&coordinator)) {
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                if to.send(message).await.is_err() {
                    break;
                }
            }
        };
        JoinSet::from_iter([Gated::new(&self.gate, forwarding)])
    }

    /// Publishes some tasks; after an error some of them are stored.
    fn store(state: &mut State, queue: Queue, tasks: &[Task]) -> Result<Vec<Published>, DispatchError> {
        let now = Instant::now();
        let mut answers = Vec::new();
        for task in tasks {
            check::task(state, queue, task);
            if state.fault("a publish fails") {
                return Err(failed());
            }
            let answer = state.queue.publish(queue, task, now);
            let (name, attempt) = (task.chunk, task.attempt);
            state
                .recorder
                .log(|| format!("  task {name} {attempt} in {queue}: {answer:?}"));
            answers.push(answer);
            if answer == Published::Duplicate {
                state.recorder.count("a publish is a repeat");
            } else if state.fault("a task is lost") {
                let last = state
                    .queue
                    .entries
                    .last_key_value()
                    .map(|(sequence, _)| *sequence);
                if let Some(sequence) = last {
                    state.queue.end(sequence);
                }
            } else if state.fault("a task is stored twice") {
                state.queue.store(queue, task);
            }
            if state.fault("the answer to a publish is lost") {
                return Err(failed());
            }
        }
        Ok(answers)
    }
}

impl FarmLink for SimulatedLink {
    fn is_up(&self) -> bool {
        self.outage().is_none()
    }

    fn outage(&self) -> Option<Outage> {
        let since = self
            .world
            .with(|state| state.cut_off.get(&self.coordinator).copied())?;
        Some(Outage {
            since,
            failed_tries: 1,
            last_error: None,
        })
    }

    fn url(&self) -> &'static str {
        "simulated"
    }

    fn store_url(&self) -> &'static str {
        "simulated"
    }

    fn follow_workers(&self, to: mpsc::Sender<FarmMessage>) -> Answer<'_, JoinSet<()>> {
        Box::pin(async move {
            let messages = self.ask(|state| state.listen(self.coordinator, None)).await?;
            Ok(self.forward(messages, to))
        })
    }

    fn follow_job(
        &self,
        job: JobId,
        first_done: u64,
        to: mpsc::Sender<FarmMessage>,
    ) -> Answer<'_, JoinSet<()>> {
        Box::pin(async move {
            let of_job = Some((job, first_done));
            let messages = self.ask(|state| state.listen(self.coordinator, of_job)).await?;
            Ok(self.forward(messages, to))
        })
    }

    fn publish<'a>(&'a self, queue: Queue, tasks: &'a [Task]) -> Answer<'a, Vec<Published>> {
        Box::pin(async move {
            self.act("publishes tasks");
            let answers = self
                .ask(|state| {
                    let stored = Self::store(state, queue, tasks);
                    if stored.is_err() {
                        let sent = tasks.iter().map(|task| (task.chunk, task.attempt));
                        state.unanswered.extend(sent);
                    }
                    stored
                })
                .await??;
            self.world.with(|state| state.announce(queue));
            Ok(answers)
        })
    }

    fn remove_tasks(&self, chunk: ChunkId) -> Answer<'_, u64> {
        Box::pin(self.ask(move |state| {
            state
                .recorder
                .log(|| format!("  the tasks of {chunk} are removed"));
            state.queue.remove(|other| other == chunk)
        }))
    }

    fn remove_tasks_of_job(&self, job: JobId) -> Answer<'_, u64> {
        Box::pin(self.ask(move |state| {
            state
                .recorder
                .log(|| format!("  the tasks of job {job} are removed"));
            state.queue.remove(|other| other.job == job)
        }))
    }

    fn tasks(&self, job: JobId) -> Answer<'_, Vec<Task>> {
        Box::pin(self.ask(move |state| state.queue.of_job(job).map(|entry| entry.task.clone()).collect()))
    }

    fn queued(&self, job: JobId) -> Answer<'_, Vec<(Queue, ChunkId)>> {
        Box::pin(self.ask(move |state| {
            let entries = state.queue.of_job(job);
            entries.map(|entry| (entry.queue, entry.task.chunk)).collect()
        }))
    }

    fn queue_load(&self, queue: Queue) -> Answer<'_, Option<QueueLoad>> {
        Box::pin(self.ask(move |state| Some(state.queue.load(queue, Instant::now()))))
    }

    fn record(&self, chunk: ChunkId) -> Answer<'_, Option<DoneEntry>> {
        Box::pin(self.ask(move |state| {
            let found = state.records.by_chunk.get(&chunk);
            found.map(super::records::Stored::entry)
        }))
    }

    fn records(&self, job: JobId) -> Answer<'_, Vec<DoneEntry>> {
        Box::pin(self.ask(move |state| {
            let found = state.records.list(|chunk| chunk.job == job);
            found.iter().map(super::records::Stored::entry).collect()
        }))
    }

    fn commit(&self, record: DoneRecord) -> Answer<'_, ()> {
        Box::pin(async move {
            self.ask(|state| {
                state.recorder.count("a record is shared");
                state.commit(record.chunk, Some(record), Signature::Missing);
            })
            .await
        })
    }

    fn retract(&self, chunk: ChunkId, sequence: u64) -> Answer<'_, ()> {
        Box::pin(async move {
            self.act(check::REMOVES);
            self.ask(|state| state.retract(chunk, sequence, self.epoch)).await
        })
    }

    fn put(&self, bytes: Vec<u8>) -> Answer<'_, BlobRef> {
        Box::pin(self.ask(move |_state| BlobRef {
            digest: Digest::of(&bytes),
            bytes: bytes.len() as u64,
        }))
    }

    fn verify(
        &self,
        record: Arc<DoneRecord>,
        range: FrameRange,
        _expected: Option<ExpectedPictures>,
    ) -> BoxFuture<'_, Result<Vec<FrameObservation>, BadSegment>> {
        let looked = async move {
            let pause = self.world.with(|state| state.random.ms(10, 1500));
            tokio::time::sleep(pause).await;
            let digest = record.artifact.digest;
            self.world.with(|state| {
                if state.broken.contains(&digest) {
                    return Err(BadSegment::Broken("it is damaged".to_owned()));
                }
                if state.odd.contains(&digest) {
                    return Err(BadSegment::Implausible("its pictures look wrong".to_owned()));
                }
                Ok(match record.chunk.work {
                    WorkKind::Analyze => observations(range.len(), 20.0),
                    WorkKind::Render | WorkKind::Border | WorkKind::SpotCheck => Vec::new(),
                })
            })
        };
        Box::pin(looked)
    }

    fn compare(
        &self,
        _original: BlobRef,
        _again: BlobRef,
    ) -> BoxFuture<'_, Result<PictureDifference, String>> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Err("pictures are not simulated".to_owned())
        })
    }

    fn command(&self, to: Option<WorkerId>, command: WorkerCommand) -> Answer<'_, ()> {
        Box::pin(async move { self.ask(|state| state.command(to.as_ref(), &command)).await })
    }

    fn announce(&self, queue: Queue) -> Answer<'_, ()> {
        Box::pin(self.ask(move |state| state.announce(queue)))
    }

    fn read_estimates<'a>(
        &'a self,
        _estimator: &'a mut NeedEstimator,
        _model: &'a ModelSpec,
    ) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn write_estimates<'a>(&'a self, _estimator: &'a mut NeedEstimator, _last: bool) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn read_signers(&self) -> Answer<'_, Signers> {
        Box::pin(self.ask(|state| {
            let mut signers = Signers::default();
            for worker in &state.signers {
                signers.learn(worker, None, Instant::now());
            }
            signers
        }))
    }

    fn write_signers<'a>(&'a self, _signers: &'a mut Signers) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }
}
