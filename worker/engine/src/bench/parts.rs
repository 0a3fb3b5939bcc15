//! The parts that can be measured, each with made-up inputs.

use std::rc::Rc;

use candle_core::{Device, Result as TensorResult, Tensor};
use latentfarm_common::audio::mel::MelMax;
use latentfarm_common::audio::windows::WINDOW_MEL_FRAMES;
use latentfarm_common::digest::Digest;
use latentfarm_common::wire::engine::AudioRequest;
use latentfarm_common::wire::job::AudioWindows;

use super::{BenchError, BenchSettings, Part};
use latentsync::cost::flops::unet_gflop;
use latentsync::denoise::SamplingParams;
use latentsync::noise::{DrawPurpose, Noise, normals};
use latentsync::preprocess::LATENT_FACTOR;
use latentsync::whisper::mel_tensor;
use latentsync::{Checkpoint, ExecutionOptions, Faces, LatentSync, ModelError, Run};

/// A timestep in the middle of the noise schedule; the arithmetic is the same at every timestep.
const TIMESTEP: u32 = 501;
const SEED: u64 = 1247;

/// A part that is ready to run, with the networks that it needs.
pub(super) struct Workload {
    /// The inputs by name, which are saved with the output.
    pub(super) inputs: Vec<(&'static str, Tensor)>,
    /// The warm-up; `None` if it is a run like any other.
    pub(super) warm_up: Option<Box<dyn FnMut() -> Result<(), BenchError>>>,
    /// Runs the part and returns its output, if it has one that can be compared.
    pub(super) run: Box<dyn FnMut() -> Result<Option<Tensor>, BenchError>>,
    /// Multiplications and additions of one run, in units of 10^9, if they are counted.
    pub(super) gflop: Option<f64>,
}

impl Workload {
    fn new(
        part: Part,
        inputs: Vec<(&'static str, Tensor)>,
        run: impl Fn() -> TensorResult<Tensor> + 'static,
    ) -> Self {
        Self {
            inputs,
            warm_up: None,
            run: Box::new(move || {
                run()
                    .map(Some)
                    .map_err(|source| BenchError::compute(part, source))
            }),
            gflop: None,
        }
    }
}

/// Makes the inputs of a part, for faces of `side` pixels, and loads the networks if the part needs them.
///
/// # Errors
/// Fails if the weights cannot be loaded or an input cannot be made.
pub(super) fn workload(
    settings: &BenchSettings,
    checkpoint: &Checkpoint,
    side: usize,
) -> Result<Workload, BenchError> {
    let part = settings.part;
    match part {
        Part::Load => return Ok(load(settings)),
        Part::Mel => return spectrogram().map_err(|source| BenchError::compute(part, source)),
        _ => {}
    }
    let model = LatentSync::load(checkpoint, &settings.device, settings.dtype, options(settings))
        .map(Rc::new)
        .map_err(BenchError::Weights)?;
    let built = match part {
        Part::Whisper => whisper(settings, &model),
        Part::VaeEncode => vae_encode(settings, &model, side),
        Part::VaeDecode => vae_decode(settings, &model, side),
        Part::Unet => unet(settings, checkpoint, &model, side),
        Part::Load | Part::Mel | Part::Window => window(settings, &model, side),
    };
    built.map_err(|source| BenchError::compute(part, source))
}

fn options(settings: &BenchSettings) -> ExecutionOptions {
    ExecutionOptions::of(settings.sizes.plan)
}

/// Returns the context in which a part runs.
fn context(settings: &BenchSettings) -> Run<'static> {
    Run::new(options(settings))
}

fn load(settings: &BenchSettings) -> Workload {
    let BenchSettings {
        weights,
        device,
        dtype,
        ..
    } = settings.clone();
    let options = options(settings);
    Workload {
        inputs: Vec::new(),
        warm_up: None,
        run: Box::new(move || {
            let checkpoint = Checkpoint::open(&weights).map_err(BenchError::Weights)?;
            LatentSync::load(&checkpoint, &device, dtype, options).map_err(BenchError::Weights)?;
            Ok(None)
        }),
        gflop: None,
    }
}

/// What the farm does to 30 s of speech before Whisper: the coordinator finds the track's maximum, a worker
/// computes the log-mel spectrogram.
fn spectrogram() -> TensorResult<Workload> {
    let pcm = tone();
    let samples: Vec<f32> = pcm.iter().map(|&sample| f32::from(sample) / 32768.0).collect();
    let inputs = vec![("samples", Tensor::new(samples, &Device::Cpu)?)];
    Ok(Workload::new(Part::Mel, inputs, move || {
        let mut max = MelMax::default();
        max.push(&pcm);
        let request = AudioRequest {
            track: Digest::of(b"bench"),
            track_samples: pcm.len() as u64,
            layout: AudioWindows::Reference,
            log_mel_max: max.finish(),
            window: 0,
            pcm: pcm.clone(),
        };
        mel_tensor(&request).map_err(candle_core::Error::wrap)
    }))
}

/// A part that is one pass of a network over one input.
fn pass(
    settings: &BenchSettings,
    model: &Rc<LatentSync>,
    (name, input): (&'static str, Tensor),
    forward: impl Fn(&LatentSync, &Run, &Tensor) -> TensorResult<Tensor> + 'static,
) -> Workload {
    let (run, model) = (context(settings), Rc::clone(model));
    let inputs = vec![(name, input.clone())];
    Workload::new(settings.part, inputs, move || forward(&model, &run, &input))
}

fn whisper(settings: &BenchSettings, model: &Rc<LatentSync>) -> TensorResult<Workload> {
    let mel = normal(settings, (1, 80, usize::try_from(WINDOW_MEL_FRAMES)?), 1)?;
    Ok(pass(settings, model, ("mel", mel), |model, run, mel| {
        model.whisper().forward(run, mel)
    }))
}

fn vae_encode(settings: &BenchSettings, model: &Rc<LatentSync>, side: usize) -> TensorResult<Workload> {
    let pixels = normal(settings, (1, 3, side, side), 2)?.clamp(-1.0, 1.0)?;
    Ok(pass(settings, model, ("pixels", pixels), |model, run, pixels| {
        model.vae().raw_moments(run, pixels)
    }))
}

fn vae_decode(settings: &BenchSettings, model: &Rc<LatentSync>, side: usize) -> TensorResult<Workload> {
    let latents = normal(settings, (1, 4, side / LATENT_FACTOR, side / LATENT_FACTOR), 3)?;
    Ok(pass(
        settings,
        model,
        ("latents", latents),
        |model, run, latents| model.vae().decode(run, latents),
    ))
}

fn unet(
    settings: &BenchSettings,
    checkpoint: &Checkpoint,
    model: &Rc<LatentSync>,
    side: usize,
) -> TensorResult<Workload> {
    let run = context(settings);
    let model = Rc::clone(model);
    let frames = settings.sizes.frames;
    let latent_side = side / LATENT_FACTOR;
    let (tokens, width) = model.audio_shape();
    let latents = normal(settings, (1, 13, frames, latent_side, latent_side), 4)?;
    let audio = normal(settings, (1, frames, tokens, width), 5)?;
    let inputs = vec![
        ("latents", latents.clone()),
        ("audio", audio.clone()),
        ("timestep", Tensor::new(&[i64::from(TIMESTEP)], &Device::Cpu)?),
    ];
    let workload = Workload::new(settings.part, inputs, move || {
        model.unet().forward(&run, &latents, TIMESTEP, &audio)
    });
    Ok(Workload {
        gflop: Some(unet_gflop(checkpoint.unet_config(), frames, latent_side, tokens)),
        ..workload
    })
}

fn window(settings: &BenchSettings, model: &Rc<LatentSync>, side: usize) -> TensorResult<Workload> {
    let run = context(settings);
    let model = Rc::clone(model);
    let (frames, steps) = (settings.sizes.frames, settings.sizes.steps);
    let (tokens, width) = model.audio_shape();
    let values = normals(SEED, DrawPurpose::InitLatents, 6, frames * tokens * width);
    let rows = Tensor::from_vec(values, (frames, tokens, width), &Device::Cpu)?;
    let bytes = pictures(frames, side);
    let face_bytes = 3 * side * side;
    let render = Rc::new(move |frames: usize, steps: u32| -> Result<(), ModelError> {
        let faces = Faces {
            bytes: &bytes[..frames * face_bytes],
            resolution: side,
            first_frame: 0,
        };
        let sampling = SamplingParams {
            steps,
            guidance_scale: 1.0,
        };
        let noise = Noise::Keyed { seed: SEED };
        let what = "take the audio rows";
        let rows = rows.narrow(0, 0, frames);
        let rows = rows.map_err(|source| ModelError::Compute { what, source })?;
        let mut stage = |stage| {
            tracing::debug!(?stage, "window");
            Ok(())
        };
        model
            .render(&run, faces, &rows, &noise, sampling, &mut stage)
            .map(drop)
    });
    let failed = |source| BenchError::Run {
        part: Part::Window,
        source,
    };
    let short = Rc::clone(&render);
    Ok(Workload {
        inputs: Vec::new(),
        warm_up: Some(Box::new(move || short(frames.min(2), 1).map_err(failed))),
        run: Box::new(move || render(frames, steps).map(|()| None).map_err(failed)),
        gflop: None,
    })
}

/// Returns faces of slanting stripes, `frames x 3 x side x side` bytes.
fn pictures(frames: usize, side: usize) -> Vec<u8> {
    (0..frames * 3 * side * side)
        .map(|i| (i % side * 3 + i / side % side * 2 + i / (side * side)) % 251)
        .map(|level| u8::try_from(level).unwrap_or_default())
        .collect()
}

/// Returns 30 s of a gliding tone at 16 kHz.
fn tone() -> Vec<i16> {
    (0..480_000)
        .map(|n| {
            let wave = 9000.0 * (f64::from(n) * (0.05 + f64::from(n) * 1e-6)).sin();
            #[expect(clippy::cast_possible_truncation, reason = "within ±9000")]
            let sample = wave as i16;
            sample
        })
        .collect()
}

/// Draws standard normals on the device and in the type of the networks; equal `stream` and shape give equal
/// values.
fn normal(
    settings: &BenchSettings,
    shape: impl Into<candle_core::Shape>,
    stream: u64,
) -> TensorResult<Tensor> {
    let shape = shape.into();
    let values = normals(SEED, DrawPurpose::InitLatents, stream, shape.elem_count());
    Tensor::from_vec(values, shape, &Device::Cpu)?
        .to_dtype(settings.dtype)?
        .to_device(&settings.device)
}
