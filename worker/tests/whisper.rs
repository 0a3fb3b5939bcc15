//! Spectrogram, encoder and rows per frame against the reference.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests too"
)]

mod support;

use candle_core::{DType, Device, Tensor};
use latentfarm_common::audio::mel::{self, LogMel, MelMax};
use latentfarm_common::audio::windows;
use latentfarm_common::digest::Digest;
use latentfarm_common::time::FrameRate;
use latentfarm_common::wire::engine::AudioRequest;
use latentfarm_common::wire::job::AudioWindows;
use latentfarm_worker::latentsync::config::WhisperDims;
use latentfarm_worker::latentsync::weights::{load_whisper, whisper_dims};
use latentfarm_worker::latentsync::whisper::{WhisperEncoder, mel_tensor};
use support::{Golden, Tolerance, assert_close, goldens_dir, text};

const ROWS: Tolerance = Tolerance {
    max_abs: 1e-3,
    relative: 1e-4,
};

fn golden() -> Golden {
    Golden::named("whisper_io.safetensors")
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the golden samples are 16-bit values over 32768"
)]
fn pcm(golden: &Golden) -> Vec<i16> {
    support::values(golden.get("audio"))
        .iter()
        .map(|v| (v * 32768.0).round() as i16)
        .collect()
}

fn encoder() -> (WhisperEncoder, WhisperDims) {
    let path = goldens_dir().join("whisper_tinytest.pt");
    let dims = whisper_dims(&path).unwrap();
    (
        load_whisper(&path, &dims, &Device::Cpu, DType::F32).unwrap_or_else(|error| panic!("{error}")),
        dims,
    )
}

/// Features of a whole track in the reference's windows, `(rows, layers + 1, width)`.
fn features(encoder: &WhisperEncoder, pcm: &[i16]) -> Tensor {
    let track_samples = pcm.len() as u64;
    let layout = AudioWindows::Reference;
    let mut max = MelMax::new();
    max.push(pcm);
    let log_mel_max = max.finish();
    let mut pieces = Vec::new();
    for window in 0..windows::count(track_samples, layout) {
        let needed = windows::pcm_range(window, track_samples, layout);
        let request = AudioRequest {
            track: Digest::of(b"golden"),
            track_samples,
            layout,
            log_mel_max,
            window,
            pcm: pcm[usize::try_from(needed.start).unwrap()..usize::try_from(needed.end).unwrap()].to_vec(),
        };
        let states = encoder.forward(&mel_tensor(&request).unwrap()).unwrap();
        let served = windows::rows_served(window, track_samples, layout);
        let count = usize::try_from(served.end - served.start).unwrap();
        pieces.push(states.narrow(0, 0, count).unwrap());
    }
    Tensor::cat(&pieces, 0).unwrap()
}

#[test]
fn mel_filters_match_golden() {
    let bank: Vec<f32> = mel::filter_bank().into_iter().flatten().collect();
    let ours = Tensor::from_vec(bank, (mel::BANDS, mel::BINS), &Device::Cpu).unwrap();
    let tolerance = Tolerance {
        max_abs: 1e-7,
        relative: 1e-6,
    };
    assert_close("mel_filters", &ours, golden().get("mel_filters"), tolerance);
}

#[test]
fn log_mel_matches_golden() {
    let golden = golden();
    let pcm = pcm(&golden);
    let total = pcm.len() as u64;
    let frames = mel::frame_count(total);
    let log10 = LogMel::new().log10_frames(&pcm, 0, 0..frames, total);
    let mut max = MelMax::new();
    max.push(&pcm);
    let max = max.finish();
    let normalised: Vec<f32> = log10
        .into_iter()
        .map(|value| mel::normalise(value, max))
        .collect();
    let ours = Tensor::from_vec(
        normalised,
        (usize::try_from(frames).unwrap(), mel::BANDS),
        &Device::Cpu,
    );
    let tolerance = Tolerance {
        max_abs: 2e-4,
        relative: 2e-5,
    };
    assert_close(
        "log_mel",
        &ours.unwrap().t().unwrap(),
        golden.get("log_mel"),
        tolerance,
    );
}

#[test]
fn dims_inside_the_torch_file_match_golden() {
    let expected = WhisperDims::from_json(&text("whisper_dims.json")).unwrap();
    assert_eq!(
        whisper_dims(&goldens_dir().join("whisper_tinytest.pt")).unwrap(),
        expected
    );
}

#[test]
fn encoder_states_match_golden_for_the_given_spectrogram() {
    let golden = golden();
    let (encoder, dims) = encoder();
    let log_mel = golden.get("log_mel");
    let missing = 2 * dims.n_audio_ctx - log_mel.dim(1).unwrap();
    let mel = log_mel
        .pad_with_zeros(1, 0, missing)
        .unwrap()
        .unsqueeze(0)
        .unwrap();
    let states = encoder.forward(&mel).unwrap();
    let tolerance = Tolerance {
        max_abs: 2e-4,
        relative: 1e-5,
    };
    let head = golden.get("encoder_embeddings_head");
    let ours = states.narrow(0, 0, head.dim(1).unwrap()).unwrap();
    for layer in 0..dims.tokens_per_row() {
        let layer_states = ours.narrow(1, layer, 1).unwrap().squeeze(1).unwrap();
        assert_close(
            &format!("layer {layer}"),
            &layer_states,
            &head.get(layer).unwrap(),
            tolerance,
        );
    }
    assert_close(
        "ln_post",
        &encoder.finish(&ours).unwrap(),
        golden.get("encoder_ln_post_head"),
        tolerance,
    );

    let by_layer = states.transpose(0, 1).unwrap();
    let mean = by_layer.mean(1).unwrap();
    assert_close("mean", &mean, golden.get("embeddings_layer_mean_full"), ROWS);
    let rms = by_layer.sqr().unwrap().mean(1).unwrap().sqrt().unwrap();
    assert_close("rms", &rms, golden.get("embeddings_layer_rms_full"), ROWS);
}

#[test]
fn features_of_a_short_clip_match_golden() {
    let golden = golden();
    let (encoder, _) = encoder();
    let rows = features(&encoder, &pcm(&golden));
    assert_close("audio2feat", &rows, golden.get("audio2feat"), ROWS);
}

#[test]
fn features_across_the_join_of_a_long_clip_match_golden() {
    let golden = golden();
    let (encoder, _) = encoder();
    let short = pcm(&golden);
    let samples = usize::try_from(golden.integers("long.n_samples")[0]).unwrap();
    let long: Vec<i16> = short.iter().copied().cycle().take(samples).collect();
    let rows = features(&encoder, &long);
    assert_eq!(
        golden.integers("long.feat_rows")[0],
        i64::try_from(rows.dim(0).unwrap()).unwrap()
    );

    let total = long.len() as u64;
    assert_eq!(
        golden.integers("long.mel_frames")[0].unsigned_abs(),
        mel::frame_count(total)
    );
    let part = |start, count| rows.narrow(0, start, count).unwrap();
    let count = rows.dim(0).unwrap();
    assert_close("rows 0..4", &part(0, 4), golden.get("long.feat_rows_0_4"), ROWS);
    assert_close(
        "rows 1490..1510",
        &part(1490, 20),
        golden.get("long.feat_rows_1490_1510"),
        ROWS,
    );
    assert_close(
        "last rows",
        &part(count - 8, 8),
        golden.get("long.feat_rows_last8"),
        ROWS,
    );
    let flat = rows.flatten_from(1).unwrap();
    assert_close(
        "row means",
        &flat.mean(1).unwrap(),
        golden.get("long.feat_row_mean"),
        ROWS,
    );
    let rms = flat.sqr().unwrap().mean(1).unwrap().sqrt().unwrap();
    assert_close("row rms", &rms, golden.get("long.feat_row_rms"), ROWS);
}

#[test]
fn rows_of_frames_match_golden_at_every_rate() {
    let golden = golden();
    let samples = pcm(&golden).len() as u64;
    let tags = golden.under("chunk_index.fps");
    assert!(!tags.is_empty());
    for tag in tags {
        let (whole, fraction) = tag.split_once('p').unwrap_or((&tag, ""));
        let scale = 10_u32.pow(u32::try_from(fraction.len()).unwrap());
        let rate = FrameRate::new(format!("{whole}{fraction}").parse().unwrap(), scale).unwrap();
        let name = format!("chunk_index.fps{tag}");
        let expected: Vec<Vec<i64>> = golden.get(&name).to_vec2().unwrap();
        for (frame, rows) in (0_u64..).zip(&expected) {
            let ours = windows::rows_of_frame(frame, rate, samples).map(u64::cast_signed);
            assert_eq!(&ours[..], &rows[..], "frame {frame} at {rate}");
        }
    }
}
