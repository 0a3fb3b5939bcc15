//! Tests of the worker's loop on a real NATS server, with a scripted runner in place of the engine.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod harness;
mod held_tasks;
#[path = "../../common/tests/support/mod.rs"]
mod support;
mod tags;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt as _;
use harness::{ScriptedAction, WorkerHarness};
use latentfarm_common::blob::Store;
use latentfarm_common::ids::Attempt;
use latentfarm_common::nats::done::DoneLog;
use latentfarm_common::nats::pull::{Pulled, try_pull};
use latentfarm_common::nats::subjects::{ALL_HEARTBEATS, Subject};
use latentfarm_common::nats::topology::{self, Topology};
use latentfarm_common::wire;
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemoryStage, OutOfMemory};
use latentfarm_common::wire::outcome::{
    EventKind, Failure, Heartbeat, TaskStage, WorkerCommand, WorkerState,
};
use latentfarm_worker::consume::Summary;
use support::{Farm, LIMIT, chunk, eventually, job, queue, record, worker};
use tokio::sync::Notify;
use tokio::time::timeout;

#[tokio::test]
async fn a_task_ends_as_a_blob_a_record_and_an_empty_queue() {
    let mut harness = WorkerHarness::start(&[]).await;
    harness.publish(3, 2).await;
    let done = harness.done(3).await;
    assert_eq!(
        (done.chunk, done.attempt),
        (chunk(3), Attempt { epoch: 1, number: 2 })
    );
    assert_eq!(
        (done.worker, done.numerics_fingerprint.as_str()),
        (worker("w1"), "fake")
    );
    let store = Store::open(&harness.store, None).unwrap();
    assert_eq!(
        store.get_bytes(&done.artifact).await.unwrap(),
        chunk(3).to_string().into_bytes()
    );
    harness.queue_is_empty().await;
    let event = harness.next_event().await;
    assert_eq!(
        (event.chunk, event.attempt.number, event.kind),
        (chunk(3), 2, EventKind::Started)
    );
    let expected = Summary {
        finished: 1,
        unfinished: 0,
    };
    assert_eq!(harness.leave().await, expected);
}

#[tokio::test]
async fn failures_are_reported_and_their_tasks_go() {
    let failures = [
        Failure::OutOfMemory(OutOfMemory {
            kind: DeviceKind::Cpu,
            device: "fake".to_owned(),
            stage: Some(MemoryStage::Denoise),
            plan: MemoryPlan::default(),
            needed_at_least_mib: Some(9000),
            free_before_mib: 8000,
            suspected: false,
        }),
        Failure::BadInput {
            message: "frame 7 is broken".to_owned(),
        },
        Failure::Transient {
            message: "the store was slow".to_owned(),
        },
        Failure::EngineLost {
            message: "killed by signal 9".to_owned(),
        },
        Failure::InsufficientMemory {
            device: "fake".to_owned(),
            needed_mib: 9000,
            free_mib: 8000,
        },
    ];
    let actions: Vec<ScriptedAction> = failures.iter().cloned().map(ScriptedAction::Fail).collect();
    let mut harness = WorkerHarness::start(&actions).await;
    for (index, failure) in (0..).zip(failures) {
        harness.publish(index, 0).await;
        assert_eq!(harness.next_event().await.kind, EventKind::Started);
        let event = harness.next_event().await;
        assert_eq!(
            (event.chunk, event.kind),
            (chunk(index), EventKind::Failed(failure))
        );
    }
    harness.queue_is_empty().await;
    let log = DoneLog::new(&harness.farm.coordinator);
    assert!(log.list(job("a job")).await.unwrap().is_empty());
    assert_eq!(harness.runner.runs(), 5);
}

#[tokio::test]
async fn an_unfit_worker_reports_itself_and_leaves_the_task_to_others() {
    let unfit = Failure::WorkerUnfit {
        message: "no weights".to_owned(),
    };
    let mut harness = WorkerHarness::start(&[ScriptedAction::Fail(unfit.clone())]).await;
    harness.publish(0, 0).await;
    assert_eq!(harness.next_event().await.kind, EventKind::Started);
    assert_eq!(harness.next_event().await.kind, EventKind::Failed(unfit));
    // The same attempt of the task is delivered again to whichever worker pulls: here the same one, which is
    // fit again.
    assert_eq!(harness.done(0).await.attempt.number, 0);
    assert_eq!(harness.runner.runs(), 2);
}

#[tokio::test]
async fn a_task_that_is_for_other_workers_is_given_back_until_a_new_message_is_needed() {
    let mut harness = WorkerHarness::start(&[]).await;
    let mut task = harness.task(0, 0);
    task.excluded = vec![worker("w1")];
    harness.task_stream.publish(queue(), &task).await.unwrap();
    // What the worker may run is not held up by it.
    harness.publish(1, 0).await;
    harness.done(1).await;
    assert_eq!(harness.next_event().await.chunk, chunk(1));
    let event = harness.next_event().await;
    assert_eq!((event.chunk, event.kind), (chunk(0), EventKind::Released));
    harness.queue_is_empty().await;
    assert_eq!(harness.runner.runs(), 1);
}

#[tokio::test]
async fn a_task_that_cannot_be_read_is_terminated_and_reported() {
    let mut harness = WorkerHarness::start(&[]).await;
    // The queue exists once a task has gone through it.
    harness.publish(0, 0).await;
    harness.done(0).await;
    harness.next_event().await;
    let foreign = wire::encode(&harness.task(9, 0)).unwrap();
    for (index, payload, reason) in [
        (2, b"not a task".to_vec(), "not a farm message"),
        (3, foreign, "was published for"),
    ] {
        let subject = Subject::Task {
            queue: queue(),
            chunk: chunk(index),
        };
        let context = &harness.farm.coordinator.context;
        context
            .publish(subject.to_string(), payload.into())
            .await
            .unwrap()
            .await
            .unwrap();
        let event = harness.next_event().await;
        assert_eq!(event.chunk, chunk(index));
        let EventKind::Failed(Failure::Transient { message }) = event.kind else {
            panic!("{event:?}");
        };
        assert!(message.contains(reason), "{message}");
    }
    harness.queue_is_empty().await;
    assert_eq!(harness.runner.runs(), 1, "a broken task was run");
}

#[tokio::test]
async fn a_task_of_another_release_stays_for_workers_that_can_read_it() {
    let harness = WorkerHarness::start(&[]).await;
    harness.publish(0, 0).await;
    harness.done(0).await;
    harness.queue_is_empty().await;
    let mut payload = wire::encode(&harness.task(1, 0)).unwrap();
    payload[4] = 0xff;
    let subject = Subject::Task {
        queue: queue(),
        chunk: chunk(1),
    };
    let context = &harness.farm.coordinator.context;
    let stored = context
        .publish(subject.to_string(), payload.into())
        .await
        .unwrap();
    stored.await.unwrap();
    let problem = eventually("the worker says what is the matter", async || {
        harness.heartbeat_state.snapshot().problem
    })
    .await;
    assert!(problem.contains("run the same release everywhere"), "{problem}");
    let queued = harness.task_stream.queued(job("a job")).await.unwrap();
    assert_eq!(queued, [(queue(), chunk(1))]);
    assert_eq!(harness.runner.runs(), 1);
}

#[tokio::test]
async fn a_chunk_that_is_done_already_is_not_run_again() {
    let harness = WorkerHarness::start(&[]).await;
    let before = record(chunk(0), "w2");
    DoneLog::new(&harness.farm.coordinator)
        .commit(&before)
        .await
        .unwrap();
    harness.publish(0, 1).await;
    harness.publish(1, 0).await;
    harness.done(1).await;
    harness.queue_is_empty().await;
    assert_eq!(harness.runner.runs(), 1);
    assert_eq!(harness.done(0).await, before);
}

#[tokio::test]
async fn a_result_that_comes_second_is_dropped() {
    let go_on = Arc::new(Notify::new());
    let mut harness = WorkerHarness::start(&[ScriptedAction::FinishLater(Arc::clone(&go_on))]).await;
    harness.publish(0, 0).await;
    assert_eq!(harness.next_event().await.kind, EventKind::Started);
    let first = record(chunk(0), "w2");
    DoneLog::new(&harness.farm.coordinator)
        .commit(&first)
        .await
        .unwrap();
    go_on.notify_one();
    harness.queue_is_empty().await;
    assert_eq!(harness.done(0).await, first);
    let expected = Summary {
        finished: 0,
        unfinished: 1,
    };
    assert_eq!(harness.leave().await, expected);
}

#[tokio::test]
async fn work_longer_than_the_acknowledgement_wait_is_delivered_once() {
    let go_on = Arc::new(Notify::new());
    let farm = Farm::with(Topology {
        ack_wait: Duration::from_secs(1),
        ..Topology::default()
    })
    .await;
    let harness = WorkerHarness::on(farm, &[ScriptedAction::FinishLater(Arc::clone(&go_on))]).await;
    harness.publish(0, 0).await;
    let mut ticks = tokio::time::interval(Duration::from_secs(3));
    ticks.tick().await;
    ticks.tick().await;
    go_on.notify_one();
    harness.done(0).await;
    harness.queue_is_empty().await;
    assert_eq!(harness.runner.runs(), 1);
}

#[tokio::test]
async fn a_cancelled_job_stops_and_its_task_goes() {
    let mut harness = WorkerHarness::start(&[ScriptedAction::WorkUntilStopped]).await;
    harness.publish(0, 0).await;
    assert_eq!(harness.next_event().await.kind, EventKind::Started);
    harness
        .instruct(Subject::Control(None), &WorkerCommand::Cancel(job("another job")))
        .await;
    harness
        .instruct(Subject::Control(None), &WorkerCommand::Cancel(job("a job")))
        .await;
    assert_eq!(harness.next_event().await.kind, EventKind::Released);
    harness.queue_is_empty().await;
    assert_eq!(harness.runner.runs(), 1);
}

#[tokio::test]
async fn a_draining_worker_finishes_its_task() {
    let go_on = Arc::new(Notify::new());
    let mut harness = WorkerHarness::start(&[ScriptedAction::FinishLater(Arc::clone(&go_on))]).await;
    harness.publish(0, 0).await;
    harness.publish(1, 0).await;
    assert_eq!(harness.next_event().await.kind, EventKind::Started);
    harness
        .instruct(Subject::Control(Some(worker("w1"))), &WorkerCommand::Drain)
        .await;
    eventually("the worker is draining", async || {
        (harness.heartbeat_state.snapshot().state == WorkerState::Draining).then_some(())
    })
    .await;
    go_on.notify_one();
    harness.done(0).await;
    let summary = timeout(LIMIT, harness.serving)
        .await
        .expect("the worker leaves")
        .unwrap();
    assert_eq!(summary.finished, 1);
    let left = harness.task_stream.queued(job("a job")).await.unwrap();
    assert_eq!(
        left,
        [(queue(), chunk(1))],
        "the other task waits for another worker"
    );
}

#[tokio::test]
async fn a_stopping_worker_gives_its_task_back_at_once() {
    let mut harness = WorkerHarness::start(&[ScriptedAction::WorkUntilStopped]).await;
    harness.publish(0, 0).await;
    assert_eq!(harness.next_event().await.kind, EventKind::Started);
    harness.trigger.escalate();
    harness.trigger.escalate();
    assert_eq!(harness.next_event().await.kind, EventKind::Released);
    timeout(LIMIT, harness.serving)
        .await
        .expect("the worker leaves")
        .unwrap();

    let second = harness.farm.worker("w2").await;
    let pulled = try_pull(&second, queue()).await.unwrap();
    assert!(matches!(pulled, Pulled::Task(_)), "{pulled:?}");
}

#[tokio::test]
async fn the_loop_goes_on_after_the_server_was_killed() {
    let mut harness = WorkerHarness::start(&[]).await;
    harness.publish(0, 0).await;
    harness.done(0).await;
    for index in 1..3 {
        harness.farm.server.restart().await.unwrap();
        eventually("a publish", async || {
            harness
                .task_stream
                .publish(queue(), &harness.task(index, 0))
                .await
                .ok()
        })
        .await;
        harness.done(index).await;
    }
    harness.queue_is_empty().await;
    assert_eq!(harness.leave().await.finished, 3);
}

#[tokio::test]
async fn heartbeats_show_state_and_progress() {
    let go_on = Arc::new(Notify::new());
    let harness = WorkerHarness::start(&[ScriptedAction::FinishLater(Arc::clone(&go_on))]).await;
    let mut heartbeats = harness
        .farm
        .coordinator
        .client
        .subscribe(ALL_HEARTBEATS)
        .await
        .unwrap();
    harness
        .heartbeat_state
        .update(|heartbeat| heartbeat.device_free_mib = 1234);
    harness.publish(0, 0).await;
    let working = async {
        loop {
            let message = heartbeats.next().await.unwrap();
            let heartbeat: Heartbeat = wire::decode(&message.payload).unwrap();
            if heartbeat.state == WorkerState::Working
                && heartbeat
                    .task
                    .as_ref()
                    .is_some_and(|t| t.stage == TaskStage::FaceAnalysis)
            {
                return heartbeat;
            }
        }
    };
    let heartbeat = timeout(LIMIT, working)
        .await
        .expect("a heartbeat of a working worker");
    assert_eq!(
        (heartbeat.worker, heartbeat.device_free_mib),
        (worker("w1"), 1234)
    );
    let task = heartbeat.task.unwrap();
    assert_eq!(
        (task.chunk, task.frames_done, task.frames_total),
        (chunk(0), 1, 16)
    );
    assert_eq!(task.queue, Some(queue()));
    go_on.notify_one();
    harness.done(0).await;
}

#[tokio::test]
async fn a_result_that_does_not_fit_into_the_store_is_kept_until_there_is_room() {
    let farm = Farm::with(Topology {
        media_max_bytes: 1,
        ..Topology::default()
    })
    .await;
    let mut harness = WorkerHarness::on(farm, &[]).await;
    "nats://farm-media".clone_into(&mut harness.store);
    harness.publish(0, 0).await;
    eventually("the worker shows that the store is full", async || {
        let heartbeat = harness.heartbeat_state.snapshot();
        let mut tasks = heartbeat.tasks();
        tasks.any(|task| task.stage == TaskStage::StoreFull).then_some(())
    })
    .await;
    // The operator makes room.
    let context = &harness.farm.coordinator.context;
    topology::ensure(context, &Topology::default()).await.unwrap();
    harness.done(0).await;
    harness.queue_is_empty().await;
    assert_eq!(harness.runner.runs(), 1, "the result is not made again");
    assert_eq!(harness.next_event().await.kind, EventKind::Started);
    harness.publish(1, 0).await;
    let next = harness.next_event().await;
    assert_eq!(
        (next.chunk, next.kind),
        (chunk(1), EventKind::Started),
        "no failure"
    );
}

#[tokio::test]
async fn memory_is_freed_by_a_worker_without_a_task_only() {
    let script = [ScriptedAction::Finish, ScriptedAction::WorkUntilStopped];
    let mut harness = WorkerHarness::start(&script).await;
    // A worker that has run a task is subscribed to commands.
    harness.publish(2, 0).await;
    assert_eq!(harness.next_event().await.kind, EventKind::Started);
    harness.done(2).await;
    let freed = Arc::clone(&harness.runner.freed);
    let freed = || freed.load(Ordering::SeqCst);
    let (all, request) = (Subject::Control(None), WorkerCommand::FreeMemory);
    harness.instruct(all.clone(), &request).await;
    eventually("the idle worker frees memory", async || {
        (freed() == 1).then_some(())
    })
    .await;
    harness.publish(0, 0).await;
    assert_eq!(harness.next_event().await.kind, EventKind::Started);
    harness.instruct(all.clone(), &request).await;
    // Commands come in order: the worker has read the request when it has read this one.
    harness.instruct(all, &WorkerCommand::Cancel(job("a job"))).await;
    assert_eq!(harness.next_event().await.kind, EventKind::Released);
    harness.publish(1, 0).await;
    harness.done(1).await;
    assert_eq!(freed(), 1, "a busy worker has no idle engine");
}
