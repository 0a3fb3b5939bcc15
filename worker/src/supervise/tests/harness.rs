//! The harness of the runner's tests: a simulated GPU, a blob store, and children that replay recorded
//! replies.

use std::path::Path;
use std::time::Duration;

use latentfarm_common::digest::Digest;
use latentfarm_common::frame::{Colour, ColourMatrix, ColourRange, FrameHash, PictureFormat};
use latentfarm_common::ids::{Attempt, ChunkId, JobId, WorkKind};
use latentfarm_common::tags::Tags;
use latentfarm_common::time::{FrameRange, FrameRate, TimeBase};
use latentfarm_common::wire::engine::{EngineReply, EngineRequest, EngineStage, EngineTimings};
use latentfarm_common::wire::job::{
    AudioSpec, AudioWindows, EncoderSpec, ModelSpec, SilenceMode, SourceSpec, WeightsKind,
};
use latentfarm_common::wire::media::{MediaReply, MediaTimings};
use latentfarm_common::wire::memory::{
    DeviceKind, MemoryConstraints, MemoryPlan, MemoryRequirements, MemorySample,
};
use latentfarm_common::wire::task::{Mouth, RenderFrame, RenderInput, RenderTask};
use latentfarm_common::wire::{self, Message, pipe};
use tempfile::TempDir;
use tokio::sync::watch;

use super::super::*;
use crate::consume::{Progress, TaskOutput};
use crate::machine::admission::MemoryLimits;
use crate::machine::probe::Device;

pub(super) const MIB: u64 = 1 << 20;
pub(super) const LIMIT: Duration = Duration::from_mins(1);

/// The memory needs of the plans, in MiB.
pub(super) const NEEDS: MemoryRequirements = MemoryRequirements {
    mib: [9000, 7000, 5000, 5000, 2500, 2000],
};

/// A folder with a simulated GPU, a blob store, and the recordings of children.
pub(super) struct RunnerHarness {
    folder: TempDir,
    pub(super) store: Store,
    pub(super) input: wire::blob::BlobRef,
}

impl RunnerHarness {
    pub(super) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = Store::file_url(&folder.path().join("blobs")).unwrap();
        let store = Store::open(&url, None).unwrap();
        let frame = RenderFrame {
            source: 0,
            face: Some([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]),
            mouth: Mouth::Speech,
        };
        let input = RenderInput {
            segments: Vec::new(),
            frames: vec![frame; 16],
            audio: Vec::new(),
        };
        let input = store.put_bytes(wire::encode(&input).unwrap()).await.unwrap();
        let stage = Self { folder, store, input };
        stage.gpu(8192, 0);
        stage
    }

    pub(super) fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn gpu(&self, total_mib: u64, tenant_mib: u64) {
        let text = format!("total_mib = {total_mib}\ntenant_mib = {tenant_mib}\n");
        std::fs::write(self.path("card.gpu"), text).unwrap();
    }

    /// Returns a child that sends `replies` whatever it receives, then runs `after`, in which `$INPUT` is the
    /// path of `NAME.input`.
    pub(super) fn child<M: Message>(&self, name: &'static str, replies: &[M], after: &str) -> ChildCommand {
        let bytes: Vec<u8> = replies
            .iter()
            .flat_map(|reply| pipe::encode(reply).unwrap())
            .collect();
        let recording = self.path(&format!("{name}.replies"));
        std::fs::write(&recording, bytes).unwrap();
        let input = self.path(&format!("{name}.input"));
        let script = format!(
            "echo started \"$0\" \"$1\" >> {started}; cat {recording}; INPUT={input}; {after}",
            started = self.path(&format!("{name}.started")).display(),
            recording = recording.display(),
            input = input.display(),
        );
        ChildCommand {
            name,
            program: "/bin/sh".into(),
            args: vec!["-c".into(), script.into()],
            envs: Vec::new(),
            threads: 1,
        }
    }

    /// Returns one line for each start of a child, with its first arguments.
    pub(super) fn starts(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.path(&format!("{name}.started"))).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    pub(super) fn settings(&self, engine: ChildCommand) -> RunnerSettings {
        let media: Vec<MediaReply> = (0..4).flat_map(|_| media_replies()).collect();
        RunnerSettings {
            idle_gate: None,
            weights: WeightsSource::Folder("/weights".into()),
            device: Device::Simulated(self.path("card.gpu")),
            media: self.child("media", &media, "exec cat > /dev/null"),
            engine,
            scratch: self.path("scratch"),
            limits: MemoryLimits {
                reserve_mib: Some(0),
                reserve_device_mib: Some(192),
                memory_limit_mib: None,
            },
            warn_gib: vec![15, 20],
            reservations_dir: self.path("claims"),
            device_turn: Duration::from_mins(1),
            silence_limit: Duration::from_secs(20),
        }
    }

    pub(super) fn task(&self, kind: DeviceKind, needs: MemoryRequirements) -> Task {
        let job: JobId = "0123456789abcdef".parse().unwrap();
        Task {
            chunk: ChunkId {
                job,
                work: WorkKind::Render,
                index: 0,
            },
            attempt: Attempt { epoch: 1, number: 0 },
            store: self.store.url().to_owned(),
            excluded: Vec::new(),
            needed_tags: Tags::NONE,
            body: TaskBody::Render(render_task(self.input, kind, needs)),
        }
    }
}

pub(super) fn render_task(
    input: wire::blob::BlobRef,
    kind: DeviceKind,
    needs: MemoryRequirements,
) -> RenderTask {
    let colour = Colour {
        matrix: ColourMatrix::Bt709,
        range: ColourRange::Limited,
        primaries_tag: 2,
        transfer_tag: 2,
        matrix_tag: 2,
        range_tagged: false,
    };
    RenderTask {
        source: SourceSpec {
            picture: PictureFormat {
                width: 64,
                height: 64,
                colour,
                sample_aspect: (1, 1),
            },
            time_base: TimeBase { num: 1, den: 90_000 },
            frames: 16,
        },
        audio: AudioSpec {
            digest: Digest::of(b"speech"),
            samples: 16_000,
            log_mel_max: 1.0,
            windows: AudioWindows::Overlapping,
            silence: SilenceMode::Off,
        },
        model: ModelSpec {
            weights: Digest::of(b"weights"),
            weights_kind: WeightsKind::Synthetic,
            resolution_px: 64,
            steps: 2,
            guidance_scale: 1.0,
            seed: 0,
        },
        encoder: EncoderSpec {
            rate: FrameRate::FPS_25,
            crf: None,
            preset: "ultrafast".to_owned(),
        },
        range: FrameRange::new(0, 16),
        input,
        memory: MemoryConstraints {
            kind,
            floor: MemoryPlan::SequentialGuidance,
            needs,
        },
    }
}

pub(super) fn sample(own_mib: u64) -> MemorySample {
    MemorySample {
        free: (8192 - own_mib) * MIB,
        total: 8192 * MIB,
        own: own_mib * MIB,
        reserved: own_mib * MIB,
        reserved_peak: 0,
        live: own_mib * MIB,
        live_peak: (own_mib + 100) * MIB,
        host_rss: 50 * MIB,
    }
}

pub(super) fn loaded() -> EngineReply {
    EngineReply::Loaded {
        numerics_fingerprint: "recorded".to_owned(),
        device: "sim".to_owned(),
        memory: sample(1000),
    }
}

pub(super) fn progress(stage: EngineStage, own_mib: u64) -> EngineReply {
    EngineReply::Progress {
        stage,
        memory: sample(own_mib),
    }
}

pub(super) fn window() -> Vec<EngineReply> {
    vec![
        progress(EngineStage::VaeEncode { frame: 15 }, 1200),
        progress(EngineStage::Denoise { step: 1, of: 1 }, 2200),
        EngineReply::Window {
            faces: vec![0],
            timings: EngineTimings::default(),
            memory: sample(1000),
        },
    ]
}

pub(super) fn media_replies() -> Vec<MediaReply> {
    vec![
        MediaReply::Crops {
            window: FrameRange::new(0, 16),
            faces: vec![0],
        },
        MediaReply::Progress { frames_done: 16 },
        MediaReply::Rendered {
            frame_hashes: vec![FrameHash([0; 16]); 16],
            lips: vec![None; 16],
            synced: 16,
            passed: 0,
            timings: MediaTimings::default(),
        },
    ]
}

pub(super) fn heartbeat_state() -> HeartbeatState {
    HeartbeatState::new("w1".parse().unwrap(), "sim:card".to_owned())
}

pub(super) fn runner(settings: RunnerSettings, heartbeat_state: &HeartbeatState) -> Runner {
    Runner::new(settings, Probe::without_driver(), heartbeat_state.clone())
}

pub(super) async fn run(
    runner: &mut Runner,
    stage: &RunnerHarness,
    task: &Task,
    heartbeat_state: &HeartbeatState,
) -> Result<TaskOutput, Failure> {
    let (progress, _) = Progress::new(heartbeat_state, task.chunk);
    let progress = Arc::new(progress);
    let (_stop, receiver) = watch::channel(false);
    let running = runner.run(Assignment {
        task,
        store: &stage.store,
        link: None,
        progress: &progress,
        stop: receiver,
        was_held: false,
        prepared: None,
    });
    let finished = Box::pin(async { running.await?.await });
    tokio::time::timeout(LIMIT, finished)
        .await
        .expect("the task ends")
}

/// Reads the requests that an engine received.
pub(super) fn requests(path: &Path) -> Vec<EngineRequest> {
    let bytes = std::fs::read(path).unwrap();
    let mut rest = bytes.as_slice();
    std::iter::from_fn(|| pipe::read(&mut rest).unwrap()).collect()
}
