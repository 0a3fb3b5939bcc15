//! The memory plans as data: what each adds on a kind of device to the plan before it, and whether it changes bits there.

use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan};

/// What a step does to the numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Effect {
    /// Not a bit changes.
    Exact,
    /// Sums are added up in another order.
    Tolerant {
        /// Largest difference of a window's values against the largest of them that tests on the CPU allow in `f32`, with the
        /// operations that this kind of device has. Half types round the difference to their own steps: 2e-3 was seen in
        /// `f16` and 1.2e-2 in `bf16`, of pixels and with random weights.
        largest: f64,
    },
}

/// What a plan adds to those before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlanStep {
    pub plan: MemoryPlan,
    pub does: &'static str,
    pub effect: Effect,
}

/// Of `sequential` and `sliced`: seven times what was measured.
pub const TOLERANCE: f64 = 5e-6;

/// What the plan `plan` adds on a kind of device.
pub fn plan_step(kind: DeviceKind, plan: MemoryPlan) -> PlanStep {
    let tolerant = Effect::Tolerant { largest: TOLERANCE };
    let (does, effect) = match (kind, plan) {
        (DeviceKind::Cpu, MemoryPlan::BatchedGuidance) => (
            "nothing: on the CPU the halves of the guidance always follow each other",
            Effect::Exact,
        ),
        (DeviceKind::Cuda, MemoryPlan::BatchedGuidance) => {
            ("both halves of the guidance run in one pass", Effect::Exact)
        }
        (DeviceKind::Cpu, MemoryPlan::SequentialGuidance) => (
            "one half of the guidance after the other, as always",
            Effect::Exact,
        ),
        (DeviceKind::Cuda, MemoryPlan::SequentialGuidance) => {
            ("one half of the guidance after the other", tolerant)
        }
        (DeviceKind::Cpu, MemoryPlan::Sliced) => (
            "feed-forwards run in whole tiles of their products; attention and convolution always run in blocks",
            Effect::Exact,
        ),
        (DeviceKind::Cuda, MemoryPlan::Sliced) => (
            "attention, feed-forwards and convolutions run in slices",
            tolerant,
        ),
        (DeviceKind::Cpu, MemoryPlan::TwoPassNorm) => {
            ("nothing: on the CPU a group norm makes no copies", Effect::Exact)
        }
        (DeviceKind::Cuda, MemoryPlan::TwoPassNorm) => (
            "group norms take their statistics slice by slice and then write slice by slice",
            Effect::Exact,
        ),
        (DeviceKind::Cpu, MemoryPlan::Offload) => (
            "pages of mapped weights go back to the kernel where their network is idle",
            Effect::Exact,
        ),
        (DeviceKind::Cuda, MemoryPlan::Offload) => (
            "weights leave the device where their network is idle, and come back each window",
            Effect::Exact,
        ),
        (DeviceKind::Cpu, MemoryPlan::Streamed) => (
            "pages of the UNet's mapped weights go back to the kernel after every layer",
            Effect::Exact,
        ),
        (DeviceKind::Cuda, MemoryPlan::Streamed) => (
            "the UNet's weights come to the device layer by layer for each pass",
            Effect::Exact,
        ),
    };
    PlanStep { plan, does, effect }
}

/// The steps up to the plan `plan` that may change bits on a kind of device, joined by `+`; `None` where there are none.
/// Part of the numeric kind: results are equal bit for bit only where this is equal.
pub fn tolerant_steps(kind: DeviceKind, plan: MemoryPlan) -> Option<String> {
    let names: Vec<&str> = MemoryPlan::ALL
        .into_iter()
        .filter(|step| *step <= plan && plan_step(kind, *step).effect != Effect::Exact)
        .map(<&str>::from)
        .collect();
    (!names.is_empty()).then(|| names.join("+"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_changes_bits_on_the_cpu() {
        for plan in MemoryPlan::ALL {
            assert_eq!(tolerant_steps(DeviceKind::Cpu, plan), None);
        }
    }

    #[test]
    fn on_cuda_plans_differ_in_bits_until_all_is_sliced() {
        let texts = MemoryPlan::ALL.map(|plan| tolerant_steps(DeviceKind::Cuda, plan));
        assert_eq!(texts[0], None);
        assert_eq!(texts[1].as_deref(), Some("sequential"));
        for text in &texts[2..] {
            assert_eq!(text.as_deref(), Some("sequential+sliced"));
        }
    }
}
