//! The constants by which the memory of CUDA's context and of the driver's pool is predicted.

const MIB: u64 = 1 << 20;

/// The constants of the prediction for CUDA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CudaConstants {
    /// The context with all modules and libraries, in MiB.
    pub context_mib: u64,
    /// One part in so many of the tensors is lost to fragmentation.
    pub share: u64,
    /// The fixed loss to fragmentation, in MiB.
    pub fixed_mib: u64,
}

impl CudaConstants {
    /// Returns the bytes that the pool holds at most if at most `live` bytes are in tensors at once.
    pub const fn pool_size(&self, live: u64) -> u64 {
        live + live / self.share + self.fixed_mib * MIB
    }
}
