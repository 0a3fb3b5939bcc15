//! On what kind of device the networks compute, and in what type.

use latentfarm_common::wire::memory::DeviceKind;

/// The properties of a device that decide what an operation takes of its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComputeSpec {
    pub kind: DeviceKind,
    /// Bytes of a value in the networks' type: 4 on the CPU, 2 for the half types on CUDA.
    pub bytes_per_value: usize,
    /// Threads that compute. Each has a buffer of its own on the CPU; elsewhere the number does not matter.
    pub threads: usize,
}

impl ComputeSpec {
    /// Threads that are assumed if nobody says how many: a few more or fewer matter little.
    pub const THREADS: usize = 4;

    /// The device with the type that it is usually used with: `f32` on the CPU, a half type on CUDA.
    pub fn of(kind: DeviceKind) -> Self {
        Self {
            kind,
            bytes_per_value: match kind {
                DeviceKind::Cpu => 4,
                DeviceKind::Cuda => 2,
            },
            threads: Self::THREADS,
        }
    }
}
