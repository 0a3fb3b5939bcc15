//! What a memory plan means for the networks.
//!
//! | from this plan on | on the CPU in `f32`                              | everywhere else                                |
//! |-------------------|--------------------------------------------------|------------------------------------------------|
//! | `batched`         | as `sequential`                                  | both halves of the guidance in one pass        |
//! | `sequential`      | one half after the other                         | the same                                       |
//! | `sliced`          | feed-forward in whole tiles of its products      | attention, feed-forward, convolution in slices |
//! | `two-pass-norm`   | nothing: its one operation makes no copies       | group norm slice by slice                      |
//! | `offload`         | pages of idle mapped weights are given back      | idle weights leave the device                  |
//! | `streamed`        | pages of the UNet's weights, layer by layer      | the UNet's weights come layer by layer         |
//!
//! Pictures go through the VAE one by one under every plan. On the CPU batches gain no time that would pay for them; on a
//! GPU they would (PyTorch on an H200 decodes 16 pictures in 6.6 times the time of one).
//! Attention and convolution on the CPU in `f32` work in blocks of fixed sizes under every plan. The group norm of the CUDA
//! kernels makes no copies, either, so that `two-pass-norm` adds nothing to `sliced` where they serve.

use latentfarm_common::wire::memory::MemoryPlan;

use super::slices::Limits;

/// How the networks trade speed for memory. The default is the fastest memory plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of its own")]
pub struct ExecutionOptions {
    pub plan: MemoryPlan,
    /// `uncond` and `cond` of the guidance run as one batch; not on the CPU, which gains nothing by it.
    pub batched_guidance: bool,
    /// The most that attention, feed-forward, convolution and group norm work on at once.
    pub limits: Limits,
    /// CPU offload: the weights of networks that are idle in a stage are not on the device.
    pub offload: bool,
    /// The UNet's weights come to the device layer by layer, for each use.
    pub streamed: bool,
    /// Every device and type uses `kernels/reference`, candle's tensor operations. No memory plan sets this; tests do, to
    /// run on the CPU what other devices run.
    pub reference_kernels: bool,
}

impl ExecutionOptions {
    /// The options of a memory plan; each plan keeps the savings of those before it.
    pub fn of(plan: MemoryPlan) -> Self {
        let mut limits = Limits::USUAL;
        if plan >= MemoryPlan::Sliced {
            limits = Limits {
                normed: limits.normed,
                ..Limits::LEAN
            };
        }
        if plan >= MemoryPlan::TwoPassNorm {
            limits.normed = Limits::LEAN.normed;
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
                let Limits {
                    scores,
                    columns,
                    hidden,
                    normed,
                } = options.limits;
                [scores, columns, hidden, normed]
            };
            let grown = sizes(before).into_iter().zip(sizes(after)).any(|(a, b)| b > a);
            assert!(!grown, "{before:?} then {after:?}");
        }
        assert!(all[5].streamed && all[5].offload && all[5].limits == Limits::LEAN);
        assert_eq!(all[1].limits, Limits::USUAL);
        assert_eq!(ExecutionOptions::default(), all[0]);
    }
}
