//! The tasks that a worker holds beside the one that it runs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::harness::{ScriptedAction, ScriptedRunner, WorkerHarness};
use crate::support::{Farm, chunk, eventually, job, worker};
use latentfarm_common::nats::pull::{Pulled, try_pull};
use latentfarm_common::nats::subjects::Subject;
use latentfarm_common::nats::topology::Topology;
use latentfarm_common::queues::{Queue, ResourceClass};
use latentfarm_common::wire::memory::RenderMemory;
use latentfarm_common::wire::outcome::{WorkerCommand, WorkerState};
use tokio::sync::Notify;

/// The queue of the render tasks, and a more urgent one.
const USUAL: Queue = render_queue(1);
const URGENT: Queue = render_queue(0);

const fn render_queue(priority: u8) -> Queue {
    Queue::any(ResourceClass::Cpu(256), priority)
}

/// A worker that has finished chunk 0, so that its pace is known, and that runs chunk 1 until it is notified. It holds
/// the chunks 2 and 3.
async fn holding(farm: Farm) -> (WorkerHarness, Arc<Notify>) {
    let go_on = Arc::new(Notify::new());
    let script = [
        ScriptedAction::Finish,
        ScriptedAction::FinishLater(Arc::clone(&go_on)),
    ];
    let harness = offering_memory(farm, &script).await;
    for index in 0..4 {
        harness.publish_to(USUAL, index, 0).await;
    }
    holds(&harness, &[2, 3]).await;
    (harness, go_on)
}

async fn offering_memory(farm: Farm, script: &[ScriptedAction]) -> WorkerHarness {
    let memory = RenderMemory {
        host_mib: Some(256),
        device_mib: None,
    };
    let runner = ScriptedRunner {
        memory,
        ..ScriptedRunner::with(script)
    };
    WorkerHarness::with(farm, runner).await
}

/// Waits until the worker reports that it holds these chunks.
async fn holds(harness: &WorkerHarness, indices: &[u32]) {
    let chunks: Vec<_> = indices.iter().map(|index| chunk(*index)).collect();
    eventually("the worker holds these chunks", async || {
        (harness.heartbeat_state.snapshot().held == chunks).then_some(())
    })
    .await;
}

/// Waits until another worker can pull a task, and returns its subject.
async fn pulled(harness: &WorkerHarness) -> String {
    eventually("another worker gets a task", async || {
        match try_pull(&harness.farm.coordinator, USUAL).await {
            Ok(Pulled::Task(task)) => Some(task.subject.to_string()),
            _ => None,
        }
    })
    .await
}

fn ran(harness: &WorkerHarness) -> Vec<u32> {
    let ran = harness.runner.ran.lock().unwrap();
    ran.iter().map(|task| task.chunk.index).collect()
}

#[tokio::test]
async fn tasks_are_held_in_order_and_run_one_after_the_other() {
    let (harness, go_on) = holding(Farm::start().await).await;
    go_on.notify_one();
    for index in 0..4 {
        harness.done(index).await;
    }
    harness.queue_is_empty().await;
    assert_eq!(ran(&harness), [0, 1, 2, 3]);
    holds(&harness, &[]).await;
    assert_eq!(harness.leave().await.finished, 4);
}

#[tokio::test]
async fn a_held_task_goes_to_another_worker_when_the_coordinator_asks_for_it() {
    let (harness, go_on) = holding(Farm::start().await).await;
    let to_worker = Subject::Control(Some(worker("w1")));
    // The one that runs is not given back.
    harness
        .instruct(to_worker.clone(), &WorkerCommand::GiveBack(chunk(1)))
        .await;
    harness
        .instruct(to_worker, &WorkerCommand::GiveBack(chunk(3)))
        .await;
    assert!(pulled(&harness).await.ends_with(&chunk(3).name().to_string()));
    holds(&harness, &[2]).await;
    go_on.notify_one();
    harness.done(2).await;
    assert_eq!(ran(&harness), [0, 1, 2]);
}

#[tokio::test]
async fn a_more_urgent_task_runs_before_those_that_are_held() {
    let (harness, go_on) = holding(Farm::start().await).await;
    harness.publish_to(URGENT, 9, 0).await;
    // The announcement reaches the worker while it is busy.
    harness.farm.coordinator.client.flush().await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    go_on.notify_one();
    for index in [9, 2, 3] {
        harness.done(index).await;
    }
    assert_eq!(ran(&harness), [0, 1, 9, 2, 3]);
}

#[tokio::test]
async fn a_leaving_worker_gives_back_what_it_holds_before_its_task_ends() {
    let (harness, go_on) = holding(Farm::start().await).await;
    harness.trigger.drain();
    let given_back = [pulled(&harness).await, pulled(&harness).await];
    for index in [2, 3] {
        let name = chunk(index).name().to_string();
        assert!(
            given_back.iter().any(|subject| subject.ends_with(&name)),
            "{given_back:?}"
        );
    }
    go_on.notify_one();
    harness.done(1).await;
    assert_eq!(harness.leave().await.finished, 2);
}

#[tokio::test]
async fn a_cancelled_job_takes_the_held_tasks_with_it() {
    let (harness, _go_on) = holding(Farm::start().await).await;
    harness
        .instruct(Subject::Control(None), &WorkerCommand::Cancel(job("a job")))
        .await;
    holds(&harness, &[]).await;
}

#[tokio::test]
async fn a_task_whose_chunk_is_done_elsewhere_stops_and_the_next_one_runs() {
    let script = [ScriptedAction::Finish, ScriptedAction::WorkUntilStopped];
    let harness = offering_memory(Farm::start().await, &script).await;
    for index in 0..4 {
        harness.publish_to(USUAL, index, 0).await;
    }
    holds(&harness, &[2, 3]).await;
    harness
        .instruct(Subject::Control(None), &WorkerCommand::Abandon(chunk(1)))
        .await;
    for index in [0, 2, 3] {
        harness.done(index).await;
    }
    harness.queue_is_empty().await;
    assert_eq!(ran(&harness), [0, 1, 2, 3]);
}

#[tokio::test]
async fn held_tasks_are_kept_longer_than_the_acknowledgement_wait() {
    let topology = Topology {
        ack_wait: Duration::from_secs(1),
        ..Topology::default()
    };
    let (harness, go_on) = holding(Farm::with(topology).await).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let other = try_pull(&harness.farm.coordinator, USUAL).await.unwrap();
    assert!(matches!(other, Pulled::Empty), "{other:?}");
    go_on.notify_one();
    harness.done(3).await;
    assert_eq!(ran(&harness), [0, 1, 2, 3]);
}

#[tokio::test]
async fn a_result_is_finished_beside_the_next_task_and_two_are_not() {
    let go_on = Arc::new(Notify::new());
    let beside = || ScriptedAction::FinishBeside(Arc::clone(&go_on));
    let harness = offering_memory(Farm::start().await, &[beside(), beside()]).await;
    for index in 0..3 {
        harness.publish_to(USUAL, index, 0).await;
    }
    eventually("two tasks wait for their ends", async || {
        let heartbeat = harness.heartbeat_state.snapshot();
        let finishing: Vec<u32> = heartbeat.finishing.iter().map(|task| task.chunk.index).collect();
        (finishing == [0, 1]).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(ran(&harness), [0, 1], "the third one waits");
    go_on.notify_one();
    harness.done(2).await;
    go_on.notify_one();
    for index in 0..2 {
        harness.done(index).await;
    }
    assert_eq!(ran(&harness), [0, 1, 2]);
}

#[tokio::test]
async fn a_worker_asks_for_its_device_when_a_task_is_announced_for_it_and_rests_without_one() {
    let withheld = RenderMemory {
        host_mib: None,
        device_mib: Some(512),
    };
    let runner = ScriptedRunner {
        withheld,
        ..ScriptedRunner::default()
    };
    let harness = WorkerHarness::with(Farm::start().await, runner).await;
    // It pulls for face analysis, and no task for its device is announced to it.
    harness.publish(0, 0).await;
    harness.done(0).await;
    assert_eq!(harness.runner.asked.load(Ordering::SeqCst), 0);
    let on_gpu = Queue::any(ResourceClass::Gpu(512), 1);
    harness.publish_to(on_gpu, 1, 0).await;
    harness.done(1).await;
    assert!(harness.runner.asked.load(Ordering::SeqCst) > 0);
    let rested = harness.runner.rested.load(Ordering::SeqCst);
    harness
        .instruct(Subject::Control(None), &WorkerCommand::FreeMemory)
        .await;
    eventually("the worker rests when its pull ends without a task", async || {
        (harness.runner.rested.load(Ordering::SeqCst) > rested).then_some(())
    })
    .await;
    harness.leave().await;
}

#[tokio::test]
async fn a_worker_that_goes_off_duty_finishes_its_task_and_gives_back_what_it_holds() {
    let (harness, go_on) = holding(Farm::start().await).await;
    let reason = "outside its hours".to_owned();
    harness.off_duty.send_replace(Some(reason.clone()));
    go_on.notify_one();
    harness.done(1).await;
    eventually("the worker rests", async || {
        let heartbeat = harness.heartbeat_state.snapshot();
        (heartbeat.state == WorkerState::Resting && heartbeat.problem.as_ref() == Some(&reason)).then_some(())
    })
    .await;
    holds(&harness, &[]).await;
    // They come back in any order.
    let is_second = pulled(&harness).await.ends_with(&chunk(2).name().to_string());
    assert_eq!(ran(&harness), [0, 1]);
    assert_eq!(harness.runner.freed.load(Ordering::SeqCst), 1);
    harness.off_duty.send_replace(None);
    let left = if is_second { 3 } else { 2 };
    harness.done(left).await;
    assert_eq!(ran(&harness), [0, 1, left]);
    assert_eq!(harness.heartbeat_state.snapshot().problem, None);
    assert_eq!(harness.leave().await.finished, 3);
}

#[tokio::test]
async fn an_idle_worker_goes_off_duty_at_once_and_can_be_drained_then() {
    let harness = offering_memory(Farm::start().await, &[]).await;
    harness.publish_to(USUAL, 0, 0).await;
    harness.done(0).await;
    harness.queue_is_empty().await;
    harness
        .off_duty
        .send_replace(Some("outside its hours".to_owned()));
    eventually("the worker rests", async || {
        (harness.heartbeat_state.snapshot().state == WorkerState::Resting).then_some(())
    })
    .await;
    harness.publish_to(USUAL, 1, 0).await;
    assert!(pulled(&harness).await.ends_with(&chunk(1).name().to_string()));
    harness
        .instruct(Subject::Control(Some(worker("w1"))), &WorkerCommand::Drain)
        .await;
    assert_eq!(harness.serving.await.unwrap().finished, 1);
}
