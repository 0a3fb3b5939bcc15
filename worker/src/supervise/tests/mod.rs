//! The runner with recorded children: scripts that say what an engine and a media process would.

mod stage;

use std::time::{Duration, Instant};

use latentfarm_common::digest::Digest;
use latentfarm_common::wire::engine::{EngineFailure, EngineReply, EngineRequest, EngineStage};
use latentfarm_common::wire::media::MediaReply;
use latentfarm_common::wire::memory::{
    DeviceKind, MEDIA_MIB, MemoryPlan, MemoryRequirements, MemoryStage, OutOfMemory,
};
use latentfarm_common::wire::pipe;

use MemoryStage::{Align, Decode, Denoise, Encode, Idle, Load, Paste, VaeEncode};

use super::*;
use crate::machine::probe::Device;
use stage::*;

#[tokio::test]
async fn a_task_runs_under_the_fastest_plan_that_fits_now_and_tells_what_it_used() {
    let stage = Stage::new().await;
    let replies = [vec![loaded()], window()].concat();
    let engine = stage.child("engine", &replies, "exec cat > $HEARD");
    let vitals = vitals();
    let mut runner = runner(stage.settings(engine), &vitals);
    assert_eq!(runner.available().await.memory.device_mib, Some(8000));
    // Another tenant comes between the pull and the load.
    stage.gpu(8192, 5000);
    let task = stage.task(DeviceKind::Cuda, NEEDS);
    let finished = run(&mut runner, &stage, &task, &vitals).await.unwrap();
    let used = finished.memory.unwrap();
    assert_eq!((used.plan, used.predicted_mib), (MemoryPlan::Offload, 2500));
    assert_eq!((used.kind, used.device.as_str()), (DeviceKind::Cuda, "sim:card"));
    assert_eq!((used.peak_mib, used.least_free_mib), (2300, 8192 - 2200));
    let stages: Vec<MemoryStage> = used.stages.iter().map(|peak| peak.stage).collect();
    assert_eq!(
        stages,
        [Load, Decode, Align, VaeEncode, Denoise, Paste, Encode, Idle]
    );
    assert_eq!(vitals.snapshot().memory, Some(sample(1000)));
    runner.close().await;
    for request in requests(&stage.path("engine.heard")) {
        match request {
            EngineRequest::Load { plan, .. } => assert_eq!(plan, MemoryPlan::Offload),
            EngineRequest::Window(window) => assert_eq!(window.plan, MemoryPlan::Offload),
            EngineRequest::Audio(_) => panic!("there is no speech to encode"),
        }
    }
}

#[tokio::test]
async fn a_task_that_fits_nothing_any_more_is_given_back_untried() {
    let stage = Stage::new().await;
    let engine = stage.child::<EngineReply>("engine", &[], "exit 1");
    let vitals = vitals();
    let mut runner = runner(stage.settings(engine), &vitals);
    stage.gpu(8192, 7000);
    let task = stage.task(DeviceKind::Cuda, NEEDS);
    let failure = run(&mut runner, &stage, &task, &vitals).await.unwrap_err();
    let expected = Failure::NoRoom {
        device: "sim:card".to_owned(),
        needed_mib: 2000,
        free_mib: 1000,
    };
    assert_eq!(failure, expected);
    assert_eq!(stage.starts("engine"), Vec::<String>::new(), "nothing was tried");
    let other_kind = stage.task(DeviceKind::Cpu, NEEDS);
    let failure = run(&mut runner, &stage, &other_kind, &vitals).await.unwrap_err();
    assert!(matches!(failure, Failure::WorkerUnfit { .. }), "{failure:?}");
}

#[tokio::test]
async fn an_engine_that_says_that_it_ran_out_of_memory_is_used_again() {
    let stage = Stage::new().await;
    let out_of_memory = EngineReply::Failed(EngineFailure::OutOfMemory {
        stage: MemoryStage::VaeDecode,
        needed_at_least_mib: Some(7100),
        free_before_mib: 300,
    });
    let replies = [vec![loaded(), out_of_memory, loaded()], window()].concat();
    let engine = stage.child("engine", &replies, "exec cat > $HEARD");
    let vitals = vitals();
    let mut runner = runner(stage.settings(engine), &vitals);
    let task = stage.task(DeviceKind::Cuda, NEEDS);
    let failure = run(&mut runner, &stage, &task, &vitals).await.unwrap_err();
    let expected = Failure::OutOfMemory(OutOfMemory {
        kind: DeviceKind::Cuda,
        device: "sim:card".to_owned(),
        stage: Some(MemoryStage::VaeDecode),
        plan: MemoryPlan::SequentialGuidance,
        needed_at_least_mib: Some(7100),
        free_before_mib: 300,
        suspected: false,
    });
    assert_eq!(failure, expected);
    run(&mut runner, &stage, &task, &vitals).await.unwrap();
    assert_eq!(stage.starts("engine").len(), 1);
}

#[tokio::test]
async fn an_engine_that_dies_of_a_failed_allocation_is_out_of_memory_in_its_stage_and_is_replaced() {
    let stage = Stage::new().await;
    let replies = [loaded(), progress(EngineStage::Denoise { step: 3, of: 20 }, 2200)];
    // It dies once it has heard of the window.
    let load = EngineRequest::Load {
        weights_dir: "/weights".to_owned(),
        expected: Digest::of(b"weights"),
        plan: MemoryPlan::SequentialGuidance,
    };
    let heard = pipe::frame(&load).unwrap().len() + 1;
    let last_words = format!(
        "head -c {heard} > /dev/null; echo 'memory allocation of 999 bytes failed' >&2; kill -ABRT $$"
    );
    let engine = stage.child("engine", &replies, &last_words);
    let vitals = vitals();
    let mut runner = runner(stage.settings(engine), &vitals);
    let task = stage.task(DeviceKind::Cuda, NEEDS);
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
        let failure = run(&mut runner, &stage, &task, &vitals).await.unwrap_err();
        assert_eq!(failure, expected);
        assert_eq!(stage.starts("engine").len(), starts);
    }
    assert_eq!(
        runner.available().await.memory.device_mib,
        Some(8000),
        "the dead engine holds nothing"
    );
}

#[tokio::test]
async fn a_hanging_engine_is_lost_after_the_silence_limit() {
    let stage = Stage::new().await;
    let engine = stage.child("engine", &[loaded()], "exec sleep 1000");
    let vitals = vitals();
    let settings = RunnerSettings {
        silence_limit: Duration::from_millis(300),
        ..stage.settings(engine)
    };
    let mut runner = runner(settings, &vitals);
    let task = stage.task(DeviceKind::Cuda, NEEDS);
    let failure = run(&mut runner, &stage, &task, &vitals).await.unwrap_err();
    assert!(
        matches!(&failure, Failure::EngineLost { message } if message.contains("said nothing")),
        "{failure:?}"
    );
    assert!(runner.engine.idle.is_none());
}

#[tokio::test]
async fn memory_that_one_worker_is_about_to_take_is_not_free_to_another() {
    let stage = Stage::new().await;
    // The first engine has taken 1000 of the 7000 MiB that it needs, and goes on when told to.
    let go_on = stage.path("go-on");
    let replies = [vec![loaded()], window()].concat();
    let bytes = pipe::frame(&loaded()).unwrap().len();
    let recording = stage.path("engine.replies");
    let script = format!(
        "mkfifo {fifo}; head -c {bytes} {recording}; read line < {fifo}; tail -c +{next} {recording}; exec cat > /dev/null",
        fifo = go_on.display(),
        recording = recording.display(),
        next = bytes + 1,
    );
    let mut engine = stage.child("engine", &replies, "");
    engine.args = vec!["-c".into(), script.into()];
    let first_vitals = vitals();
    let mut first = runner(stage.settings(engine.clone()), &first_vitals);
    let second_vitals = Vitals::new("w2".parse().unwrap(), "sim:card".to_owned());
    let mut second = runner(stage.settings(engine), &second_vitals);
    assert_eq!(second.available().await.memory.device_mib, Some(8000));
    let task = stage.task(DeviceKind::Cuda, NEEDS);
    let working = run(&mut first, &stage, &task, &first_vitals);
    let watching = async {
        let begun = Instant::now();
        let mut seen = Vec::new();
        while seen.last() != Some(&Some(2000)) {
            assert!(begun.elapsed() < LIMIT, "{seen:?}");
            let room = second.available().await.memory.device_mib;
            if seen.last() != Some(&room) {
                seen.push(room);
            }
        }
        tokio::fs::write(&go_on, "go\n").await.unwrap();
    };
    let (finished, ()) = tokio::join!(working, watching);
    finished.unwrap();
    assert_eq!(second.available().await.memory.device_mib, Some(8000));
}

#[tokio::test]
async fn an_engine_on_the_host_is_told_its_budget_and_restarted_where_a_task_needs_more() {
    let stage = Stage::new().await;
    let replies = [vec![loaded()], window(), vec![loaded()], window()].concat();
    let engine = stage.child("engine", &replies, "exec cat > $HEARD");
    let vitals = vitals();
    let mut settings = stage.settings(engine);
    settings.device = Device::Cpu;
    settings.limits.memory_limit_mib = Some(900);
    let mut runner = runner(settings, &vitals);
    let room = runner.available().await.memory.host_mib.unwrap();
    assert!((400..=900 - MEDIA_MIB).contains(&room), "{room}");
    let needs = |mib| MemoryRequirements {
        mib: [mib; MemoryPlan::COUNT],
    };
    let small = stage.task(DeviceKind::Cpu, needs(100));
    for _ in 0..2 {
        run(&mut runner, &stage, &small, &vitals).await.unwrap();
    }
    let starts = stage.starts("engine");
    assert_eq!(starts.len(), 1, "{starts:?}");
    let budget: u64 = starts[0]
        .strip_prefix("started --budget ")
        .unwrap()
        .parse()
        .unwrap();
    assert!(budget.abs_diff(room) < 100, "{budget}, {room}");
    Arc::make_mut(&mut runner.engine.settings).limits.memory_limit_mib = Some(1900);
    let larger = stage.task(DeviceKind::Cpu, needs(budget + 500));
    run(&mut runner, &stage, &larger, &vitals).await.unwrap();
    assert_eq!(stage.starts("engine").len(), 2);
}

#[tokio::test]
async fn a_leaking_engine_finishes_its_task_and_is_replaced() {
    let stage = Stage::new().await;
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
    let engine = stage.child("engine", &recorded, "exec cat > $HEARD");
    let vitals = vitals();
    let mut settings = stage.settings(engine);
    let media: Vec<MediaReply> = (0..64).flat_map(|_| media_replies()).collect();
    settings.media = stage.child("media", &media, "exec cat > /dev/null");
    let mut runner = runner(settings, &vitals);
    let task = stage.task(DeviceKind::Cuda, NEEDS);
    let mut finished = 0;
    while stage.starts("engine").len() < 2 {
        run(&mut runner, &stage, &task, &vitals).await.unwrap();
        finished += 1;
        assert!(finished <= 50, "4 MiB a window is called within 50");
    }
    assert_eq!(runner.engine.restarts, 1);
}

#[tokio::test]
async fn heartbeats_tell_the_devices_memory_reach_and_rate() {
    let stage = Stage::new().await;
    let replies = [vec![loaded()], window()].concat();
    let engine = stage.child("engine", &replies, "exec cat > $HEARD");
    let vitals = vitals();
    let mut runner = runner(stage.settings(engine), &vitals);
    stage.gpu(8192, 3000);
    let task = stage.task(DeviceKind::Cuda, NEEDS);
    run(&mut runner, &stage, &task, &vitals).await.unwrap();
    runner.available().await;
    let heartbeat = vitals.snapshot();
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
