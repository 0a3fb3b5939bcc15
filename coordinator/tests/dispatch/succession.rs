//! One coordinator at a time, and the next goes on from the last.

use std::sync::Arc;
use std::time::Duration;

use latentfarm_common::ids::Work;
use latentfarm_common::nats::lease::LeaseTime;
use latentfarm_coordinator::dispatch::{DispatchError, Ending, JobEvent};
use tokio::sync::watch;

use crate::support::{Act, Ledger, Script, Stage, always, begins, first_time};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_coordinator_goes_on_where_a_dead_one_stopped() {
    let stage = Stage::open(160).await;
    let ledger = Ledger::default();
    let (gate, closed) = watch::channel(false);
    let script: Script = Arc::new(move |task, _| {
        let late = task.chunk.work == Work::Render && task.chunk.index >= 5;
        if late {
            Act::Wait(closed.clone())
        } else {
            Act::Succeed
        }
    });
    let _w1 = stage.worker("w1", &ledger, script).await;
    let mut first = stage.dispatch().await;
    first.wait_for("a chunk waits", begins(5)).await;
    first.job.abort();

    let second = stage
        .dispatch_with(stage.seizing(), Arc::new(|_, _| Ok(())))
        .await;
    gate.send_replace(true);
    let result = second.end().await.unwrap();
    assert_eq!(result.ending, Ending::Complete);
    assert_eq!(result.records.len(), 10);
    for (chunk, times) in ledger.begun() {
        let running_meanwhile = chunk.work == Work::Render && chunk.index == 5;
        assert!(times == 1 || running_meanwhile, "{chunk} was begun {times} times");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_under_way_stays_with_its_worker_over_a_change_of_coordinators() {
    let mut stage = Stage::open(64).await;
    stage.settings.farm.lease_time = LeaseTime::from_secs(5);
    let ledger = Ledger::default();
    let (gate, closed) = watch::channel(false);
    let _w1 = stage
        .worker("w1", &ledger, first_time(1, Act::Wait(closed)))
        .await;
    let mut first = stage.dispatch().await;
    first.wait_for("chunk 1 is begun", begins(1)).await;
    first.job.abort();
    // Dropping a run drops its lease, which expires: the next one is patient.
    let second = loop {
        let mut run = stage.dispatch().await;
        if run.events.recv().await.is_some() {
            break run;
        }
        assert!(matches!(run.end().await, Err(DispatchError::Lease(_))));
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let mut second = second;
    second.wait_for("chunk 1 is adopted", begins(1)).await;
    gate.send_replace(true);
    let result = second.end().await.unwrap();
    assert_eq!(result.ending, Ending::Complete);
    assert!(
        ledger.begun().values().all(|times| *times == 1),
        "{:?}",
        ledger.begun()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_without_its_lease_stops() {
    let mut stage = Stage::open(64).await;
    stage.settings.farm.lease_time = LeaseTime::from_secs(6);
    let mut first = stage.dispatch().await;
    first
        .wait_for("the first coordinator is at work", |event| {
            matches!(event, JobEvent::Progress(_))
        })
        .await;

    let refused = stage.dispatch().await.end().await.unwrap_err();
    assert!(matches!(refused, DispatchError::Lease(_)), "{refused:?}");
    let second = stage
        .dispatch_with(stage.seizing(), Arc::new(|_, _| Ok(())))
        .await;
    let stopped = first.end().await.unwrap_err();
    assert!(matches!(stopped, DispatchError::LeaseLost), "{stopped:?}");

    let ledger = Ledger::default();
    let _w1 = stage.worker("w1", &ledger, always(Act::Succeed)).await;
    let result = second.end().await.unwrap();
    assert_eq!(
        result.ending,
        Ending::Complete,
        "the new coordinator is not disturbed"
    );
}
