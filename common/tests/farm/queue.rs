//! Tests of the topology, the done log, followers, tasks and pulls, against a real server.

use std::time::Duration;

use crate::support::{Farm, LIMIT, chunk, eventually, job, queue, record, task, worker};
use async_nats::jetstream;
use latentfarm_common::backoff::RetryLimit;
use latentfarm_common::ids::Attempt;
use latentfarm_common::nats::ack::InProgress;
use latentfarm_common::nats::done::{CommitOutcome, DoneLog};
use latentfarm_common::nats::events::{self, Follower, StartFrom};
use latentfarm_common::nats::pull::{Pulled, try_pull, wait_for_task};
use latentfarm_common::nats::subjects::Subject;
use latentfarm_common::nats::tasks::{Published, TaskStream};
use latentfarm_common::nats::topology::{self, QueueLoad, Topology};
use latentfarm_common::nats::{ConnectError, Connection, Identity, Role, connect};
use latentfarm_common::queues::{Queue, ResourceClass};
use latentfarm_common::wire;
use latentfarm_common::wire::outcome::{DoneRecord, Event, EventKind};
use tokio::sync::watch;
use tokio::time::timeout;

async fn pull(connection: &Connection, queue: Queue) -> Option<jetstream::Message> {
    match try_pull(connection, queue).await.unwrap() {
        Pulled::Task(message) => Some(*message),
        Pulled::Empty | Pulled::NoQueue | Pulled::Interrupted => None,
    }
}

/// Starts a farm with one task, which is delivered again if its worker reports no progress for one second.
async fn farm_with_a_task() -> Farm {
    let farm = Farm::with(Topology {
        ack_wait: Duration::from_secs(1),
        ..Topology::default()
    })
    .await;
    let task_stream = TaskStream::new(&farm.coordinator, farm.topology);
    task_stream
        .publish(queue(), &task(chunk(0), 0, "file:///nowhere"))
        .await
        .unwrap();
    farm
}

#[tokio::test]
async fn ensuring_the_topology_twice_changes_nothing() {
    let farm = Farm::start().await;
    let context = &farm.coordinator.context;
    let before = context
        .get_stream(topology::TASKS)
        .await
        .unwrap()
        .cached_info()
        .config
        .clone();
    let again = topology::ensure(context, &farm.topology).await.unwrap();
    assert_eq!(again.created, Vec::<String>::new());
    let after = context
        .get_stream(topology::TASKS)
        .await
        .unwrap()
        .cached_info()
        .config
        .clone();
    assert_eq!(before, after);
    for _ in 0..2 {
        topology::ensure_queue(context, &farm.topology, queue())
            .await
            .unwrap();
    }
    assert_eq!(
        topology::queue_load(context, queue()).await.unwrap(),
        Some(QueueLoad::default())
    );
    context.get_key_value(topology::JOBS_BUCKET).await.unwrap();
    context.get_key_value(topology::LEASE_BUCKET).await.unwrap();
    context.get_object_store(topology::MEDIA_BUCKET).await.unwrap();
}

#[tokio::test]
async fn a_first_ensure_tells_what_it_created() {
    let dir = tempfile::tempdir().unwrap();
    let options = crate::support::options(dir.path()).await;
    let server = latentfarm_common::nats::server::EmbeddedServer::start(options)
        .await
        .unwrap();
    let connection = connect(&server.url(), &server.coordinator(), RetryLimit::Tries(1))
        .await
        .unwrap();
    let mut ensured = topology::ensure(&connection.context, &Topology::default())
        .await
        .unwrap();
    let streams = Topology::default().streams();
    let mut names: Vec<String> = streams.into_iter().map(|stream| stream.name).collect();
    ensured.created.sort();
    names.sort();
    assert_eq!((ensured.created, ensured.halvings), (names, 0));
}

#[tokio::test]
async fn the_first_done_record_wins() {
    let farm = Farm::start().await;
    let (first, second) = (record(chunk(0), "w1"), record(chunk(0), "w2"));
    let one = DoneLog::new(&farm.worker("w1").await);
    let two = DoneLog::new(&farm.worker("w2").await);
    let CommitOutcome::Won { sequence } = one.commit(&first).await.unwrap() else {
        panic!("no record was there before it");
    };
    let CommitOutcome::Lost(entry) = two.commit(&second).await.unwrap() else {
        panic!("the second record replaced the first");
    };
    assert_eq!(entry.record.unwrap(), first);
    assert_eq!(entry.sequence, sequence);
    let repeated = one.commit(&first).await.unwrap();
    assert!(
        matches!(repeated, CommitOutcome::Won { .. }),
        "a repeated commit of the winner has won"
    );
}

#[tokio::test]
async fn a_retracted_record_makes_room_for_another() {
    let farm = Farm::start().await;
    let log = DoneLog::new(&farm.coordinator);
    let CommitOutcome::Won { sequence } = log.commit(&record(chunk(0), "w1")).await.unwrap() else {
        panic!("no record was there before it");
    };
    assert!(log.retract(chunk(0), sequence).await.unwrap());
    assert!(
        !log.retract(chunk(0), sequence).await.unwrap(),
        "the record was removed before"
    );
    assert!(log.get(chunk(0)).await.unwrap().is_none());
    let again = log.commit(&record(chunk(0), "w2")).await.unwrap();
    assert!(matches!(again, CommitOutcome::Won { sequence: later } if later > sequence));
}

#[tokio::test]
async fn a_jobs_records_are_listed_completely_and_in_order() {
    let farm = Farm::start().await;
    let log = DoneLog::new(&farm.coordinator);
    assert!(log.list(job("a job")).await.unwrap().is_empty());
    for index in 0..100 {
        log.commit(&record(chunk(index), "w1")).await.unwrap();
    }
    let mut other = record(chunk(0), "w1");
    other.chunk.job = job("another job");
    log.commit(&other).await.unwrap();
    let broken = Subject::Done(chunk(100)).to_string();
    farm.coordinator
        .context
        .publish(broken, "no record".into())
        .await
        .unwrap()
        .await
        .unwrap();

    let entries = log.list(job("a job")).await.unwrap();
    let chunks: Vec<u32> = entries.iter().map(|entry| entry.chunk.index).collect();
    assert_eq!(chunks, (0..=100).collect::<Vec<_>>());
    assert!(entries[..100].iter().all(|entry| entry.record.is_ok()));
    assert!(entries[100].record.is_err(), "a broken record is listed as one");
}

#[tokio::test]
async fn followers_see_stored_and_new_records_once_each() {
    let farm = Farm::start().await;
    let log = DoneLog::new(&farm.coordinator);
    log.commit(&record(chunk(0), "w1")).await.unwrap();
    let mut all = Follower::done(&farm.coordinator, Some(job("a job")), StartFrom::Oldest)
        .await
        .unwrap();
    let mut new = Follower::done(&farm.coordinator, None, StartFrom::New)
        .await
        .unwrap();
    assert_eq!(
        timeout(LIMIT, all.next()).await.unwrap().subject,
        Some(Subject::Done(chunk(0)))
    );
    log.commit(&record(chunk(1), "w1")).await.unwrap();
    for follower in [&mut all, &mut new] {
        let next = timeout(LIMIT, follower.next()).await.unwrap();
        assert_eq!(next.subject, Some(Subject::Done(chunk(1))));
        assert_eq!(
            wire::decode::<DoneRecord>(&next.payload).unwrap(),
            record(chunk(1), "w1")
        );
    }
}

#[tokio::test]
async fn events_reach_the_coordinator_across_a_server_restart() {
    let mut farm = Farm::start().await;
    let worker_connection = farm.worker("w1").await;
    let mut follower = Follower::events(&farm.coordinator, Some(job("a job")), StartFrom::Oldest)
        .await
        .unwrap();
    for number in 0..2 {
        let event = Event {
            chunk: chunk(7),
            attempt: Attempt { epoch: 1, number },
            worker: worker("w1"),
            kind: EventKind::Started,
        };
        events::publish(&worker_connection, &event, LIMIT).await.unwrap();
        let next = timeout(LIMIT, follower.next()).await.unwrap();
        assert_eq!(wire::decode::<Event>(&next.payload).unwrap(), event);
        farm.server.restart().await.unwrap();
    }
}

#[tokio::test]
async fn tasks_are_published_once_for_each_attempt() {
    let farm = Farm::start().await;
    let task_stream = TaskStream::new(&farm.coordinator, farm.topology);
    let first = task(chunk(0), 0, "file:///nowhere");
    assert_eq!(
        task_stream.publish(queue(), &first).await.unwrap(),
        Published::Queued
    );
    assert_eq!(
        task_stream.publish(queue(), &first).await.unwrap(),
        Published::Duplicate
    );
    let rest: Vec<_> = (1..200)
        .map(|index| task(chunk(index), 0, "file:///nowhere"))
        .collect();
    let high = Queue::any(ResourceClass::Gpu(8 * 1024), 0);
    task_stream.publish_all(high, &rest).await.unwrap();
    let queued = task_stream.queued(job("a job")).await.unwrap();
    assert_eq!(queued.len(), 200);
    assert_eq!(queued[0], (queue(), chunk(0)));
    assert_eq!(queued[199], (high, chunk(199)));
    assert_eq!(task_stream.remove_chunk(chunk(199)).await.unwrap(), 1);
    assert_eq!(task_stream.remove_job(job("another job")).await.unwrap(), 0);
    assert_eq!(task_stream.remove_job(job("a job")).await.unwrap(), 199);
    assert!(task_stream.queued(job("a job")).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_waiting_worker_gets_a_task_as_it_is_published() {
    let farm = Farm::start().await;
    let connection = farm.worker("w1").await;
    assert!(matches!(
        try_pull(&connection, queue()).await.unwrap(),
        Pulled::NoQueue
    ));
    topology::ensure_queue(&farm.coordinator.context, &farm.topology, queue())
        .await
        .unwrap();
    assert!(matches!(
        try_pull(&connection, queue()).await.unwrap(),
        Pulled::Empty
    ));
    let waiting = tokio::spawn(async move {
        wait_for_task(
            &connection,
            queue(),
            Duration::from_secs(20),
            std::future::pending(),
        )
        .await
    });
    eventually("the worker waits", async || {
        let load = topology::queue_load(&farm.coordinator.context, queue())
            .await
            .unwrap()?;
        (load.pullers == 1).then_some(())
    })
    .await;
    let task_stream = TaskStream::new(&farm.coordinator, farm.topology);
    task_stream
        .publish(queue(), &task(chunk(0), 0, "file:///nowhere"))
        .await
        .unwrap();
    let pulled = timeout(LIMIT, waiting).await.unwrap().unwrap().unwrap();
    assert!(matches!(pulled, Pulled::Task(_)), "{pulled:?}");
}

#[tokio::test]
async fn a_restart_of_the_server_ends_a_wait_at_once() {
    let mut farm = Farm::start().await;
    topology::ensure_queue(&farm.coordinator.context, &farm.topology, queue())
        .await
        .unwrap();
    let connection = farm.worker("w1").await;
    let wait = Duration::from_secs(50);
    let waiting =
        tokio::spawn(async move { wait_for_task(&connection, queue(), wait, std::future::pending()).await });
    eventually("the worker waits", async || {
        let load = topology::queue_load(&farm.coordinator.context, queue())
            .await
            .unwrap()?;
        (load.pullers == 1).then_some(())
    })
    .await;
    farm.server.restart().await.unwrap();
    let pulled = timeout(Duration::from_secs(10), waiting)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(matches!(pulled, Pulled::Interrupted), "{pulled:?}");
}

#[tokio::test]
async fn work_that_advances_keeps_its_task_and_work_that_hangs_loses_it() {
    let farm = farm_with_a_task().await;
    let (holder, other) = (farm.worker("w1").await, farm.worker("w2").await);
    let (steps, progress) = watch::channel(0_u64);
    let message = pull(&holder, queue()).await.unwrap();
    let (_, held) = InProgress::begin(message, &holder, progress, Duration::from_millis(200));

    // The work advances for three times `ack_wait`.
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    for _ in 0..60 {
        ticks.tick().await;
        steps.send_modify(|steps| *steps += 1);
    }
    assert!(
        pull(&other, queue()).await.is_none(),
        "the task went to another worker"
    );

    // The work hangs from here on.
    let redelivered = eventually("the task goes to another worker", async || {
        pull(&other, queue()).await
    })
    .await;
    assert_eq!(redelivered.info().unwrap().delivered, 2);
    drop(held);
}

#[tokio::test]
async fn an_answered_task_does_not_come_back() {
    let farm = farm_with_a_task().await;
    let connection = farm.worker("w1").await;
    let take = async || {
        let message = eventually("a task", async || pull(&connection, queue()).await).await;
        InProgress::begin(message, &connection, watch::channel(0).1, Duration::from_secs(10)).1
    };
    take().await.nak(None).await.unwrap();
    take().await.nak(Some(Duration::from_millis(50))).await.unwrap();
    take().await.term().await.unwrap();
    assert!(pull(&connection, queue()).await.is_none());
    let task_stream = TaskStream::new(&farm.coordinator, farm.topology);
    assert!(
        task_stream.queued(job("a job")).await.unwrap().is_empty(),
        "a terminated task is gone"
    );
    task_stream
        .publish(queue(), &task(chunk(0), 1, "file:///nowhere"))
        .await
        .unwrap();
    take().await.ack().await.unwrap();
    assert!(task_stream.queued(job("a job")).await.unwrap().is_empty());
}

#[tokio::test]
async fn no_server_is_an_error_and_wrong_credentials_are_another() {
    let farm = Farm::start().await;
    let stranger = Identity {
        nkey_seed: Some(nkeys::KeyPair::new_user().seed().unwrap()),
        role: Role::Observer,
        authority: None,
        client: None,
        name: "stranger".to_owned(),
    };
    let refused = connect(&farm.server.url(), &stranger, RetryLimit::Forever)
        .await
        .unwrap_err();
    assert!(matches!(refused, ConnectError::Refused { .. }), "{refused:?}");
    let url = farm.server.url();
    let identity = farm.server.coordinator();
    farm.server.stop().await;
    let absent = connect(&url, &identity, RetryLimit::For(Duration::from_millis(200)))
        .await
        .unwrap_err();
    assert!(matches!(absent, ConnectError::Connect { .. }), "{absent:?}");
    assert!(absent.to_string().contains(&url), "{absent}");
}
