//! Tests, with synthetic weights, what must hold with any weights: the same window has the same bits,
//! whatever was rendered before and however many threads there are, and weights that do not fit are refused
//! with a clear error.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests too"
)]

#[path = "../../latentsync/tests/support/mod.rs"]
mod support;

use std::path::Path;
use std::process::Command;

use candle_core::{DType, Device, Tensor};
use latentfarm_common::audio::mel::MelMax;
use latentfarm_common::audio::windows;
use latentfarm_common::digest::Digest;
use latentfarm_common::time::FrameRate;
use latentfarm_common::wire::engine::{AudioRequest, EngineStage, WindowRequest};
use latentfarm_common::wire::job::{AudioWindows, ModelSpec, WeightsKind};
use latentfarm_common::wire::memory::MemoryPlan;
use latentsync::synth::{Size, synthesize};
use latentsync::{
    AudioFeatures, Checkpoint, ExecutionOptions, LatentSync, ModelError, Run, Stopped, gather_rows,
};

const SEED: u64 = 7;

fn synthetic(size: Size) -> (tempfile::TempDir, Checkpoint) {
    let dir = tempfile::tempdir().unwrap();
    synthesize(dir.path(), size, SEED).unwrap();
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    (dir, checkpoint)
}

fn load(checkpoint: &Checkpoint) -> LatentSync {
    LatentSync::load(checkpoint, &Device::Cpu, DType::F32, ExecutionOptions::default())
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Three seconds of a gliding tone.
#[expect(clippy::cast_possible_truncation, reason = "a test's tone")]
fn speech() -> Vec<i16> {
    (0..48_000)
        .map(|n| (9000.0 * (f64::from(n) * (0.05 + f64::from(n) * 1e-6)).sin()) as i16)
        .collect()
}

fn window_request(checkpoint: &Checkpoint, first_frame: u64, guidance_scale: f32) -> WindowRequest {
    let side = usize::try_from(checkpoint.resolution_px()).unwrap();
    let faces = (0..16 * 3 * side * side)
        .map(|i| u8::try_from((i % side * 3 + i / side % side * 2 + i / (side * side)) % 251).unwrap())
        .collect();
    WindowRequest {
        model: ModelSpec {
            weights: checkpoint.identity(),
            weights_kind: WeightsKind::Synthetic,
            resolution_px: checkpoint.resolution_px(),
            steps: 3,
            guidance_scale,
            seed: 1247,
        },
        track: Digest::of(b"track"),
        track_samples: speech().len() as u64,
        layout: AudioWindows::Overlapping,
        first_frame,
        rate: FrameRate::FPS_25,
        faces,
        silence: None,
        plan: MemoryPlan::default(),
    }
}

fn features(model: &LatentSync) -> AudioFeatures {
    let pcm = speech();
    let mut max = MelMax::default();
    max.push(&pcm);
    model
        .encode_audio(
            &Run::default(),
            &AudioRequest {
                track: Digest::of(b"track"),
                track_samples: pcm.len() as u64,
                layout: AudioWindows::Overlapping,
                log_mel_max: max.finish(),
                window: 0,
                pcm,
            },
        )
        .unwrap()
}

fn render(model: &LatentSync, request: &WindowRequest) -> Vec<u8> {
    let features = features(model);
    let rows = gather_rows(request, 16, |_| Some(&features)).unwrap();
    let (faces, timings) = model
        .render_window(&Run::default(), request, &rows, &mut |_| Ok(()))
        .unwrap();
    println!("{timings:?}");
    faces
}

#[test]
fn window_gives_the_same_bits_whatever_ran_before() {
    let (_dir, checkpoint) = synthetic(Size::Tiny);
    let model = load(&checkpoint);
    let request = window_request(&checkpoint, 32, 1.0);
    let first = render(&model, &request);
    let other = render(&model, &window_request(&checkpoint, 16, 1.5));
    assert!(
        first == render(&model, &request),
        "the same window, after another one"
    );
    assert!(
        first == render(&load(&checkpoint), &request),
        "the same window, in a fresh model"
    );
    assert!(first != other, "another window with guidance");
}

#[test]
fn mouth_is_rendered_and_the_rest_stays() {
    let (_dir, checkpoint) = synthetic(Size::Tiny);
    let request = window_request(&checkpoint, 0, 1.0);
    let faces = render(&load(&checkpoint), &request);
    assert_eq!(faces.len(), request.faces.len());
    let side = usize::try_from(checkpoint.resolution_px()).unwrap();
    let mask = latentsync::mask::resized(side);
    let (mut changed, mut mouth, mut extreme) = (0_u32, 0_u32, 0_u32);
    for (i, (new, old)) in faces.iter().zip(&request.faces).enumerate() {
        match mask[i % (side * side)] {
            255 => assert!(new.abs_diff(*old) <= 1, "a kept pixel went from {old} to {new}"),
            0 => {
                mouth += 1;
                changed += u32::from(new.abs_diff(*old) > 8);
                extreme += u32::from(*new == 0 || *new == 255);
            }
            _ => {}
        }
    }
    assert!(changed > mouth / 2, "{changed} of {mouth} mouth values changed");
    assert!(
        extreme < mouth / 4,
        "{extreme} of {mouth} mouth values are saturated"
    );
}

/// The next test runs this one in child processes, because the number of threads is fixed once in a process.
#[test]
#[ignore = "a part of `thread_count_does_not_change_a_bit`"]
fn child_prints_the_digest_of_a_window() {
    let (_dir, checkpoint) = synthetic(Size::Tiny);
    let model = load(&checkpoint);
    let faces = render(&model, &window_request(&checkpoint, 16, 1.5));
    let rows = features(&model)
        .states
        .flatten_all()
        .unwrap()
        .to_vec1::<f32>()
        .unwrap();
    let row_bytes: Vec<u8> = rows.into_iter().flat_map(f32::to_le_bytes).collect();
    println!("digest {} {}", Digest::of(&faces), Digest::of(&row_bytes));
}

#[test]
fn thread_count_does_not_change_a_bit() {
    let digest = |threads: &str| {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "child_prints_the_digest_of_a_window",
                "--ignored",
                "--nocapture",
            ])
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find(|line| line.starts_with("digest "));
        line.unwrap_or_else(|| panic!("no digest with {threads} threads: {text}"))
            .to_owned()
    };
    let one = digest("1");
    for threads in ["2", "3", "4"] {
        assert_eq!(digest(threads), one, "{threads} threads");
    }
}

#[test]
#[ignore = "takes long; prints how long one window of each size takes"]
fn window_timings() {
    for size in [Size::Tiny, Size::Small] {
        let (_dir, checkpoint) = synthetic(size);
        let model = load(&checkpoint);
        let request = window_request(&checkpoint, 16, 1.0);
        for _ in 0..3 {
            let started = std::time::Instant::now();
            let faces = render(&model, &request);
            println!("{size:?}: {} bytes in {:?}", faces.len(), started.elapsed());
            assert!(faces != request.faces);
        }
    }
}

#[test]
fn stage_callback_is_called_for_every_stage_and_can_stop() {
    let (_dir, checkpoint) = synthetic(Size::Tiny);
    let model = load(&checkpoint);
    let request = window_request(&checkpoint, 0, 1.0);
    let features = features(&model);
    let rows = gather_rows(&request, 16, |_| Some(&features)).unwrap();
    let mut stages = Vec::new();
    model
        .render_window(&Run::default(), &request, &rows, &mut |stage| {
            stages.push(stage);
            Ok(())
        })
        .unwrap();
    assert_eq!(stages.len(), 16 + 3 + 16);
    assert_eq!(
        stages[16..19],
        [1, 2, 3].map(|step| EngineStage::Denoise { step, of: 3 })
    );

    let mut calls = 0;
    let stopped = model.render_window(&Run::default(), &request, &rows, &mut |_| {
        calls += 1;
        if calls == 18 { Err(Stopped) } else { Ok(()) }
    });
    assert!(matches!(stopped, Err(ModelError::Stopped)));
    assert_eq!(calls, 18);
}

#[test]
fn missing_audio_window_is_named() {
    let (_dir, checkpoint) = synthetic(Size::Tiny);
    let mut request = window_request(&checkpoint, 16 * 100, 1.0);
    request.track_samples = 100 * 16_000;
    let error = gather_rows(&request, 16, |_| None).unwrap_err();
    assert!(matches!(error, ModelError::AudioMissing { window: 2 }), "{error}");
    let wrong = Tensor::zeros((16, 3, 3), DType::F32, &Device::Cpu).unwrap();
    let error = load(&checkpoint)
        .render_window(&Run::default(), &request, &wrong, &mut |_| Ok(()))
        .unwrap_err();
    assert!(error.to_string().contains("audio rows are [16, 3, 3]"), "{error}");
}

#[test]
fn features_of_a_window_hold_the_rows_it_serves() {
    let (_dir, checkpoint) = synthetic(Size::Tiny);
    let model = load(&checkpoint);
    let pcm: Vec<i16> = speech().into_iter().cycle().take(40 * 16_000).collect();
    let (total, layout) = (pcm.len() as u64, AudioWindows::Overlapping);
    for window in 0..windows::count(total, layout) {
        let needed = windows::pcm_range(window, total, layout);
        let range = usize::try_from(needed.start).unwrap()..usize::try_from(needed.end).unwrap();
        let request = AudioRequest {
            track: Digest::of(b"long"),
            track_samples: total,
            layout,
            log_mel_max: 1.0,
            window,
            pcm: pcm[range].to_vec(),
        };
        let features = model.encode_audio(&Run::default(), &request).unwrap();
        let kept = windows::rows_kept(window, total, layout);
        assert_eq!(features.first_row, kept.start);
        assert_eq!(features.states.dim(0).unwrap() as u64, kept.end - kept.start);
    }
}

#[test]
fn equal_seeds_give_equal_identities() {
    let (dir, checkpoint) = synthetic(Size::Tiny);
    assert_eq!(checkpoint.kind(), WeightsKind::Synthetic);
    assert_eq!(checkpoint.identity(), synthetic(Size::Tiny).1.identity());
    assert_eq!(
        checkpoint.identity(),
        Checkpoint::open(dir.path()).unwrap().identity()
    );
    synthesize(dir.path(), Size::Tiny, SEED + 1).unwrap();
    assert_ne!(
        checkpoint.identity(),
        Checkpoint::open(dir.path()).unwrap().identity()
    );
}

#[test]
fn empty_folder_is_answered_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let text = Checkpoint::open(dir.path()).unwrap_err().to_string();
    assert!(
        text.contains("no weights in") && text.contains("weights pull"),
        "{text}"
    );
    assert!(text.contains("weights synth"), "{text}");
}

/// Changes the tensors in the UNet's file.
fn edit(dir: &Path, change: impl FnOnce(&mut std::collections::HashMap<String, Tensor>)) {
    let path = dir.join("latentsync_unet.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    change(&mut tensors);
    candle_core::safetensors::save(&tensors, path).unwrap();
}

#[test]
fn every_tensor_that_does_not_fit_is_named_at_once() {
    let (dir, _) = synthetic(Size::Tiny);
    edit(dir.path(), |tensors| {
        let bias = tensors.remove("conv_in.bias").unwrap();
        tensors.insert("conv_inn.bias".to_owned(), bias);
        tensors.remove("mid_block.resnets.1.conv2.weight").unwrap();
        let weight = tensors["conv_out.weight"]
            .narrow(0, 0, 2)
            .unwrap()
            .force_contiguous()
            .unwrap();
        tensors.insert("conv_out.weight".to_owned(), weight);
    });
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let Err(error) = LatentSync::load(&checkpoint, &Device::Cpu, DType::F32, ExecutionOptions::default())
    else {
        panic!("a broken checkpoint was loaded");
    };
    let text = error.to_string();
    let without_loading = checkpoint.check_tensors().unwrap_err();
    assert_eq!(without_loading.to_string(), text);
    for part in [
        "2 missing: conv_in.bias, mid_block.resnets.1.conv2.weight",
        "1 misshaped: conv_out.weight has shape [2, 32, 3, 3], not [4, 32, 3, 3]",
        "1 unexpected: conv_inn.bias",
    ] {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[test]
fn configuration_that_is_not_implemented_is_refused() {
    let (dir, _) = synthetic(Size::Tiny);
    let path = dir.path().join("unet_config.json");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, config.replace("\"silu\"", "\"relu\"")).unwrap();
    let error = Checkpoint::open(dir.path()).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("`act_fn`") && cause.contains("relu"), "{cause}");
    std::fs::write(&path, "{}").unwrap();
    assert!(
        Checkpoint::open(dir.path())
            .unwrap_err()
            .to_string()
            .contains("unet_config.json")
    );
}
