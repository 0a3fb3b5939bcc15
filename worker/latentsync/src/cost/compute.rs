//! The kind of device and the type that the networks compute on, as far as memory depends on them.

use latentfarm_common::wire::memory::DeviceKind;

/// The properties of a device that the memory of an operation depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComputeSpec {
    /// The CPU or a GPU.
    pub kind: DeviceKind,
    /// The bytes of a value in the networks' type: 4 on the CPU, 2 for the half types on CUDA.
    pub bytes_per_value: usize,
    /// The number of threads that compute. On the CPU each has a workspace of its own; elsewhere the number
    /// does not matter.
    pub threads: usize,
}

impl ComputeSpec {
    /// The number of threads that is assumed if none is given; a few more or fewer make little difference.
    pub const THREADS: usize = 4;

    /// Returns a kind of device with the type that it usually computes in: `f32` on the CPU, a half type on
    /// CUDA.
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
