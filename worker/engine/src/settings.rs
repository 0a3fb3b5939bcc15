//! Where and with what an engine computes.

use candle_core::{DType, Device};

use crate::memory::device::EngineDevice;
use crate::memory::fault::Faults;
use crate::memory::guard::Cleanup;

/// What the networks compute in. Latents and the sampler are `f32` whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// 32 bits: the reference, and the CPU's default.
    F32,
    /// 16 bits with a narrow range: the default on CUDA. On the CPU slower than f32, for comparing.
    F16,
    /// 16 bits with f32's range and eight bits of precision.
    Bf16,
}

impl Precision {
    /// The type that a device is used with unless told otherwise.
    pub fn usual_for(device: &Device) -> Self {
        if device.is_cpu() { Self::F32 } else { Self::F16 }
    }

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

/// Where and with what the engine computes, and how it keeps house.
pub struct EngineSettings {
    pub device: EngineDevice,
    pub dtype: DType,
    pub cleanup: Cleanup,
    pub faults: Faults,
}
