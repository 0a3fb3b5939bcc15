//! Results whose pictures look wrong: they count only if another attempt comes to the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use latentfarm_common::ids::WorkKind;
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::job::WeightsKind;
use latentfarm_coordinator::dispatch::{DoubtfulChunk, Ending, RetryClass, SegmentCheck};
use latentfarm_coordinator::segment_check::BadSegment;

use tokio::sync::watch;

use crate::support::{Act, AttemptCounter, FakeMachine, Script, Stage, always};

fn looks_wrong() -> BadSegment {
    BadSegment::Implausible("the mouth is noise".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doubtful_result_counts_when_the_only_worker_comes_to_the_same_again() {
    let mut stage = Stage::open(64).await;
    stage.spec.model.weights_kind = WeightsKind::Trained;
    let counter = AttemptCounter::default();
    let _w1 = stage.worker("w1", &counter, always(Act::Succeed)).await;
    let check: SegmentCheck = Arc::new(|record, _, expected| {
        let expected = expected.expect("the pictures of this job are compared");
        assert_eq!(expected.input.frames.len(), 16);
        if record.chunk.index == 2 {
            Err(looks_wrong())
        } else {
            Ok(())
        }
    });
    let result = stage
        .dispatch_with(stage.settings.clone(), check)
        .await
        .end()
        .await
        .unwrap();
    assert_eq!(result.ending, Ending::Complete);
    let doubtful = DoubtfulChunk {
        frames: FrameRange::new(32, 48),
        reason: "the mouth is noise".to_owned(),
    };
    assert_eq!(result.report.doubtful, [doubtful]);
    assert_eq!(result.report.retries.get(&RetryClass::BadResult), Some(&1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_results_look_wrong_does_not_decide_alone() {
    let stage = Stage::open(64).await;
    let counter = AttemptCounter::default();
    // The honest one renders nothing before the odd one has.
    let (gate, opened) = watch::channel(false);
    let script: Script = Arc::new(move |task, _| {
        if task.chunk.work == WorkKind::Render {
            Act::Wait(opened.clone())
        } else {
            Act::Succeed
        }
    });
    let _honest = stage.worker("w1", &counter, script).await;
    let odd = FakeMachine {
        rounds_like: "odd",
        ..FakeMachine::default()
    };
    let _odd = stage.worker_on("w2", &counter, odd, always(Act::Succeed)).await;
    let refused = Arc::new(AtomicU32::new(0));
    let refusals = Arc::clone(&refused);
    let check: SegmentCheck = Arc::new(move |record, _, _| {
        if record.worker.as_str() == "w2" {
            refusals.fetch_add(1, Ordering::SeqCst);
            gate.send_replace(true);
            return Err(looks_wrong());
        }
        Ok(())
    });
    let result = stage
        .dispatch_with(stage.settings.clone(), check)
        .await
        .end()
        .await
        .unwrap();
    assert_eq!(result.ending, Ending::Complete);
    assert_eq!(result.report.doubtful, []);
    assert!(
        result.records.iter().all(|record| record.worker.as_str() == "w1"),
        "no result of the odd one counts"
    );
    let refused = u64::from(refused.load(Ordering::SeqCst));
    assert!(refused > 0);
    assert_eq!(
        result.report.retries,
        BTreeMap::from([(RetryClass::BadResult, refused)])
    );
}
