//! The tasks that a worker holds besides the one that it runs, so that its device goes on with the next one at once and
//! the inputs of that are there.
//!
//! A fast worker takes about two minutes of work at a time, from one queue: they are chunks that lie side by side, whose
//! source segments it fetches once. A worker that needs longer than a minute for a chunk takes single ones. What is held
//! and not begun is given back when something more urgent comes, when the coordinator asks for it (another worker is
//! idle, or the task has been moved), and when the worker leaves.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use latentfarm_common::error::one_line;
use latentfarm_common::ids::ChunkId;
use latentfarm_common::nats::pull::{Pulled, try_pull};
use latentfarm_common::queues::{Queue, ResourceClass};
use latentfarm_common::wire::outcome::WorkerCommand;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::delivery::DeliveryOutcome;
use super::held_task::{HeldTask, WorkerLink, open};
use super::runner::Prepare;

/// The work that a worker takes at a time, the task that runs included.
const STRETCH: Duration = Duration::from_mins(2);
/// A worker whose chunks take longer holds no further one.
const LONGEST_CHUNK: Duration = Duration::from_mins(1);
/// The most tasks that a worker takes at a time, the one that runs included.
const MAX_TASKS: u32 = 8;
/// How often a queue without a task is asked again.
const PAUSE: Duration = Duration::from_secs(2);

/// How many tasks are wanted from which queue besides the one that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    queue: Queue,
    tasks: usize,
}

/// The tasks that are held and not begun, in the order in which they are run.
pub(super) struct HeldTasks {
    link: WorkerLink,
    preparer: Option<Arc<dyn Prepare>>,
    tasks: VecDeque<HeldTask>,
    opened: mpsc::UnboundedReceiver<HeldTask>,
    wanted: watch::Sender<Option<Wanted>>,
    /// Tasks that are held, those on the way through `opened` included.
    held: Arc<AtomicUsize>,
    /// Locked while a task is being taken.
    taking: Arc<Mutex<()>>,
    /// How long the last chunk occupied the device.
    pace: Option<Duration>,
    /// Changes when the link to the server comes back after an outage.
    connects: watch::Receiver<u64>,
    /// The answers for tasks that were given back, and what takes tasks; both end with this.
    answers: JoinSet<DeliveryOutcome>,
    _taker: JoinSet<()>,
}

impl HeldTasks {
    pub(super) fn new(link: &WorkerLink, preparer: Option<Arc<dyn Prepare>>) -> Self {
        let (wanted, wants) = watch::channel(None);
        let (sender, opened) = mpsc::unbounded_channel();
        let (held, taking) = (Arc::<AtomicUsize>::default(), Arc::<Mutex<()>>::default());
        let taker = Taker {
            link: link.clone(),
            wanted: wants,
            held: Arc::clone(&held),
            taking: Arc::clone(&taking),
            opened: sender,
        };
        Self {
            link: link.clone(),
            preparer,
            tasks: VecDeque::new(),
            opened,
            wanted,
            held,
            taking,
            pace: None,
            connects: link.connection.connects(),
            answers: JoinSet::new(),
            _taker: JoinSet::from_iter([taker.run()]),
        }
    }

    /// Records how long a chunk has occupied the device.
    pub(super) fn record_pace(&mut self, took: Duration) {
        self.pace = Some(took);
    }

    /// Begins to take tasks from the queue of the task that runs from now on.
    pub(super) fn extend(&mut self, queue: Queue) {
        let tasks = match queue.lane.class {
            // Rendering comes first, and may become possible with each analysis.
            ResourceClass::Analyze => 0,
            ResourceClass::Gpu(_) | ResourceClass::Cpu(_) => tasks_beside(self.pace),
        };
        // A new stretch begins when the last one is used up, so that its chunks lie side by side.
        if self.tasks.len() <= 1 {
            self.wanted.send_replace(Some(Wanted { queue, tasks }));
        }
        self.prepare_first();
    }

    /// Takes no more tasks, and waits until none is on its way.
    pub(super) async fn settle(&mut self) {
        self.wanted.send_replace(None);
        drop(self.taking.lock().await);
        self.receive();
    }

    /// Waits for the next task that is taken. The future may be dropped at any time.
    pub(super) async fn taken(&mut self) {
        match self.opened.recv().await {
            Some(task) => {
                self.push(task);
                if self.tasks.len() == 1 {
                    self.prepare_first();
                }
            }
            // The taker lives as long as this.
            None => std::future::pending().await,
        }
    }

    /// Returns the task that is run next, if its queue is still the one to run from. Otherwise all is given back. So it is
    /// after an outage, in which the server may have given the tasks to others.
    pub(super) fn pop_if(&mut self, is_next: impl Fn(Queue) -> bool) -> Option<HeldTask> {
        let was_away = self.connects.has_changed().unwrap_or(true);
        self.connects.mark_unchanged();
        if was_away || !self.tasks.front().is_some_and(|task| is_next(task.queue)) {
            self.give_back_all();
            return None;
        }
        let task = self.tasks.pop_front();
        self.count();
        task
    }

    /// Keeps what is held: the task that runs has advanced.
    pub(super) fn step(&self) {
        for task in &self.tasks {
            task.progress.step();
        }
    }

    /// Does what a command asks for about tasks that are held.
    pub(super) fn obey(&mut self, command: &WorkerCommand) {
        match command {
            WorkerCommand::GiveBack(chunk) | WorkerCommand::Abandon(chunk) => {
                self.give_back(|task| task.task.chunk == *chunk);
            }
            WorkerCommand::Cancel(job) => self.give_back(|task| task.task.chunk.job == *job),
            WorkerCommand::Drain | WorkerCommand::SetAside { .. } => self.give_back_all(),
            WorkerCommand::FreeMemory => {}
        }
    }

    /// Gives back all that is held, and takes nothing until the next task begins.
    pub(super) fn give_back_all(&mut self) {
        self.give_back(|_| true);
    }

    fn give_back(&mut self, is_meant: impl Fn(&HeldTask) -> bool) {
        self.receive();
        let (meant, kept) = std::mem::take(&mut self.tasks).into_iter().partition(is_meant);
        self.tasks = kept;
        let meant: VecDeque<HeldTask> = meant;
        if meant.is_empty() {
            return;
        }
        // Otherwise this worker would take it again.
        self.wanted.send_replace(None);
        for HeldTask { task, delivery, .. } in meant {
            self.answers.spawn(async move { delivery.give_back(&task).await });
        }
        self.count();
        self.prepare_first();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Waits until the server has the answers for all that was given back.
    pub(super) async fn close(mut self) {
        self.settle().await;
        self.give_back_all();
        while self.answers.join_next().await.is_some() {}
    }

    /// Takes what has been opened so far.
    fn receive(&mut self) {
        while let Ok(task) = self.opened.try_recv() {
            self.push(task);
        }
    }

    fn push(&mut self, task: HeldTask) {
        self.tasks.push_back(task);
        self.count();
    }

    /// Updates what is known about the tasks that are held.
    fn count(&mut self) {
        while self.answers.try_join_next().is_some() {}
        self.held
            .store(self.tasks.len() + self.opened.len(), Ordering::SeqCst);
        let chunks: Vec<ChunkId> = self.tasks.iter().map(|task| task.task.chunk).collect();
        self.link.heartbeat_state.set_held(chunks);
    }

    fn prepare_first(&mut self) {
        let (Some(preparer), Some(first)) = (&self.preparer, self.tasks.front_mut()) else {
            return;
        };
        if first.prepared.is_none() {
            first.prepared = preparer.prepare(&first.task, &first.store, &self.link.connection);
        }
    }
}

/// The number of tasks that a worker of this pace holds besides the one that runs.
fn tasks_beside(pace: Option<Duration>) -> usize {
    let Some(pace) = pace.filter(|pace| *pace <= LONGEST_CHUNK) else {
        return 0;
    };
    let whole = STRETCH.as_millis() / pace.as_millis().max(1);
    let all = u32::try_from(whole).unwrap_or(MAX_TASKS).min(MAX_TASKS);
    all.saturating_sub(1) as usize
}

/// Takes tasks while some are wanted, in a task of its own: a pull that is under way is never dropped.
struct Taker {
    link: WorkerLink,
    wanted: watch::Receiver<Option<Wanted>>,
    held: Arc<AtomicUsize>,
    taking: Arc<Mutex<()>>,
    opened: mpsc::UnboundedSender<HeldTask>,
}

impl Taker {
    async fn run(mut self) {
        loop {
            let wanted = *self.wanted.borrow_and_update();
            let is_short = |wanted: &Wanted| self.held.load(Ordering::SeqCst) < wanted.tasks;
            let Some(wanted) = wanted.filter(is_short) else {
                if self.wanted.changed().await.is_err() {
                    return;
                }
                continue;
            };
            if !self.take(wanted).await {
                // A new wish is looked at at once.
                let _unchanged = timeout(PAUSE, self.wanted.changed()).await;
            }
        }
    }

    /// Takes one task. Returns false if there is none for this worker.
    async fn take(&self, wanted: Wanted) -> bool {
        let _taking = self.taking.lock().await;
        // The wish may have been withdrawn meanwhile.
        if *self.wanted.borrow() != Some(wanted) {
            return true;
        }
        let message = match try_pull(&self.link.connection, wanted.queue).await {
            Ok(Pulled::Task(message)) => *message,
            Ok(Pulled::Empty | Pulled::NoQueue | Pulled::Interrupted) => return false,
            Err(error) => {
                tracing::debug!(error = one_line(&error), "cannot take a further task");
                return false;
            }
        };
        match open(&self.link, message).await {
            Ok(task) => {
                self.held.fetch_add(1, Ordering::SeqCst);
                // The receiver ends with this task.
                let _taken = self.opened.send(task);
                true
            }
            // The next one in the queue may be of the same job.
            Err(outcome) => outcome != DeliveryOutcome::LacksTags,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_takes_about_two_minutes_of_work() {
        let beside = |seconds: f64| tasks_beside(Some(Duration::from_secs_f64(seconds)));
        assert_eq!(tasks_beside(None), 0, "nothing is known yet");
        assert_eq!(beside(90.0), 0, "a slow worker takes single chunks");
        assert_eq!(beside(60.0), 1);
        assert_eq!(beside(40.0), 2);
        assert_eq!(beside(20.0), 5);
        assert_eq!(beside(0.5), 7, "the most");
        assert_eq!(beside(0.0), 7);
    }
}
