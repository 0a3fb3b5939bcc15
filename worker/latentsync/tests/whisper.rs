//! Compares the spectrogram, the encoder and the rows of each frame with the reference.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests too"
)]

mod support;

use candle_core::{Device, Tensor};
use latentfarm_common::audio::mel::{self, LogMel, MelMax};
use latentfarm_common::audio::windows;
use latentfarm_common::time::FrameRate;
use latentfarm_common::wire::job::AudioWindows;
use latentsync::Run;
use latentsync::checkpoint::whisper_dims;
use serde_json::Value;
use support::speech::{Track, Whisper, rate_of_tag, whispers};
use support::{Compared, Golden, Tolerance, assert_close, assert_values_close, files, text};

/// The tolerance of states that are computed from the golden spectrogram.
const STATES: Tolerance = Tolerance {
    max_abs: 2e-4,
    relative: 1e-5,
};
/// The tolerance of rows that are computed from our own spectrogram.
const ROWS: Tolerance = Tolerance {
    max_abs: 1e-3,
    relative: 1e-4,
};
const LOG_MEL: Tolerance = Tolerance {
    max_abs: 2e-4,
    relative: 2e-5,
};

/// The number of feature rows of a 30 s segment of the reference.
const SEGMENT: u64 = windows::WINDOW_MEL_FRAMES / 2;

fn index(n: impl TryInto<usize, Error: std::fmt::Debug>) -> usize {
    n.try_into().unwrap()
}

/// Returns the normalised log-mel spectrogram of a track, `(80, frames)`.
fn log_mel(pcm: &[i16]) -> Tensor {
    let total = pcm.len() as u64;
    let frames = mel::frame_count(total);
    let log10 = LogMel::default().log10_frames(pcm, 0, 0..frames, total);
    let mut max = MelMax::default();
    max.push(pcm);
    let max = max.finish();
    let normalised: Vec<f32> = log10
        .into_iter()
        .map(|value| mel::normalise(value, max))
        .collect();
    Tensor::from_vec(normalised, (index(frames), mel::BANDS), &Device::Cpu)
        .and_then(|mel| mel.t()?.contiguous())
        .unwrap()
}

/// Returns the tensor names `startA_B` with their two numbers.
fn ranges(golden: &Golden, start: &str) -> Vec<(String, usize, usize)> {
    let found = golden.under(start).into_iter().filter_map(|rest| {
        let (from, to) = rest.split_once('_')?;
        Some((format!("{start}{rest}"), from.parse().ok()?, to.parse().ok()?))
    });
    found.collect()
}

/// Returns the root mean square along an axis.
fn rms(tensor: &Tensor, axis: usize) -> Tensor {
    let square = tensor.sqr().unwrap();
    square.mean(axis).unwrap().sqrt().unwrap()
}

/// Returns the number of output frames of the reference: all up to the first whose own row is past the last
/// one, and one more.
fn reference_frames(rows: u64, rate: FrameRate) -> u64 {
    let far = u64::from(u32::MAX);
    let own_row = |frame: u64| windows::rows_of_frame(frame, rate, far)[4];
    (0..far).find(|&frame| own_row(frame) > rows).unwrap() + 1
}

#[test]
fn mel_filters_match_golden() {
    let bank: Vec<f32> = mel::filter_bank().into_iter().flatten().collect();
    let tolerance = Tolerance {
        max_abs: 1e-7,
        relative: 1e-6,
    };
    let mut compared = Compared::default();
    for Whisper { golden, .. } in whispers() {
        if golden.find("mel_filters").is_some() {
            let expected = golden.floats("mel_filters");
            assert_values_close("mel_filters", &bank, &expected, tolerance);
            compared.add("filters");
        }
    }
    compared.require(&["filters"]);
}

#[test]
fn log_mel_matches_golden() {
    let mut compared = Compared::default();
    for whisper in whispers() {
        let golden = &whisper.golden;
        if let Some(expected) = golden.find("log_mel") {
            assert_close("log_mel", &log_mel(&whisper.pcm()), expected, LOG_MEL);
            compared.add("whole");
        }
        for long in golden.before(".n_samples") {
            let samples = index(golden.integers(&format!("{long}.n_samples"))[0]);
            let mel = log_mel(&whisper.repeated(samples));
            let frames = index(golden.integers(&format!("{long}.mel_frames"))[0]);
            assert_eq!(mel.dim(1).unwrap(), frames, "{long}");
            for (name, from, to) in ranges(golden, &format!("{long}.mel_slice_")) {
                let ours = mel.narrow(1, from, to - from).unwrap();
                assert_close(&name, &ours, golden.get(&name), LOG_MEL);
                compared.add("long");
            }
        }
    }
    compared.require(&["whole", "long"]);
}

#[test]
fn dims_inside_the_torch_file_match_golden() {
    let mut compared = Compared::default();
    for whisper in whispers() {
        if let Some(stated) = whisper.stated {
            assert_eq!(whisper_dims(&whisper.weights).unwrap(), stated);
            compared.add("dims");
        }
    }
    compared.require(&["dims"]);
}

#[test]
fn encoder_states_match_golden_for_the_given_spectrogram() {
    let mut compared = Compared::default();
    for whisper in whispers() {
        let (golden, dims, encoder) = (&whisper.golden, whisper.dims, whisper.encoder());
        let given = golden.get("log_mel");
        let columns = 2 * dims.n_audio_ctx;
        let frames = given.dim(1).unwrap().min(columns);
        let mel = given
            .narrow(1, 0, frames)
            .and_then(|mel| mel.pad_with_zeros(1, 0, columns - frames)?.unsqueeze(0))
            .unwrap();
        let states = encoder.forward(&Run::default(), &mel).unwrap();

        let head = golden.get("encoder_embeddings_head");
        let ours = states.narrow(0, 0, head.dim(1).unwrap()).unwrap();
        for layer in 0..dims.tokens_per_row() {
            let layer_states = ours.narrow(1, layer, 1).unwrap().squeeze(1).unwrap();
            assert_close(
                &format!("layer {layer}"),
                &layer_states,
                &head.get(layer).unwrap(),
                STATES,
            );
            compared.add("layers");
        }
        if let Some(expected) = golden.find("encoder_ln_post_head") {
            let head = states.narrow(0, 0, expected.dim(0).unwrap()).unwrap();
            assert_close(
                "ln_post",
                &encoder.finish(&Run::default(), &head).unwrap(),
                expected,
                STATES,
            );
            compared.add("final norm");
        }
        let by_layer = states.transpose(0, 1).unwrap();
        if let Some(expected) = golden.find("embeddings_layer_mean_full") {
            assert_close("mean", &by_layer.mean(1).unwrap(), expected, STATES);
            compared.add("means");
        }
        if let Some(expected) = golden.find("embeddings_layer_rms_full") {
            assert_close("rms", &rms(&by_layer, 1), expected, STATES);
            compared.add("means");
        }
        let rows = golden.get("audio2feat");
        let same = rows.dim(0).unwrap().min(dims.n_audio_ctx);
        let part = |tensor: &Tensor| tensor.narrow(0, 0, same).unwrap();
        assert_close("rows", &part(&states), &part(rows), STATES);
        compared.add("rows");
    }
    compared.require(&["layers", "final norm", "means", "rows"]);
}

#[test]
fn features_of_a_clip_match_golden() {
    for whisper in whispers() {
        let track = Track::encode(&whisper.encoder(), &whisper.pcm(), AudioWindows::Reference);
        assert_close(
            "audio2feat",
            &track.rows(),
            whisper.golden.get("audio2feat"),
            ROWS,
        );
    }
}

#[test]
fn features_across_the_join_of_a_long_clip_match_golden() {
    let mut compared = Compared::default();
    for whisper in whispers() {
        let (golden, encoder) = (&whisper.golden, whisper.encoder());
        for long in golden.before(".n_samples") {
            let name = |part: &str| format!("{long}.{part}");
            let samples = index(golden.integers(&name("n_samples"))[0]);
            let track = Track::encode(&encoder, &whisper.repeated(samples), AudioWindows::Reference);
            let rows = track.rows();
            let count = rows.dim(0).unwrap();
            assert_eq!(index(golden.integers(&name("feat_rows"))[0]), count);
            if golden.find(&name("num_chunks_fps25")).is_some() {
                assert_eq!(
                    golden.integers(&name("num_chunks_fps25"))[0].unsigned_abs(),
                    reference_frames(count as u64, FrameRate::FPS_25)
                );
            }
            for (name, from, to) in ranges(golden, &name("feat_rows_")) {
                let expected = golden.get(&name);
                assert_close(&name, &rows.narrow(0, from, to - from).unwrap(), expected, ROWS);
                if from as u64 / SEGMENT != (to - 1) as u64 / SEGMENT {
                    compared.add("rows across a join");
                }
                check_tokens_within(&track, expected, from, to, &mut compared);
            }
            for last in golden.under(&name("feat_rows_last")) {
                let last: usize = last.parse().unwrap();
                let expected = golden.get(&name(&format!("feat_rows_last{last}")));
                let ours = rows.narrow(0, count - last, last).unwrap();
                assert_close("last rows", &ours, expected, ROWS);
                compared.add("last rows");
            }
            let flat = rows.flatten_from(1).unwrap();
            if let Some(expected) = golden.find(&name("feat_row_mean")) {
                assert_close("row means", &flat.mean(1).unwrap(), expected, ROWS);
            }
            if let Some(expected) = golden.find(&name("feat_row_rms")) {
                assert_close("row rms", &rms(&flat, 1), expected, ROWS);
            }
        }
    }
    compared.require(&["rows across a join", "tokens across a join", "last rows"]);
}

/// Compares the tokens of those frames, at 25 a second, whose rows are all within the given ones.
fn check_tokens_within(track: &Track, rows: &Tensor, from: usize, to: usize, compared: &mut Compared) {
    let rate = FrameRate::FPS_25;
    for frame in (from / 2) as u64..=(to / 2) as u64 {
        let wanted = windows::rows_of_frame(frame, rate, track.samples);
        let places = wanted.map(|row| index(row).checked_sub(from).filter(|at| *at < to - from));
        if let Some(places) = places.into_iter().collect::<Option<Vec<_>>>() {
            let pieces: Vec<_> = places.into_iter().map(|at| rows.get(at).unwrap()).collect();
            let expected = Tensor::cat(&pieces, 0).unwrap();
            let ours = track.tokens(rate, frame, 1).squeeze(0).unwrap();
            assert_close(&format!("tokens of frame {frame}"), &ours, &expected, ROWS);
            if wanted[0] / SEGMENT != wanted[9] / SEGMENT {
                compared.add("tokens across a join");
            }
        }
    }
}

#[test]
fn tokens_of_frames_match_golden_at_every_rate() {
    let mut compared = Compared::default();
    for whisper in whispers() {
        let golden = &whisper.golden;
        let pcm = whisper.pcm();
        let samples = pcm.len() as u64;
        let track = Track::encode(&whisper.encoder(), &pcm, AudioWindows::Reference);
        let features = golden.get("audio2feat");
        for tag in golden.under("chunk_index.fps") {
            let rate = rate_of_tag(&tag);
            let indices = golden.get(&format!("chunk_index.fps{tag}"));
            let expected: Vec<Vec<i64>> = indices.to_vec2().unwrap();
            let frames = expected.len() as u64;
            assert_eq!(reference_frames(windows::row_count(samples), rate), frames);
            assert!(
                rate.frames_covering(samples, 16_000) <= frames,
                "the reference's last frames are past the speech"
            );
            for (frame, rows) in (0_u64..).zip(&expected) {
                let ours = windows::rows_of_frame(frame, rate, samples).map(u64::cast_signed);
                assert_eq!(&ours[..], &rows[..], "frame {frame} at {rate}");
            }
            let tokens = track.tokens(rate, 0, frames);
            let picked = features
                .index_select(&indices.flatten_all().unwrap(), 0)
                .and_then(|rows| rows.reshape(tokens.shape()))
                .unwrap();
            assert_close(&format!("tokens at {rate}"), &tokens, &picked, ROWS);
            compared.add("rates");
        }
        for name in golden.under("chunks.fps") {
            let (tag, part) = name.split_once('.').unwrap();
            let rate = rate_of_tag(tag);
            let expected = golden.get(&format!("chunks.fps{name}"));
            let count = expected.dim(0).unwrap() as u64;
            let first = if part.starts_with("last") {
                reference_frames(windows::row_count(samples), rate) - count
            } else {
                0
            };
            let tokens = track.tokens(rate, first, count);
            assert_close(&format!("tokens {name}"), &tokens, expected, ROWS);
            compared.add("tokens");
        }
    }
    compared.require(&["rates", "tokens"]);
}

/// A job ends with its speech, while the reference renders one or two more frames.
#[test]
fn frame_counts_are_those_of_golden_without_the_overhang() {
    let mut compared = Compared::default();
    for Whisper { golden, .. } in whispers() {
        if golden.find("chunk_lengths_probe").is_none() {
            continue;
        }
        for pair in golden.integers("chunk_lengths_probe").chunks_exact(2) {
            let (rows, frames) = (pair[0].unsigned_abs(), pair[1].unsigned_abs());
            assert_eq!(reference_frames(rows, FrameRate::FPS_25), frames, "{rows} rows");
            for samples in rows * 320..(rows + 1) * 320 {
                assert_eq!(windows::row_count(samples), rows);
                let ours = FrameRate::FPS_25.frames_covering(samples, 16_000);
                assert!((1..=2).contains(&(frames - ours)), "{samples} samples");
            }
            compared.add("lengths");
        }
    }
    compared.require(&["lengths"]);
}

/// The golden data of the whole pipeline have the same speech as the golden data here.
#[test]
fn tokens_of_the_whole_chain_match_golden() {
    const KEY: &str = "audio_chunks_are_rows_of_whisper_chunks_fps";
    let mut compared = Compared::default();
    let mut stated = 0;
    for path in files("e2e", "_config.json") {
        let name = support::file_name(&path);
        let config: Value = serde_json::from_str(&text(name)).unwrap();
        let golden = Golden::named(&name.replace("_config.json", "_io.safetensors"));
        let tokens = golden.get("audio_chunks");
        let keys = config.as_object().unwrap().iter();
        for (tag, range) in keys.filter_map(|(key, range)| Some((key.strip_prefix(KEY)?, range))) {
            stated += 1;
            let count = tokens.dim(0).unwrap() as u64;
            // A shortened file holds the last frames.
            let first = range[1].as_u64().unwrap() - count;
            let candidates = whispers().into_iter().filter_map(|whisper| {
                let track = Track::encode(&whisper.encoder(), &whisper.pcm(), AudioWindows::Reference);
                let ours = track.tokens(rate_of_tag(tag), first, count);
                (ours.dims() == tokens.dims()).then_some(ours)
            });
            if let Some(ours) = candidates.min_by(|a, b| distance(a, tokens).total_cmp(&distance(b, tokens)))
            {
                assert_close("audio_chunks", &ours, tokens, ROWS);
                compared.add("tokens");
            }
        }
    }
    if stated > 0 {
        compared.require(&["tokens"]);
    }
}

fn distance(a: &Tensor, b: &Tensor) -> f32 {
    let square = (a - b).unwrap().sqr().unwrap();
    square.mean_all().unwrap().to_scalar().unwrap()
}
