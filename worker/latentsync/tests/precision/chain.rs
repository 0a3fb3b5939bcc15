//! The golden data of the whole pipeline, with the networks in any type.

use candle_core::{DType, Device, Tensor};
use latentsync::checkpoint::{load_unet, load_vae, load_whisper, whisper_dims};
use latentsync::config::{UNetConfig, VaeConfig};
use latentsync::denoise::SamplingParams;
use latentsync::noise::Noise;
use latentsync::vae::AutoencoderKl;
use latentsync::{ExecutionOptions, Faces, LatentSync};
use serde_json::Value;

use crate::support::{Golden, goldens_dir, text};

/// Loads a golden image autoencoder.
pub(crate) fn golden_vae(name: &str, dtype: DType) -> AutoencoderKl {
    let config = VaeConfig::from_json(&text(&format!("{name}_config.json"))).unwrap();
    let files = [
        format!("{name}.safetensors"),
        format!("{name}_legacy.safetensors"),
    ];
    let weights = files.map(|file| goldens_dir().join(file));
    let weights = weights.iter().find(|path| path.is_file()).unwrap();
    load_vae(weights, &config, &Device::Cpu, dtype, ExecutionOptions::default()).unwrap()
}

/// The golden data of the whole pipeline: configurations, faces, noise and results.
pub(crate) struct Chain {
    pub(crate) config: Value,
    pub(crate) golden: Golden,
    side: usize,
    faces: Vec<u8>,
    pub(crate) init: Tensor,
}

pub(crate) struct Window {
    pub(crate) name: String,
    start: usize,
    pub(crate) frames: usize,
    pub(crate) rows: Tensor,
}

impl Chain {
    pub(crate) fn open() -> Self {
        let config: Value = serde_json::from_str(&text("e2e_config.json")).unwrap();
        let golden = Golden::named("e2e_io.safetensors");
        Self {
            side: usize::try_from(config["resolution"].as_u64().unwrap()).unwrap(),
            faces: golden.bytes("faces_u8"),
            init: golden.get("noise.init").squeeze(0).unwrap().squeeze(1).unwrap(),
            config,
            golden,
        }
    }

    pub(crate) fn model(&self, dtype: DType) -> LatentSync {
        let unet = self.config["unet"].as_str().unwrap();
        let unet_config = UNetConfig::from_json(&text(&format!("{unet}_config.json"))).unwrap();
        let unet = goldens_dir().join(format!("{unet}.safetensors"));
        let whisper = goldens_dir().join("whisper_tinytest.pt");
        let dims = whisper_dims(&whisper).unwrap();
        LatentSync::new(
            load_unet(
                &unet,
                &unet_config,
                &Device::Cpu,
                dtype,
                ExecutionOptions::default(),
            )
            .unwrap(),
            golden_vae(self.config["vae"].as_str().unwrap(), dtype),
            load_whisper(&whisper, &dims, &Device::Cpu, dtype, ExecutionOptions::default()).unwrap(),
            dims,
            &Device::Cpu,
            dtype,
        )
    }

    /// Returns the windows of the file, the last of which ends with its last face.
    pub(crate) fn windows(&self) -> Vec<Window> {
        let mut end = self.golden.get("faces_u8").dim(0).unwrap();
        let mut windows = Vec::new();
        for name in self.golden.prefixes("window").into_iter().rev() {
            let frames = self.golden.get(&format!("{name}.mask_latents")).dim(2).unwrap();
            end -= frames;
            let rows = self.golden.get("audio_chunks").narrow(0, end, frames).unwrap();
            windows.push(Window {
                name,
                start: end,
                frames,
                rows,
            });
        }
        windows
    }

    pub(crate) fn faces(&self, window: &Window) -> Faces<'_> {
        let face = 3 * self.side * self.side;
        let total = self.config["num_chunks"].as_u64().unwrap();
        let past = u64::try_from(self.faces.len() / face - window.start).unwrap();
        Faces {
            bytes: &self.faces[window.start * face..(window.start + window.frames) * face],
            resolution: self.side,
            first_frame: total - past,
        }
    }

    pub(crate) fn noise(&self, window: &Window) -> Noise<'_> {
        Noise::Given {
            init_latents: &self.init,
            masked_image_latents: self.golden.get(&format!("noise.{}.masked", window.name)),
            ref_latents: self.golden.get(&format!("noise.{}.ref", window.name)),
        }
    }

    pub(crate) fn runs(&self) -> Vec<(String, SamplingParams)> {
        let runs = self.config["runs"].as_array().unwrap().iter();
        runs.map(|run| {
            let sampling = SamplingParams {
                steps: u32::try_from(run["steps"].as_u64().unwrap()).unwrap(),
                guidance_scale: run["guidance_scale"].to_string().parse().unwrap(),
            };
            (run["prefix"].as_str().unwrap().to_owned(), sampling)
        })
        .collect()
    }
}
