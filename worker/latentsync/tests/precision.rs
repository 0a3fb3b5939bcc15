//! Compares half types with the `f32` of the reference, and checks what must stay `f32` whatever the networks
//! compute in.
//!
//! The limits are about twice what was measured, as relative distances from the golden tensors. They hold for
//! networks with random weights.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests too"
)]

#[path = "precision/chain.rs"]
mod chain;
mod support;

use std::process::Command;

use candle_core::{DType, Device, Tensor};
use chain::{Chain, golden_vae};
use latentfarm_common::digest::Digest;
use latentsync::checkpoint::{load_unet, load_whisper, whisper_dims};
use latentsync::config::UNetConfig;
use latentsync::ddim::DdimScheduler;
use latentsync::denoise::{Conditioning, SamplingParams, denoise, predict_noise};
use latentsync::noise::Noise;
use latentsync::preprocess::{self, FaceMask};
use latentsync::synth::{Size, synthesize};
use latentsync::vae::SCALING_FACTOR;
use latentsync::{Checkpoint, ExecutionOptions, Faces, LatentSync, Run};
use support::{Golden, Tolerance, assert_close, files, goldens_dir, text};

const HALF_TYPES: [DType; 2] = [DType::F16, DType::BF16];

/// The largest relative distances from `f32` that a result may have in `f16` and in `bf16`.
#[derive(Clone, Copy)]
struct Limits {
    f16: f64,
    bf16: f64,
}

const UNET: Limits = Limits {
    f16: 8e-3,
    bf16: 8e-2,
};
const VAE_MOMENTS: Limits = Limits {
    f16: 6e-3,
    bf16: 4e-2,
};
const VAE_PIXELS: Limits = Limits {
    f16: 6e-3,
    bf16: 4e-2,
};
const WHISPER: Limits = Limits {
    f16: 1.5e-3,
    bf16: 1.3e-2,
};
const WINDOW_LATENTS: Limits = Limits {
    f16: 2.6e-3,
    bf16: 2.4e-2,
};
const WINDOW_PIXELS: Limits = Limits {
    f16: 2.8e-3,
    bf16: 2.4e-2,
};

impl Limits {
    fn check(self, what: &str, dtype: DType, result: &Tensor, golden: &Tensor) -> f64 {
        let relative = match dtype {
            DType::F16 => self.f16,
            _ => self.bf16,
        };
        let tolerance = Tolerance {
            max_abs: f64::INFINITY,
            relative,
        };
        assert_eq!(result.dtype(), DType::F32, "{what} is given in f32");
        assert_close(&format!("{what} as {dtype:?}"), result, golden, tolerance)
    }
}

fn wide(x: &Tensor) -> Tensor {
    x.to_dtype(DType::F32).unwrap()
}

#[test]
fn unet_in_half_types_is_near_golden() {
    for path in files("unet_", "_io.safetensors") {
        let name = path.file_name().unwrap().to_str().unwrap();
        let name = name.strip_suffix("_io.safetensors").unwrap();
        let config = UNetConfig::from_json(&text(&format!("{name}_config.json"))).unwrap();
        let weights = goldens_dir().join(format!("{name}.safetensors"));
        let golden = Golden::open(&path);
        for dtype in HALF_TYPES {
            let unet = load_unet(
                &weights,
                &config,
                &Device::Cpu,
                dtype,
                ExecutionOptions::default(),
            )
            .unwrap();
            for case in golden.prefixes("case") {
                let get = |part: &str| golden.get(&format!("{case}.{part}"));
                let timestep = u32::try_from(golden.integers(&format!("{case}.timestep"))[0]).unwrap();
                let latents = get("sample").to_dtype(dtype).unwrap();
                let audio = get("audio").to_dtype(dtype).unwrap();
                let out = unet.forward(&Run::default(), &latents, timestep, &audio).unwrap();
                assert_eq!(out.dtype(), dtype);
                UNET.check(&format!("{name} {case}"), dtype, &wide(&out), get("out"));
            }
        }
    }
}

#[test]
fn vae_in_half_types_is_near_golden() {
    for path in files("vae", "_io.safetensors") {
        let name = path.file_name().unwrap().to_str().unwrap();
        let name = name.strip_suffix("_io.safetensors").unwrap();
        let golden = Golden::open(&path);
        for dtype in HALF_TYPES {
            let vae = golden_vae(name, dtype);
            for case in golden.prefixes("case") {
                let get = |part: &str| golden.get(&format!("{case}.{part}"));
                let near = |limits: Limits, part: &str, result: &Tensor| {
                    let measured = limits.check(&format!("{name} {case} {part}"), dtype, result, get(part));
                    // The autoencoder returns `f32` whatever it computes in. A smaller distance would mean
                    // that it computed in `f32`.
                    assert!(
                        measured > 1e-4,
                        "{case} {part} as {dtype:?} is {measured:.1e} from f32"
                    );
                };
                let raw = vae.raw_moments(&Run::default(), get("image")).unwrap();
                near(VAE_MOMENTS, "moments", &raw);
                let moments = vae.encode(&Run::default(), get("image")).unwrap();
                let latents = moments.sample(get("noise")).unwrap();
                near(VAE_MOMENTS, "scaled_latent", &(latents * SCALING_FACTOR).unwrap());
                let pixels = vae.decode(&Run::default(), get("decode_in")).unwrap();
                near(VAE_PIXELS, "decode_out", &pixels);
            }
        }
    }
}

#[test]
fn whisper_in_half_types_is_near_golden() {
    let golden = Golden::named("whisper_io.safetensors");
    let path = goldens_dir().join("whisper_tinytest.pt");
    let dims = whisper_dims(&path).unwrap();
    let log_mel = golden.get("log_mel");
    let missing = 2 * dims.n_audio_ctx - log_mel.dim(1).unwrap();
    let mel = log_mel
        .pad_with_zeros(1, 0, missing)
        .unwrap()
        .unsqueeze(0)
        .unwrap();
    let head = golden.get("encoder_embeddings_head");
    for dtype in HALF_TYPES {
        let encoder = load_whisper(&path, &dims, &Device::Cpu, dtype, ExecutionOptions::default()).unwrap();
        let states = encoder
            .forward(&Run::default(), &mel.to_dtype(dtype).unwrap())
            .unwrap();
        assert_eq!(states.dtype(), dtype);
        let ours = wide(&states.narrow(0, 0, head.dim(1).unwrap()).unwrap());
        for layer in 0..dims.tokens_per_row() {
            let ours = ours.narrow(1, layer, 1).unwrap().squeeze(1).unwrap();
            WHISPER.check(&format!("layer {layer}"), dtype, &ours, &head.get(layer).unwrap());
        }
    }
}

#[test]
fn windows_in_f16_are_near_golden() {
    check_windows(DType::F16);
}

#[test]
fn windows_in_bf16_are_near_golden() {
    check_windows(DType::BF16);
}

/// Compares windows in a half type with the golden ones. Half types are slow on the CPU, so that longer
/// windows are compared only if the golden file has their pictures.
fn check_windows(dtype: DType) {
    let chain = Chain::open();
    let model = chain.model(dtype);
    let shortest = chain.windows().iter().map(|window| window.frames).min().unwrap();
    let mut compared = 0;
    for window in chain.windows() {
        let (faces, noise) = (chain.faces(&window), chain.noise(&window));
        for (prefix, sampling) in chain.runs() {
            let frames = chain.golden.find(&format!("{prefix}synced_frames"));
            if frames.is_none() && window.frames > shortest {
                continue;
            }
            let what = format!("{prefix}{} ", window.name);
            let latents = chain
                .golden
                .get(&format!("{prefix}{}.final_latents", window.name));
            let rendered = model
                .render(
                    &Run::default(),
                    faces,
                    &window.rows,
                    &noise,
                    sampling,
                    &mut |_| Ok(()),
                )
                .unwrap();
            WINDOW_LATENTS.check(&format!("{what}latents"), dtype, &rendered.latents, latents);
            compared += 1;
            let Some(frames) = frames else { continue };
            let indices = chain.golden.integers("synced_frames.index");
            for (i, frame) in indices.into_iter().enumerate() {
                let index = u64::try_from(frame).unwrap().checked_sub(faces.first_frame);
                let face = index.and_then(|index| rendered.faces.get(usize::try_from(index).unwrap()));
                if let Some(face) = face {
                    let what = format!("{what}frame {frame}");
                    WINDOW_PIXELS.check(&what, dtype, &face.squeeze(0).unwrap(), &frames.get(i).unwrap());
                }
            }
        }
    }
    assert!(compared > 0, "no final latents to compare");
}

/// Returns the share of the values that a type cannot represent.
fn share_not_in(dtype: DType, x: &Tensor) -> f64 {
    assert_eq!(x.dtype(), DType::F32);
    let values = bits(x);
    let rounded = bits(&x.to_dtype(dtype).unwrap());
    let differing = values.iter().zip(&rounded).filter(|(a, b)| a != b).count();
    differing as f64 / values.len() as f64
}

fn bits(x: &Tensor) -> Vec<u32> {
    support::values(x).into_iter().map(f32::to_bits).collect()
}

#[test]
fn golden_latents_stay_f32_between_steps() {
    let chain = Chain::open();
    for dtype in HALF_TYPES {
        let model = chain.model(dtype);
        let window = chain
            .windows()
            .into_iter()
            .min_by_key(|window| window.frames)
            .unwrap();
        let (faces, noise) = (chain.faces(&window), chain.noise(&window));
        let runs = chain.runs();
        let most_steps = runs.iter().map(|(_, sampling)| sampling.steps).max().unwrap();
        for (prefix, sampling) in runs.iter().filter(|(_, sampling)| sampling.steps == most_steps) {
            let sampling = *sampling;
            let (latents, conditioning) = model
                .encode(&Run::default(), faces, &window.rows, &noise, &mut |_| Ok(()))
                .unwrap();
            // These are the steps of the sampler, written out in `f32`. A single rounding to a half type
            // would change the end.
            let scheduler = DdimScheduler::new();
            let mut expected = latents.clone();
            for timestep in DdimScheduler::timesteps(sampling.steps) {
                let noise = predict_noise(
                    &Run::default(),
                    model.unet(),
                    &expected,
                    timestep,
                    &conditioning,
                    sampling.guidance_scale,
                )
                .unwrap();
                assert_eq!(noise.dtype(), DType::F32);
                expected = scheduler
                    .step(&noise, timestep, &expected, sampling.steps)
                    .unwrap()
                    .prev_sample;
                let share = share_not_in(dtype, &expected);
                assert!(
                    share > 0.5,
                    "{prefix}: {share} of the latents are finer than {dtype:?}"
                );
            }
            let denoised = denoise(
                &Run::default(),
                model.unet(),
                latents,
                &conditioning,
                sampling,
                &mut |_| Ok(()),
            )
            .unwrap();
            assert!(bits(&denoised) == bits(&expected), "{prefix} as {dtype:?}");
        }
    }
}

#[test]
fn sampler_refuses_half_types() {
    let scheduler = DdimScheduler::new();
    let x = |dtype| Tensor::ones((1, 4, 1, 2, 2), dtype, &Device::Cpu).unwrap();
    for dtype in HALF_TYPES {
        assert!(scheduler.step(&x(dtype), 1, &x(DType::F32), 1).is_err());
        assert!(scheduler.step(&x(DType::F32), 1, &x(dtype), 1).is_err());
        assert!(scheduler.step(&x(dtype), 1, &x(dtype), 1).is_err());
    }
}

#[test]
fn golden_draws_and_scaling_are_f32() {
    let chain = Chain::open();
    for dtype in HALF_TYPES {
        let model = chain.model(dtype);
        let vae = golden_vae(chain.config["vae"].as_str().unwrap(), dtype);
        for window in chain.windows() {
            let (faces, noise) = (chain.faces(&window), chain.noise(&window));
            let (
                init,
                Conditioning {
                    masked_image_latents,
                    ref_latents,
                    ..
                },
            ) = model
                .encode(&Run::default(), faces, &window.rows, &noise, &mut |_| Ok(()))
                .unwrap();
            let given = chain.init.unsqueeze(0).unwrap();
            let first = init.narrow(2, 0, 1).unwrap().squeeze(2).unwrap();
            assert!(bits(&first) == bits(&given), "the starting noise, as {dtype:?}");

            // The results of the networks are sampled and scaled here in `f32`.
            let pixels = preprocess::pixels(faces.bytes, faces.resolution).unwrap();
            let mask = FaceMask::new(faces.resolution).unwrap().pixels;
            let without_mouth = preprocess::without_mouth(&pixels, &mask).unwrap();
            for (what, pixels, ours) in [
                ("masked", &without_mouth, &masked_image_latents),
                ("ref", &pixels, &ref_latents),
            ] {
                let noise = chain.golden.get(&format!("noise.{}.{what}", window.name));
                for index in 0..window.frames {
                    let moments = vae
                        .encode(&Run::default(), &pixels.narrow(0, index, 1).unwrap())
                        .unwrap();
                    let draw = noise.narrow(0, index, 1).unwrap();
                    let expected = (moments.sample(&draw).unwrap() * SCALING_FACTOR).unwrap();
                    let ours = ours.narrow(2, index, 1).unwrap().squeeze(2).unwrap();
                    assert!(bits(&ours) == bits(&expected), "{what} {index} as {dtype:?}");
                    assert!(share_not_in(dtype, &ours) > 0.5, "{what} {index} as {dtype:?}");
                }
            }
        }
    }
}

/// The next test runs this in child processes, because the number of threads is fixed once in a process.
#[test]
#[ignore = "a part of `thread_count_does_not_change_a_bit_of_a_window_in_any_type`"]
fn child_prints_the_digest_of_a_window_in_every_type() {
    let dir = tempfile::tempdir().unwrap();
    synthesize(dir.path(), Size::Tiny, 7).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let side = usize::try_from(checkpoint.resolution_px()).unwrap();
    let bytes: Vec<u8> = (0..16 * 3 * side * side)
        .map(|i| u8::try_from(i * 7 % 251).unwrap())
        .collect();
    let faces = Faces {
        bytes: &bytes,
        resolution: side,
        first_frame: 16,
    };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let model = LatentSync::load(&checkpoint, &Device::Cpu, dtype, ExecutionOptions::default()).unwrap();
        let (tokens, width) = model.audio_shape();
        let rows = Tensor::arange(0_u32, u32::try_from(16 * tokens * width).unwrap(), &Device::Cpu).unwrap();
        let rows = (rows.to_dtype(DType::F32).unwrap() * 0.1).unwrap().sin().unwrap();
        let rows = rows.reshape((16, tokens, width)).unwrap();
        let sampling = SamplingParams {
            steps: 2,
            guidance_scale: 1.5,
        };
        let noise = Noise::Keyed { seed: 1247 };
        let window = model
            .render(&Run::default(), faces, &rows, &noise, sampling, &mut |_| Ok(()))
            .unwrap();
        let mut all = bits(&window.latents);
        window.faces.iter().for_each(|face| all.extend(bits(face)));
        let bytes: Vec<u8> = all.into_iter().flat_map(u32::to_le_bytes).collect();
        println!("\nwindow as {dtype:?}: {}", Digest::of(&bytes));
    }
}

#[test]
fn thread_count_does_not_change_a_bit_of_a_window_in_any_type() {
    let digests = |threads: &str| -> Vec<String> {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "child_prints_the_digest_of_a_window_in_every_type",
                "--ignored",
                "--nocapture",
            ])
            .env("RAYON_NUM_THREADS", threads)
            .env("CANDLE_NUM_THREADS", threads)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "with {threads} threads: {errors}");
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().filter(|line| line.starts_with("window as "));
        lines.map(str::to_owned).collect()
    };
    let one = digests("1");
    assert_eq!(one.len(), 3, "{one:?}");
    for threads in ["2", "4"] {
        assert_eq!(digests(threads), one, "{threads} threads");
    }
}
