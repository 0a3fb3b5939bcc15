//! The messages and blobs of the farm.

use latentfarm_common::frame::FrameHash;
use latentfarm_common::ids::WorkKind;
use latentfarm_common::lip_sync::LipOpening;
use latentfarm_common::queues::{Available, Queue, ResourceClass};
use latentfarm_common::wire::engine::EngineStage;
use latentfarm_common::wire::job::{
    CutRecord, DefectKind, JobSpec, OutputFrame, SegmentEntry, SegmentRecord, SoundSpec, SourceDefect,
    Timeline,
};
use latentfarm_common::wire::memory::{
    DeviceKind, MemoryObservation, MemoryPlan, MemorySample, MemoryStage, MemoryUse, ObservedNeed,
    RenderMemory, StagePeak,
};
use latentfarm_common::wire::outcome::{
    DoneBody, DoneRecord, Event, EventKind, FaceObservation, FaceObservations, Failure, FrameObservation,
    GpuStatus, Heartbeat, LearnedNeeds, StageTimings, TaskProgress, TaskStage, WorkerCommand, WorkerState,
};
use latentfarm_common::wire::task::{AnalyzeInput, AnalyzeTask, RenderInput, RenderTask, Task, TaskBody};
use latentfarm_common::wire::weights::{SharedFile, SharedWeights};

use super::parts::{
    ATTEMPT, RANGE, audio, blob, chunk, digest, encoder, frames, job, memory, model, out_of_memory, slices,
    source, tags, worker,
};

pub(crate) fn tasks() -> [Task; 2] {
    let analyze = AnalyzeTask {
        source: source(),
        range: RANGE,
        input: blob(),
    };
    let render = RenderTask {
        source: source(),
        audio: audio(),
        model: model(),
        encoder: encoder(),
        range: RANGE,
        input: blob(),
        memory: memory(),
    };
    [
        (WorkKind::Analyze, TaskBody::Analyze(analyze)),
        (WorkKind::Render, TaskBody::Render(render)),
    ]
    .map(|(work, body)| Task {
        chunk: chunk(work),
        attempt: ATTEMPT,
        store: "nats".to_owned(),
        excluded: vec![worker()],
        needed_tags: tags(),
        body,
    })
}

pub(crate) fn done_records() -> [DoneRecord; 2] {
    let used = MemoryUse {
        kind: DeviceKind::Cuda,
        device: "cuda:0 NVIDIA L4".to_owned(),
        plan: MemoryPlan::BatchedGuidance,
        predicted_mib: 900,
        peak_mib: 870,
        least_free_mib: 100,
        shortages: Vec::new(),
        stages: vec![StagePeak {
            stage: MemoryStage::VaeDecode,
            live_mib: 800,
            own_mib: 870,
        }],
    };
    let rendered = DoneBody::Render {
        frame_hashes: vec![FrameHash([7; 16]); 2],
        lips: vec![Some(LipOpening(83)), None],
        synced: 1,
        passed: 1,
    };
    let analyzed = DoneBody::Analyze {
        frames: 32,
        with_face: 30,
    };
    [
        (WorkKind::Analyze, analyzed, None),
        (WorkKind::Render, rendered, Some(used)),
    ]
    .map(|(work, body, memory)| DoneRecord {
        chunk: chunk(work),
        attempt: ATTEMPT,
        worker: worker(),
        numerics_fingerprint: "avx512".to_owned(),
        kind: None,
        artifact: blob(),
        body,
        timings: StageTimings::default(),
        memory,
    })
}

pub(crate) fn events() -> [Event; 8] {
    let message = || "cannot decode".to_owned();
    [
        EventKind::Started,
        EventKind::Released,
        EventKind::Failed(Failure::OutOfMemory(out_of_memory())),
        EventKind::Failed(Failure::InsufficientMemory {
            device: "cpu".to_owned(),
            needed_mib: 900,
            free_mib: 100,
        }),
        EventKind::Failed(Failure::BadInput { message: message() }),
        EventKind::Failed(Failure::WorkerUnfit { message: message() }),
        EventKind::Failed(Failure::Transient { message: message() }),
        EventKind::Failed(Failure::EngineLost { message: message() }),
    ]
    .map(|kind| Event {
        chunk: chunk(WorkKind::Render),
        attempt: ATTEMPT,
        worker: worker(),
        kind,
    })
}

pub(crate) fn heartbeats() -> [Heartbeat; 2] {
    let memory = RenderMemory {
        host_mib: Some(4096),
        device_mib: None,
    };
    let queue = Queue::any(ResourceClass::Cpu(4096), 5);
    let task = TaskProgress {
        chunk: chunk(WorkKind::Render),
        attempt: ATTEMPT,
        frames_done: 16,
        frames_total: 32,
        stage: TaskStage::Engine(EngineStage::Denoise { step: 3, of: 20 }),
        queue: Some(queue),
        plan: Some(MemoryPlan::Streamed),
    };
    let working = Heartbeat {
        state: WorkerState::Working,
        capacity: memory,
        available: Available {
            analyze: true,
            memory,
        },
        task: Some(task.clone()),
        finishing: vec![task],
        held: vec![chunk(WorkKind::Render)],
        memory: Some(MemorySample::default()),
        gpu: Some(GpuStatus {
            temperature_c: Some(60),
            utilization_percent: None,
            power_w: Some(72),
        }),
        frames_per_second: 4.5,
        problem: Some("cuda:1 NVIDIA L4 cannot be used".to_owned()),
        tags: tags(),
        ..Heartbeat::starting(worker(), "cuda:0 NVIDIA L4".to_owned())
    };
    [Heartbeat::starting(worker(), "cpu".to_owned()), working]
}

pub(crate) fn commands() -> [WorkerCommand; 6] {
    [
        WorkerCommand::Cancel(job()),
        WorkerCommand::Drain,
        WorkerCommand::FreeMemory,
        WorkerCommand::GiveBack(chunk(WorkKind::Render)),
        WorkerCommand::Abandon(chunk(WorkKind::Render)),
        WorkerCommand::SetAside {
            pause_ms: 60_000,
            reason: "it failed 3 attempts in a row".to_owned(),
        },
    ]
}

pub(crate) fn learned_needs() -> LearnedNeeds {
    let observations = [ObservedNeed::Peak(800), ObservedNeed::MoreThan(900)].map(|need| MemoryObservation {
        plan: MemoryPlan::TwoPassNorm,
        need,
    });
    LearnedNeeds {
        observations: observations.into(),
        frame_ms: Some(220.5),
    }
}

pub(crate) fn job_spec() -> JobSpec {
    JobSpec {
        id: job(),
        video_digest: digest(),
        audio_digest: digest(),
        source: source(),
        audio: audio(),
        sound: SoundSpec {
            blob: blob(),
            treatment: "copied".to_owned(),
        },
        model: model(),
        encoder: encoder(),
        frames: 30,
        chunk_frames: 16,
        analyze_frames: 32,
        face_frames: 50,
        timeline: blob(),
    }
}

pub(crate) fn timeline() -> Timeline {
    Timeline {
        source_pts: vec![0, 512, 1024],
        outputs: vec![OutputFrame {
            source: 2,
            synced: true,
        }],
        audio: vec![blob()],
        silence: vec![RANGE],
        loudness: vec![200],
    }
}

pub(crate) fn cut_records() -> [CutRecord; 2] {
    let segment = SegmentRecord {
        entry: SegmentEntry {
            blob: blob(),
            first: 0,
            frames: 3,
        },
        reencoded: true,
        defects: DefectKind::ALL
            .map(|kind| SourceDefect {
                kind,
                frames: RANGE,
                start_ms: 640,
                end_ms: 1920,
            })
            .into(),
    };
    [CutRecord::Segment(segment), CutRecord::End]
}

pub(crate) fn observations() -> FaceObservations {
    let face = FaceObservation {
        bbox: [10.0, 12.0, 50.0, 60.0],
        score: 0.9,
        points: [[20.0, 30.0], [40.0, 30.0], [30.0, 45.0]],
        lips: LipOpening(50),
    };
    FaceObservations {
        frames: vec![FrameObservation {
            cut: true,
            faces: vec![face, face],
        }],
    }
}

pub(crate) fn analyze_input() -> AnalyzeInput {
    AnalyzeInput { segments: slices() }
}

pub(crate) fn render_input() -> RenderInput {
    RenderInput {
        segments: slices(),
        frames: frames(),
        audio: vec![(2, blob())],
    }
}

pub(crate) fn shared_weights() -> SharedWeights {
    let file = |path: &str| SharedFile {
        path: path.to_owned(),
        blob: blob(),
    };
    SharedWeights {
        files: vec![file("latentsync_unet.pt"), file("vae/config.json")],
    }
}
