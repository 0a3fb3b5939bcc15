//! The options that a memory plan switches on for the networks. The engine derives them from the plan of each
//! request.
//!
//! | from this plan on | on the CPU in `f32`                           | everywhere else                       |
//! |-------------------|-----------------------------------------------|---------------------------------------|
//! | `batched`         | as `sequential`                               | `uncond` and `cond` in one batch      |
//! | `sequential`      | `uncond` and `cond` one after the other       | the same                              |
//! | `sliced`          | feed-forward in whole tiles of its products   | attention, feed-forward, convolution in slices |
//! | `two-pass-norm`   | no change: its one kernel makes no copies     | group norm slice by slice             |
//! | `offload`         | pages of idle mapped weights are released     | idle weights are evicted              |
//! | `streamed`        | the same for the UNet, layer by layer         | the UNet's weights are copied layer by layer |
//!
//! Pictures go through the VAE one by one under every plan. On the CPU, batches would take more memory and
//! save no time; on a GPU they would save some (PyTorch on an H200 decodes 16 pictures in 6.6 times the time
//! of one). Attention and convolution on the CPU in `f32` work in blocks of fixed sizes under every plan. The
//! group norm of the CUDA kernels makes no copies, either, so that `two-pass-norm` adds nothing to `sliced`
//! if they run.

use latentfarm_common::wire::memory::MemoryPlan;

use super::slices::SliceLimits;

/// How the networks trade speed for memory. The default is the fastest memory plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub struct ExecutionOptions {
    /// The memory plan that these options belong to.
    pub plan: MemoryPlan,
    /// Both passes of classifier-free guidance, `uncond` and `cond`, run as one batch, except on the CPU,
    /// where that saves no time.
    pub batched_guidance: bool,
    /// The largest slices that attention, feed-forward, convolution and group norm compute at once.
    pub limits: SliceLimits,
    /// CPU offload of whole networks (`model_cpu_offload`): a network's weights are on the device only in the
    /// stages that use it.
    pub offload: bool,
    /// CPU offload of single layers (`sequential_cpu_offload`): each layer of the UNet copies its weights to
    /// the device for each use.
    pub streamed: bool,
    /// Every device and type uses `kernels/reference`, which is made of candle's tensor operations. No memory
    /// plan sets this; tests set it to run on the CPU what other devices run.
    pub reference_kernels: bool,
}

impl ExecutionOptions {
    /// Returns the options of a memory plan; each plan keeps the savings of the plans before it.
    pub fn of(plan: MemoryPlan) -> Self {
        let mut limits = SliceLimits::DEFAULT;
        if plan >= MemoryPlan::Sliced {
            limits = SliceLimits {
                normed: limits.normed,
                ..SliceLimits::LOW_MEMORY
            };
        }
        if plan >= MemoryPlan::TwoPassNorm {
            limits.normed = SliceLimits::LOW_MEMORY.normed;
        }
        Self {
            plan,
            batched_guidance: plan < MemoryPlan::SequentialGuidance,
            limits,
            offload: plan >= MemoryPlan::Offload,
            streamed: plan >= MemoryPlan::Streamed,
            reference_kernels: false,
        }
    }
}

impl Default for ExecutionOptions {
    fn default() -> Self {
        Self::of(MemoryPlan::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plan_keeps_the_savings_of_those_before_it() {
        let all = MemoryPlan::ALL.map(ExecutionOptions::of);
        for pair in all.windows(2) {
            let [before, after] = pair else { unreachable!() };
            assert!(before.batched_guidance || !after.batched_guidance, "{after:?}");
            assert!(after.offload || !before.offload, "{after:?}");
            assert!(after.streamed || !before.streamed, "{after:?}");
            let sizes = |options: &ExecutionOptions| {
                let SliceLimits {
                    scores,
                    batches,
                    columns,
                    hidden,
                    normed,
                } = options.limits;
                [scores, batches, columns, hidden, normed]
            };
            let grown = sizes(before).into_iter().zip(sizes(after)).any(|(a, b)| b > a);
            assert!(!grown, "{before:?} then {after:?}");
        }
        assert!(all[5].streamed && all[5].offload && all[5].limits == SliceLimits::LOW_MEMORY);
        assert_eq!(all[1].limits, SliceLimits::DEFAULT);
        assert_eq!(ExecutionOptions::default(), all[0]);
    }
}
