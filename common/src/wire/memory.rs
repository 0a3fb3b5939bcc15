//! Memory as it is planned, measured and reported: plans, requirements, samples and peaks. The coordinator
//! chooses plans, engines measure, workers report.

use serde::{Deserialize, Serialize};
use strum::{Display, EnumCount, EnumString, IntoStaticStr, VariantArray};

use crate::text::serde_as_text;

/// A worker and the report of a render warn if the use of a device's memory exceeds these bounds, in GiB.
pub const WARN_GIB: [u64; 2] = [15, 20];

/// A way to run the model in a certain amount of memory. The plans go from the fastest, which uses the most
/// memory, to the slowest, which uses the least; each includes the measures of those before it. The engine's
/// `memory::plan` describes what a plan does on each device. The text forms are those of the command line and
/// the reports.
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
    /// The unconditional and the conditional half of the guidance run in one batch. On the CPU they always
    /// run one after the other.
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
    /// Networks that are idle in a stage are not kept on the device.
    Offload,
    /// The UNet's weights are copied to the device layer by layer.
    Streamed,
}
serde_as_text!(MemoryPlan);

impl MemoryPlan {
    /// The number of memory plans.
    pub const COUNT: usize = <Self as EnumCount>::COUNT;
    /// The plans in their order, the fastest first.
    pub const ALL: [Self; Self::COUNT] = *Self::VARIANTS
        .first_chunk()
        .expect("an enum has all its variants");
    /// The plan that uses the least memory.
    pub const LEANEST: Self = Self::ALL[Self::COUNT - 1];
    /// The plans that add sums in another order on CUDA than the plans before them. On the CPU no plan does:
    /// guidance always runs in two passes there, and the operations that are sliced keep the order of their
    /// sums.
    pub const CHANGING_BITS_ON_CUDA: [Self; 2] = [Self::SequentialGuidance, Self::Sliced];

    /// Returns the first and the last plan of each group of plans that give equal bits on CUDA, the fastest first.
    pub fn equal_on_cuda() -> [(Self, Self); 3] {
        let [second, third] = Self::CHANGING_BITS_ON_CUDA;
        let before = |plan: Self| Self::ALL[plan.index().saturating_sub(1)];
        [
            (Self::ALL[0], before(second)),
            (second, before(third)),
            (third, Self::LEANEST),
        ]
    }

    /// Returns the plan's place in [`MemoryPlan::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

/// A text that names no memory plan.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` is not a memory plan: {}", MemoryPlan::ALL.map(<&str>::from).join(", "))]
pub struct InvalidMemoryPlan {
    text: String,
}

fn unknown_plan(text: &str) -> InvalidMemoryPlan {
    let text = text.to_owned();
    InvalidMemoryPlan { text }
}

/// The kind of a device. Memory requirements are predicted and learned for each kind separately.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Display, EnumString, IntoStaticStr, VariantArray,
)]
#[strum(serialize_all = "lowercase")]
pub enum DeviceKind {
    /// The CPU of the machine, with host memory.
    Cpu,
    /// A CUDA GPU, or a simulated one.
    Cuda,
}
serde_as_text!(DeviceKind);

/// The memory that a window requires under each plan, in MiB: on the CPU the engine's resident set (weights
/// that are mapped from files included), on CUDA the device's memory (context included).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryRequirements {
    /// The requirement of each plan, by [`MemoryPlan::index`]. A later plan never requires more than an
    /// earlier one.
    pub mib: [u64; MemoryPlan::COUNT],
}

impl MemoryRequirements {
    /// Returns the requirement of a plan, in MiB.
    pub fn of(&self, plan: MemoryPlan) -> u64 {
        self.mib[plan.index()]
    }

    /// Returns the requirement of the leanest plan, in MiB.
    pub fn leanest(&self) -> u64 {
        self.of(MemoryPlan::LEANEST)
    }

    /// Returns the fastest plan from `floor` on that fits in `free_mib`.
    pub fn fastest_within(&self, floor: MemoryPlan, free_mib: u64) -> Option<MemoryPlan> {
        let allowed = MemoryPlan::ALL.into_iter().filter(|plan| *plan >= floor);
        allowed.into_iter().find(|plan| self.of(*plan) <= free_mib)
    }

    /// Returns the next plan after `plan` that requires less.
    pub fn next_leaner(&self, plan: MemoryPlan) -> Option<MemoryPlan> {
        MemoryPlan::ALL
            .into_iter()
            .find(|next| *next > plan && self.of(*next) < self.of(plan))
    }
}

/// The memory plans that a task may use, as the coordinator decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryConstraints {
    /// The kind of device that the task's queue is for.
    pub kind: DeviceKind,
    /// The first plan that is allowed: those before it ran out of memory.
    pub floor: MemoryPlan,
    /// The predicted requirements, corrected by what tasks really used.
    pub needs: MemoryRequirements,
}

/// A stage of a task in which memory is measured. The text forms are those of the log and the reports.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Display, EnumString, IntoStaticStr, VariantArray,
)]
#[strum(serialize_all = "lowercase")]
pub enum MemoryStage {
    /// The engine loads the checkpoint.
    Load,
    /// Whisper encodes an audio window.
    Audio,
    /// The media process decodes source frames.
    Decode,
    /// The media process aligns faces and cuts them out.
    Align,
    /// The VAE encodes crops to latents.
    #[strum(serialize = "VAE encode")]
    VaeEncode,
    /// The UNet denoises the latents.
    Denoise,
    /// The VAE decodes latents to crops.
    #[strum(serialize = "VAE decode")]
    VaeDecode,
    /// The media process pastes rendered crops into the frames.
    Paste,
    /// The media process encodes the frames.
    Encode,
    /// No request is worked on.
    Idle,
}
serde_as_text!(MemoryStage);

/// Host memory, in MiB, that a worker keeps for its media process (decoding, face analysis, pasting and
/// encoding) before it offers the rest to tasks. The coordinator adds it when it predicts the requirements of
/// a job.
pub const MEDIA_MIB: u64 = 256;

/// One measurement of an engine's memory. All figures are in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemorySample {
    /// Free memory of the device according to the driver, or on the CPU according to the kernel and the
    /// control groups.
    pub free: u64,
    /// Memory of the device in all.
    pub total: u64,
    /// This engine's share of the device: its pool and context, or its resident set.
    pub own: u64,
    /// Memory that the allocator holds, in use or not; on the CPU the resident set.
    pub reserved: u64,
    /// Highest `reserved` since the last sample. The part above `live_peak` is fragmentation.
    pub reserved_peak: u64,
    /// Exact size of the tensors and buffers in use.
    pub live: u64,
    /// Highest `live` since the last sample.
    pub live_peak: u64,
    /// Resident set of the engine on the host.
    pub host_rss: u64,
}

impl MemorySample {
    /// Returns the bytes that the allocator held at its peak and that no tensor used at theirs: fragmentation. A small
    /// device runs out of memory by them although its tensors would fit. It means nothing on the CPU, where what the
    /// allocator holds is the resident set.
    pub fn fragmented_peak(&self) -> u64 {
        self.reserved_peak.saturating_sub(self.live_peak)
    }
}

/// The highest use of memory in one stage of a task, in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagePeak {
    /// The stage that was measured.
    pub stage: MemoryStage,
    /// Size of the tensors and buffers in use.
    pub live_mib: u64,
    /// The process's share of the device.
    pub own_mib: u64,
}

/// The memory that a task used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryUse {
    /// The kind of the device.
    pub kind: DeviceKind,
    /// Text form of the device: `cpu` or `cuda:0 NVIDIA L4`.
    pub device: String,
    /// The plan that the task ran under.
    pub plan: MemoryPlan,
    /// Requirement that was predicted for the plan.
    pub predicted_mib: u64,
    /// Highest use of the device, to be compared with the prediction.
    pub peak_mib: u64,
    /// Smallest free memory during the task.
    pub least_free_mib: u64,
    /// The peaks of the stages, in the order of [`MemoryStage`], each at most once.
    pub stages: Vec<StagePeak>,
    /// The shortages after which the engine went on in place under a leaner plan, in order. The other figures are those
    /// of the last plan alone.
    #[serde(default)]
    pub shortages: Vec<OutOfMemory>,
}

/// An attempt at a task that ran out of a device's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutOfMemory {
    /// The kind of the device.
    pub kind: DeviceKind,
    /// Text form of the device, as in [`MemoryUse::device`].
    pub device: String,
    /// The stage in which memory ran out; `None` if a process was killed and the stage is not known.
    pub stage: Option<MemoryStage>,
    /// The plan that the attempt ran under.
    pub plan: MemoryPlan,
    /// Lower bound of the requirement under that plan, if it is known.
    pub needed_at_least_mib: Option<u64>,
    /// Memory that the attempt could have used in all, the share that it held included.
    pub free_before_mib: u64,
    /// Whether this was inferred from a kill or a lost machine, and reported by no allocator. Then the plan
    /// counts as too large all the same, but nothing is learned about the requirement.
    pub suspected: bool,
}

impl OutOfMemory {
    /// Returns ` during <stage>` for messages, or nothing if the stage is not known.
    pub fn during(&self) -> String {
        self.stage
            .map_or_else(String::new, |stage| format!(" during {stage}"))
    }
}

/// Memory of a worker that render tasks can use, in MiB, without the worker's reserve: what is available at
/// the moment, or the capacity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenderMemory {
    /// Host memory, or `None` if the worker does not render on the CPU.
    pub host_mib: Option<u64>,
    /// Memory of the GPU, or `None` if the worker has no usable GPU.
    pub device_mib: Option<u64>,
}

impl RenderMemory {
    /// Returns the memory of one kind of device.
    pub fn of(self, kind: DeviceKind) -> Option<u64> {
        match kind {
            DeviceKind::Cpu => self.host_mib,
            DeviceKind::Cuda => self.device_mib,
        }
    }
}

/// The requirement of a plan as it was observed on one attempt at a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryObservation {
    /// The plan that the attempt ran under.
    pub plan: MemoryPlan,
    /// The requirement that was observed.
    pub need: ObservedNeed,
}

/// An observed requirement in MiB, as in [`MemoryRequirements`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ObservedNeed {
    /// The task succeeded and used this much.
    Peak(u64),
    /// The task ran out of memory, so that it requires more than this.
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
