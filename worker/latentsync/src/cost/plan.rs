//! Which memory plans change the bits of a result. The engine makes this a part of its numerics fingerprint,
//! so that the coordinator
//! sees where results meet that were computed in different ways.

use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan};

/// The largest difference between a window's values under two plans, relative to the largest value, that
/// tests allow in `f32`: seven times what was measured. Half types round the difference to their own steps:
/// with random weights, pixels differed by 2e-3 in `f16` and by 1.2e-2 in `bf16`.
pub const TOLERANCE: f64 = 5e-6;

/// Returns the names of the plans up to `plan` that may change bits on a kind of device, joined by `+`, or
/// `None` if no plan does. Results are equal bit for bit only between plans for which this is equal.
pub fn plans_changing_bits(kind: DeviceKind, plan: MemoryPlan) -> Option<String> {
    let names: Vec<&str> = MemoryPlan::CHANGING_BITS_ON_CUDA
        .into_iter()
        .filter(|changing| kind == DeviceKind::Cuda && *changing <= plan)
        .map(<&str>::from)
        .collect();
    (!names.is_empty()).then(|| names.join("+"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_cuda_plans_differ_in_bits_until_all_is_sliced() {
        let texts = MemoryPlan::ALL.map(|plan| plans_changing_bits(DeviceKind::Cuda, plan));
        assert_eq!(texts[0], None);
        assert_eq!(texts[1].as_deref(), Some("sequential"));
        for text in &texts[2..] {
            assert_eq!(text.as_deref(), Some("sequential+sliced"));
        }
    }
}
