//! Spot checks: a sample of the chunks is rendered again on another worker of the same kind, and compared.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use latentfarm_common::ids::WorkKind;
use latentfarm_common::wire::outcome::DoneBody;
use latentfarm_coordinator::dispatch::{
    Disagreement, DispatchSettings, Ending, JobEnd, SegmentCheck, SpotCheckReport,
};
use tokio::sync::watch;

use crate::support::{Act, AttemptCounter, FakeMachine, Script, Stage, always};

/// The settings with which every chunk is checked.
fn all_checked(stage: &Stage) -> DispatchSettings {
    let mut settings = stage.settings.clone();
    settings.farm.spot_check = NonZeroU32::new(1);
    settings
}

async fn dispatch(stage: &Stage, check: SegmentCheck) -> JobEnd {
    let ended = stage
        .dispatch_with(all_checked(stage), check)
        .await
        .end()
        .await
        .unwrap();
    assert_eq!(ended.ending, Ending::Complete);
    ended
}

fn accept() -> SegmentCheck {
    Arc::new(|_, _, _| Ok(()))
}

fn wrong() -> FakeMachine {
    FakeMachine {
        is_wrong: true,
        ..FakeMachine::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_result_is_confirmed_by_another_worker_once() {
    let stage = Stage::open(64).await;
    let counter = AttemptCounter::default();
    let _w1 = stage.worker("w1", &counter, always(Act::Succeed)).await;
    let _w2 = stage.worker("w2", &counter, always(Act::Succeed)).await;
    let ended = dispatch(&stage, accept()).await;
    let begun = counter.begun();
    let checks = || {
        begun
            .iter()
            .filter(|(chunk, _)| chunk.work == WorkKind::SpotCheck)
    };
    assert_eq!(checks().count(), 4);
    assert!(begun.values().all(|times| *times == 1), "{begun:?}");
    let report = SpotCheckReport {
        agreed: 4,
        ..SpotCheckReport::default()
    };
    assert_eq!(ended.report.spot_checks, report);
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_cannot_confirm_a_result_do_not_hold_it_up() {
    let stage = Stage::open(64).await;
    let counter = AttemptCounter::default();
    let _w1 = stage.worker("w1", &counter, always(Act::Succeed)).await;
    let of_another_kind = FakeMachine {
        rounds_like: "another kind",
        ..FakeMachine::default()
    };
    let _w2 = stage
        .worker_on("w2", &counter, of_another_kind, always(Act::Succeed))
        .await;
    let ended = dispatch(&stage, accept()).await;
    let report = SpotCheckReport {
        not_compared: 4,
        ..SpotCheckReport::default()
    };
    assert_eq!(ended.report.spot_checks, report);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_result_is_replaced_and_its_worker_set_aside_when_a_third_decides() {
    let stage = Stage::open(64).await;
    let counter = AttemptCounter::default();
    // The honest workers render nothing before the wrong one has, which vanishes when it begins another chunk.
    let (gate, opened) = watch::channel(false);
    let honest: Script = Arc::new(move |task, _| {
        if task.chunk.work == WorkKind::Render {
            Act::Wait(opened.clone())
        } else {
            Act::Succeed
        }
    });
    let rendered = AtomicU32::new(0);
    let vanishes: Script = Arc::new(move |task, _| {
        let is_first = task.chunk.work != WorkKind::Render || rendered.fetch_add(1, Ordering::SeqCst) == 0;
        if is_first { Act::Succeed } else { Act::Die }
    });
    let _w1 = stage.worker("w1", &counter, Arc::clone(&honest)).await;
    let _w2 = stage.worker("w2", &counter, honest).await;
    let _w3 = stage.worker_on("w3", &counter, wrong(), vanishes).await;
    let check: SegmentCheck = Arc::new(move |record, _, _| {
        if record.worker.as_str() == "w3" {
            gate.send_replace(true);
        }
        Ok(())
    });
    let ended = dispatch(&stage, check).await;
    let right = FakeMachine::default().frame_hash();
    for record in &ended.records {
        let DoneBody::Render { frame_hashes, .. } = &record.body else {
            continue;
        };
        assert!(frame_hashes.iter().all(|hash| *hash == right), "{record:?}");
    }
    let odd = "w3".parse().unwrap();
    let found = &ended.report.spot_checks.disagreements;
    assert!(!found.is_empty());
    for Disagreement {
        workers, odd: found, ..
    } in found
    {
        assert_eq!((workers.len(), found.as_ref()), (3, Some(&odd)));
        assert_eq!(workers[0], odd, "its own result was checked");
    }
    assert!(ended.report.set_aside[&odd].reason.contains("both rendered"));
    assert_eq!(ended.report.set_aside.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_that_differ_are_both_reported_and_neither_is_set_aside() {
    let stage = Stage::open(64).await;
    let counter = AttemptCounter::default();
    let _w1 = stage.worker("w1", &counter, always(Act::Succeed)).await;
    let _w2 = stage
        .worker_on("w2", &counter, wrong(), always(Act::Succeed))
        .await;
    let ended = dispatch(&stage, accept()).await;
    let checks = &ended.report.spot_checks;
    assert_eq!((checks.agreed, checks.disagreements.len()), (0, 4), "{checks:?}");
    for Disagreement { workers, odd, .. } in &checks.disagreements {
        assert_eq!((workers.len(), odd.as_ref()), (2, None));
    }
    assert_eq!(ended.report.set_aside.len(), 0);
    assert_eq!(ended.report.retries.len(), 0);
}
