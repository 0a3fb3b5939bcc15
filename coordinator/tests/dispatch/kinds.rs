//! Machines that round differently render one video: where their results meet, the difference is measured, and a job can
//! be kept to one kind.

use std::collections::BTreeSet;
use std::sync::Arc;

use latentfarm_common::ids::WorkKind;
use latentfarm_coordinator::dispatch::{Ending, JobEnd, JobEvent, KindBorders, MeasuredBorder, OneKind};
use tokio::sync::watch;

use crate::support::{
    Act, AttemptCounter, DIFFERENCE, FakeMachine, Run, Script, Stage, always, begins, first_time, is_render,
    transient,
};

fn rounding_like(rounds_like: &'static str) -> FakeMachine {
    FakeMachine {
        rounds_like,
        ..FakeMachine::default()
    }
}

/// A script that waits with render chunk `index` until the gate opens, and does `again` when frames are to be rendered
/// again.
fn waiting_with(index: u32, gate: watch::Receiver<bool>, again: Act) -> Script {
    Arc::new(move |task, _| match task.chunk.work {
        WorkKind::Border | WorkKind::SpotCheck => again.clone(),
        _ if is_render(task, index) => Act::Wait(gate.clone()),
        WorkKind::Analyze | WorkKind::Render => Act::Succeed,
    })
}

/// The workers that rendered the chunks, in frame order.
fn workers(end: &JobEnd) -> Vec<&str> {
    end.records.iter().map(|record| record.worker.as_str()).collect()
}

async fn rendered(run: &mut Run, chunks: usize) {
    run.wait_for(
        "chunks are done",
        |event| matches!(event, JobEvent::Progress(progress) if progress.render.done == chunks),
    )
    .await;
}

/// A job of four chunks, of which w1 has begun the third, which waits for the gate. It does `again` when it is to render
/// frames again.
async fn half_rendered(
    counter: &AttemptCounter,
    again: Act,
) -> (Stage, watch::Sender<bool>, crate::support::FakeWorker, Run) {
    let stage = Stage::open(64).await;
    let (gate, closed) = watch::channel(false);
    let first = stage
        .worker_on(
            "w1",
            counter,
            rounding_like("one"),
            waiting_with(2, closed, again),
        )
        .await;
    let mut run = stage.dispatch().await;
    run.wait_for("the third chunk is begun", begins(2)).await;
    (stage, gate, first, run)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_border_of_two_kinds_is_rendered_again_on_the_other_kind_and_measured() {
    let counter = AttemptCounter::default();
    let (stage, gate, _w1, mut run) = half_rendered(&counter, Act::Succeed).await;
    let _w2 = stage
        .worker_on("w2", &counter, rounding_like("two"), always(Act::Succeed))
        .await;
    rendered(&mut run, 3).await;
    gate.send_replace(true);
    let end = run.end().await.unwrap();
    assert_eq!(end.ending, Ending::Complete);
    assert_eq!(workers(&end), ["w1", "w1", "w1", "w2"]);
    let expected = KindBorders {
        fingerprints: ["one", "two"].map(str::to_owned),
        visible: 1,
        hidden: 0,
        measured: vec![MeasuredBorder {
            frame: 48,
            difference: DIFFERENCE,
        }],
        not_measured: None,
    };
    assert_eq!(end.report.borders, [expected]);
    let begun = counter.begun();
    let again: Vec<u32> = begun
        .keys()
        .filter(|chunk| chunk.work == WorkKind::Border)
        .map(|chunk| chunk.index)
        .collect();
    assert_eq!(again, [3], "one window is rendered again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_border_whose_first_kind_has_left_is_measured_on_the_second() {
    let counter = AttemptCounter::default();
    let (stage, gate, w1, mut run) = half_rendered(&counter, Act::Succeed).await;
    let (last, closed) = watch::channel(false);
    let _w2 = stage
        .worker_on(
            "w2",
            &counter,
            rounding_like("two"),
            waiting_with(3, closed, Act::Succeed),
        )
        .await;
    run.wait_for("the last chunk is begun", begins(3)).await;
    gate.send_replace(true);
    rendered(&mut run, 3).await;
    drop(w1);
    run.wait_for("the first worker is missed", |event| {
        matches!(event, JobEvent::WorkerLost { .. })
    })
    .await;
    last.send_replace(true);
    let end = run.end().await.unwrap();
    assert_eq!(workers(&end), ["w1", "w1", "w1", "w2"]);
    let [border] = end.report.borders.as_slice() else {
        panic!("{:?}", end.report.borders);
    };
    assert_eq!(
        border
            .measured
            .iter()
            .map(|border| border.frame)
            .collect::<Vec<_>>(),
        [32]
    );
    assert_eq!(border.not_measured, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_measurement_that_fails_costs_the_job_nothing() {
    let counter = AttemptCounter::default();
    let (stage, gate, _w1, mut run) = half_rendered(&counter, Act::Fail(transient())).await;
    let _w2 = stage
        .worker_on("w2", &counter, rounding_like("two"), always(Act::Succeed))
        .await;
    rendered(&mut run, 3).await;
    gate.send_replace(true);
    let end = run.end().await.unwrap();
    assert_eq!(end.ending, Ending::Complete);
    let reason = end.report.borders[0].not_measured.as_deref().unwrap();
    assert!(reason.contains("the link went down"), "{reason}");
    assert_eq!(
        (
            end.report.borders[0].visible,
            end.report.borders[0].measured.len()
        ),
        (1, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_kept_to_one_kind_is_rendered_by_the_kind_that_is_faster_as_a_whole() {
    let mut stage = Stage::open(128).await;
    stage.settings.job.one_kind = Some(OneKind::Job);
    let counter = AttemptCounter::default();
    let _w1 = stage
        .worker_on("w1", &counter, rounding_like("one"), always(Act::Succeed))
        .await;
    let _w2 = stage
        .worker_on("w2", &counter, rounding_like("two"), always(Act::Succeed))
        .await;
    let _w3 = stage
        .worker_on("w3", &counter, rounding_like("two"), always(Act::Succeed))
        .await;
    // All three are known before the job begins.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let end = stage.dispatch().await.end().await.unwrap();
    assert_eq!(end.ending, Ending::Complete);
    let used: BTreeSet<&str> = workers(&end).into_iter().collect();
    assert!(!used.contains("w1") && end.records.len() == 8, "{used:?}");
    assert_eq!(end.report.borders, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_its_kind_has_left_a_job_goes_on_with_another() {
    let mut stage = Stage::open(64).await;
    stage.settings.job.one_kind = Some(OneKind::Job);
    let counter = AttemptCounter::default();
    let _w1 = stage
        .worker_on("w1", &counter, rounding_like("one"), first_time(2, Act::Die))
        .await;
    let mut run = stage.dispatch().await;
    rendered(&mut run, 1).await;
    let _w2 = stage
        .worker_on("w2", &counter, rounding_like("two"), always(Act::Succeed))
        .await;
    let end = run.end().await.unwrap();
    assert_eq!(end.ending, Ending::Complete);
    assert_eq!(workers(&end), ["w1", "w1", "w2", "w2"]);
    assert_eq!(end.report.borders[0].visible, 1);
}
