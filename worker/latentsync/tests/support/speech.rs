//! Encodes speech to features, window by window, as the engine does.

use std::ops::Range;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use latentfarm_common::audio::mel::MelMax;
use latentfarm_common::audio::windows::{self, WindowRow};
use latentfarm_common::digest::Digest;
use latentfarm_common::time::FrameRate;
use latentfarm_common::wire::engine::{AudioRequest, WindowRequest};
use latentfarm_common::wire::job::{AudioWindows, ModelSpec, WeightsKind};
use latentfarm_common::wire::memory::MemoryPlan;
use latentsync::checkpoint::{load_whisper, whisper_dims};
use latentsync::config::WhisperDims;
use latentsync::whisper::{WhisperEncoder, mel_tensor};
use latentsync::{AudioFeatures, ExecutionOptions, Run, gather_rows, row_of_track};

use super::{Golden, any_files, file_name, goldens_dir, names, text, values};

/// An audio encoder, and the reference's results with it for some speech.
pub struct Whisper {
    pub golden: Golden,
    pub weights: PathBuf,
    pub dims: WhisperDims,
    /// The dimensions in `NAME_dims.json`, if it exists.
    pub stated: Option<WhisperDims>,
}

/// Returns all encoders of the folder. The weights of `NAME_io.safetensors` are in the file whose layers and
/// width fit its tensors; if several do, the one with the most similar name is taken.
pub fn whispers() -> Vec<Whisper> {
    let found = names("whisper", "_io.safetensors").into_iter();
    found.map(|name| Whisper::find(&name)).collect()
}

impl Whisper {
    fn find(name: &str) -> Self {
        let golden = Golden::named(&format!("{name}_io.safetensors"));
        let dims_file = format!("{name}_dims.json");
        let stated = goldens_dir()
            .join(&dims_file)
            .is_file()
            .then(|| WhisperDims::from_json(&text(&dims_file)).unwrap());
        let (layers, _, width) = golden.get("encoder_embeddings_head").dims3().unwrap();
        let candidates = any_files("whisper", ".pt").into_iter();
        let candidates = candidates.chain(any_files("whisper", ".safetensors"));
        let fitting = candidates
            .filter(|path| !file_name(path).ends_with("_io.safetensors"))
            .filter_map(|path| Some((whisper_dims(&path).ok()?, path)))
            .filter(|(dims, _)| (dims.tokens_per_row(), dims.n_audio_state) == (layers, width))
            .filter(|(dims, _)| stated.is_none_or(|stated| stated == *dims));
        let alike = |path: &PathBuf| {
            let pairs = file_name(path).chars().zip(name.chars());
            pairs.take_while(|(a, b)| a == b).count()
        };
        let (dims, weights) = fitting
            .max_by_key(|(_, path)| alike(path))
            .unwrap_or_else(|| panic!("no weights of {layers} x {width} beside {}", golden.file));
        Self {
            golden,
            weights,
            dims,
            stated,
        }
    }

    pub fn encoder(&self) -> WhisperEncoder {
        load_whisper(
            &self.weights,
            &self.dims,
            &Device::Cpu,
            DType::F32,
            ExecutionOptions::default(),
        )
        .unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns the speech as 16-bit samples at 16 kHz.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the golden samples are 16-bit values over 32768"
    )]
    pub fn pcm(&self) -> Vec<i16> {
        values(self.golden.get("audio"))
            .iter()
            .map(|v| (v * 32768.0).round() as i16)
            .collect()
    }

    /// Returns the speech repeated and cut to `samples` samples.
    pub fn repeated(&self, samples: usize) -> Vec<i16> {
        self.pcm().into_iter().cycle().take(samples).collect()
    }
}

/// A track and its features, window by window.
pub struct Track {
    pub samples: u64,
    pub layout: AudioWindows,
    pub windows: Vec<AudioFeatures>,
}

impl Track {
    pub fn encode(encoder: &WhisperEncoder, pcm: &[i16], layout: AudioWindows) -> Self {
        let samples = pcm.len() as u64;
        let mut max = MelMax::default();
        max.push(pcm);
        let log_mel_max = max.finish();
        let encode = |window: u32| {
            let request = AudioRequest {
                track: Digest::of(b"golden"),
                track_samples: samples,
                layout,
                log_mel_max,
                window,
                pcm: pcm[within(windows::pcm_range(window, samples, layout))].to_vec(),
            };
            let states = encoder
                .forward(&Run::default(), &mel_tensor(&request).unwrap())
                .unwrap();
            AudioFeatures::crop(&states, &request).unwrap()
        };
        Self {
            samples,
            layout,
            windows: (0..windows::count(samples, layout)).map(encode).collect(),
        }
    }

    /// Returns all feature rows, `(rows, layers + 1, width)`.
    pub fn rows(&self) -> Tensor {
        let row = |row: u64| {
            let state = |place: WindowRow| {
                let window = &self.windows[place.window as usize];
                Ok(window.states.get(within(window.first_row..row).len()).unwrap())
            };
            row_of_track(row, self.samples, self.layout, state).unwrap()
        };
        let rows: Vec<_> = (0..windows::row_count(self.samples)).map(row).collect();
        Tensor::stack(&rows, 0).unwrap()
    }

    /// Returns the tokens of the output frames `first .. first + count`, `(count, 10 x (layers + 1), width)`.
    pub fn tokens(&self, rate: FrameRate, first: u64, count: u64) -> Tensor {
        let request = WindowRequest {
            model: ModelSpec {
                weights: Digest::of(b"golden"),
                weights_kind: WeightsKind::Synthetic,
                resolution_px: 64,
                steps: 1,
                guidance_scale: 1.0,
                seed: 0,
            },
            track: Digest::of(b"golden"),
            track_samples: self.samples,
            layout: self.layout,
            first_frame: first,
            rate,
            faces: Vec::new(),
            silence: None,
            plan: MemoryPlan::default(),
        };
        gather_rows(&request, count, |window| self.windows.get(window as usize)).unwrap()
    }
}

fn within(range: Range<u64>) -> Range<usize> {
    usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()
}

/// Returns the frame rate of a tag, for example `25`, or `23p976` with `p` for the decimal point.
pub fn rate_of_tag(tag: &str) -> FrameRate {
    let (whole, fraction) = tag.split_once('p').unwrap_or((tag, ""));
    let scale = 10_u32.pow(u32::try_from(fraction.len()).unwrap());
    FrameRate::new(format!("{whole}{fraction}").parse().unwrap(), scale).unwrap()
}
