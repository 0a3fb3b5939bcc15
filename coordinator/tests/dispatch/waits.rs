//! A job that nothing can go on with says so, and ends with the cause and what to do about it.

use std::time::Duration;

use futures::StreamExt as _;
use latentfarm_common::backoff::Backoff;
use latentfarm_common::blob::Store;
use latentfarm_common::nats::subjects::Subject;
use latentfarm_common::wire;
use latentfarm_common::wire::outcome::{Failure, WorkerCommand};
use latentfarm_coordinator::dispatch::{Ending, JobEvent};

use crate::support::{Act, AttemptCounter, FakeMachine, LIMIT, Stage, always};

fn short_wait(stage: &mut Stage) {
    stage.settings.job.unplaceable_wait = Duration::from_secs(1);
    "start one with `a command`".clone_into(&mut stage.settings.job.start_worker);
}

#[track_caller]
fn reason(ending: &Ending) -> &str {
    match ending {
        Ending::NoWorker { reason } => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_farm_without_a_worker_ends_the_job_with_the_command_that_starts_one() {
    let mut stage = Stage::open(32).await;
    short_wait(&mut stage);
    let result = stage.dispatch().await.end().await.unwrap();
    let reason = reason(&result.ending);
    assert!(reason.starts_with("no worker has joined the farm"), "{reason}");
    assert!(reason.ends_with("start one with `a command`"), "{reason}");
    assert_eq!(result.records.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_farm_whose_only_worker_has_other_weights_ends_the_job_with_its_reason() {
    let mut stage = Stage::open(32).await;
    short_wait(&mut stage);
    // The worker waits before it tries again, as a real one does.
    let pause = Duration::from_secs(20);
    stage.settings.farm.timeouts.retry = Backoff::new(pause, pause);
    let counter = AttemptCounter::default();
    let failure = Failure::WorkerUnfit {
        message: "its weights are other ones".to_owned(),
    };
    let _w1 = stage.worker("w1", &counter, always(Act::Fail(failure))).await;
    let result = stage.dispatch().await.end().await.unwrap();
    let reason = reason(&result.ending);
    assert!(
        reason.contains("w1 is unfit: its weights are other ones"),
        "{reason}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_another_program_holds_ends_the_job_with_the_figures() {
    let mut stage = Stage::open(32).await;
    short_wait(&mut stage);
    let counter = AttemptCounter::default();
    let crowded = FakeMachine {
        held_mib: 14_000,
        ..FakeMachine::cpu(16_384)
    };
    let _w1 = stage
        .worker_on("w1", &counter, crowded, always(Act::Succeed))
        .await;
    let mut run = stage.dispatch().await;
    run.wait_for("the shortage is shown", |event| {
        matches!(event, JobEvent::ChunkUnschedulable { .. })
    })
    .await;
    let result = run.end().await.unwrap();
    let Ending::Failed { quarantined } = &result.ending else {
        panic!("{:?}", result.ending)
    };
    let reason = &quarantined[0].reason;
    assert!(
        reason.contains("needs 2.9 GiB on the CPU, the largest free is 2.3 GiB"),
        "{reason}"
    );
    assert!(
        reason.contains("other processes hold 13.7 GiB of the 16.0 GiB that w1 could offer"),
        "{reason}"
    );
    assert!(reason.contains("free that memory"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_workers_are_asked_for_the_memory_that_a_chunk_waits_for() {
    let mut stage = Stage::open(32).await;
    short_wait(&mut stage);
    let all = Subject::Control(None).to_string();
    let mut commands = stage.farm.connection.client.subscribe(all).await.unwrap();
    let counter = AttemptCounter::default();
    let small = FakeMachine::cpu(2400);
    let _w1 = stage.worker_on("w1", &counter, small, always(Act::Succeed)).await;
    let mut run = stage.dispatch().await;
    let command = tokio::time::timeout(LIMIT, commands.next());
    let command = command.await.expect("a command").unwrap();
    let command: WorkerCommand = wire::decode(&command.payload).unwrap();
    assert_eq!(command, WorkerCommand::FreeMemory);
    run.wait_for("the chunk is given up", |event| {
        matches!(event, JobEvent::ChunkQuarantined { .. })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_without_room_ends_the_job_with_the_mend_and_gives_up_no_chunk() {
    let mut stage = Stage::open(32).await;
    short_wait(&mut stage);
    stage.farm.topology.media_max_bytes = 1;
    stage.farm.store = Store::open("nats://farm-media", Some(&stage.farm.connection.client)).unwrap();
    let counter = AttemptCounter::default();
    let _w1 = stage.worker("w1", &counter, always(Act::Succeed)).await;
    let result = stage.dispatch().await.end().await.unwrap();
    let reason = reason(&result.ending);
    assert!(reason.starts_with("the farm's storage is full"), "{reason}");
    assert!(reason.contains("maximum bytes exceeded"), "{reason}");
    assert!(reason.contains("give JetStream more room"), "{reason}");
    assert!(counter.begun().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_told_once_and_so_is_its_end() {
    let mut stage = Stage::open(32).await;
    let mut run = stage.dispatch().await;
    run.wait_for("the job begins", |event| matches!(event, JobEvent::Progress(_)))
        .await;
    let pid = nix::unistd::Pid::from_raw(stage.server.id());
    let mut exit = stage.server.exit();
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    exit.wait_for(Option::is_some).await.unwrap();
    let mut told = 0;
    run.wait_for("the outage", |event| matches!(event, JobEvent::ServerLost { .. }))
        .await;
    stage.server.restart().await.unwrap();
    let back = run
        .wait_for("the end of the outage", |event| {
            told += usize::from(matches!(event, JobEvent::ServerLost { .. }));
            matches!(event, JobEvent::ServerBack { .. })
        })
        .await;
    assert_eq!(told, 0, "one line for each outage");
    let JobEvent::ServerBack { url, .. } = back else {
        unreachable!()
    };
    assert_eq!(url, stage.server.url());
    let counter = AttemptCounter::default();
    let _w1 = stage.worker("w1", &counter, always(Act::Succeed)).await;
    assert_eq!(run.end().await.unwrap().ending, Ending::Complete);
}
