//! Renders one window of 16 frames without the farm.
//!
//! `cargo run --release -p latentsync --example render_window -- [--weights DIR] [--ppm FILE]`
//!
//! Without `--weights`, tiny random weights are made in a temporary folder: the rendered mouths are noise
//! then, but every step is the real one. With `--ppm`, the first rendered face is written to that file as a
//! PPM picture.

#![expect(clippy::print_stdout, reason = "an example prints what it does")]

use std::error::Error;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use latentfarm_common::audio::mel::MelMax;
use latentfarm_common::digest::Digest;
use latentfarm_common::time::FrameRate;
use latentfarm_common::wire::engine::{AudioRequest, WindowRequest};
use latentfarm_common::wire::job::{AudioWindows, ModelSpec};
use latentfarm_common::wire::memory::MemoryPlan;
use latentsync::synth::{Size, synthesize};
use latentsync::{Checkpoint, ExecutionOptions, LatentSync, Run, gather_rows};

const FRAMES: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    let made = tempfile::tempdir()?;
    if arguments.weights.is_none() {
        synthesize(made.path(), Size::Tiny, 1)?;
    }
    let weights = arguments.weights.as_deref().unwrap_or(made.path());

    // The three networks are loaded once and serve any number of windows.
    let checkpoint = Checkpoint::open(weights)?;
    let options = ExecutionOptions::default();
    let model = LatentSync::load(&checkpoint, &Device::Cpu, DType::F32, options)?;
    println!("loaded {} from `{}`", checkpoint.identity(), weights.display());

    // This is the context of a run; hooks that the layers call before each operation could be added here.
    let run = Run::new(options);

    // Whisper turns speech, 16 kHz mono, into features; here they are those of two seconds of a gliding tone.
    let speech = tone(32_000);
    let mut log_mel = MelMax::default();
    log_mel.push(&speech);
    let audio = AudioRequest {
        track: Digest::of(b"tone"),
        track_samples: speech.len() as u64,
        layout: AudioWindows::Overlapping,
        log_mel_max: log_mel.finish(),
        window: 0,
        pcm: speech,
    };
    let features = model.encode_audio(&run, &audio)?;
    println!("encoded {} samples of audio", audio.pcm.len());

    // A request has 16 aligned face crops as planar RGB; here they are grey.
    let side = usize::try_from(checkpoint.resolution_px())?;
    let request = WindowRequest {
        model: ModelSpec {
            weights: checkpoint.identity(),
            weights_kind: checkpoint.kind(),
            resolution_px: checkpoint.resolution_px(),
            steps: 2,
            guidance_scale: 1.0,
            seed: 1247,
        },
        track: audio.track,
        track_samples: audio.track_samples,
        layout: audio.layout,
        first_frame: 0,
        rate: FrameRate::FPS_25,
        faces: vec![128; FRAMES * 3 * side * side],
        silence: None,
        plan: MemoryPlan::default(),
    };
    let rows = gather_rows(&request, u64::try_from(FRAMES)?, |_window| Some(&features))?;
    let (faces, timings) = model.render_window(&run, &request, &rows, &mut |stage| {
        println!("finished {stage:?}");
        Ok(())
    })?;
    println!(
        "rendered {FRAMES} faces of {side} px: {} in {timings:?}",
        Digest::of(&faces)
    );

    if let Some(path) = &arguments.ppm {
        write_ppm(path, &faces[..3 * side * side], side)?;
        println!("wrote the first face to `{}`", path.display());
    }
    Ok(())
}

#[derive(Default)]
struct Arguments {
    weights: Option<PathBuf>,
    ppm: Option<PathBuf>,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self::default();
        while let Some(word) = words.next() {
            let place = match word.as_str() {
                "--weights" => &mut arguments.weights,
                "--ppm" => &mut arguments.ppm,
                other => return Err(format!("`{other}` is neither `--weights DIR` nor `--ppm FILE`")),
            };
            let value = words.next().ok_or_else(|| format!("`{word}` needs a value"))?;
            *place = Some(value.into());
        }
        Ok(arguments)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "within ±9000")]
fn tone(samples: u32) -> Vec<i16> {
    (0..samples)
        .map(|n| (9000.0 * (f64::from(n) * (0.05 + f64::from(n) * 1e-6)).sin()) as i16)
        .collect()
}

/// Writes planar RGB as a binary PPM file.
fn write_ppm(path: &Path, planes: &[u8], side: usize) -> std::io::Result<()> {
    let mut file = format!("P6\n{side} {side}\n255\n").into_bytes();
    let area = side * side;
    for pixel in 0..area {
        file.extend([planes[pixel], planes[area + pixel], planes[2 * area + pixel]]);
    }
    std::fs::write(path, file)
}
