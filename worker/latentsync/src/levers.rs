//! The levers of the memory plans, as the networks understand them.
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
//! Pictures go through the VAE one by one under every plan: batches gain no time that would pay for them.
//! Attention and convolution on the CPU in `f32` work in blocks of fixed sizes under every plan.

use latentfarm_common::wire::memory::MemoryPlan;

use super::slices::Limits;

/// What is traded for memory. The default is the fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a lever of its own")]
pub struct Levers {
    pub plan: MemoryPlan,
    /// Both halves of the guidance in one pass; not on the CPU, which gains nothing by it.
    pub batched_guidance: bool,
    /// The most that is worked on at once.
    pub limits: Limits,
    /// Networks that are idle in a stage do not lie on the device.
    pub offload: bool,
    /// The UNet's weights are brought for each use.
    pub streamed: bool,
    /// Work on the CPU as on any other device, out of tensor operations: for tests of what is done there. No plan says so.
    pub composed: bool,
}

impl Levers {
    /// The levers of a plan; each includes those of the plans before it.
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
            composed: false,
        }
    }
}

impl Default for Levers {
    fn default() -> Self {
        Self::of(MemoryPlan::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plan_includes_the_levers_of_those_before_it() {
        let all = MemoryPlan::ALL.map(Levers::of);
        for pair in all.windows(2) {
            let [before, after] = pair else { unreachable!() };
            assert!(before.batched_guidance || !after.batched_guidance, "{after:?}");
            assert!(after.offload || !before.offload, "{after:?}");
            assert!(after.streamed || !before.streamed, "{after:?}");
            let sizes = |levers: &Levers| {
                let Limits {
                    scores,
                    columns,
                    hidden,
                    normed,
                } = levers.limits;
                [scores, columns, hidden, normed]
            };
            let grown = sizes(before).into_iter().zip(sizes(after)).any(|(a, b)| b > a);
            assert!(!grown, "{before:?} then {after:?}");
        }
        assert!(all[5].streamed && all[5].offload && all[5].limits == Limits::LEAN);
        assert_eq!(all[1].limits, Limits::USUAL);
        assert_eq!(Levers::default(), all[0]);
    }
}
