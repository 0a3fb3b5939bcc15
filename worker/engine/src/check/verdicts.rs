//! Judges the windows that a check has rendered: whether the memory was predicted, and whether every window is
//! like the first.

use latentfarm_common::digest::Digest;
use latentfarm_common::wire::engine::EngineReply;
use latentfarm_common::wire::memory::MemorySample;
use serde_json::{Value, json};

/// Measured memory may be this many times the predicted memory. The part of CUDA's context and of its
/// libraries differs between GPUs and drivers.
const LARGEST_RATIO: f64 = 1.15;

/// The memory in use, in MiB, may grow by this much from the first window to the last.
const LARGEST_GROWTH_MIB: f64 = 1.0;

/// The memory that a task needed beside the memory that was predicted for it, in MiB.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct MeasuredNeed {
    predicted: f64,
    measured: f64,
}

impl MeasuredNeed {
    /// Takes the highest use of the device during the requests that `replies` answer.
    pub(super) fn of(replies: &[EngineReply], predicted_mib: u64) -> Self {
        // What is the engine's beside its allocator stays: the context, the libraries and the kernels.
        let peak = |sample: &MemorySample| sample.own.saturating_sub(sample.reserved) + sample.reserved_peak;
        let measured = replies.iter().filter_map(sample).map(peak).max();
        Self {
            predicted: predicted_mib as f64,
            measured: mib(measured.unwrap_or(0)),
        }
    }

    fn ratio(self) -> f64 {
        self.measured / self.predicted
    }

    /// Returns whether no more memory was used than the prediction leaves room for.
    pub(super) fn passed(self) -> bool {
        self.ratio() <= LARGEST_RATIO
    }

    /// Returns the figures as they are printed.
    pub(super) fn json(self) -> Value {
        json!({
            "predicted_mib": self.predicted, "measured_mib": rounded(self.measured, 10.0),
            "ratio": rounded(self.ratio(), 1000.0), "limit": LARGEST_RATIO, "passed": self.passed(),
        })
    }
}

/// Whether windows with the same input give the same picture and leave the same memory in use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct SteadyWindows {
    windows: usize,
    same_picture: bool,
    growth_mib: f64,
}

impl SteadyWindows {
    /// Compares the windows among `replies`. Returns `None` if there are fewer than two.
    pub(super) fn of(replies: &[EngineReply]) -> Option<Self> {
        let windows: Vec<_> = replies
            .iter()
            .filter_map(|reply| match reply {
                EngineReply::Window { faces, memory, .. } => Some((Digest::of(faces), memory.live)),
                _ => None,
            })
            .collect();
        let [(first_faces, first_live), .., (_, last_live)] = windows[..] else {
            return None;
        };
        Some(Self {
            windows: windows.len(),
            same_picture: windows.iter().all(|(faces, _)| *faces == first_faces),
            growth_mib: mib(last_live) - mib(first_live),
        })
    }

    /// Returns whether all pictures are the same and the memory in use has not grown.
    pub(super) fn passed(self) -> bool {
        self.same_picture && self.growth_mib <= LARGEST_GROWTH_MIB
    }

    /// Returns the figures as they are printed.
    pub(super) fn json(self) -> Value {
        json!({
            "windows": self.windows, "same_picture": self.same_picture,
            "growth_mib": rounded(self.growth_mib, 10.0), "limit_mib": LARGEST_GROWTH_MIB,
            "passed": self.passed(),
        })
    }
}

/// Returns the reading of the memory in a reply.
fn sample(reply: &EngineReply) -> Option<&MemorySample> {
    match reply {
        EngineReply::Loaded { memory, .. }
        | EngineReply::AudioReady { memory, .. }
        | EngineReply::Progress { memory, .. }
        | EngineReply::Window { memory, .. } => Some(memory),
        EngineReply::Failed(_) => None,
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// Rounds to a fraction with the denominator `parts`.
fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::wire::engine::EngineTimings;

    fn window(picture: u8, live_mib: u64, reserved_peak_mib: u64) -> EngineReply {
        EngineReply::Window {
            faces: vec![picture; 4],
            timings: EngineTimings::default(),
            memory: MemorySample {
                own: 900 << 20,
                reserved: 200 << 20,
                reserved_peak: reserved_peak_mib << 20,
                live: live_mib << 20,
                ..MemorySample::default()
            },
        }
    }

    #[test]
    fn the_need_is_the_highest_use_with_what_is_beside_the_allocator() {
        let replies = [window(1, 10, 300), window(1, 10, 450), window(1, 10, 310)];
        let need = MeasuredNeed::of(&replies, 1000);
        assert!((need.measured - 1150.0).abs() < 1e-9, "{need:?}");
        assert!(need.passed(), "{need:?}");
        assert!(!MeasuredNeed::of(&replies, 999).passed());
    }

    #[test]
    fn windows_are_steady_if_picture_and_memory_stay() {
        let steady = |last| SteadyWindows::of(&[window(1, 10, 0), window(1, 90, 0), last]).unwrap();
        assert!(steady(window(1, 11, 0)).passed());
        assert!(!steady(window(1, 12, 0)).passed());
        assert!(!steady(window(2, 10, 0)).passed());
        assert_eq!(SteadyWindows::of(&[window(1, 10, 0)]), None);
    }
}
