//! Only one coordinator runs at a time, and the next one continues the work of the one before.

use std::sync::Arc;
use std::time::Duration;

use latentfarm_common::digest::Digest;
use latentfarm_common::ids::{JobId, WorkKind};
use latentfarm_common::nats::lease::LeaseTtl;
use latentfarm_common::nats::topology;
use latentfarm_common::wire::job::JobSpec;
use latentfarm_coordinator::dispatch::{DispatchError, Ending, Farm, JobEvent};
use latentfarm_coordinator::job::manifest::{self, ManifestError, ManifestState};
use tokio::sync::watch;

use crate::support::{Act, AttemptCounter, Script, Stage, always, begins, first_time};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_coordinator_goes_on_where_a_dead_one_stopped() {
    let stage = Stage::open(160).await;
    let counter = AttemptCounter::default();
    let (gate, closed) = watch::channel(false);
    let script: Script = Arc::new(move |task, _| {
        let late = task.chunk.work == WorkKind::Render && task.chunk.index >= 5;
        if late {
            Act::Wait(closed.clone())
        } else {
            Act::Succeed
        }
    });
    let _w1 = stage.worker("w1", &counter, script).await;
    let mut first = stage.dispatch().await;
    first.wait_for("a chunk waits", begins(5)).await;
    first.job.abort();

    let second = stage
        .dispatch_with(stage.seizing(), Arc::new(|_, _, _| Ok(())))
        .await;
    gate.send_replace(true);
    let result = second.end().await.unwrap();
    assert_eq!(result.ending, Ending::Complete);
    assert_eq!(result.records.len(), 10);
    for (chunk, times) in counter.begun() {
        let running_meanwhile = chunk.work == WorkKind::Render && chunk.index == 5;
        assert!(times == 1 || running_meanwhile, "{chunk} was begun {times} times");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_under_way_stays_with_its_worker_over_a_change_of_coordinators() {
    let mut stage = Stage::open(64).await;
    stage.settings.farm.lease_time = LeaseTtl::from_secs(5);
    let counter = AttemptCounter::default();
    let (gate, closed) = watch::channel(false);
    let _w1 = stage
        .worker("w1", &counter, first_time(1, Act::Wait(closed)))
        .await;
    let mut first = stage.dispatch().await;
    first.wait_for("chunk 1 is begun", begins(1)).await;
    first.job.abort();
    // Dropping a run drops its lease, which expires; the next run waits for that.
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
        counter.begun().values().all(|times| *times == 1),
        "{:?}",
        counter.begun()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_without_its_lease_stops() {
    let mut stage = Stage::open(64).await;
    stage.settings.farm.lease_time = LeaseTtl::from_secs(6);
    let mut first = stage.dispatch().await;
    first
        .wait_for("the first coordinator is at work", |event| {
            matches!(event, JobEvent::Progress(_))
        })
        .await;

    let refused = stage.dispatch().await.end().await.unwrap_err();
    assert!(matches!(refused, DispatchError::Lease(_)), "{refused:?}");
    let second = stage
        .dispatch_with(stage.seizing(), Arc::new(|_, _, _| Ok(())))
        .await;
    let stopped = first.end().await.unwrap_err();
    assert!(matches!(stopped, DispatchError::LeaseLost), "{stopped:?}");

    let counter = AttemptCounter::default();
    let _w1 = stage.worker("w1", &counter, always(Act::Succeed)).await;
    let result = second.end().await.unwrap();
    assert_eq!(
        result.ending,
        Ending::Complete,
        "the new coordinator is not disturbed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_created_once_on_the_farm_and_another_one_is_refused() {
    let stage = Stage::open(16).await;
    let Farm {
        connection, topology, ..
    } = &stage.farm;
    topology::ensure(&connection.context, topology).await.unwrap();
    let folders = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let ensure = async |folder: &tempfile::TempDir, spec: &JobSpec| {
        manifest::ensure(connection, folder.path(), spec).await
    };
    let mut spec = stage.spec.clone();
    spec.id = JobId::from_digest(&Digest::of(b"a job that nobody has begun"));
    assert_eq!(ensure(&folders[0], &spec).await.unwrap(), ManifestState::Created);
    assert_eq!(ensure(&folders[0], &spec).await.unwrap(), ManifestState::Existing);
    assert_eq!(ensure(&folders[1], &spec).await.unwrap(), ManifestState::Existing);
    assert_eq!(manifest::read(folders[1].path()).unwrap().as_ref(), Some(&spec));

    spec.model.seed += 1;
    for folder in [&folders[2], &folders[0]] {
        let refusal = ensure(folder, &spec).await.unwrap_err();
        assert!(matches!(refusal, ManifestError::Differs { .. }), "{refusal}");
    }
    assert_eq!(
        manifest::read(folders[2].path()).unwrap(),
        None,
        "nothing is written"
    );
}
