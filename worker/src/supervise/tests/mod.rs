//! Tests of the runner with recorded children: scripts that send the replies of an engine or a media child.

mod harness;
mod leaner_plan;
mod turns;

use std::time::Duration;

use latentfarm_common::digest::Digest;
use latentfarm_common::wire::engine::{EngineReply, EngineRequest, EngineStage};
use latentfarm_common::wire::media::MediaReply;
use latentfarm_common::wire::memory::{
    DeviceKind, MEDIA_MIB, MemoryPlan, MemoryRequirements, MemoryStage, OutOfMemory,
};
use latentfarm_common::wire::pipe;

use MemoryStage::{Align, Decode, Denoise, Encode, Idle, Load, Paste, VaeEncode};

use super::*;
use crate::machine::probe::Device;
use harness::*;

#[tokio::test]
async fn a_task_runs_under_the_fastest_plan_that_fits_now_and_reports_its_memory_use() {
    let harness = RunnerHarness::new().await;
    let replies = [vec![loaded()], window()].concat();
    let engine = harness.child("engine", &replies, "exec cat > $INPUT");
    let heartbeat_state = heartbeat_state();
    let mut runner = runner(harness.settings(engine), &heartbeat_state);
    assert_eq!(runner.available().await.memory.device_mib, Some(8000));
    // Another tenant comes between the pull and the load.
    harness.gpu(8192, 5000);
    let task = harness.task(DeviceKind::Cuda, NEEDS);
    let finished = run(&mut runner, &harness, &task, &heartbeat_state).await.unwrap();
    let used = finished.memory.unwrap();
    assert_eq!((used.plan, used.predicted_mib), (MemoryPlan::Offload, 2500));
    assert_eq!((used.kind, used.device.as_str()), (DeviceKind::Cuda, "sim:card"));
    assert_eq!((used.peak_mib, used.least_free_mib), (2300, 8192 - 2200));
    let stages: Vec<MemoryStage> = used.stages.iter().map(|peak| peak.stage).collect();
    assert_eq!(
        stages,
        [Load, Decode, Align, VaeEncode, Denoise, Paste, Encode, Idle]
    );
    assert_eq!(heartbeat_state.snapshot().memory, Some(sample(1000)));
    runner.close().await;
    for request in requests(&harness.path("engine.input")) {
        match request {
            EngineRequest::Load { plan, .. } => assert_eq!(plan, MemoryPlan::Offload),
            EngineRequest::Window(window) => assert_eq!(window.plan, MemoryPlan::Offload),
            EngineRequest::Audio(_) => panic!("there is no speech to encode"),
        }
    }
}

#[tokio::test]
async fn a_task_of_which_no_plan_fits_any_more_is_given_back_untried() {
    let harness = RunnerHarness::new().await;
    let engine = harness.child::<EngineReply>("engine", &[], "exit 1");
    let heartbeat_state = heartbeat_state();
    let mut runner = runner(harness.settings(engine), &heartbeat_state);
    harness.gpu(8192, 7000);
    let task = harness.task(DeviceKind::Cuda, NEEDS);
    let failure = run(&mut runner, &harness, &task, &heartbeat_state)
        .await
        .unwrap_err();
    let expected = Failure::InsufficientMemory {
        device: "sim:card".to_owned(),
        needed_mib: 2000,
        free_mib: 1000,
    };
    assert_eq!(failure, expected);
    assert_eq!(
        harness.starts("engine"),
        Vec::<String>::new(),
        "nothing was tried"
    );
    let other_kind = harness.task(DeviceKind::Cpu, NEEDS);
    let failure = run(&mut runner, &harness, &other_kind, &heartbeat_state)
        .await
        .unwrap_err();
    assert!(matches!(failure, Failure::WorkerUnfit { .. }), "{failure:?}");
}

#[tokio::test]
async fn an_engine_that_dies_of_a_failed_allocation_is_out_of_memory_in_its_stage_and_is_replaced() {
    let harness = RunnerHarness::new().await;
    let replies = [loaded(), progress(EngineStage::Denoise { step: 3, of: 20 }, 2200)];
    // It dies once it has received the first byte of the window's request.
    let load = EngineRequest::Load {
        weights_dir: "/weights".to_owned(),
        expected: Digest::of(b"weights"),
        plan: MemoryPlan::SequentialGuidance,
    };
    let length = pipe::encode(&load).unwrap().len() + 1;
    let script = format!(
        "head -c {length} > /dev/null; echo 'memory allocation of 999 bytes failed' >&2; kill -ABRT $$"
    );
    let engine = harness.child("engine", &replies, &script);
    let heartbeat_state = heartbeat_state();
    let mut runner = runner(harness.settings(engine), &heartbeat_state);
    let task = harness.task(DeviceKind::Cuda, NEEDS);
    let expected = Failure::OutOfMemory(OutOfMemory {
        kind: DeviceKind::Cuda,
        device: "sim:card".to_owned(),
        stage: Some(MemoryStage::Denoise),
        plan: MemoryPlan::SequentialGuidance,
        needed_at_least_mib: None,
        free_before_mib: 8000,
        suspected: false,
    });
    for starts in [1, 2] {
        let failure = run(&mut runner, &harness, &task, &heartbeat_state)
            .await
            .unwrap_err();
        assert_eq!(failure, expected);
        assert_eq!(harness.starts("engine").len(), starts);
    }
    assert_eq!(
        runner.available().await.memory.device_mib,
        Some(8000),
        "the dead engine holds nothing"
    );
}

#[tokio::test]
async fn a_hanging_engine_is_lost_after_the_silence_limit() {
    let harness = RunnerHarness::new().await;
    let engine = harness.child("engine", &[loaded()], "exec sleep 1000");
    let heartbeat_state = heartbeat_state();
    let settings = RunnerSettings {
        silence_limit: Duration::from_millis(300),
        ..harness.settings(engine)
    };
    let mut runner = runner(settings, &heartbeat_state);
    let task = harness.task(DeviceKind::Cuda, NEEDS);
    let failure = run(&mut runner, &harness, &task, &heartbeat_state)
        .await
        .unwrap_err();
    assert!(
        matches!(&failure, Failure::EngineLost { message } if message.contains("sent nothing")),
        "{failure:?}"
    );
    assert!(runner.engine.idle.is_none());
}

#[tokio::test]
async fn an_engine_that_never_starts_makes_its_worker_unfit_and_is_no_fault_of_the_chunk() {
    for after in ["echo no such library >&2; exit 1", "exec sleep 1000"] {
        let harness = RunnerHarness::new().await;
        let engine = harness.child::<EngineReply>("engine", &[], after);
        let heartbeat_state = heartbeat_state();
        let settings = RunnerSettings {
            silence_limit: Duration::from_millis(300),
            ..harness.settings(engine)
        };
        let mut runner = runner(settings, &heartbeat_state);
        let task = harness.task(DeviceKind::Cuda, NEEDS);
        let failure = run(&mut runner, &harness, &task, &heartbeat_state)
            .await
            .unwrap_err();
        assert!(
            matches!(&failure, Failure::WorkerUnfit { message } if message.starts_with("the engine does not start")),
            "{failure:?}"
        );
    }
}

#[tokio::test]
async fn an_engine_on_the_host_gets_a_budget_and_is_restarted_if_a_task_needs_more() {
    let harness = RunnerHarness::new().await;
    let replies = [vec![loaded()], window(), vec![loaded()], window()].concat();
    let engine = harness.child("engine", &replies, "exec cat > $INPUT");
    let heartbeat_state = heartbeat_state();
    let mut settings = harness.settings(engine);
    settings.device = Device::Cpu;
    settings.limits.memory_limit_mib = Some(900);
    let mut runner = runner(settings, &heartbeat_state);
    let available_mib = runner.available().await.memory.host_mib.unwrap();
    assert!(
        (400..=900 - MEDIA_MIB).contains(&available_mib),
        "{available_mib}"
    );
    let needs = |mib| MemoryRequirements {
        mib: [mib; MemoryPlan::COUNT],
    };
    let small = harness.task(DeviceKind::Cpu, needs(100));
    for _ in 0..2 {
        run(&mut runner, &harness, &small, &heartbeat_state)
            .await
            .unwrap();
    }
    let starts = harness.starts("engine");
    assert_eq!(starts.len(), 1, "{starts:?}");
    let budget: u64 = starts[0]
        .strip_prefix("started --budget ")
        .unwrap()
        .parse()
        .unwrap();
    assert!(budget.abs_diff(available_mib) < 100, "{budget}, {available_mib}");
    Arc::make_mut(&mut runner.engine.settings).limits.memory_limit_mib = Some(1900);
    let larger = harness.task(DeviceKind::Cpu, needs(budget + 500));
    run(&mut runner, &harness, &larger, &heartbeat_state)
        .await
        .unwrap();
    assert_eq!(harness.starts("engine").len(), 2);
}

#[tokio::test]
async fn a_leaking_engine_finishes_its_task_and_is_replaced() {
    let harness = RunnerHarness::new().await;
    // 64 tasks of one window, each of which keeps 4 MiB.
    let recorded: Vec<EngineReply> = (0..64)
        .flat_map(|task| {
            let mut replies = [vec![loaded()], window()].concat();
            if let Some(EngineReply::Window { memory, .. }) = replies.last_mut() {
                *memory = sample(1000 + 4 * task);
            }
            replies
        })
        .collect();
    let engine = harness.child("engine", &recorded, "exec cat > $INPUT");
    let heartbeat_state = heartbeat_state();
    let mut settings = harness.settings(engine);
    let media: Vec<MediaReply> = (0..64).flat_map(|_| media_replies()).collect();
    settings.media = harness.child("media", &media, "exec cat > /dev/null");
    let mut runner = runner(settings, &heartbeat_state);
    let task = harness.task(DeviceKind::Cuda, NEEDS);
    let mut finished = 0;
    while harness.starts("engine").len() < 2 {
        run(&mut runner, &harness, &task, &heartbeat_state).await.unwrap();
        finished += 1;
        assert!(finished <= 50, "a leak of 4 MiB a window is detected within 50");
    }
    assert_eq!(runner.engine.restarts, 1);
}

#[tokio::test]
async fn heartbeats_show_the_devices_memory_capacity_and_throughput() {
    let harness = RunnerHarness::new().await;
    let replies = [vec![loaded()], window()].concat();
    let engine = harness.child("engine", &replies, "exec cat > $INPUT");
    let heartbeat_state = heartbeat_state();
    let mut runner = runner(harness.settings(engine), &heartbeat_state);
    harness.gpu(8192, 3000);
    let task = harness.task(DeviceKind::Cuda, NEEDS);
    run(&mut runner, &harness, &task, &heartbeat_state).await.unwrap();
    runner.available().await;
    let heartbeat = heartbeat_state.snapshot();
    assert_eq!(heartbeat.capacity.device_mib, Some(8000));
    assert_eq!(heartbeat.capacity.host_mib, None);
    let own_mib = 1000;
    assert_eq!(
        (heartbeat.device_free_mib, heartbeat.device_total_mib),
        (8192 - 3000 - own_mib, 8192)
    );
    assert!(heartbeat.host_rss_mib > 0);
    assert!(heartbeat.frames_per_second > 0.0);
}

#[tokio::test]
async fn an_idle_engine_ends_when_a_chunk_of_the_farm_waits_for_memory() {
    let harness = RunnerHarness::new().await;
    let replies = [vec![loaded()], window()].concat();
    let engine = harness.child("engine", &replies, "exec cat > $INPUT");
    let heartbeat_state = heartbeat_state();
    let mut runner = runner(harness.settings(engine), &heartbeat_state);
    let task = harness.task(DeviceKind::Cuda, NEEDS);
    for starts in 1..=2 {
        run(&mut runner, &harness, &task, &heartbeat_state).await.unwrap();
        assert_eq!(harness.starts("engine").len(), starts);
        assert!(runner.engine.idle.is_some());
        runner.free_memory().await;
        assert!(runner.engine.idle.is_none());
    }
}
