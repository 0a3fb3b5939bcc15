//! What the driver, a simulated card's file or the kernel says of a device.

use latentfarm_common::wire::outcome::GpuStatus;

/// A GPU, or a partition of one, as the driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// `GPU-...`, or `MIG-...` of a partition.
    pub uuid: String,
    pub name: String,
    /// As `nvidia-smi` counts; a partition has that of its GPU.
    pub number: u32,
    /// UUID of the GPU that this is a partition of.
    pub parent: Option<String>,
    /// It is cut in partitions and cannot be used as a whole.
    pub is_partitioned: bool,
}

/// What a device has at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Whoever uses the rest; of a simulated GPU without what this worker's engine holds.
    pub free_mib: u64,
    pub total_mib: u64,
    pub vitals: GpuStatus,
}
