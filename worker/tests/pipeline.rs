//! Compares whole windows with the reference, which rendered them with given noise: for every
//! `e2e*_config.json` in the golden folder, all windows and runs that its file holds.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests too"
)]

mod chain;
#[path = "../face/tests/picture/mod.rs"]
mod picture;
#[path = "../latentsync/tests/support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use chain::{Chain, chains, held};
use latentsync::checkpoint::{load_unet, load_vae, load_whisper};
use latentsync::config::{UNetConfig, VaeConfig, WhisperDims};
use latentsync::ddim::DdimScheduler;
use latentsync::denoise::{Conditioning, SamplingParams, predict_noise};
use latentsync::noise::Noise;
use latentsync::preprocess;
use latentsync::tensors::list_tensors;
use latentsync::{ExecutionOptions, Faces, LatentSync, Run};
use picture::restore::restore_rgb;
use picture::{frame, fringe, matrices};
use support::speech::whispers;
use support::{
    Compared, Golden, Tolerance, assert_bytes_close, assert_bytes_close_but, assert_close, beside,
    interleaved, number_after, text,
};

const CHAIN: Tolerance = Tolerance {
    max_abs: 1e-3,
    relative: 5e-5,
};

/// A window in a golden file, with its name, its first output frame and its number of frames.
struct Window {
    name: String,
    first_frame: usize,
    frames: usize,
}

fn windows(chain: &Chain) -> Vec<Window> {
    let names = chain.golden.prefixes("window").into_iter();
    let found: Vec<Window> = names
        .map(|name| {
            let latents = chain.golden.get(&format!("{name}.mask_latents"));
            Window {
                first_frame: number_after("window", &name) * chain.number("num_frames_per_window"),
                frames: latents.dim(2).unwrap(),
                name,
            }
        })
        .collect();
    assert!(!found.is_empty(), "no windows in {}", chain.golden.file);
    found
}

/// Loads the networks that the data were made with. Of the audio encoder only the dimensions matter.
fn model(chain: &Chain) -> LatentSync {
    let (device, dtype) = (Device::Cpu, DType::F32);
    let name = |key: &str| chain.config[key].as_str().unwrap();
    let (unet, vae) = (name("unet"), name("vae"));
    let unet_config = UNetConfig::from_json(&text(&format!("{unet}_config.json"))).unwrap();
    let vae_config = VaeConfig::from_json(&text(&format!("{vae}_config.json"))).unwrap();
    let unet = beside(unet, &[".safetensors", ".pt"]);
    let vae = beside(vae, &[".safetensors", "_legacy.safetensors"]);
    let whisper = tempfile::Builder::new()
        .suffix(".safetensors")
        .tempfile()
        .unwrap();
    let (_, tokens, width) = chain.golden.get("audio_chunks").dims3().unwrap();
    let dims = silent_whisper(whisper.path(), tokens / 10 - 1, width);
    LatentSync::new(
        load_unet(&unet, &unet_config, &device, dtype, ExecutionOptions::default()).unwrap(),
        load_vae(&vae, &vae_config, &device, dtype, ExecutionOptions::default()).unwrap(),
        load_whisper(whisper.path(), &dims, &device, dtype, ExecutionOptions::default()).unwrap(),
        dims,
        &device,
        dtype,
    )
}

/// Writes the weights of an audio encoder that are all zero, with `layers` layers of `width`, and returns its
/// dimensions. Their names come from some encoder in the golden folder.
fn silent_whisper(path: &Path, layers: usize, width: usize) -> WhisperDims {
    let like = whispers().remove(0);
    let (from, mut tensors) = (like.dims.n_audio_state, HashMap::new());
    for (name, shape) in list_tensors(&like.weights).unwrap() {
        let shape: Vec<usize> = shape
            .into_iter()
            .map(|size| match size {
                size if size == from => width,
                size if size == 4 * from => 4 * width,
                size => size,
            })
            .collect();
        let Some(rest) = name.strip_prefix("encoder.") else {
            continue;
        };
        let zeros = Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        match rest.strip_prefix("blocks.0.") {
            Some(part) => tensors
                .extend((0..layers).map(|layer| (format!("encoder.blocks.{layer}.{part}"), zeros.clone()))),
            None if rest.starts_with("blocks.") => {}
            None => drop(tensors.insert(name, zeros)),
        }
    }
    candle_core::safetensors::save(&tensors, path).unwrap();
    WhisperDims {
        n_audio_state: width,
        n_audio_head: 1,
        n_audio_layer: layers,
        ..like.dims
    }
}

#[test]
fn windows_match_golden_with_given_noise() {
    let mut compared = Compared::default();
    for chain in chains() {
        let model = model(&chain);
        for window in windows(&chain) {
            check_window(&chain, &model, &window, &mut compared);
        }
    }
    compared.require(&[
        "window inputs",
        "noise predictions",
        "latents",
        "pictures",
        "picture bytes",
        "restored frames",
    ]);
}

fn check_window(chain: &Chain, model: &LatentSync, window: &Window, compared: &mut Compared) {
    let Window {
        name,
        first_frame,
        frames,
    } = window;
    let golden = &chain.golden;
    let faces = chain.part("faces_u8", *first_frame, *frames);
    let bytes: Vec<u8> = faces.flatten_all().unwrap().to_vec1().unwrap();
    let faces = Faces {
        bytes: &bytes,
        resolution: chain.side(),
        first_frame: *first_frame as u64,
    };
    let rows = chain.part("audio_chunks", *first_frame, *frames);
    let init = golden.get("noise.init").squeeze(0).unwrap().squeeze(1).unwrap();
    let noise = Noise::Given {
        init_latents: &init,
        masked_image_latents: golden.get(&format!("noise.{name}.masked")),
        ref_latents: golden.get(&format!("noise.{name}.ref")),
    };

    let encoded = model
        .encode(&Run::default(), faces, &rows, &noise, &mut |_| Ok(()))
        .unwrap();
    let Conditioning {
        mask_latents,
        masked_image_latents,
        ref_latents,
        ..
    } = &encoded.1;
    for (part, ours) in [
        ("mask_latents", mask_latents),
        ("masked_image_latents", masked_image_latents),
        ("ref_latents", ref_latents),
    ] {
        if let Some(expected) = golden.find(&format!("{name}.{part}")) {
            assert_close(&format!("{name} {part}"), ours, expected, CHAIN);
            compared.add("window inputs");
        }
    }
    for run in chain.config["runs"].as_array().unwrap() {
        let prefix = run["prefix"].as_str().unwrap();
        let sampling = SamplingParams {
            steps: u32::try_from(run["steps"].as_u64().unwrap()).unwrap(),
            guidance_scale: run["guidance_scale"].to_string().parse().unwrap(),
        };
        println!("{} {prefix}{name}: {sampling:?}", golden.file);
        check_predictions(golden, prefix, name, model, &encoded, sampling, compared);
        if golden.under(prefix).is_empty() {
            continue;
        }
        let rendered = model
            .render(&Run::default(), faces, &rows, &noise, sampling, &mut |_| Ok(()))
            .unwrap();
        if let Some(expected) = golden.find(&format!("{prefix}{name}.final_latents")) {
            let what = format!("{prefix}{name} latents");
            assert_close(&what, &rendered.latents, expected, CHAIN);
            compared.add("latents");
        }
        check_pictures(chain, prefix, *first_frame, &rendered.faces, compared);
        check_restored(chain, prefix, *first_frame, &rendered.faces, compared);
    }
}

/// Compares every noise prediction. The reference predicts uncond and cond in one batch, uncond first; ours
/// come one after the other.
fn check_predictions(
    golden: &Golden,
    prefix: &str,
    name: &str,
    model: &LatentSync,
    (latents, conditioning): &(Tensor, Conditioning),
    sampling: SamplingParams,
    compared: &mut Compared,
) {
    let expected = |step| golden.find(&format!("{prefix}{name}.noise_pred.step{step}"));
    let timesteps = DdimScheduler::timesteps(sampling.steps);
    let Some(last) = (0..timesteps.len()).rfind(|&step| expected(step).is_some()) else {
        return;
    };
    let silence = Conditioning {
        mask_latents: conditioning.mask_latents.clone(),
        masked_image_latents: conditioning.masked_image_latents.clone(),
        ref_latents: conditioning.ref_latents.clone(),
        encoder_hidden_states: conditioning.encoder_hidden_states.zeros_like().unwrap(),
    };
    let mut latents = latents.clone();
    for (step, &timestep) in timesteps.iter().enumerate().take(last + 1) {
        let run = |conditioning, guidance| {
            predict_noise(
                &Run::default(),
                model.unet(),
                &latents,
                timestep,
                conditioning,
                guidance,
            )
            .unwrap()
        };
        let guided = run(conditioning, sampling.guidance_scale);
        if let Some(expected) = expected(step) {
            let what = |part: &str| format!("{prefix}{name} noise_pred.step{step} {part}");
            let half = |at| expected.narrow(0, at, 1).unwrap();
            if expected.dim(0).unwrap() == 1 {
                assert_close(&what("unguided"), &guided, expected, CHAIN);
            } else {
                let (uncond, cond) = (half(0), half(1));
                assert_close(&what("uncond"), &run(&silence, 1.0), &uncond, CHAIN);
                assert_close(&what("cond"), &run(conditioning, 1.0), &cond, CHAIN);
                let scale = f64::from(sampling.guidance_scale);
                let mixed = (&uncond + ((cond - &uncond).unwrap() * scale).unwrap()).unwrap();
                assert_close(&what("guided"), &guided, &mixed, CHAIN);
            }
            compared.add("noise predictions");
        }
        let stepped = DdimScheduler::new().step(&guided, timestep, &latents, sampling.steps);
        latents = stepped.unwrap().prev_sample;
    }
}

/// Returns the position of an output frame in the window, if the window holds it.
fn position(frame: i64, first_frame: usize, faces: &[Tensor]) -> Option<usize> {
    let at = usize::try_from(frame).unwrap().checked_sub(first_frame)?;
    (at < faces.len()).then_some(at)
}

/// Compares the pictures of a window that the file holds.
fn check_pictures(
    chain: &Chain,
    prefix: &str,
    first_frame: usize,
    faces: &[Tensor],
    compared: &mut Compared,
) {
    if let Some(expected) = chain.golden.find(&format!("{prefix}synced_frames")) {
        for (i, frame) in held(chain, expected, "synced_frames.index")
            .into_iter()
            .enumerate()
        {
            if let Some(at) = position(frame, first_frame, faces) {
                let what = format!("{prefix} frame {frame}");
                let ours = faces[at].squeeze(0).unwrap();
                assert_close(&what, &ours, &expected.get(i).unwrap(), CHAIN);
                compared.add("pictures");
            }
        }
    }
    if let Some(expected) = chain.golden.find(&format!("{prefix}synced_images_u8")) {
        for (i, frame) in held(chain, expected, "synced_images_u8.index")
            .into_iter()
            .enumerate()
        {
            if let Some(at) = position(frame, first_frame, faces) {
                let bytes = interleaved(&preprocess::bytes(&faces[at]).unwrap(), chain.side());
                let picture = expected.get(i).unwrap().flatten_all().unwrap();
                let picture = picture.to_vec1::<u8>().unwrap();
                assert_bytes_close(&format!("{prefix} picture {frame}"), &bytes, &picture, 0.005);
                compared.add("picture bytes");
            }
        }
    }
}

/// Compares the final frames of a window that the file holds.
fn check_restored(
    chain: &Chain,
    prefix: &str,
    first_frame: usize,
    faces: &[Tensor],
    compared: &mut Compared,
) {
    let golden = &chain.golden;
    let name = format!("{prefix}restored_frames_u8");
    let Some(expected) = golden.find(&name) else {
        return;
    };
    let sources = golden.integers("source_frame_index");
    let all = matrices(golden, "affine_matrices");
    for (i, number) in held(chain, expected, "restored_frames_u8.index")
        .into_iter()
        .enumerate()
    {
        let Some(at) = position(number, first_frame, faces) else {
            continue;
        };
        let output = usize::try_from(number).unwrap();
        let source = usize::try_from(sources[output]).unwrap();
        let video = frame(golden, "video_frames_u8", source);
        let face = support::values(&faces[at]);
        let restored = restore_rgb(&video, &all[output], &face, chain.side());
        let want = frame(golden, &name, i).data;
        let fringe = fringe(&restored.mask, &video);
        let what = format!("{prefix} restored {number}");
        assert_bytes_close_but(&what, &restored.frame.data, &want, 0.005, |at| fringe[at / 3]);
        compared.add("restored frames");
    }
}
