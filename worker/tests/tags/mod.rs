//! A worker with tags takes the tasks that need some of these, and no others.

use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use latentfarm_common::nats::pull::{Pulled, wait_for_task};
use latentfarm_common::nats::topology;
use latentfarm_common::queues::{Lane, Queue, ResourceClass};
use latentfarm_common::tags::Tags;
use latentfarm_common::wire;
use latentfarm_common::wire::task::Task;
use tokio::time::Instant;

use crate::harness::{ScriptedRunner, WorkerHarness};
use crate::support::{Farm, LIMIT, chunk, eventually, job};

fn tags(list: &[&str]) -> Tags {
    Tags::new(list.iter().map(|tag| tag.parse().unwrap())).unwrap()
}

/// The queue of the analyses that need this tag.
fn queue(tag: &str) -> Queue {
    let lane = Lane {
        tag: Some(tag.parse().unwrap()),
        ..Lane::any(ResourceClass::Analyze)
    };
    Queue { lane, priority: 1 }
}

#[tokio::test]
async fn a_worker_pulls_what_needs_its_tags_and_leaves_the_rest_to_others() {
    let farm = Farm::start().await;
    let other = farm.worker("w2").await;
    let harness = WorkerHarness::with_tags(farm, ScriptedRunner::default(), tags(&["eu", "big"])).await;
    let publish = async |queue: Queue, index: u32, needed: &[&str]| {
        let task = Task {
            needed_tags: tags(needed),
            ..harness.task(index, 0)
        };
        harness.task_stream.publish(queue, &task).await.unwrap();
    };
    publish(queue("us"), 0, &["us"]).await;
    publish(queue("eu"), 1, &["eu", "nvenc"]).await;
    publish(queue("eu"), 2, &["eu"]).await;
    publish(queue("big"), 3, &["big", "eu"]).await;
    publish(Queue::any(ResourceClass::Analyze, 1), 4, &[]).await;
    for index in [2, 3, 4] {
        harness.done(index).await;
    }
    assert_eq!(harness.heartbeat_state.snapshot().tags, tags(&["big", "eu"]));

    // What lacks a tag was given back, and is there for a worker that has it.
    let pulled = wait_for_task(&other, queue("eu"), LIMIT, std::future::pending()).await;
    let Ok(Pulled::Task(message)) = pulled else {
        panic!("{pulled:?}")
    };
    let task: Task = wire::decode(&message.payload).unwrap();
    assert_eq!(task.chunk, chunk(1));
    assert!(message.info().unwrap().delivered > 1, "this worker had it before");
    message.ack().await.unwrap();

    // What is for others altogether was not touched.
    let context = &harness.farm.coordinator.context;
    let load = topology::queue_load(context, queue("us")).await.unwrap().unwrap();
    assert_eq!((load.waiting, load.held), (1, 0));
    let ran: Vec<_> = harness
        .runner
        .ran
        .lock()
        .unwrap()
        .iter()
        .map(|task| task.chunk)
        .collect();
    assert!(!ran.contains(&chunk(0)) && !ran.contains(&chunk(1)), "{ran:?}");
    let queued = harness.task_stream.queued(job("a job")).await.unwrap();
    assert_eq!(queued, [(queue("us"), chunk(0))]);
    harness.leave().await;
}

#[tokio::test]
async fn a_queue_whose_task_lacks_a_tag_is_left_alone_for_a_while() {
    let farm = Farm::start().await;
    let harness = WorkerHarness::with_tags(farm, ScriptedRunner::default(), tags(&["eu"])).await;
    // From then on it asks for the queues of its tag only if a task in them is announced.
    harness.publish(1, 0).await;
    harness.done(1).await;
    let task = Task {
        needed_tags: tags(&["eu", "nvenc"]),
        ..harness.task(0, 0)
    };
    harness.task_stream.publish(queue("eu"), &task).await.unwrap();
    let context = &harness.farm.coordinator.context;
    let delivered = async |times: u64| {
        eventually("the task is delivered", async || {
            let name = queue("eu").to_string();
            let consumer = context.get_consumer_from_stream::<pull::Config, _, _>(name, topology::TASKS);
            let consumer = consumer.await.ok()?;
            (consumer.cached_info().delivered.consumer_sequence == times).then(Instant::now)
        })
        .await
    };
    // It is back in the queue after a second. This worker has nothing else to do, and does not take it again at once.
    let (first, second) = (delivered(1).await, delivered(2).await);
    assert!(second - first > Duration::from_secs(4), "{:?}", second - first);
    assert_eq!(harness.runner.runs(), 1);
    harness.leave().await;
}
