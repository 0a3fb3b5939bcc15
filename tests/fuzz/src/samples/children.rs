//! The messages to and from the supervisor's children.

use latentfarm_common::frame::FrameHash;
use latentfarm_common::lip_sync::LipOpening;
use latentfarm_common::time::FrameRate;
use latentfarm_common::wire::engine::{
    AudioRequest, EngineFailure, EngineReply, EngineRequest, EngineStage, EngineTimings, SilentFrames,
    WindowRequest,
};
use latentfarm_common::wire::job::AudioWindows;
use latentfarm_common::wire::media::{MediaFailure, MediaReply, MediaRequest, MediaTimings, RenderRequest};
use latentfarm_common::wire::memory::{MemoryPlan, MemorySample, MemoryStage};

use super::farm::observations;
use super::parts::{RANGE, digest, encoder, frames, local_slices, model, source};

pub(crate) fn engine_requests() -> [EngineRequest; 3] {
    let silence = SilentFrames {
        track: digest(),
        frames: 0xf0,
    };
    let window = WindowRequest {
        model: model(),
        track: digest(),
        track_samples: 19_200,
        layout: AudioWindows::Overlapping,
        first_frame: 16,
        rate: FrameRate::FPS_25,
        faces: vec![0; 48],
        silence: Some(silence),
        plan: MemoryPlan::Sliced,
    };
    let audio = AudioRequest {
        track: digest(),
        track_samples: 19_200,
        layout: AudioWindows::Reference,
        log_mel_max: 1.5,
        window: 1,
        pcm: vec![0, 1, -1, i16::MIN],
    };
    [
        EngineRequest::Load {
            weights_dir: "weights".to_owned(),
            expected: digest(),
            plan: MemoryPlan::Streamed,
        },
        EngineRequest::Audio(audio),
        EngineRequest::Window(window),
    ]
}

pub(crate) fn engine_replies() -> [EngineReply; 8] {
    let memory = MemorySample::default();
    let failed = [
        EngineFailure::OutOfMemory {
            stage: MemoryStage::Audio,
            needed_at_least_mib: Some(512),
            free_before_mib: 300,
        },
        EngineFailure::Unfit {
            message: "no weights".to_owned(),
        },
        EngineFailure::AudioMissing { window: 1 },
        EngineFailure::Other {
            message: "no device".to_owned(),
        },
    ];
    let [a, b, c, d] = failed.map(EngineReply::Failed);
    [
        EngineReply::Loaded {
            numerics_fingerprint: "avx512".to_owned(),
            device: "cpu".to_owned(),
            memory,
        },
        EngineReply::AudioReady {
            cached: false,
            elapsed_ms: 3,
            memory,
        },
        EngineReply::Progress {
            stage: EngineStage::VaeEncode { frame: 3 },
            memory,
        },
        EngineReply::Window {
            faces: vec![0; 48],
            timings: EngineTimings::default(),
            memory,
        },
        a,
        b,
        c,
        d,
    ]
}

pub(crate) fn media_requests() -> [MediaRequest; 3] {
    let render = RenderRequest {
        source: source(),
        encoder: encoder(),
        resolution_px: 256,
        range: RANGE,
        segments: local_slices(),
        frames: frames(),
        output: "piece.mp4".to_owned(),
    };
    [
        MediaRequest::Analyze {
            source: source(),
            range: RANGE,
            segments: local_slices(),
        },
        MediaRequest::Render(render),
        MediaRequest::Synced {
            window: RANGE,
            faces: vec![0; 48],
        },
    ]
}

pub(crate) fn media_replies() -> [MediaReply; 6] {
    let message = || "cannot decode".to_owned();
    [
        MediaReply::Progress { frames_done: 16 },
        MediaReply::Crops {
            window: RANGE,
            faces: vec![0; 48],
        },
        MediaReply::Analyzed {
            observations: observations(),
            timings: MediaTimings::default(),
        },
        MediaReply::Rendered {
            frame_hashes: vec![FrameHash([7; 16])],
            lips: vec![Some(LipOpening(83))],
            synced: 1,
            passed: 0,
            timings: MediaTimings::default(),
        },
        MediaReply::Failed(MediaFailure::BadInput { message: message() }),
        MediaReply::Failed(MediaFailure::Other { message: message() }),
    ]
}
