//! The device, the number type and the memory policy of an engine, as its command line gives them.

use candle_core::{DType, Device};

use crate::memory::cleanup::CleanupPolicy;
use crate::memory::device::EngineDevice;
use crate::memory::fault_injection::FaultInjector;

/// The number type that the networks compute in. Latents and the sampler always use `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// 32 bits. It is the reference, and the default on the CPU.
    F32,
    /// 16 bits with a narrow range. It is the default on CUDA; on the CPU it is slower than f32 and serves
    /// comparisons.
    F16,
    /// 16 bits with the range of f32 and eight bits of precision.
    Bf16,
}

impl Precision {
    /// Returns the default type for a device.
    pub fn default_for(device: &Device) -> Self {
        if device.is_cpu() { Self::F32 } else { Self::F16 }
    }

    /// Returns candle's type of this precision.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.dtype().as_str())
    }
}

/// What an engine is built with.
pub struct EngineSettings {
    /// The opened device and its memory accounting.
    pub device: EngineDevice,
    /// The number type of the networks.
    pub dtype: DType,
    /// When unused memory is returned to the system.
    pub cleanup: CleanupPolicy,
    /// Faults to inject, for tests; usually none.
    pub faults: FaultInjector,
}
