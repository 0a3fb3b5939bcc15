//! The description of a GPU and a reading of a device's memory, whether from the driver, a simulated card's
//! file or the kernel.

use latentfarm_common::wire::outcome::GpuStatus;

/// A GPU, or a partition of one, as the driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// The driver's identifier: `GPU-...`, or `MIG-...` for a partition.
    pub uuid: String,
    pub name: String,
    /// The index in the order of `nvidia-smi`; a partition has the index of its GPU.
    pub number: u32,
    /// The UUID of the GPU that this is a partition of.
    pub parent: Option<String>,
    /// True if the GPU is divided into MIG partitions and cannot be used as a whole.
    pub is_partitioned: bool,
}

#[cfg(test)]
impl Gpu {
    /// A whole GPU for tests.
    pub(crate) fn for_tests(number: u32, uuid: &str) -> Self {
        Self {
            uuid: uuid.to_owned(),
            name: "NVIDIA L4".to_owned(),
            number,
            parent: None,
            is_partitioned: false,
        }
    }
}

/// The memory of a device at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Free memory, whichever programs use the rest. On a simulated GPU it includes the memory of this
    /// worker's engine.
    pub free_mib: u64,
    pub total_mib: u64,
    pub gpu_status: GpuStatus,
}
