//! Memory as it is planned, measured and reported: plans, needs, samples and peaks.

use serde::{Deserialize, Serialize};
use strum::{Display, EnumCount, EnumString, IntoStaticStr, VariantArray};

use crate::text::serde_as_text;

/// Use of a device's memory above which a worker and the report of a render warn, in GiB.
pub const WARN_GIB: [u64; 2] = [15, 20];

/// A memory plan, from the fastest and largest to the slowest and leanest. Each one includes what those before it do.
/// What a plan does on a device, and whether it changes bits there, is in the worker's `memory::plan`. Its text form
/// is that of the command line and the reports.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Display,
    EnumCount,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[strum(serialize_all = "kebab-case", parse_err_fn = unknown_plan, parse_err_ty = InvalidMemoryPlan)]
pub enum MemoryPlan {
    /// Both halves of the guidance run in one pass. On the CPU they always run one after the other.
    #[default]
    #[strum(serialize = "batched")]
    BatchedGuidance,
    /// One half of the guidance runs after the other.
    #[strum(serialize = "sequential")]
    SequentialGuidance,
    /// Attention, feed-forward and convolution run in slices.
    Sliced,
    /// Group norm runs in two passes over slices.
    TwoPassNorm,
    /// Networks that are idle in a stage do not lie on the device.
    Offload,
    /// The UNet's weights are brought to the device layer by layer.
    Streamed,
}
serde_as_text!(MemoryPlan);

impl MemoryPlan {
    pub const COUNT: usize = <Self as EnumCount>::COUNT;
    /// The plans in their order, the fastest first.
    pub const ALL: [Self; Self::COUNT] = *Self::VARIANTS
        .first_chunk()
        .expect("an enum has all its variants");
    pub const LEANEST: Self = Self::ALL[Self::COUNT - 1];

    /// Place in [`MemoryPlan::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

/// Text that names no memory plan.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not a memory plan: {}", MemoryPlan::ALL.map(<&str>::from).join(", "))]
pub struct InvalidMemoryPlan {
    text: String,
}

fn unknown_plan(text: &str) -> InvalidMemoryPlan {
    let text = text.to_owned();
    InvalidMemoryPlan { text }
}

/// A kind of device. MemoryRequirements are predicted and learned for each of them apart.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Display, EnumString, IntoStaticStr, VariantArray,
)]
#[strum(serialize_all = "lowercase")]
pub enum DeviceKind {
    Cpu,
    /// A GPU, or what stands in for one in a simulation.
    Cuda,
}
serde_as_text!(DeviceKind);

/// What a window needs under each plan, in MiB of the device's memory: on the CPU the engine's resident set
/// (weights that are mapped from files included), on CUDA the device's (context included).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryRequirements {
    /// By [`MemoryPlan::index`]; never growing.
    pub mib: [u64; MemoryPlan::COUNT],
}

impl MemoryRequirements {
    pub fn of(&self, plan: MemoryPlan) -> u64 {
        self.mib[plan.index()]
    }

    /// The need of the leanest plan.
    pub fn leanest(&self) -> u64 {
        self.of(MemoryPlan::LEANEST)
    }

    /// The fastest plan, not before `floor`, that fits in `free_mib`.
    pub fn fastest_within(&self, floor: MemoryPlan, free_mib: u64) -> Option<MemoryPlan> {
        let allowed = MemoryPlan::ALL.into_iter().filter(|plan| *plan >= floor);
        allowed.into_iter().find(|plan| self.of(*plan) <= free_mib)
    }

    /// The next plan after `plan` that needs less.
    pub fn next_leaner(&self, plan: MemoryPlan) -> Option<MemoryPlan> {
        MemoryPlan::ALL
            .into_iter()
            .find(|next| *next > plan && self.of(*next) < self.of(plan))
    }
}

/// What the coordinator prescribes for a task's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryConstraints {
    /// Device that the task's queue is for.
    pub kind: DeviceKind,
    /// No plan before this one: they ran out of memory.
    pub floor: MemoryPlan,
    /// Predicted, corrected by what tasks really used.
    pub needs: MemoryRequirements,
}

/// A stage of a task at which memory is measured. Its text form is that of the log and the reports.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Display, EnumString, IntoStaticStr, VariantArray,
)]
#[strum(serialize_all = "lowercase")]
pub enum MemoryStage {
    Load,
    Audio,
    Decode,
    Align,
    #[strum(serialize = "VAE encode")]
    VaeEncode,
    Denoise,
    #[strum(serialize = "VAE decode")]
    VaeDecode,
    Paste,
    Encode,
    Idle,
}
serde_as_text!(MemoryStage);

/// Host memory, in MiB, that a worker keeps for its media process (decoding, face analysis, pasting and encoding) before
/// it offers the rest to tasks. The coordinator counts on it when it predicts what a job needs.
pub const MEDIA_MIB: u64 = 256;

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
    /// Highest `reserved` since the last sample. What it exceeds `live_peak` by is fragmentation.
    pub reserved_peak: u64,
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
    pub plan: MemoryPlan,
    /// What was predicted for the plan.
    pub predicted_mib: u64,
    /// What it took of the device: comparable with the prediction.
    pub peak_mib: u64,
    /// Smallest free memory seen.
    pub least_free_mib: u64,
    /// In order of [`MemoryStage`], each at most once.
    pub stages: Vec<StagePeak>,
}

/// An attempt at a task that ran out of a device's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutOfMemory {
    pub kind: DeviceKind,
    /// The device, as in [`MemoryUse::device`].
    pub device: String,
    /// The stage in which it ran out; `None` if a process ended of it and it is not known at what.
    pub stage: Option<MemoryStage>,
    /// The plan that it ran under.
    pub plan: MemoryPlan,
    /// Lower bound on the need under that plan, if known.
    pub needed_at_least_mib: Option<u64>,
    /// What it could have used in all, the share that it held already included.
    pub free_before_mib: u64,
    /// True if it was inferred from a kill or a lost machine, and no allocator reported it. It raises the plan's
    /// floor like any other, but proves nothing about the need.
    pub suspected: bool,
}

impl OutOfMemory {
    /// ` during <stage>`, or nothing if the stage is not known.
    pub fn during(&self) -> String {
        self.stage
            .map_or_else(String::new, |stage| format!(" during {stage}"))
    }
}

/// Memory of a worker that render tasks can use, in MiB, with the reserve taken off: what is free at the moment, or
/// the most that there could be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenderMemory {
    /// Host memory; `None`: the worker does not render on the CPU.
    pub host_mib: Option<u64>,
    /// Memory of the GPU; `None`: the worker has no usable GPU.
    pub device_mib: Option<u64>,
}

impl RenderMemory {
    pub fn of(self, kind: DeviceKind) -> Option<u64> {
        match kind {
            DeviceKind::Cpu => self.host_mib,
            DeviceKind::Cuda => self.device_mib,
        }
    }
}

/// A plan's need as one task, or one attempt, showed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryObservation {
    /// The plan that it ran under.
    pub plan: MemoryPlan,
    pub need: ObservedNeed,
}

/// MiB of the device, in the terms of [`MemoryRequirements`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ObservedNeed {
    /// The task succeeded and took this much.
    Peak(u64),
    /// It ran out of memory, and needed more than this.
    MoreThan(u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values come back from their text, and from the JSON that the journal and the reports hold it in.
    #[track_caller]
    fn assert_read_from_its_text<T>(values: &[T])
    where
        T: std::fmt::Debug + std::fmt::Display + PartialEq + std::str::FromStr<Err: std::fmt::Debug>,
        T: Serialize + serde::de::DeserializeOwned,
    {
        assert!(!values.is_empty());
        for value in values {
            assert_eq!(&value.to_string().parse::<T>().unwrap(), value);
            let json = serde_json::to_string(value).unwrap();
            assert_eq!(json, format!("\"{value}\""));
            assert_eq!(&serde_json::from_str::<T>(&json).unwrap(), value);
        }
    }

    #[test]
    fn every_plan_kind_and_stage_is_read_from_its_own_text() {
        assert_read_from_its_text(MemoryPlan::VARIANTS);
        assert_read_from_its_text(DeviceKind::VARIANTS);
        assert_read_from_its_text(MemoryStage::VARIANTS);
    }

    #[test]
    fn names_and_places_of_plans_agree() {
        for (index, plan) in MemoryPlan::ALL.into_iter().enumerate() {
            assert_eq!(plan.index(), index);
            assert_eq!(plan.to_string().parse::<MemoryPlan>().unwrap(), plan);
        }
        assert_eq!(MemoryPlan::LEANEST, MemoryPlan::Streamed);
        assert_eq!(
            "fast".parse::<MemoryPlan>().unwrap_err().to_string(),
            "`fast` is not a memory plan: batched, sequential, sliced, two-pass-norm, offload, streamed"
        );
    }

    #[test]
    fn the_fastest_plan_that_fits_is_chosen_and_plans_that_save_nothing_are_passed_over() {
        let needs = MemoryRequirements {
            mib: [900, 700, 500, 500, 400, 100],
        };
        assert_eq!(
            needs.fastest_within(MemoryPlan::default(), 899),
            Some(MemoryPlan::SequentialGuidance)
        );
        assert_eq!(
            needs.fastest_within(MemoryPlan::Offload, 10_000),
            Some(MemoryPlan::Offload)
        );
        assert_eq!(needs.fastest_within(MemoryPlan::default(), 99), None);
        assert_eq!(needs.next_leaner(MemoryPlan::Sliced), Some(MemoryPlan::Offload));
        assert_eq!(needs.next_leaner(MemoryPlan::Offload), Some(MemoryPlan::Streamed));
        assert_eq!(needs.next_leaner(MemoryPlan::Streamed), None);
    }
}
