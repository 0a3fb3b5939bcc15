//! Tests of what is easily wrong with half precision, with norms over frames and with tensor views. Tests of
//! single layers are beside the layers, in `latentsync::layers::tests`.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests too"
)]

#[path = "numerics/norm.rs"]
mod norm;
mod support;
#[path = "numerics/warnings.rs"]
mod warnings;

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{CpuStorage, DType, Device, Storage, Tensor};
use latentfarm_common::digest::Digest;
use latentfarm_common::wire::engine::{AudioRequest, EngineStage};
use latentfarm_common::wire::job::AudioWindows;
use latentsync::checkpoint::{load_unet, load_vae};
use latentsync::config::{UNetConfig, VaeConfig};
use latentsync::denoise::{Conditioning, SamplingParams};
use latentsync::noise::Noise;
use latentsync::synth::{Size, synthesize};
use latentsync::tensors::read_tensor;
use latentsync::trace::Trace;
use latentsync::vae::AutoencoderKl;
use latentsync::{Checkpoint, ExecutionOptions, Faces, LatentSync, ModelError, Run};

use norm::normed;
use warnings::warnings_of;

/// Random weights in a temporary folder.
struct Weights {
    dir: tempfile::TempDir,
}

const VAE_FILE: &str = "vae/diffusion_pytorch_model.safetensors";
const UNET_FILE: &str = "latentsync_unet.safetensors";

impl Weights {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        synthesize(dir.path(), Size::Tiny, 7).unwrap();
        Self { dir }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Multiplies every value of one tensor; all tensors of the file are `f32` afterwards.
    fn scale(&self, file: &str, tensor: &str, factor: f64) {
        let path = self.file(file);
        let mut tensors: HashMap<String, Tensor> = candle_core::safetensors::load(&path, &Device::Cpu)
            .unwrap()
            .into_iter()
            .map(|(name, tensor)| (name, tensor.to_dtype(DType::F32).unwrap()))
            .collect();
        let scaled = (&tensors[tensor] * factor).unwrap();
        tensors.insert(tensor.to_owned(), scaled);
        candle_core::safetensors::save(&tensors, path).unwrap();
    }

    fn vae(&self, dtype: DType) -> AutoencoderKl {
        let text = std::fs::read_to_string(self.file("vae/config.json")).unwrap();
        let config = VaeConfig::from_json(&text).unwrap();
        load_vae(
            &self.file(VAE_FILE),
            &config,
            &Device::Cpu,
            dtype,
            ExecutionOptions::default(),
        )
        .unwrap()
    }

    fn model(&self, dtype: DType) -> LatentSync {
        let checkpoint = Checkpoint::open(self.dir.path()).unwrap();
        LatentSync::load(&checkpoint, &Device::Cpu, dtype, ExecutionOptions::default())
            .unwrap_or_else(|error| panic!("{error}"))
    }
}

const SIDE: usize = 64;

fn waves(shape: &[usize]) -> Tensor {
    let count = u32::try_from(shape.iter().product::<usize>()).unwrap();
    let steps = Tensor::arange(0_u32, count, &Device::Cpu).unwrap();
    let steps = (steps.to_dtype(DType::F32).unwrap() * 0.37).unwrap();
    steps.sin().unwrap().reshape(shape).unwrap()
}

fn relative(a: &Tensor, b: &Tensor) -> f64 {
    let (a, b) = (support::values(a), support::values(b));
    let pairs = a.iter().zip(&b).map(|(a, b)| (f64::from(*a), f64::from(*b)));
    let (error, norm) = pairs.fold((0.0, 0.0), |(error, norm), (a, b)| {
        (error + (a - b).powi(2), norm + b * b)
    });
    (error / norm).sqrt()
}

fn all_finite(x: &Tensor) -> bool {
    support::values(x).iter().all(|value| value.is_finite())
}

#[test]
fn decoded_frame_that_overflows_f16_is_redone_in_f32() {
    let weights = Weights::new();
    // The norms cancel the factor, so that `f32` gives a picture, while `f16` overflows.
    weights.scale(VAE_FILE, "decoder.conv_in.weight", 1e6);
    let (half, single) = (weights.vae(DType::F16), weights.vae(DType::F32));
    let latents = waves(&[1, 4, SIDE / 8, SIDE / 8]);
    assert!(!all_finite(&half.decode(&Run::default(), &latents).unwrap()));

    let (redone, warnings) = warnings_of(|| half.decode_frame(&Run::default(), &latents, 1234).unwrap());
    let exact = single.decode_frame(&Run::default(), &latents, 1234).unwrap();
    assert!(all_finite(&redone) && relative(&redone, &exact) < 1e-6);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("1234") && warnings[0].contains("decoding"),
        "{warnings:?}"
    );
    // The `f32` weights were dropped: the next decoding is in `f16` again.
    assert!(!all_finite(&half.decode(&Run::default(), &latents).unwrap()));
}

#[test]
fn encoded_frame_that_overflows_f16_is_redone_in_f32() {
    let weights = Weights::new();
    weights.scale(VAE_FILE, "encoder.conv_in.weight", 1e6);
    let (half, single) = (weights.vae(DType::F16), weights.vae(DType::F32));
    let pixels = waves(&[1, 3, SIDE, SIDE]);
    assert!(!all_finite(&half.raw_moments(&Run::default(), &pixels).unwrap()));

    let (redone, warnings) = warnings_of(|| half.encode_frame(&Run::default(), &pixels, 77).unwrap());
    let exact = single.encode_frame(&Run::default(), &pixels, 77).unwrap();
    assert!(relative(&redone.mean, &exact.mean) < 1e-6);
    assert!(relative(&redone.logvar, &exact.logvar) < 1e-6);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("77") && warnings[0].contains("encoding"),
        "{warnings:?}"
    );
}

#[test]
fn frame_within_f16_is_not_redone() {
    let vae = Weights::new().vae(DType::F16);
    let latents = waves(&[1, 4, SIDE / 8, SIDE / 8]);
    let (pixels, warnings) = warnings_of(|| vae.decode_frame(&Run::default(), &latents, 1).unwrap());
    assert!(warnings.is_empty(), "{warnings:?}");
    let plain = vae.decode(&Run::default(), &latents).unwrap();
    assert_eq!(support::values(&pixels), support::values(&plain));
}

#[test]
fn window_with_an_autoencoder_beyond_f16_is_near_f32_s() {
    let weights = Weights::new();
    weights.scale(VAE_FILE, "decoder.conv_in.weight", 1e6);
    weights.scale(VAE_FILE, "encoder.conv_in.weight", 1e6);
    let (half, single) = (render(&weights, DType::F16), render(&weights, DType::F32));
    let (half, single) = (half.unwrap(), single.unwrap());
    for (a, b) in half.iter().zip(&single) {
        let distance = relative(a, b);
        assert!(distance < 0.01, "a face is {distance} from f32's");
    }
}

/// Renders three frames in two steps.
fn render(weights: &Weights, dtype: DType) -> Result<Vec<Tensor>, ModelError> {
    let model = weights.model(dtype);
    let bytes: Vec<u8> = (0..3 * 3 * SIDE * SIDE)
        .map(|i| u8::try_from((i / 7) % 251).unwrap())
        .collect();
    let faces = Faces {
        bytes: &bytes,
        resolution: SIDE,
        first_frame: 480,
    };
    let (tokens, width) = model.audio_shape();
    let sampling = SamplingParams {
        steps: 2,
        guidance_scale: 1.0,
    };
    let noise = Noise::Keyed { seed: 1 };
    let rows = waves(&[3, tokens, width]);
    model
        .render(
            &Run::default(),
            faces,
            &rows,
            &noise,
            sampling,
            &mut |_: EngineStage| Ok(()),
        )
        .map(|window| window.faces)
}

#[test]
fn nan_in_f32_is_an_error_that_names_stage_and_place() {
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        for (file, tensor, expected) in [
            (VAE_FILE, "encoder.conv_out.bias", "encoding of frame 480 gave"),
            (VAE_FILE, "decoder.conv_out.bias", "decoding of frame 480 gave"),
            (UNET_FILE, "conv_out.bias", "denoising of step 1 of 2 gave"),
        ] {
            let weights = Weights::new();
            weights.scale(file, tensor, f64::NAN);
            let error = render(&weights, dtype).unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, ModelError::NotFinite { .. }), "{text}");
            assert!(text.contains(expected), "{text}");
        }
    }
}

#[test]
fn resnet_norms_span_the_frames_and_transformer_norms_do_not() {
    let weights = Weights::new();
    let path = weights.file(UNET_FILE);
    let text = std::fs::read_to_string(weights.file("unet_config.json")).unwrap();
    let config = UNetConfig::from_json(&text).unwrap();
    let (frames, latent) = (3, 8);
    // The frames differ in their means, so that the result depends on whose statistics were taken.
    let offsets = Tensor::new(&[0.0_f32, 3.0, -2.0], &Device::Cpu)
        .unwrap()
        .reshape((1, 1, 3, 1, 1));
    let latents = waves(&[1, 13, frames, latent, latent])
        .broadcast_add(&offsets.unwrap())
        .unwrap();
    let audio = waves(&[1, frames, 30, config.cross_attention_dim]);
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let unet = load_unet(&path, &config, &Device::Cpu, dtype, ExecutionOptions::default()).unwrap();
        let trace = Trace::default();
        let typed = |x: &Tensor| x.to_dtype(dtype).unwrap();
        unet.forward(
            &Run::default().with_trace(&trace),
            &typed(&latents),
            500,
            &typed(&audio),
        )
        .unwrap();
        let records: HashMap<String, Tensor> = trace.into_records().into_iter().collect();
        let first = "down_blocks.0";
        // Each entry is (norm, its input, frames that share their statistics, groups, eps).
        for (norm, input, together, groups, eps) in [
            (
                "resnets.0.norm1",
                "conv_in",
                frames,
                config.norm_num_groups,
                config.norm_eps,
            ),
            ("attentions.0.norm", "resnets.0", 1, config.norm_num_groups, 1e-6),
            (
                "motion_modules.0.temporal_transformer.norm",
                "attentions.0",
                1,
                32,
                1e-6,
            ),
        ] {
            let norm = format!("{first}.{norm}");
            let x = &records[&match input {
                "conv_in" => input.to_owned(),
                _ => format!("{first}.{input}"),
            }];
            let affine = ["weight", "bias"].map(|part| {
                let tensor = read_tensor(&path, &format!("{norm}.{part}")).unwrap();
                support::values(&typed(&tensor))
            });
            let affine = affine.into();
            // The norms of residual blocks include the activation after them.
            let with_silu = records.get(&format!("{norm}.silu"));
            let ours: Vec<f64> = support::values(with_silu.unwrap_or_else(|| &records[&norm]))
                .into_iter()
                .map(f64::from)
                .collect();
            let distance = |together| {
                let mut expected = normed(x, together, groups, eps, &affine);
                if with_silu.is_some() {
                    for y in &mut expected {
                        *y /= 1.0 + (-*y).exp();
                    }
                }
                let pairs = ours.iter().zip(&expected);
                pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
            };
            let (right, wrong) = (distance(together), distance(frames + 1 - together));
            println!(
                "{norm} as {dtype:?}: {right:.1e} from the right statistics, {wrong:.1e} from the wrong"
            );
            assert!(
                right < 0.03 && wrong > 0.2,
                "{norm} as {dtype:?}: {right:.1e} and {wrong:.1e}"
            );
        }
    }
}

/// Returns the number of elements in the storage of a tensor, which may be a small view of it.
fn stored(x: &Tensor) -> usize {
    let (storage, _) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => values.len(),
        Storage::Cpu(CpuStorage::F16(values)) => values.len(),
        Storage::Cpu(CpuStorage::BF16(values)) => values.len(),
        _ => panic!("{:?} on {:?}", x.dtype(), x.device()),
    }
}

fn assert_owns_itself(what: &str, x: &Tensor) {
    assert_eq!(stored(x), x.elem_count(), "{what} keeps a larger tensor alive");
}

#[test]
fn nothing_that_outlives_its_stage_keeps_a_larger_tensor_alive() {
    let weights = Weights::new();
    for dtype in [DType::F32, DType::F16] {
        let model = weights.model(dtype);
        let moments = weights
            .vae(dtype)
            .encode(&Run::default(), &waves(&[1, 3, SIDE, SIDE]))
            .unwrap();
        assert_owns_itself("the mean", &moments.mean);
        assert_owns_itself("the log-variance", &moments.logvar);

        let pcm: Vec<i16> = (0..48_000_i32)
            .map(|n| i16::try_from(n * 31 % 20_000).unwrap())
            .collect();
        let request = AudioRequest {
            track: Digest::of(b"track"),
            track_samples: pcm.len() as u64,
            layout: AudioWindows::Overlapping,
            log_mel_max: 1.0,
            window: 0,
            pcm,
        };
        let features = model.encode_audio(&Run::default(), &request).unwrap();
        assert!(
            features.states.dim(0).unwrap() < 1000,
            "a part of the window's rows"
        );
        assert_owns_itself("audio features", &features.states);

        // The rows and the noise are views of larger tensors.
        for frames in [1, 3] {
            let bytes = vec![100_u8; frames * 3 * SIDE * SIDE];
            let faces = Faces {
                bytes: &bytes,
                resolution: SIDE,
                first_frame: 0,
            };
            let (tokens, width) = model.audio_shape();
            let many = waves(&[40, tokens, width]);
            let rows = many.narrow(0, 5, frames).unwrap();
            let draws = waves(&[40, 4, SIDE / 8, SIDE / 8]);
            let noise = Noise::Given {
                init_latents: &draws.get(3).unwrap(),
                masked_image_latents: &draws,
                ref_latents: &draws,
            };
            let (latents, conditioning) = model
                .encode(&Run::default(), faces, &rows, &noise, &mut |_| Ok(()))
                .unwrap();
            let Conditioning {
                mask_latents,
                masked_image_latents,
                ref_latents,
                encoder_hidden_states,
            } = &conditioning;
            for (what, x) in [
                ("starting latents", &latents),
                ("mask", mask_latents),
                ("masked latents", masked_image_latents),
                ("reference latents", ref_latents),
                ("audio rows", encoder_hidden_states),
            ] {
                assert_owns_itself(&format!("{what} of {frames} frames"), x);
            }
            let sampling = SamplingParams {
                steps: 1,
                guidance_scale: 1.5,
            };
            let window = model
                .render(&Run::default(), faces, &rows, &noise, sampling, &mut |_| Ok(()))
                .unwrap();
            assert_owns_itself("final latents", &window.latents);
            for face in &window.faces {
                assert_owns_itself("a rendered face", face);
            }
        }
    }
}

#[test]
fn skips_of_the_unet_own_themselves() {
    let weights = Weights::new();
    let text = std::fs::read_to_string(weights.file("unet_config.json")).unwrap();
    let config = UNetConfig::from_json(&text).unwrap();
    for dtype in [DType::F32, DType::F16] {
        let unet = load_unet(
            &weights.file(UNET_FILE),
            &config,
            &Device::Cpu,
            dtype,
            ExecutionOptions::default(),
        )
        .unwrap();
        let trace = Trace::default();
        let latents = waves(&[1, 13, 2, 8, 8]).to_dtype(dtype).unwrap();
        let audio = waves(&[1, 2, 30, config.cross_attention_dim])
            .to_dtype(dtype)
            .unwrap();
        let out = unet
            .forward(&Run::default().with_trace(&trace), &latents, 1, &audio)
            .unwrap();
        assert_owns_itself("the predicted noise", &out);
        let mut skips = 0;
        for (name, output) in trace.into_records() {
            let depth = name.split('.').count();
            let is_skip = name == "conv_in"
                || name.starts_with("down_blocks.") && (depth == 4 || name.ends_with("downsamplers.0"));
            if is_skip {
                assert_owns_itself(&name, &output);
                skips += 1;
            }
        }
        assert!(skips >= 8, "{skips} skips");
    }
}
