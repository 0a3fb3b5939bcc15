//! Tests of tasks that run out of memory and go on in place under a leaner plan.

use latentfarm_common::wire::engine::{EngineFailure, EngineReply, EngineRequest, EngineStage};
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemoryStage, OutOfMemory};

use MemoryPlan::{Offload, SequentialGuidance, Sliced, Streamed};
use MemoryStage::{Load, VaeDecode, VaeEncode};

use super::harness::*;
use super::*;

#[tokio::test]
async fn an_engine_that_ran_out_of_memory_under_every_plan_fails_the_task_and_is_used_again() {
    let harness = RunnerHarness::new().await;
    let tried = [(7100, 6000), (5100, 4000), (2600, 2550), (2100, 2050)];
    let tried = tried.map(|(needed, free)| vec![loaded(), out_of_memory(VaeDecode, needed, free)]);
    let replies = [tried.concat(), vec![loaded()], window()].concat();
    let engine = harness.child("engine", &replies, "exec cat > $INPUT");
    let heartbeat_state = heartbeat_state();
    let mut runner = runner(harness.settings(engine), &heartbeat_state);
    let task = harness.task(DeviceKind::Cuda, NEEDS);
    let failure = run(&mut runner, &harness, &task, &heartbeat_state)
        .await
        .unwrap_err();
    let expected = Failure::OutOfMemory(OutOfMemory {
        kind: DeviceKind::Cuda,
        device: "sim:card".to_owned(),
        stage: Some(VaeDecode),
        plan: MemoryPlan::Streamed,
        needed_at_least_mib: Some(2100),
        free_before_mib: 2050,
        suspected: false,
    });
    assert_eq!(failure, expected);
    let finished = run(&mut runner, &harness, &task, &heartbeat_state).await.unwrap();
    assert_eq!(finished.memory.unwrap().shortages, [], "those of another attempt");
    assert_eq!(harness.starts("engine").len(), 1);
    runner.close().await;
    let plans = plans(&harness);
    assert_eq!(
        plans[..8],
        [
            SequentialGuidance,
            SequentialGuidance,
            Sliced,
            Sliced,
            Offload,
            Offload,
            Streamed,
            Streamed
        ]
    );
}

#[tokio::test]
async fn a_task_that_runs_out_of_memory_goes_on_in_place_under_a_leaner_plan_and_reports_that_plan() {
    for stage in [Load, VaeEncode] {
        let harness = RunnerHarness::new().await;
        let failed = out_of_memory(stage, 7100, 6000);
        let before = match stage {
            Load => vec![failed],
            // What was used under the plan that failed is not reported as the use of the other one.
            _ => vec![
                loaded(),
                progress(EngineStage::VaeEncode { frame: 3 }, 6000),
                failed,
            ],
        };
        let mut leaner = loaded();
        if let EngineReply::Loaded {
            numerics_fingerprint, ..
        } = &mut leaner
        {
            "recorded+sliced".clone_into(numerics_fingerprint);
        }
        let replies = [before, vec![leaner], window()].concat();
        let engine = harness.child("engine", &replies, "exec cat > $INPUT");
        let heartbeat_state = heartbeat_state();
        let mut runner = runner(harness.settings(engine), &heartbeat_state);
        let task = harness.task(DeviceKind::Cuda, NEEDS);
        let finished = run(&mut runner, &harness, &task, &heartbeat_state).await.unwrap();
        assert_eq!(finished.numerics_fingerprint, "recorded+sliced");
        let used = finished.memory.unwrap();
        assert_eq!((used.plan, used.predicted_mib), (MemoryPlan::Sliced, 5000));
        assert_eq!((used.peak_mib, used.least_free_mib), (2300, 8192 - 2200));
        let [shortage] = used.shortages.as_slice() else {
            panic!("{:?}", used.shortages)
        };
        assert_eq!(
            (shortage.stage, shortage.plan),
            (Some(stage), MemoryPlan::SequentialGuidance)
        );
        assert_eq!(harness.starts("engine").len(), 1);
        runner.close().await;
        let sequential = if stage == Load { 1 } else { 2 };
        let expected = [
            vec![MemoryPlan::SequentialGuidance; sequential],
            vec![MemoryPlan::Sliced; 2],
        ]
        .concat();
        assert_eq!(plans(&harness), expected);
    }
}

fn out_of_memory(stage: MemoryStage, needed_mib: u64, free_before_mib: u64) -> EngineReply {
    EngineReply::Failed(EngineFailure::OutOfMemory {
        stage,
        needed_at_least_mib: Some(needed_mib),
        free_before_mib,
    })
}

/// Returns the plans of the requests that the engine has received.
fn plans(harness: &RunnerHarness) -> Vec<MemoryPlan> {
    let plan = |request| match request {
        EngineRequest::Load { plan, .. } => plan,
        EngineRequest::Window(window) => window.plan,
        EngineRequest::Audio(_) => panic!("there is no speech to encode"),
    };
    requests(&harness.path("engine.input"))
        .into_iter()
        .map(plan)
        .collect()
}
