//! What several messages hold.

use latentfarm_common::digest::Digest;
use latentfarm_common::frame::{Colour, PictureFormat};
use latentfarm_common::ids::{Attempt, ChunkId, JobId, WorkKind, WorkerId};
use latentfarm_common::tags::Tags;
use latentfarm_common::time::{FrameRange, FrameRate, TimeBase};
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::job::{
    AudioSpec, AudioWindows, EncoderSpec, ModelSpec, SilenceMode, SourceSpec, WeightsKind,
};
use latentfarm_common::wire::media::LocalSlice;
use latentfarm_common::wire::memory::{
    DeviceKind, MemoryConstraints, MemoryPlan, MemoryRequirements, MemoryStage, OutOfMemory,
};
use latentfarm_common::wire::task::{Mouth, RenderFrame, SegmentSlice};

pub(super) const RANGE: FrameRange = FrameRange { start: 16, end: 48 };
pub(super) const ATTEMPT: Attempt = Attempt { epoch: 7, number: 1 };

pub(super) fn digest() -> Digest {
    Digest::of(b"seed")
}

pub(super) fn blob() -> BlobRef {
    BlobRef {
        digest: digest(),
        bytes: 4096,
    }
}

pub(super) fn job() -> JobId {
    JobId::from_digest(&digest())
}

pub(super) fn tags() -> Tags {
    let tags = ["eu", "nvenc"].into_iter().filter_map(|tag| tag.parse().ok());
    Tags::new(tags).unwrap_or_default()
}

pub(super) fn chunk(work: WorkKind) -> ChunkId {
    ChunkId {
        job: job(),
        work,
        index: 3,
    }
}

pub(super) fn worker() -> WorkerId {
    "w1".parse().expect("this is the name of a worker")
}

pub(super) fn source() -> SourceSpec {
    SourceSpec {
        picture: PictureFormat {
            width: 96,
            height: 64,
            colour: Colour::BT709,
            sample_aspect: (1, 1),
        },
        time_base: TimeBase { num: 1, den: 12_800 },
        frames: 30,
    }
}

pub(super) fn audio() -> AudioSpec {
    AudioSpec {
        digest: digest(),
        samples: 19_200,
        log_mel_max: 1.5,
        windows: AudioWindows::Overlapping,
        silence: SilenceMode::Keep,
    }
}

pub(super) fn model() -> ModelSpec {
    ModelSpec {
        weights: digest(),
        weights_kind: WeightsKind::Synthetic,
        resolution_px: 256,
        steps: 20,
        guidance_scale: 1.5,
        seed: 1247,
    }
}

pub(super) fn encoder() -> EncoderSpec {
    EncoderSpec {
        rate: FrameRate::FPS_25,
        crf: Some(18),
        preset: "medium".to_owned(),
    }
}

pub(super) fn memory() -> MemoryConstraints {
    MemoryConstraints {
        kind: DeviceKind::Cuda,
        floor: MemoryPlan::Sliced,
        needs: MemoryRequirements {
            mib: [900, 800, 700, 600, 500, 400],
        },
    }
}

pub(super) fn out_of_memory() -> OutOfMemory {
    OutOfMemory {
        kind: DeviceKind::Cpu,
        device: "cpu".to_owned(),
        stage: Some(MemoryStage::Denoise),
        plan: MemoryPlan::Offload,
        needed_at_least_mib: Some(512),
        free_before_mib: 300,
        suspected: false,
    }
}

pub(super) fn frames() -> Vec<RenderFrame> {
    [Mouth::Speech, Mouth::Fading(99), Mouth::Kept, Mouth::Closed]
        .map(|mouth| RenderFrame {
            source: 7,
            face: Some([1.0, 0.0, -3.5, 0.0, 1.0, 9.0]),
            mouth,
        })
        .into()
}

pub(super) fn local_slices() -> Vec<LocalSlice> {
    vec![LocalSlice {
        path: "segment.mkv".to_owned(),
        first: 16,
        pts: vec![0, 512, 1024],
    }]
}

pub(super) fn slices() -> Vec<SegmentSlice> {
    vec![SegmentSlice {
        blob: blob(),
        first: 16,
        pts: vec![0, 512, 1024],
    }]
}
