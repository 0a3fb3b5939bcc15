//! Memory as it is planned, measured and reported: rungs of the plan ladder, needs, samples and peaks.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Use of a device's memory above which a worker and the report of a render warn, in GiB.
pub const WARN_GIB: [u64; 2] = [15, 20];

/// A memory plan: a rung of the ladder from the fastest and largest to the slowest and leanest. Each one includes
/// the levers of those before it. What a lever does on a device, and whether it changes bits there, is in the
/// worker's `memory::plan`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Rung {
    /// Both halves of the guidance in one pass. On the CPU they always run one after the other.
    #[default]
    BatchedGuidance,
    /// One half of the guidance after the other.
    SequentialGuidance,
    /// Attention, feed-forward and convolution in slices.
    Sliced,
    /// Group norm in two passes over slices.
    TwoPassNorm,
    /// One frame at a time through the VAE.
    FrameVae,
    /// Networks that are idle in a stage do not lie on the device.
    Offload,
    /// The UNet's weights are brought to the device layer by layer.
    Streamed,
}

impl Rung {
    pub const COUNT: usize = 7;
    pub const ALL: [Self; Self::COUNT] = [
        Self::BatchedGuidance,
        Self::SequentialGuidance,
        Self::Sliced,
        Self::TwoPassNorm,
        Self::FrameVae,
        Self::Offload,
        Self::Streamed,
    ];
    pub const LEANEST: Self = Self::Streamed;

    /// Place in [`Rung::ALL`].
    pub fn index(self) -> usize {
        match self {
            Self::BatchedGuidance => 0,
            Self::SequentialGuidance => 1,
            Self::Sliced => 2,
            Self::TwoPassNorm => 3,
            Self::FrameVae => 4,
            Self::Offload => 5,
            Self::Streamed => 6,
        }
    }

    /// The next leaner one.
    pub fn leaner(self) -> Option<Self> {
        Self::ALL.get(self.index() + 1).copied()
    }

    /// Text form, as on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::BatchedGuidance => "batched",
            Self::SequentialGuidance => "sequential",
            Self::Sliced => "sliced",
            Self::TwoPassNorm => "two-pass-norm",
            Self::FrameVae => "frame-vae",
            Self::Offload => "offload",
            Self::Streamed => "streamed",
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Text that names no memory plan.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is not a memory plan: batched, sequential, sliced, two-pass-norm, frame-vae, offload or streamed"
)]
pub struct InvalidRung(String);

impl FromStr for Rung {
    type Err = InvalidRung;

    fn from_str(text: &str) -> Result<Self, InvalidRung> {
        let found = Self::ALL.into_iter().find(|rung| rung.name() == text);
        found.ok_or_else(|| InvalidRung(text.to_owned()))
    }
}

/// Kinds of device for which needs are predicted and learned apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    Cpu,
    /// Also what stands in for a GPU where one is simulated.
    Cuda,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
        })
    }
}

/// What a window needs under each plan, in MiB of the device's memory: on the CPU the engine's resident set
/// (weights that are mapped from files included), on CUDA the device's (context included).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// By [`Rung::index`]; never growing.
    pub mib: [u64; Rung::COUNT],
}

impl Needs {
    pub fn of(&self, rung: Rung) -> u64 {
        self.mib[rung.index()]
    }

    /// The need of the leanest plan.
    pub fn leanest(&self) -> u64 {
        self.of(Rung::LEANEST)
    }

    /// The fastest plan, not before `floor`, that fits in `free_mib`.
    pub fn fastest_within(&self, floor: Rung, free_mib: u64) -> Option<Rung> {
        let allowed = Rung::ALL.into_iter().filter(|rung| *rung >= floor);
        allowed.into_iter().find(|rung| self.of(*rung) <= free_mib)
    }

    /// The next plan after `rung` that needs less.
    pub fn next_leaner(&self, rung: Rung) -> Option<Rung> {
        Rung::ALL
            .into_iter()
            .find(|next| *next > rung && self.of(*next) < self.of(rung))
    }
}

/// How a task's memory was planned by the coordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPlan {
    /// Device that the task's lane is for.
    pub kind: DeviceKind,
    /// No plan before this one: they ran out of memory.
    pub floor: Rung,
    /// Predicted, corrected by what tasks really used.
    pub needs: Needs,
}

/// Named stages at which memory is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MemoryStage {
    Load,
    Audio,
    Decode,
    Align,
    VaeEncode,
    Denoise,
    VaeDecode,
    Paste,
    Encode,
    Idle,
}

impl MemoryStage {
    pub const ALL: [Self; 10] = [
        Self::Load,
        Self::Audio,
        Self::Decode,
        Self::Align,
        Self::VaeEncode,
        Self::Denoise,
        Self::VaeDecode,
        Self::Paste,
        Self::Encode,
        Self::Idle,
    ];

    /// In words, as in the log and the report.
    pub fn label(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Audio => "audio",
            Self::Decode => "decode",
            Self::Align => "align",
            Self::VaeEncode => "VAE encode",
            Self::Denoise => "denoise",
            Self::VaeDecode => "VAE decode",
            Self::Paste => "paste",
            Self::Encode => "encode",
            Self::Idle => "idle",
        }
    }
}

impl fmt::Display for MemoryStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// One reading, all in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemorySample {
    /// What can still be taken of the device: by the driver, or on the CPU by the kernel and the control groups.
    pub free: u64,
    pub total: u64,
    /// This engine's share of the device: its pool and context, or its resident set.
    pub own: u64,
    /// What the allocator holds, in use or not; on the CPU the resident set.
    pub reserved: u64,
    /// Tensors and buffers in use: exact.
    pub live: u64,
    /// Highest `live` since the last sample.
    pub live_peak: u64,
    /// Resident set of the engine on the host.
    pub host_rss: u64,
}

/// Highest use in one stage of a task, in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagePeak {
    pub stage: MemoryStage,
    /// Tensors and buffers in use.
    pub live_mib: u64,
    /// The process's share of the device.
    pub own_mib: u64,
}

/// What a task used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryUse {
    pub kind: DeviceKind,
    /// Text form of the device: `cpu`, `cuda:0 NVIDIA L4`.
    pub device: String,
    pub rung: Rung,
    /// What was predicted for the plan.
    pub predicted_mib: u64,
    /// What it took of the device: comparable with the prediction.
    pub peak_mib: u64,
    /// Smallest free memory seen.
    pub least_free_mib: u64,
    /// In order of [`MemoryStage`], each at most once.
    pub stages: Vec<StagePeak>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_places_of_plans_agree() {
        for (index, rung) in Rung::ALL.into_iter().enumerate() {
            assert_eq!(rung.index(), index);
            assert_eq!(rung.name().parse::<Rung>().unwrap(), rung);
        }
        assert_eq!(Rung::LEANEST.leaner(), None);
        assert!("fast".parse::<Rung>().is_err());
    }

    #[test]
    fn the_fastest_plan_that_fits_is_chosen_and_plans_that_save_nothing_are_passed_over() {
        let needs = Needs {
            mib: [900, 700, 500, 500, 400, 400, 100],
        };
        assert_eq!(
            needs.fastest_within(Rung::default(), 899),
            Some(Rung::SequentialGuidance)
        );
        assert_eq!(needs.fastest_within(Rung::Offload, 10_000), Some(Rung::Offload));
        assert_eq!(needs.fastest_within(Rung::default(), 99), None);
        assert_eq!(needs.next_leaner(Rung::Sliced), Some(Rung::FrameVae));
        assert_eq!(needs.next_leaner(Rung::FrameVae), Some(Rung::Streamed));
        assert_eq!(needs.next_leaner(Rung::Streamed), None);
    }
}
