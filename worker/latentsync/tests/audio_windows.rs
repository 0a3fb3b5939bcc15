//! Tests of the features of speech that is longer than one window of the encoder, at the seams between
//! windows.
//!
//! The encoder takes 30 s at a time. The reference encodes one such segment after the other, so that the rows
//! beside a seam do not depend on the speech on its other side, and the features jump there. Overlapping
//! windows take no row from within 4 s of a window's end. The encoder also adds a position table, which
//! begins anew in each window; therefore the rows of two overlapping windows are faded into each other.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests too"
)]

mod support;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use latentfarm_common::audio::windows;
use latentfarm_common::wire::job::AudioWindows;
use latentsync::ExecutionOptions;
use latentsync::checkpoint::{load_whisper, whisper_dims};
use latentsync::synth::{Size, synthesize};
use latentsync::tensors::read_tensor;
use latentsync::whisper::WhisperEncoder;
use support::speech::{Track, whispers};

const SECONDS: usize = 72;
/// The number of feature rows of 30 s.
const SEGMENT: usize = 1500;

/// An encoder and its position table.
struct Encoder {
    name: &'static str,
    network: WhisperEncoder,
    positions: Tensor,
}

impl Encoder {
    fn open(name: &'static str, path: &Path) -> Self {
        let dims = whisper_dims(path).unwrap();
        let positions = read_tensor(path, "encoder.positional_embedding").unwrap();
        Self {
            name,
            network: load_whisper(path, &dims, &Device::Cpu, DType::F32, ExecutionOptions::default())
                .unwrap(),
            positions: positions.to_dtype(DType::F32).unwrap(),
        }
    }

    fn encode(&self, pcm: &[i16], layout: AudioWindows) -> Track {
        Track::encode(&self.network, pcm, layout)
    }

    /// Returns the output of the convolutions for each row: the first layer without the position table.
    fn conv_features(&self, track: &Track) -> Tensor {
        let rows = (0..).zip(&track.windows).map(|(index, window)| {
            let served = windows::rows_served(index, track.samples, track.layout);
            let count = usize::try_from(served.end - served.start).unwrap();
            let start = usize::try_from(served.start - window.first_row).unwrap();
            let place = windows::locate_row(served.start, track.samples, track.layout);
            let table = self.positions.narrow(0, place.row as usize, count).unwrap();
            let states = window.states.narrow(0, start, count).unwrap();
            let first = states.narrow(1, 0, 1).unwrap().squeeze(1).unwrap();
            (first - table).unwrap()
        });
        Tensor::cat(&rows.collect::<Vec<_>>(), 0).unwrap()
    }
}

/// Returns the golden encoder and a synthetic one of another size, and the golden speech, repeated.
fn encoders_and_speech() -> (Vec<Encoder>, Vec<i16>, tempfile::TempDir) {
    let golden = whispers().remove(0);
    let dir = tempfile::tempdir().unwrap();
    synthesize(dir.path(), Size::Small, 3).unwrap();
    let encoders = vec![
        Encoder::open("golden", &golden.weights),
        Encoder::open("small", &dir.path().join("whisper/tiny.safetensors")),
    ];
    (encoders, golden.repeated(SECONDS * 16_000), dir)
}

/// Returns the distance from each row to the next one.
fn steps(rows: &Tensor) -> Vec<f32> {
    let rows = rows.flatten_from(1).unwrap();
    let count = rows.dim(0).unwrap();
    let next = rows.narrow(0, 1, count - 1).unwrap();
    let step = (next - rows.narrow(0, 0, count - 1).unwrap()).unwrap();
    let square = step.sqr().unwrap().sum(1).unwrap();
    square.sqrt().unwrap().to_vec1().unwrap()
}

fn median(values: &[f32]) -> f32 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f32::total_cmp);
    sorted[sorted.len() / 2]
}

#[test]
fn features_jump_at_the_seams_of_abutting_windows_and_nowhere_in_overlapping_ones() {
    let (encoders, pcm, _dir) = encoders_and_speech();
    for encoder in encoders {
        let at = |layout, rows: &[usize]| -> Vec<f32> {
            let steps = steps(&encoder.encode(&pcm, layout).rows());
            let typical = median(&steps);
            rows.iter().map(|row| steps[row - 1] / typical).collect()
        };
        let abutting = at(AudioWindows::Reference, &[SEGMENT, 2 * SEGMENT]);
        // These rows are the seams of the reference, and the middles and both ends of our fades.
        let rows = [
            SEGMENT,
            2 * SEGMENT,
            1200,
            1250,
            1300,
            2200,
            2250,
            2300,
            3200,
            3250,
            3300,
        ];
        let overlapping = at(AudioWindows::Overlapping, &rows);
        println!(
            "{}: steps at seams, in typical steps: abutting {abutting:.2?}, overlapping {overlapping:.2?}",
            encoder.name
        );
        for step in abutting {
            assert!(step > 3.0, "{}: {step}", encoder.name);
        }
        for (row, step) in rows.into_iter().zip(overlapping) {
            assert!(step < 2.0, "{}: {step} at row {row}", encoder.name);
        }
    }
}

/// Compares rows beside a seam with those of a window that has them in its middle.
#[test]
fn rows_at_the_seams_of_overlapping_windows_depend_on_both_sides() {
    let (encoders, pcm, _dir) = encoders_and_speech();
    // The track is cut so that every row near a seam of the whole lies in the middle of a window of the rest.
    let offset_rows = 640;
    let rest = &pcm[offset_rows * 320..];
    for encoder in encoders {
        let other = encoder.conv_features(&encoder.encode(rest, AudioWindows::Overlapping));
        let defect = |layout, seams: &[usize]| {
            let conv_features = encoder.conv_features(&encoder.encode(&pcm, layout));
            let typical = median(&steps(&conv_features));
            let of_row = |row: usize| {
                let apart =
                    (conv_features.get(row).unwrap() - other.get(row - offset_rows).unwrap()).unwrap();
                let square = apart.sqr().unwrap().sum_all().unwrap();
                square.to_scalar::<f32>().unwrap().sqrt() / typical
            };
            let of_seam = |&seam: &usize| of_row(seam - 1).max(of_row(seam));
            seams.iter().map(of_seam).collect::<Vec<_>>()
        };
        let abutting = defect(AudioWindows::Reference, &[SEGMENT, 2 * SEGMENT]);
        let overlapping = defect(AudioWindows::Overlapping, &[1250, 2250]);
        println!(
            "{}: rows beside seams are off by, in typical steps: abutting {abutting:.3?}, overlapping {overlapping:.6?}",
            encoder.name
        );
        for value in abutting {
            assert!(value > 0.5, "{}: {value}", encoder.name);
        }
        for value in overlapping {
            assert!(value < 1e-3, "{}: {value}", encoder.name);
        }
    }
}

/// Speech of up to 30 s has one window, for which both layouts give the same bits.
#[test]
fn layouts_agree_on_speech_of_one_window() {
    let (encoders, pcm, _dir) = encoders_and_speech();
    let encoder = &encoders[0];
    for samples in [100, 16_000 * 7 + 77, 16_000 * 30] {
        let [abutting, overlapping] = [AudioWindows::Reference, AudioWindows::Overlapping]
            .map(|layout| support::values(&encoder.encode(&pcm[..samples], layout).rows()));
        assert!(abutting == overlapping, "{samples} samples");
    }
}
