//! Whole windows: against the reference with its noise, and what must hold with any weights.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests too"
)]

mod support;

use candle_core::{DType, Device, Tensor};
use latentfarm_worker::latentsync::config::{UNetConfig, VaeConfig};
use latentfarm_worker::latentsync::denoise::{Conditions, Schedule, predict};
use latentfarm_worker::latentsync::noise::Noise;
use latentfarm_worker::latentsync::preprocess::{self, FaceMask};
use latentfarm_worker::latentsync::weights::{load_unet, load_vae, load_whisper, whisper_dims};
use latentfarm_worker::latentsync::{Faces, LatentSync, mask};
use serde_json::Value;
use support::{Golden, Tolerance, assert_bytes_close, assert_close, goldens_dir, text};

const EXACT: Tolerance = Tolerance {
    max_abs: 1e-6,
    relative: 1e-6,
};
const CHAIN: Tolerance = Tolerance {
    max_abs: 1e-3,
    relative: 5e-5,
};

/// `(images, 3, h, w)` bytes as the golden pictures have them: `(images, h, w, 3)`.
fn interleaved(planar: &[u8], side: usize) -> Vec<u8> {
    let area = side * side;
    planar
        .chunks(3 * area)
        .flat_map(|face| (0..area).flat_map(|i| [face[i], face[area + i], face[2 * area + i]]))
        .collect()
}

#[test]
fn masks_match_golden() {
    let golden = Golden::named("preprocess.safetensors");
    assert_eq!(mask::native(), golden.bytes("mask_native_u8"));
    let sizes: Vec<usize> = golden
        .under("mask_")
        .iter()
        .filter_map(|name| name.strip_suffix("_u8")?.parse().ok())
        .collect();
    assert!(!sizes.is_empty());
    for side in sizes {
        let name = format!("mask_{side}_u8");
        assert_bytes_close(&name, &mask::resized(side), &golden.bytes(&name), 0.01);
        let latents = FaceMask::new(side)
            .unwrap()
            .latents
            .squeeze(0)
            .unwrap()
            .squeeze(0)
            .unwrap();
        let tolerance = Tolerance {
            max_abs: 0.005,
            relative: 0.005,
        };
        let name = format!("mask_latent_{side}");
        assert_close(&name, &latents, golden.get(&name), tolerance);
    }
}

#[test]
fn pixel_values_and_pasting_match_golden() {
    let golden = Golden::named("preprocess.safetensors");
    let mut sets = golden.prefixes("synthetic_");
    if !golden.under("video_").is_empty() {
        sets.extend(golden.prefixes("video_"));
    }
    for set in sets {
        let get = |name: &str| golden.get(&format!("{set}.{name}"));
        let side: usize = set.rsplit('_').next().unwrap().parse().unwrap();
        let pixels = preprocess::pixels(&golden.bytes(&format!("{set}.faces_u8")), side).unwrap();
        assert_close(&format!("{set} pixels"), &pixels, get("pixel_values"), EXACT);
        let masked = preprocess::without_mouth(&pixels, get("masks")).unwrap();
        if let Some(expected) = golden.find(&format!("{set}.masked_pixel_values")) {
            assert_close(&format!("{set} masked"), &masked, expected, EXACT);
        }
        let Some(decoded) = golden.find(&format!("{set}.decoded")) else {
            continue;
        };
        let pasted = preprocess::paste(decoded, &pixels, get("masks")).unwrap();
        assert_close(&format!("{set} pasted"), &pasted, get("pasted"), EXACT);
        let bytes = interleaved(&preprocess::bytes(&pasted).unwrap(), side);
        assert_bytes_close(
            &format!("{set} bytes"),
            &bytes,
            &golden.bytes(&format!("{set}.images_u8")),
            0.005,
        );
    }
}

/// The networks that the whole-chain data were made with.
fn golden_model(config: &Value) -> LatentSync {
    let (device, dtype) = (Device::Cpu, DType::F32);
    let (unet, vae) = (config["unet"].as_str().unwrap(), config["vae"].as_str().unwrap());
    let unet_config = UNetConfig::from_json(&text(&format!("{unet}_config.json"))).unwrap();
    let vae_config = VaeConfig::from_json(&text(&format!("{vae}_config.json"))).unwrap();
    let file = |name: String| goldens_dir().join(name);
    let whisper = file("whisper_tinytest.pt".to_owned());
    let dims = whisper_dims(&whisper).unwrap();
    let vae_file = Some(file(format!("{vae}.safetensors"))).filter(|path| path.is_file());
    let vae_file = vae_file.unwrap_or_else(|| file(format!("{vae}_legacy.safetensors")));
    LatentSync::new(
        load_unet(&file(format!("{unet}.safetensors")), &unet_config, &device, dtype).unwrap(),
        load_vae(&vae_file, &vae_config, &device, dtype).unwrap(),
        load_whisper(&whisper, &dims, &device, dtype).unwrap(),
        dims,
        &device,
        dtype,
    )
}

/// One window of the whole-chain data: its number, and its frames as positions in the given tensors.
struct GoldenWindow {
    name: String,
    start: usize,
    frames: usize,
}

/// The windows that the file has; they end where its faces end.
fn golden_windows(golden: &Golden) -> Vec<GoldenWindow> {
    let mut end = golden.get("faces_u8").dim(0).unwrap();
    let mut windows = Vec::new();
    for name in golden.prefixes("window").into_iter().rev() {
        let frames = golden.get(&format!("{name}.mask_latents")).dim(2).unwrap();
        end -= frames;
        windows.push(GoldenWindow {
            name,
            start: end,
            frames,
        });
    }
    windows
}

#[test]
fn windows_match_golden_with_given_noise() {
    let config: Value = serde_json::from_str(&text("e2e_config.json")).unwrap();
    let golden = Golden::named("e2e_io.safetensors");
    let model = golden_model(&config);
    let side = usize::try_from(config["resolution"].as_u64().unwrap()).unwrap();
    let face_bytes = 3 * side * side;
    let all_faces = golden.bytes("faces_u8");
    let total = config["num_chunks"].as_u64().unwrap();
    let init = golden.get("noise.init").squeeze(0).unwrap().squeeze(1).unwrap();
    let mut compared = 0;

    for window in golden_windows(&golden) {
        let GoldenWindow { name, start, frames } = &window;
        // Frame numbers count from the end too, so that a shortened file keeps them.
        let past = u64::try_from(all_faces.len() / face_bytes - start).unwrap();
        let first_frame = total - past;
        let faces = Faces {
            bytes: &all_faces[start * face_bytes..(start + frames) * face_bytes],
            resolution: side,
            first_frame,
        };
        let rows = golden.get("audio_chunks").narrow(0, *start, *frames).unwrap();
        let noise = Noise::Given {
            init: &init,
            masked: golden.get(&format!("noise.{name}.masked")),
            reference: golden.get(&format!("noise.{name}.ref")),
        };

        let encoded = model.encode(faces, &rows, &noise, &mut |_| Ok(())).unwrap();
        let Conditions {
            mask,
            masked,
            reference,
            ..
        } = &encoded.1;
        let get = |part: &str| golden.get(&format!("{name}.{part}"));
        assert_close(&format!("{name} mask"), mask, get("mask_latents"), CHAIN);
        assert_close(
            &format!("{name} masked"),
            masked,
            get("masked_image_latents"),
            CHAIN,
        );
        assert_close(&format!("{name} reference"), reference, get("ref_latents"), CHAIN);

        for run in config["runs"].as_array().unwrap() {
            let prefix = run["prefix"].as_str().unwrap();
            let schedule = Schedule {
                steps: u32::try_from(run["steps"].as_u64().unwrap()).unwrap(),
                guidance_scale: run["guidance_scale"].to_string().parse().unwrap(),
            };
            let what = |part: &str| format!("{prefix}{name} {part}");
            if let Some(expected) = golden.find(&format!("{prefix}{name}.noise_pred.step0")) {
                check_first_prediction(&model, &encoded, schedule, expected, &what("noise_pred"));
            }
            let rendered = model
                .render(faces, &rows, &noise, schedule, &mut |_| Ok(()))
                .unwrap();
            if let Some(expected) = golden.find(&format!("{prefix}{name}.final_latents")) {
                assert_close(&what("latents"), &rendered.latents, expected, CHAIN);
                compared += 1;
            }
            check_pictures(&golden, prefix, first_frame, side, &rendered.faces);
        }
    }
    assert!(compared > 0, "no final latents to compare");
}

/// The reference predicts silent and speaking halves as one batch; ours come one after the other.
fn check_first_prediction(
    model: &LatentSync,
    (latents, conditions): &(Tensor, Conditions),
    schedule: Schedule,
    expected: &Tensor,
    what: &str,
) {
    let timestep = latentfarm_worker::latentsync::ddim::DdimScheduler::timesteps(schedule.steps)[0];
    let speaking = predict(model.unet(), latents, timestep, conditions, 1.0).unwrap();
    assert_close(
        &format!("{what} speaking"),
        &speaking,
        &expected.narrow(0, 1, 1).unwrap(),
        CHAIN,
    );
    let silent = expected.narrow(0, 0, 1).unwrap();
    let guided_golden = (&silent
        + ((expected.narrow(0, 1, 1).unwrap() - &silent).unwrap() * f64::from(schedule.guidance_scale))
            .unwrap())
    .unwrap();
    let guided = predict(
        model.unet(),
        latents,
        timestep,
        conditions,
        schedule.guidance_scale,
    )
    .unwrap();
    assert_close(&format!("{what} guided"), &guided, &guided_golden, CHAIN);
}

/// Compares those pictures of a window that the file holds.
fn check_pictures(golden: &Golden, prefix: &str, first_frame: u64, side: usize, faces: &[Tensor]) {
    let position = |frame: i64| {
        let index = u64::try_from(frame).unwrap().checked_sub(first_frame)?;
        faces.get(usize::try_from(index).unwrap())
    };
    if let Some(expected) = golden.find(&format!("{prefix}synced_frames")) {
        for (i, frame) in golden.integers("synced_frames.index").into_iter().enumerate() {
            if let Some(face) = position(frame) {
                let what = format!("{prefix} frame {frame}");
                assert_close(&what, &face.squeeze(0).unwrap(), &expected.get(i).unwrap(), CHAIN);
            }
        }
    }
    let Some(expected) = golden.find(&format!("{prefix}synced_images_u8")) else {
        return;
    };
    let subset = golden.integers("synced_images_u8.index");
    let count = expected.dim(0).unwrap();
    let frames: Vec<i64> = if count == subset.len() {
        subset
    } else {
        (0..i64::try_from(count).unwrap()).collect()
    };
    for (i, frame) in frames.into_iter().enumerate() {
        if let Some(face) = position(frame) {
            let bytes = interleaved(&preprocess::bytes(face).unwrap(), side);
            let picture = expected
                .get(i)
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<u8>()
                .unwrap();
            assert_bytes_close(&format!("{prefix} picture {frame}"), &bytes, &picture, 0.005);
        }
    }
}
