//! Many jobs on one farm: they share its workers by priority and in turn, and each may be paused, cancelled or
//! refused without harm to the others.

use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use latentfarm_common::digest::Digest;
use latentfarm_common::ids::{ChunkId, JobId, WorkKind};
use latentfarm_common::nats::subjects::Subject;
use latentfarm_common::nats::tasks::TaskStream;
use latentfarm_common::nats::topology::Topology;
use latentfarm_common::wire;
use latentfarm_common::wire::outcome::WorkerCommand;
use latentfarm_coordinator::dispatch::{DispatchError, Ending, Order};
use tokio::sync::watch;

use crate::support::{Act, AttemptCounter, FakeMachine, LIMIT, Script, Stage, always};

/// Too little memory for any chunk: such a worker analyses only.
const FOR_ANALYSIS: u64 = 64;
/// The default priority, and a more urgent one.
const USUAL: u8 = 1;
const URGENT: u8 = 0;

/// The render chunks that a worker began, in order.
#[derive(Clone, Default)]
struct Begun(Arc<Mutex<Vec<ChunkId>>>);

impl Begun {
    /// A script that waits with each render chunk until `gate` opens.
    fn script(&self, gate: &watch::Receiver<bool>) -> Script {
        let (begun, gate) = (self.clone(), gate.clone());
        Arc::new(move |task, _| {
            if task.chunk.work == WorkKind::Analyze {
                return Act::Succeed;
            }
            begun.0.lock().unwrap().push(task.chunk);
            Act::Wait(gate.clone())
        })
    }

    fn jobs(&self) -> Vec<JobId> {
        self.0.lock().unwrap().iter().map(|chunk| chunk.job).collect()
    }
}

fn only_once(counter: &AttemptCounter) {
    let begun = counter.begun();
    assert!(begun.values().all(|times| *times == 1), "{begun:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_show_one_video_analyse_each_of_its_frames_once() {
    let stage = Stage::open(16).await;
    let counter = AttemptCounter::default();
    let farm = stage.run_farm().await;
    // Both are queued before a worker comes.
    let mut jobs = vec![farm.admit(96, USUAL), farm.admit(640, USUAL)];
    for job in &mut jobs {
        job.wait_for("the job is dispatched", |progress| {
            progress.analyze.queued + progress.analyze.backlog > 0
        })
        .await;
    }
    let analyst = || FakeMachine::cpu(FOR_ANALYSIS);
    let _w1 = stage
        .worker_on("w1", &counter, analyst(), always(Act::Succeed))
        .await;
    let _w2 = stage
        .worker_on("w2", &counter, analyst(), always(Act::Succeed))
        .await;
    let analyzed = || {
        let begun = counter.begun();
        assert!(begun.values().all(|times| *times == 1), "{begun:?}");
        let mut frames: Vec<u32> = begun.keys().map(|chunk| chunk.index).collect();
        frames.sort_unstable();
        frames
    };
    for job in &mut jobs {
        job.wait_for("the job is analysed", |progress| {
            progress.analyze.frames_done == progress.analyze.frames
        })
        .await;
    }
    assert_eq!(analyzed(), (0..40).collect::<Vec<u32>>());
    // A job that begins later has what the others have, and only the rest is analysed.
    let mut later = farm.admit(672, USUAL);
    later
        .wait_for("the job is analysed", |progress| {
            progress.analyze.frames_done == progress.analyze.frames
        })
        .await;
    assert_eq!(analyzed(), (0..42).collect::<Vec<u32>>());
    jobs.push(later);
    for job in &jobs {
        farm.order(Order::Cancel(job.id));
    }
    farm.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_one_priority_take_turns() {
    let stage = Stage::open(16).await;
    let (counter, begun) = (AttemptCounter::default(), Begun::default());
    let farm = stage.run_farm().await;
    let analyst = FakeMachine::cpu(FOR_ANALYSIS);
    let _w1 = stage
        .worker_on("w1", &counter, analyst, always(Act::Succeed))
        .await;
    // The longer one comes first, and has many chunks.
    let (mut long, mut short) = (farm.admit(640, USUAL), farm.admit(96, USUAL));
    for job in [&mut long, &mut short] {
        job.wait_for("the job is analysed", |progress| {
            progress.analyze.frames_done == progress.analyze.frames
        })
        .await;
    }
    let (_open, gate) = watch::channel(true);
    let _w2 = stage.worker("w2", &counter, begun.script(&gate)).await;
    let (long_id, short_id) = (long.id, short.id);
    assert_eq!(short.ending().await, Ending::Complete);
    let order = begun.jobs();
    let first: Vec<usize> = [long_id, short_id]
        .map(|id| order[..12].iter().filter(|job| **job == id).count())
        .to_vec();
    assert_eq!(first, [6, 6], "{order:?}");
    assert_eq!(long.ending().await, Ending::Complete);
    only_once(&counter);
    farm.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_urgent_job_begins_on_the_next_worker_that_is_free() {
    let stage = Stage::open(16).await;
    let (counter, begun) = (AttemptCounter::default(), Begun::default());
    let farm = stage.run_farm().await;
    let analyst = FakeMachine::cpu(FOR_ANALYSIS);
    let _w1 = stage
        .worker_on("w1", &counter, analyst, always(Act::Succeed))
        .await;
    let (open, gate) = watch::channel(false);
    let _w2 = stage.worker("w2", &counter, begun.script(&gate)).await;
    let mut usual = farm.admit(160, USUAL);
    usual
        .wait_for("a chunk is running", |progress| {
            progress.render.running == 1 && progress.render.queued > 1
        })
        .await;
    let mut urgent = farm.admit(32, URGENT);
    urgent
        .wait_for("its chunks are queued", |progress| progress.render.queued == 2)
        .await;
    open.send_replace(true);
    let (usual_id, urgent_id) = (usual.id, urgent.id);
    assert_eq!(urgent.ending().await, Ending::Complete);
    assert_eq!(begun.jobs()[..3], [usual_id, urgent_id, urgent_id]);

    // A job that becomes urgent overtakes too, with the chunks that are queued already.
    open.send_replace(false);
    let mut other = farm.admit(48, USUAL);
    other
        .wait_for("its chunks are queued", |progress| progress.render.queued == 3)
        .await;
    farm.order(Order::SetPriority {
        job: other.id,
        priority: URGENT,
    });
    let tasks = TaskStream::new(&stage.farm.connection, Topology::default());
    let moved = async {
        loop {
            let queued = tasks.queued(other.id).await.unwrap();
            if queued.len() == 3 && queued.iter().all(|(queue, _)| queue.priority == URGENT) {
                break;
            }
            other.wait_for("the next tick", |_| true).await;
        }
    };
    tokio::time::timeout(LIMIT, moved)
        .await
        .expect("they move to the urgent queue");
    let before = begun.jobs().len();
    open.send_replace(true);
    let other_id = other.id;
    assert_eq!(other.ending().await, Ending::Complete);
    assert_eq!(begun.jobs()[before..before + 3], [other_id; 3]);
    assert_eq!(usual.ending().await, Ending::Complete);
    only_once(&counter);
    farm.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_job_leaves_the_farm_to_the_others_and_goes_on_afterwards() {
    let stage = Stage::open(16).await;
    let (counter, begun) = (AttemptCounter::default(), Begun::default());
    let farm = stage.run_farm().await;
    let (open, gate) = watch::channel(false);
    let _w1 = stage.worker("w1", &counter, begun.script(&gate)).await;
    let mut first = farm.admit(160, USUAL);
    first
        .wait_for("a chunk is running", |progress| {
            progress.render.running == 1 && progress.render.queued > 1
        })
        .await;
    let pause = |is_paused| Order::Pause {
        job: first.id,
        is_paused,
    };
    farm.order(pause(true));
    let resume = pause(false);
    first
        .wait_for("nothing is queued", |progress| {
            progress.render.queued == 0 && progress.render.backlog > 0
        })
        .await;
    let tasks = TaskStream::new(&stage.farm.connection, Topology::default());
    let held = tasks.queued(first.id).await.unwrap();
    assert_eq!(held.len(), 1, "only the running chunk has a task: {held:?}");

    let second = farm.admit(96, USUAL);
    open.send_replace(true);
    assert_eq!(second.ending().await, Ending::Complete);
    let of_first = begun.jobs().iter().filter(|job| **job == first.id).count();
    assert_eq!(of_first, 1, "the chunk that was running is finished");
    farm.order(resume);
    assert_eq!(first.ending().await, Ending::Complete);
    only_once(&counter);
    farm.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_leaves_no_task_and_its_workers_are_told() {
    let stage = Stage::open(16).await;
    let (counter, begun) = (AttemptCounter::default(), Begun::default());
    let farm = stage.run_farm().await;
    let everyone = Subject::Control(None).to_string();
    let mut commands = stage.farm.connection.client.subscribe(everyone).await.unwrap();
    let (open, gate) = watch::channel(false);
    let _w1 = stage.worker("w1", &counter, begun.script(&gate)).await;
    let mut job = farm.admit(160, USUAL);
    let id = job.id;
    job.wait_for("a chunk is running", |progress| progress.render.running == 1)
        .await;
    farm.order(Order::Cancel(id));
    let end = job.end().await.unwrap();
    assert_eq!((end.ending, end.records.len()), (Ending::Cancelled, 0));
    let command = tokio::time::timeout(LIMIT, commands.next())
        .await
        .unwrap()
        .unwrap();
    let command: WorkerCommand = wire::decode(&command.payload).unwrap();
    assert_eq!(command, WorkerCommand::Cancel(id));
    let tasks = TaskStream::new(&stage.farm.connection, Topology::default());
    assert_eq!(tasks.queued(id).await.unwrap(), []);

    // The farm goes on, and so may the job.
    open.send_replace(true);
    let (other, again) = (farm.admit(32, USUAL), farm.admit(160, USUAL));
    assert_eq!(other.ending().await, Ending::Complete);
    assert_eq!(again.ending().await, Ending::Complete);
    farm.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_cannot_begin_harms_no_other() {
    let stage = Stage::open(16).await;
    let counter = AttemptCounter::default();
    let farm = stage.run_farm().await;
    let (open, gate) = watch::channel(false);
    let _w1 = stage.worker("w1", &counter, Begun::default().script(&gate)).await;
    let job = farm.admit(64, USUAL);
    let twice = farm.admit(64, USUAL).end().await;
    assert!(matches!(twice, Err(DispatchError::Admitted)), "{twice:?}");
    let odd = farm.admit_changed(96, USUAL, |spec| spec.chunk_frames = 7);
    let odd = odd.end().await;
    assert!(matches!(odd, Err(DispatchError::ChunkFrames(_))), "{odd:?}");
    open.send_replace(true);
    assert_eq!(job.ending().await, Ending::Complete);
    only_once(&counter);
    farm.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_farm_that_is_asked_to_end_finishes_what_runs_and_reports_every_job() {
    let stage = Stage::open(16).await;
    let counter = AttemptCounter::default();
    let farm = stage.run_farm().await;
    let (open, gate) = watch::channel(false);
    let _w1 = stage.worker("w1", &counter, Begun::default().script(&gate)).await;
    let mut first = farm.admit(160, USUAL);
    first
        .wait_for("a chunk is running", |progress| progress.render.running == 1)
        .await;
    let mut second = farm.admit_changed(96, USUAL, |spec| spec.video_digest = Digest::of(b"another video"));
    second
        .wait_for("the other job is there", |progress| progress.analyze.queued > 0)
        .await;
    farm.trigger.drain();
    let tasks = TaskStream::new(&stage.farm.connection, Topology::default());
    let running_alone = async {
        while tasks.queued(first.id).await.unwrap().len() + tasks.queued(second.id).await.unwrap().len() > 1 {
            first.wait_for("the next tick", |_| true).await;
        }
    };
    let drained = tokio::time::timeout(LIMIT, running_alone).await;
    drained.expect("the tasks that no worker has begun are removed");
    open.send_replace(true);
    let mut done = 0;
    for job in [first, second] {
        let end = job.end().await.unwrap();
        let Ending::Interrupted { frames_done, frames } = end.ending else {
            panic!("{:?}", end.ending)
        };
        assert!(frames_done < frames);
        done += frames_done;
    }
    assert_eq!(done, 16, "the chunk that was running counts");
    // No order can come any more.
    farm.end().await;
}
