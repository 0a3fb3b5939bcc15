//! A checkpoint: three weight files that belong together, identified by their content.

use std::fs;
use std::path::Path;

use candle_core::{DType, Device};
use latentfarm_common::digest::{Digest, DigestWriter};

use super::digests::Digests;
use super::find::{Found, Part};
use super::load::{load_unet, load_vae, load_whisper};
use super::note::AccountAs;
use crate::config::{UNetConfig, VaeConfig, WhisperDims};
use crate::options::ExecutionOptions;
use crate::tensors::{TensorFile, WeightsError};
use crate::unet::UNet3DConditionModel;
use crate::vae::AutoencoderKl;
use crate::whisper::WhisperEncoder;

/// Side of the face crop where the folder does not say.
const DEFAULT_RESOLUTION_PX: u32 = 256;

/// The weights found in a folder.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    found: Found,
    identity: Digest,
}

/// Bytes that a weight of each network takes of the host where the CPU computes: of a mapped file those that it has
/// there, of any other those of an `f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostBytes {
    pub unet: usize,
    pub vae: usize,
    pub whisper: usize,
}

impl HostBytes {
    /// As `weights convert` writes them, and as synthetic ones are.
    pub const HALF: Self = Self {
        unet: 2,
        vae: 2,
        whisper: 2,
    };
}

/// Numbers of values in a checkpoint's networks, position tables included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    pub unet: u64,
    pub vae: u64,
}

impl Checkpoint {
    /// Finds the files and reads the configurations. The first time in a folder it reads every file for its
    /// digest; digests are kept beside the weights where the folder can be written.
    pub fn open(dir: &Path) -> Result<Self, WeightsError> {
        let found = Found::in_dir(dir)?;
        // Parsed configurations count, not their text: the published one in a file is the same as none.
        let configs = format!("{:?} {:?} {:?}", found.unet_config, found.vae_config, found.dims);
        let mut hasher = DigestWriter::new();
        let mut digests = Digests::read(dir);
        for (_, path) in found.files() {
            hasher.update(digests.of_file(path)?.as_bytes());
        }
        digests.keep();
        hasher.update(configs.as_bytes());
        Ok(Self {
            found,
            identity: hasher.finish().0,
        })
    }

    /// Digest over the weight files' own digests and the configurations.
    pub fn identity(&self) -> Digest {
        self.identity
    }

    /// Whether these are random weights, for trying the farm.
    pub fn synthetic(&self) -> bool {
        self.found.note.synthetic
    }

    pub fn unet_config(&self) -> &UNetConfig {
        &self.found.unet_config
    }

    pub fn vae_config(&self) -> &VaeConfig {
        &self.found.vae_config
    }

    pub fn whisper_dims(&self) -> WhisperDims {
        self.found.dims
    }

    /// The model as whose memory that of simulated GPUs is counted.
    pub fn account_as(&self) -> Option<AccountAs> {
        self.found.note.account_as
    }

    /// Bytes that a weight takes of the host where the CPU computes.
    pub fn host_bytes(&self) -> HostBytes {
        let of = |path: &Path| match TensorFile::open(path)
            .ok()
            .and_then(|file| file.bytes_per_value())
        {
            Some(bytes) => bytes,
            None => DType::F32.size_in_bytes(),
        };
        HostBytes {
            unet: of(&self.found.unet),
            vae: of(&self.found.vae),
            whisper: of(&self.found.whisper),
        }
    }

    /// Side of the face crop that the model was made for.
    pub fn resolution_px(&self) -> u32 {
        self.found.note.resolution_px.unwrap_or(DEFAULT_RESOLUTION_PX)
    }

    /// Size of the three weight files.
    pub fn bytes(&self) -> u64 {
        self.found
            .files()
            .iter()
            .filter_map(|(_, path)| fs::metadata(path).ok())
            .map(|metadata| metadata.len())
            .sum()
    }

    /// Compares the names and shapes of all tensors with the configurations, without reading any.
    ///
    /// # Errors
    /// The missing, unexpected and misshaped tensors of a file are named in one error.
    pub fn check_tensors(&self) -> Result<Parameters, WeightsError> {
        let unet = self.found.check(Part::Unet)?;
        let vae = self.found.check(Part::Vae)?;
        self.found.check(Part::Whisper)?;
        Ok(Parameters { unet, vae })
    }

    /// Loads the UNet.
    pub(crate) fn unet(
        &self,
        device: &Device,
        dtype: DType,
        options: ExecutionOptions,
    ) -> Result<UNet3DConditionModel, WeightsError> {
        load_unet(&self.found.unet, &self.found.unet_config, device, dtype, options)
    }

    /// Loads the image autoencoder.
    pub(crate) fn vae(
        &self,
        device: &Device,
        dtype: DType,
        options: ExecutionOptions,
    ) -> Result<AutoencoderKl, WeightsError> {
        load_vae(&self.found.vae, &self.found.vae_config, device, dtype, options)
    }

    /// Loads the audio encoder.
    pub(crate) fn whisper(
        &self,
        device: &Device,
        dtype: DType,
        options: ExecutionOptions,
    ) -> Result<WhisperEncoder, WeightsError> {
        load_whisper(&self.found.whisper, &self.found.dims, device, dtype, options)
    }
}
