//! The machine that a fake worker runs on.

use latentfarm_common::frame::FrameHash;
use latentfarm_common::numeric_kind::NumericKind;
use latentfarm_common::tags::Tags;
use latentfarm_common::wire::memory::{
    DeviceKind, MemoryConstraints, MemoryRequirements, MemoryStage, MemoryUse, OutOfMemory, RenderMemory,
    StagePeak,
};
use latentfarm_common::wire::outcome::Failure;

/// The memory and the speed of a fake worker's machine.
#[derive(Clone, Copy, Debug)]
pub struct FakeMachine {
    pub capacity: RenderMemory,
    /// What windows really need on the machine's device; `None` if the prediction is exact. If it is more
    /// than the device has, a task that should succeed runs out of memory instead.
    pub truth: Option<MemoryRequirements>,
    /// The milliseconds of the engine for a frame, as the done records report them.
    pub frame_ms: u64,
    /// The memory that other programs of the machine hold, in MiB.
    pub held_mib: u64,
    /// The tags of its worker.
    pub tags: &'static [&'static str],
    /// The numerics fingerprint of its results.
    pub rounds_like: &'static str,
    /// Whether its frames are not those of the other machines of its kind.
    pub is_wrong: bool,
}

impl Default for FakeMachine {
    fn default() -> Self {
        Self::cpu(16_384)
    }
}

impl FakeMachine {
    pub fn cpu(mib: u64) -> Self {
        let capacity = RenderMemory {
            host_mib: Some(mib),
            device_mib: None,
        };
        Self {
            capacity,
            truth: None,
            frame_ms: 0,
            held_mib: 0,
            tags: &[],
            rounds_like: "fake",
            is_wrong: false,
        }
    }

    pub fn gpu(mib: u64) -> Self {
        let capacity = RenderMemory {
            host_mib: None,
            device_mib: Some(mib),
        };
        Self {
            capacity,
            truth: None,
            frame_ms: 0,
            held_mib: 0,
            tags: &[],
            rounds_like: "fake",
            is_wrong: false,
        }
    }

    /// A machine on the CPU whose worker has these tags.
    pub fn tagged(tags: &'static [&'static str]) -> Self {
        Self {
            tags,
            ..Self::default()
        }
    }

    pub fn tags(&self) -> Tags {
        Tags::new(self.tags.iter().map(|tag| tag.parse().unwrap())).unwrap()
    }

    pub fn kind(&self) -> NumericKind {
        NumericKind::of(self.rounds_like)
    }

    /// The hash of every frame that the machine renders.
    pub fn frame_hash(&self) -> FrameHash {
        let wrong: &[u8] = if self.is_wrong { b"wrong" } else { b"" };
        FrameHash::of([self.rounds_like.as_bytes(), wrong])
    }

    pub fn device(&self) -> &'static str {
        if self.capacity.device_mib.is_some() {
            "cuda:0 Fake"
        } else {
            "cpu"
        }
    }

    /// The capacity less what other programs hold.
    pub fn available(&self) -> RenderMemory {
        let left = |mib: u64| mib.saturating_sub(self.held_mib);
        RenderMemory {
            host_mib: self.capacity.host_mib.map(left),
            device_mib: self.capacity.device_mib.map(left),
        }
    }

    pub fn free_mib(&self, kind: DeviceKind) -> u64 {
        self.available().of(kind).unwrap()
    }

    /// The memory use of a task under the plan that the worker chooses, or the failure if that is too much.
    pub fn run(&self, constraints: &MemoryConstraints) -> Result<MemoryUse, Failure> {
        let free_mib = self.free_mib(constraints.kind);
        let plan = constraints
            .needs
            .fastest_within(constraints.floor, free_mib)
            .expect("the queue's class fits");
        let needed = self.truth.unwrap_or(constraints.needs).of(plan);
        if needed > free_mib {
            return Err(Failure::OutOfMemory(OutOfMemory {
                kind: constraints.kind,
                device: self.device().to_owned(),
                stage: Some(MemoryStage::Denoise),
                plan,
                needed_at_least_mib: Some(needed),
                free_before_mib: free_mib,
                suspected: false,
            }));
        }
        let peak = StagePeak {
            stage: MemoryStage::Denoise,
            live_mib: needed,
            own_mib: needed,
        };
        Ok(MemoryUse {
            kind: constraints.kind,
            device: self.device().to_owned(),
            plan,
            predicted_mib: constraints.needs.of(plan),
            peak_mib: needed,
            least_free_mib: free_mib - needed,
            shortages: Vec::new(),
            stages: vec![peak],
        })
    }
}
