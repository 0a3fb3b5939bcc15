//! The parts, each with made-up inputs.

use std::rc::Rc;

use candle_core::{Device, Result as TensorResult, Tensor};
use latentfarm_common::audio::mel::MelMax;
use latentfarm_common::audio::windows::WINDOW_MEL_FRAMES;
use latentfarm_common::digest::Digest;
use latentfarm_common::wire::engine::AudioRequest;
use latentfarm_common::wire::job::AudioWindows;

use super::{BenchError, Part, Settings};
use latentsync::cost::flops::unet_gflop;
use latentsync::denoise::SamplingParams;
use latentsync::noise::{Noise, Purpose, normals};
use latentsync::preprocess::LATENT_FACTOR;
use latentsync::whisper::mel_tensor;
use latentsync::{Checkpoint, ExecutionOptions, Faces, LatentSync, ModelError, Run};

/// In the middle of the noise schedule; the arithmetic is the same at every one.
const TIMESTEP: u32 = 501;
const SEED: u64 = 1247;

/// A part ready to run, with the networks that it needs.
pub(super) struct Task {
    pub(super) inputs: Vec<(&'static str, Tensor)>,
    /// Where it is something else than one more run.
    pub(super) warm_up: Option<Box<dyn FnMut() -> Result<(), BenchError>>>,
    /// Gives the output, if there is one to compare.
    pub(super) run: Box<dyn FnMut() -> Result<Option<Tensor>, BenchError>>,
    pub(super) gflop: Option<f64>,
}

impl Task {
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
pub(super) fn task(settings: &Settings, checkpoint: &Checkpoint, side: usize) -> Result<Task, BenchError> {
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

fn options(settings: &Settings) -> ExecutionOptions {
    ExecutionOptions::of(settings.sizes.plan)
}

/// The context of every run of a part.
fn context(settings: &Settings) -> Run<'static> {
    Run::new(options(settings))
}

fn load(settings: &Settings) -> Task {
    let Settings {
        weights,
        device,
        dtype,
        ..
    } = settings.clone();
    let options = options(settings);
    Task {
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

/// What the farm does to 30 s of speech before Whisper: the coordinator finds the maximum, a worker the bands.
fn spectrogram() -> TensorResult<Task> {
    let pcm = tone();
    let samples: Vec<f32> = pcm.iter().map(|&sample| f32::from(sample) / 32768.0).collect();
    let inputs = vec![("samples", Tensor::new(samples, &Device::Cpu)?)];
    Ok(Task::new(Part::Mel, inputs, move || {
        let mut max = MelMax::new();
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

fn whisper(settings: &Settings, model: &Rc<LatentSync>) -> TensorResult<Task> {
    let run = context(settings);
    let model = Rc::clone(model);
    let mel_frames = usize::try_from(WINDOW_MEL_FRAMES)?;
    let mel = normal(settings, (1, 80, mel_frames), 1)?;
    Ok(Task::new(settings.part, vec![("mel", mel.clone())], move || {
        model.whisper().forward(&run, &mel)
    }))
}

fn vae_encode(settings: &Settings, model: &Rc<LatentSync>, side: usize) -> TensorResult<Task> {
    let run = context(settings);
    let model = Rc::clone(model);
    let pixels = normal(settings, (1, 3, side, side), 2)?.clamp(-1.0, 1.0)?;
    Ok(Task::new(
        settings.part,
        vec![("pixels", pixels.clone())],
        move || model.vae().raw_moments(&run, &pixels),
    ))
}

fn vae_decode(settings: &Settings, model: &Rc<LatentSync>, side: usize) -> TensorResult<Task> {
    let run = context(settings);
    let model = Rc::clone(model);
    let latents = normal(settings, (1, 4, side / LATENT_FACTOR, side / LATENT_FACTOR), 3)?;
    Ok(Task::new(
        settings.part,
        vec![("latents", latents.clone())],
        move || model.vae().decode(&run, &latents),
    ))
}

fn unet(
    settings: &Settings,
    checkpoint: &Checkpoint,
    model: &Rc<LatentSync>,
    side: usize,
) -> TensorResult<Task> {
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
    let task = Task::new(settings.part, inputs, move || {
        model.unet().forward(&run, &latents, TIMESTEP, &audio)
    });
    Ok(Task {
        gflop: Some(unet_gflop(checkpoint.unet_config(), frames, latent_side, tokens)),
        ..task
    })
}

fn window(settings: &Settings, model: &Rc<LatentSync>, side: usize) -> TensorResult<Task> {
    let run = context(settings);
    let model = Rc::clone(model);
    let (frames, steps) = (settings.sizes.frames, settings.sizes.steps);
    let (tokens, width) = model.audio_shape();
    let values = normals(SEED, Purpose::Init, 6, frames * tokens * width);
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
        let rows = rows.narrow(0, 0, frames).map_err(computing)?;
        let mut stage = |stage| {
            tracing::debug!("window: {stage:?}");
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
    Ok(Task {
        inputs: Vec::new(),
        warm_up: Some(Box::new(move || short(frames.min(2), 1).map_err(failed))),
        run: Box::new(move || render(frames, steps).map(|()| None).map_err(failed)),
        gflop: None,
    })
}

/// Planar faces of slanting stripes, `frames x 3 x side x side` bytes.
fn pictures(frames: usize, side: usize) -> Vec<u8> {
    (0..frames * 3 * side * side)
        .map(|i| (i % side * 3 + i / side % side * 2 + i / (side * side)) % 251)
        .map(|level| u8::try_from(level).unwrap_or_default())
        .collect()
}

/// 30 s of a gliding tone at 16 kHz.
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

/// Standard normals as the networks take them; equal `stream` and shape give equal values.
fn normal(settings: &Settings, shape: impl Into<candle_core::Shape>, stream: u64) -> TensorResult<Tensor> {
    let shape = shape.into();
    let values = normals(SEED, Purpose::Init, stream, shape.elem_count());
    Tensor::from_vec(values, shape, &Device::Cpu)?
        .to_dtype(settings.dtype)?
        .to_device(&settings.device)
}

fn computing(source: candle_core::Error) -> ModelError {
    ModelError::Compute {
        what: "compute",
        source,
    }
}
