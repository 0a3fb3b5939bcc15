//! Lost tasks, lost workers, bad results and other faults are found and repaired.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use latentfarm_common::nats::tasks::TaskStream;
use latentfarm_common::nats::topology::Topology;
use latentfarm_common::wire::task::Task;
use latentfarm_coordinator::dispatch::{Ending, JobEvent, RetryClass, SegmentCheck};
use latentfarm_coordinator::segment_check::BadSegment;
use tokio::sync::watch;

use crate::support::{Act, AttemptCounter, Script, Stage, always, begins, first_time, is_render};

#[tokio::test(flavor = "multi_thread")]
async fn the_chunk_of_a_worker_that_dies_goes_to_another() {
    let stage = Stage::open(64).await;
    let counter = AttemptCounter::default();
    let _w1 = stage.worker("w1", &counter, first_time(0, Act::Die)).await;
    let mut run = stage.dispatch().await;
    run.wait_for("w1 is lost", |event| matches!(event, JobEvent::WorkerLost { .. }))
        .await;
    let _w2 = stage.worker("w2", &counter, always(Act::Succeed)).await;
    let result = run.end().await.unwrap();
    assert_eq!(result.ending, Ending::Complete);
    assert_eq!(
        result.report.retries,
        BTreeMap::from([(RetryClass::WorkerLost, 1)])
    );
    assert_eq!(result.records[0].worker.as_str(), "w2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_forgot_its_chunk_loses_it() {
    let stage = Stage::open(64).await;
    let counter = AttemptCounter::default();
    let script = first_time(1, Act::Die);
    let first_life = stage.worker("w1", &counter, Arc::clone(&script)).await;
    let mut run = stage.dispatch().await;
    run.wait_for("chunk 1 is begun", begins(1)).await;
    drop(first_life);
    let _second_life = stage.worker("w1", &counter, script).await;
    let result = run.end().await.unwrap();
    assert_eq!(result.ending, Ending::Complete);
    assert_eq!(
        result.report.retries,
        BTreeMap::from([(RetryClass::WorkerLost, 1)])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_costs_nothing_but_time() {
    let mut stage = Stage::open(160).await;
    let counter = AttemptCounter::default();
    let (gate, closed) = watch::channel(false);
    let late = move |task: &Task| is_render(task, 4).then(|| closed.clone());
    let script: Script = Arc::new(move |task, _| late(task).map_or(Act::Succeed, Act::Wait));
    let _w1 = stage.worker("w1", &counter, script).await;
    let mut run = stage.dispatch().await;
    run.wait_for("chunk 4 is begun", begins(4)).await;
    stage.server.restart().await.unwrap();
    gate.send_replace(true);
    let result = run.end().await.unwrap();
    assert_eq!(result.ending, Ending::Complete);
    assert_eq!(result.records.len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_vanish_from_the_queue_are_published_again() {
    let mut stage = Stage::open(64).await;
    stage.settings.farm.timeouts.reconcile_interval = Duration::from_millis(500);
    let mut run = stage.dispatch().await;
    run.wait_for(
        "tasks are queued",
        |event| matches!(event, JobEvent::Progress(p) if p.analyze.queued == 4),
    )
    .await;
    let task_stream = TaskStream::new(&stage.farm.connection, Topology::default());
    assert_eq!(task_stream.remove_job(stage.spec.id).await.unwrap(), 4);
    run.wait_for("a lost task", |event| {
        matches!(event, JobEvent::ChunkRequeued { .. })
    })
    .await;

    let counter = AttemptCounter::default();
    let _w1 = stage.worker("w1", &counter, always(Act::Succeed)).await;
    let result = run.end().await.unwrap();
    assert_eq!(result.ending, Ending::Complete);
    assert_eq!(
        result.report.retries,
        BTreeMap::from([(RetryClass::QueueLost, 4)])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_fails_verification_is_taken_back_and_done_again() {
    let stage = Stage::open(64).await;
    let counter = AttemptCounter::default();
    let _w1 = stage.worker("w1", &counter, always(Act::Succeed)).await;
    let refused = AtomicBool::new(false);
    let check: SegmentCheck = Arc::new(move |record, range, _| {
        assert_eq!(range.len(), 16);
        let first = record.chunk.index == 2 && !refused.swap(true, Ordering::SeqCst);
        if first {
            Err(BadSegment::Broken("15 frames decode".to_owned()))
        } else {
            Ok(())
        }
    });
    let mut run = stage.dispatch_with(stage.settings.clone(), check).await;
    let event = run
        .wait_for("a requeue", |event| {
            matches!(event, JobEvent::ChunkRequeued { .. })
        })
        .await;
    assert!(
        event
            .to_string()
            .contains("its result failed verification: 15 frames decode"),
        "{event}"
    );
    let result = run.end().await.unwrap();
    assert_eq!(result.ending, Ending::Complete);
    assert_eq!(result.records.len(), 4);
    assert_eq!(result.report.retries.values().sum::<u64>(), 1);
    let again = counter.begun().into_values().filter(|times| *times == 2).count();
    assert!(again <= 1, "only the refused chunk was done again");
    let attempts: Vec<u32> = result
        .records
        .iter()
        .map(|record| record.attempt.number)
        .collect();
    assert_eq!(attempts.iter().filter(|attempt| **attempt > 0).count(), again);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_a_worker_cannot_read_is_published_again() {
    let stage = Stage::open(64).await;
    let counter = AttemptCounter::default();
    let _w1 = stage.worker("w1", &counter, first_time(2, Act::Refuse)).await;
    let result = stage.dispatch().await.end().await.unwrap();
    assert_eq!(result.ending, Ending::Complete);
    assert_eq!(
        result.report.retries,
        BTreeMap::from([(RetryClass::Transient, 1)])
    );
}
