//! Workers join and leave: chunks in a queue that no worker serves any more move to a queue that one serves.

use std::sync::Arc;

use futures::StreamExt as _;
use latentfarm_common::ids::WorkKind;
use latentfarm_common::nats::subjects::Subject;
use latentfarm_common::wire;
use latentfarm_common::wire::memory::DeviceKind;
use latentfarm_common::wire::outcome::WorkerCommand;
use latentfarm_common::wire::task::TaskBody;
use latentfarm_coordinator::dispatch::{Ending, JobEvent};
use latentfarm_coordinator::journal::{self, JournalEntry};
use tokio::sync::watch;

use crate::memory::{mixed, places};
use crate::support::{Act, AttemptCounter, FakeMachine, LIMIT, Script, Stage, always, begins};

fn gated(closed: watch::Receiver<bool>) -> Script {
    Arc::new(move |task, _| match &task.body {
        TaskBody::Render(_) => Act::Wait(closed.clone()),
        TaskBody::Analyze(_) => Act::Succeed,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_joins_half_way_takes_what_the_cpu_has_not_begun() {
    let mut stage = Stage::open(128).await;
    stage.settings.job.needs = mixed();
    let counter = AttemptCounter::default();
    let (gate, closed) = watch::channel(false);
    let _w1 = stage
        .worker_on("w1", &counter, FakeMachine::cpu(16_384), gated(closed))
        .await;
    let mut run = stage.dispatch().await;
    run.wait_for("the CPU has begun", begins(0)).await;
    run.wait_for(
        "the rest is queued",
        |event| matches!(event, JobEvent::Progress(progress) if progress.render.queued == 7),
    )
    .await;
    let _w2 = stage
        .worker_on("w2", &counter, FakeMachine::gpu(8192), always(Act::Succeed))
        .await;
    run.wait_for(
        "the GPU has done the rest",
        |event| matches!(event, JobEvent::Progress(progress) if progress.render.done == 7),
    )
    .await;
    gate.send_replace(true);
    let result = run.end().await.unwrap();
    assert_eq!(result.ending, Ending::Complete);
    let (first, rest) = places(&result)
        .split_first()
        .map(|(first, rest)| (*first, rest.to_vec()))
        .unwrap();
    assert_eq!(first, ("w1", DeviceKind::Cpu));
    assert!(
        rest.iter().all(|place| *place == ("w2", DeviceKind::Cuda)),
        "{rest:?}"
    );
    let begun = counter.begun();
    assert!(
        begun.values().all(|times| *times == 1),
        "no chunk is run twice: {begun:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_that_left_was_to_do_goes_to_those_that_stay() {
    let mut stage = Stage::open(128).await;
    stage.settings.job.needs = mixed();
    let counter = AttemptCounter::default();
    let (gate, closed) = watch::channel(false);
    let leaving = stage
        .worker_on("w1", &counter, FakeMachine::gpu(8192), gated(closed))
        .await;
    let mut run = stage.dispatch().await;
    run.wait_for("the GPU has begun", begins(0)).await;
    let _w2 = stage
        .worker_on("w2", &counter, FakeMachine::cpu(16_384), always(Act::Succeed))
        .await;
    drop(leaving);
    let result = run.end().await.unwrap();
    drop(gate);
    assert_eq!(result.ending, Ending::Complete);
    assert!(
        places(&result)
            .iter()
            .all(|place| *place == ("w2", DeviceKind::Cpu))
    );
    let lines = journal::read(&stage.settings.job.job_dir).unwrap();
    let moved = lines
        .iter()
        .filter(|line| matches!(line.entry, JournalEntry::Reassigned { .. }));
    assert!(moved.count() > 0);
    let renders = counter
        .begun()
        .into_iter()
        .filter(|(chunk, _)| chunk.work == WorkKind::Render);
    assert_eq!(
        renders.map(|(_, times)| times).sum::<usize>(),
        9,
        "only the lost chunk was begun twice"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_chunk_of_a_slow_worker_is_done_by_an_idle_faster_one() {
    let stage = Stage::open(128).await;
    let counter = AttemptCounter::default();
    let (_gate, closed) = watch::channel(false);
    // It takes ten seconds for a frame: one chunk is done, and the next one would take minutes.
    let slow: Script = Arc::new(move |task, _| match &task.body {
        TaskBody::Render(_) if task.chunk.index > 0 => Act::Wait(closed.clone()),
        TaskBody::Render(_) | TaskBody::Analyze(_) => Act::Succeed,
    });
    let machine = |frame_ms| FakeMachine {
        frame_ms,
        ..FakeMachine::cpu(16_384)
    };
    let _w1 = stage.worker_on("w1", &counter, machine(10_000), slow).await;
    let everyone = Subject::Control(None).to_string();
    let mut commands = stage.farm.connection.client.subscribe(everyone).await.unwrap();
    let mut run = stage.dispatch().await;
    run.wait_for("the slow worker has begun its second chunk", begins(1))
        .await;
    let _w2 = stage
        .worker_on("w2", &counter, machine(10), always(Act::Succeed))
        .await;
    let result = run.end().await.unwrap();
    assert_eq!(result.ending, Ending::Complete);
    let workers: Vec<&str> = result
        .records
        .iter()
        .map(|record| record.worker.as_str())
        .collect();
    assert_eq!(workers, ["w1", "w2", "w2", "w2", "w2", "w2", "w2", "w2"]);
    let chunk = result.records[1].chunk;
    let begun = counter.begun();
    assert_eq!(begun[&chunk], 2);
    assert!(
        begun.iter().all(|(other, times)| *times == 1 || *other == chunk),
        "no other chunk is run twice: {begun:?}"
    );
    let abandoned = async {
        while let Some(message) = commands.next().await {
            if wire::decode::<WorkerCommand>(&message.payload).unwrap() == WorkerCommand::Abandon(chunk) {
                return;
            }
        }
    };
    let received = tokio::time::timeout(LIMIT, abandoned).await;
    received.expect("the slow worker is asked to give up");
}
