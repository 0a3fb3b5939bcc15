//! A job that needs tags is only given to workers that have all of them, whatever becomes of its chunks.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use latentfarm_common::ids::WorkKind;
use latentfarm_common::tags::Tags;
use latentfarm_common::wire::task::Task;
use latentfarm_coordinator::dispatch::{Ending, JobEvent, SpotCheckReport};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::support::{Act, AttemptCounter, FakeMachine, LIMIT, Run, Stage, always, transient};

/// A stage whose job needs these tags.
async fn stage(frames: u32, needed: &[&str]) -> Stage {
    let mut stage = Stage::open(frames).await;
    let needed = needed.iter().map(|tag| tag.parse().unwrap());
    stage.settings.job.needed_tags = Tags::new(needed).unwrap();
    stage
}

/// Waits until the job knows so many workers.
async fn wait_for_workers(run: &mut Run, count: usize) {
    let mut joined = BTreeSet::new();
    run.wait_for("all workers have joined", |event| {
        if let JobEvent::Heartbeat(heartbeat) = event {
            joined.insert(heartbeat.worker.clone());
        }
        joined.len() == count
    })
    .await;
}

/// Waits until the job is said to wait for workers with tags, and returns what is said.
async fn wait_for_tags(run: &mut Run) -> String {
    let waits =
        |event: &JobEvent| matches!(event, JobEvent::Waiting { reason, .. } if reason.kind() == "tags");
    run.wait_for("the wait is named", waits).await.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_task_of_a_job_is_delivered_to_a_worker_without_its_tag() {
    let mut stage = stage(64, &["eu"]).await;
    // Every chunk is rendered again.
    stage.settings.farm.spot_check = NonZeroU32::new(1);
    let counter = AttemptCounter::default();
    let (gate, opened) = watch::channel(false);
    let script = || always(Act::Wait(opened.clone()));
    let start = |name, tags| stage.worker_on(name, &counter, FakeMachine::tagged(tags), script());
    let _workers = (
        start("w1", &[]).await,
        start("w2", &["eu"]).await,
        start("w3", &["nvenc", "eu"]).await,
        start("w4", &["us", "eu-west", "nvenc"]).await,
    );
    let mut run = stage.dispatch().await;
    wait_for_workers(&mut run, 4).await;
    gate.send_replace(true);
    let end = run.end().await.unwrap();
    assert_eq!(end.ending, Ending::Complete);
    let all_agree = SpotCheckReport {
        agreed: 4,
        ..SpotCheckReport::default()
    };
    assert_eq!(end.report.spot_checks, all_agree);
    for outsider in ["w1", "w4"] {
        assert_eq!(counter.delivered_to(outsider), [], "{outsider}");
    }
    let delivered = ["w2", "w3"].map(|name| counter.delivered_to(name)).concat();
    let works: BTreeSet<WorkKind> = delivered.iter().map(|task| task.chunk.work).collect();
    let expected = [WorkKind::Analyze, WorkKind::Render, WorkKind::SpotCheck];
    assert_eq!(works, BTreeSet::from(expected));
    assert!(
        delivered
            .iter()
            .all(|task| task.needed_tags == stage.settings.job.needed_tags)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_is_not_held_up_for_a_check_by_workers_that_lack_its_tag() {
    let mut stage = stage(64, &["eu"]).await;
    stage.settings.farm.spot_check = NonZeroU32::new(1);
    let counter = AttemptCounter::default();
    let (gate, opened) = watch::channel(false);
    let script = || always(Act::Wait(opened.clone()));
    let _w1 = stage.worker("w1", &counter, script()).await;
    let tagged = FakeMachine::tagged(&["eu"]);
    let _w2 = stage.worker_on("w2", &counter, tagged, script()).await;
    let mut run = stage.dispatch().await;
    wait_for_workers(&mut run, 2).await;
    gate.send_replace(true);
    let end = run.end().await.unwrap();
    assert_eq!(end.ending, Ending::Complete);
    let unchecked = SpotCheckReport {
        not_compared: 4,
        ..SpotCheckReport::default()
    };
    assert_eq!(end.report.spot_checks, unchecked);
    assert_eq!(counter.delivered_to("w1"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_waits_for_its_tags_by_name_until_a_worker_with_all_of_them_joins() {
    let stage = stage(32, &["nvenc", "eu"]).await;
    let (counter, others) = (AttemptCounter::default(), AttemptCounter::default());
    let succeed = || always(Act::Succeed);
    let start = |name, tags| stage.worker_on(name, &others, FakeMachine::tagged(tags), succeed());
    let _others = (
        start("w1", &[]).await,
        start("w2", &["eu"]).await,
        start("w3", &["nvenc"]).await,
    );
    let mut run = stage.dispatch().await;
    let waiting = wait_for_tags(&mut run).await;
    assert!(
        waiting.contains("no live worker has the tags eu, nvenc"),
        "{waiting}"
    );
    assert!(waiting.contains("--tag eu,nvenc"), "{waiting}");
    for name in ["w1", "w2", "w3"] {
        assert_eq!(others.delivered_to(name), [], "nothing is published yet: {name}");
    }
    // It is at work until the end of the wait is seen.
    let (gate, opened) = watch::channel(false);
    let able = FakeMachine::tagged(&["eu", "nvenc", "big"]);
    let _w4 = stage
        .worker_on("w4", &counter, able, always(Act::Wait(opened)))
        .await;
    // Tasks may be queued for a moment before one is begun, which is a wait of another kind.
    run.wait_for("the wait ends", |event| {
        matches!(event, JobEvent::WaitOver { .. })
    })
    .await;
    gate.send_replace(true);
    assert_eq!(run.end().await.unwrap().ending, Ending::Complete);
    // Those with one of the tags may see a task, and give it back.
    assert!(others.begun().is_empty(), "{:?}", others.begun());
    assert_eq!(others.delivered_to("w1"), []);
    assert_eq!(
        others.delivered_to("w3"),
        [],
        "the queues are those of the first tag"
    );
    assert_eq!(counter.begun().len(), 4, "{:?}", counter.begun());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_workers_leave_waits_for_others_with_its_tags() {
    let stage = stage(48, &["eu"]).await;
    let counter = AttemptCounter::default();
    let w1 = stage.worker("w1", &counter, always(Act::Succeed)).await;
    let (_gate, opened) = watch::channel(false);
    let stuck = always(Act::Wait(opened));
    let w2 = stage
        .worker_on("w2", &counter, FakeMachine::tagged(&["eu"]), stuck)
        .await;
    let mut run = stage.dispatch().await;
    run.wait_for("a chunk begins", |event| {
        matches!(event, JobEvent::ChunkStarted { .. })
    })
    .await;
    drop(w2);
    let waiting = wait_for_tags(&mut run).await;
    assert!(waiting.contains("no live worker has the tag eu"), "{waiting}");
    assert_eq!(counter.delivered_to("w1"), []);
    let machine = FakeMachine::tagged(&["eu"]);
    let _w3 = stage
        .worker_on("w3", &counter, machine, always(Act::Succeed))
        .await;
    assert_eq!(run.end().await.unwrap().ending, Ending::Complete);
    assert_eq!(counter.delivered_to("w1"), []);
    drop(w1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_is_given_up_when_the_workers_with_its_tags_have_failed_it() {
    let stage = stage(32, &["eu"]).await;
    let (counter, others) = (AttemptCounter::default(), AttemptCounter::default());
    // It could render the chunk, if it had the tag.
    let _w1 = stage.worker("w1", &others, always(Act::Succeed)).await;
    let fails = always(Act::Fail(transient()));
    let _w2 = stage
        .worker_on("w2", &counter, FakeMachine::tagged(&["eu"]), fails)
        .await;
    let end = stage.dispatch().await.end().await.unwrap();
    let Ending::Failed { quarantined } = &end.ending else {
        panic!("{:?}", end.ending)
    };
    let reason = &quarantined[0].reason;
    assert!(reason.contains("(on w2)"), "{reason}");
    assert!(others.begun().is_empty());
    assert!(
        counter.begun().values().all(|times| *times == 2),
        "{:?}",
        counter.begun()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_not_lost_that_workers_with_one_of_their_tags_give_back_again_and_again() {
    let stage = stage(48, &["eu", "nvenc"]).await;
    let (counter, others) = (AttemptCounter::default(), AttemptCounter::default());
    let half = FakeMachine::tagged(&["eu"]);
    let _w1 = stage.worker_on("w1", &others, half, always(Act::Succeed)).await;
    let (gate, opened) = watch::channel(false);
    let whole = FakeMachine::tagged(&["eu", "nvenc"]);
    let slow = Arc::new(move |task: &Task, _| match task.chunk.work {
        WorkKind::Render => Act::Wait(opened.clone()),
        _ => Act::Succeed,
    });
    let _w2 = stage.worker_on("w2", &counter, whole, slow).await;
    let run = stage.dispatch().await;
    // The server delivers a message eight times.
    let declined = async {
        let renders = |task: &&Task| task.chunk.work == WorkKind::Render;
        while others.delivered_to("w1").iter().filter(renders).count() < 40 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let declined = timeout(LIMIT, declined).await;
    declined.expect("tasks go on being delivered while the only able worker is busy");
    gate.send_replace(true);
    let end = run.end().await.unwrap();
    assert_eq!(end.ending, Ending::Complete);
    assert!(end.report.retries.is_empty(), "{:?}", end.report.retries);
    assert!(others.begun().is_empty());
}
