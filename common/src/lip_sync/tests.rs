use super::*;
use crate::time::{FrameRange, FrameRate};

/// Returns values that vary as syllables do, about five a second with pauses, from a seed.
fn speech(frames: usize, rate: FrameRate, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f64 / f64::from(1 << 24)
    };
    let mut loudness = vec![0.0_f64; frames];
    let mut at = 0.2;
    while at < frames as f64 / rate.as_f64() {
        let (length, height) = (0.12 + 0.2 * random(), 0.3 + 0.7 * random());
        for (frame, value) in loudness.iter_mut().enumerate() {
            let away = (frame as f64 / rate.as_f64() - at) / (length / 2.0);
            *value = value.max(height * (-away * away).exp());
        }
        at += length + if random() < 0.15 { 0.8 } else { 0.05 };
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0..=255")]
    loudness
        .into_iter()
        .map(|value| (value * 255.0).round() as u8)
        .collect()
}

/// Returns lips that follow `loudness` by `lag` frames, with noise of the seed.
fn lips(loudness: &[u8], lag: i64, noise: f32, seed: u64) -> Vec<Option<LipOpening>> {
    let other = speech(loudness.len(), FrameRate::FPS_25, seed);
    (0_i64..)
        .zip(&other)
        .map(|(frame, other)| {
            let source = usize::try_from(frame - lag)
                .ok()
                .and_then(|index| loudness.get(index));
            let share = f32::from(source.copied().unwrap_or(0)) / 255.0;
            Some(LipOpening::from_share(
                0.02 + 0.1 * share + noise * f32::from(*other) / 255.0,
            ))
        })
        .collect()
}

fn measured(openings: &[Option<LipOpening>], loudness: &[u8]) -> LipSync {
    measure(openings, loudness, FrameRate::FPS_25).unwrap()
}

#[test]
fn a_lag_is_found_at_every_rate_with_its_sign_and_milliseconds() {
    for (num, den) in [(24_000, 1001), (25, 1), (30_000, 1001), (30, 1), (50, 1), (60, 1)] {
        let rate = FrameRate::new(num, den).unwrap();
        let loudness = speech(20 * usize::try_from(num / den).unwrap(), rate, 1);
        for lag in [-7, -3, -1, 0, 1, 3, 7] {
            let sync = measure(&lips(&loudness, lag, 0.05, 2), &loudness, rate).unwrap();
            assert_eq!(i64::from(sync.lag_frames), lag, "{rate}: {sync:?}");
            let ms = lag as f64 * 1000.0 / rate.as_f64();
            assert!(
                (f64::from(sync.lag_ms) - ms).abs() < 500.0 / rate.as_f64(),
                "{rate}: {sync:?}"
            );
            let late = (lag as f64 / rate.as_f64()).abs() > 0.0401 && lag.abs() > 1;
            assert_eq!(
                sync.verdict(),
                if late { Verdict::Shifted } else { Verdict::Follows },
                "{rate} {lag}"
            );
            assert!(
                sync.confidence.unwrap() > 0.97 && sync.correlation > 0.7,
                "{rate}: {sync:?}"
            );
        }
    }
}

#[test]
fn other_speech_is_rarely_taken_for_the_own_one() {
    let (mut confident, mut strength) = (0, 0.0);
    let runs = 200;
    for seed in 0..runs {
        let loudness = speech(500, FrameRate::FPS_25, 10 + seed);
        let sync = measured(
            &lips(&speech(500, FrameRate::FPS_25, 9000 + seed), 0, 0.05, 5000 + seed),
            &loudness,
        );
        confident += u64::from(sync.verdict() != Verdict::Unclear);
        strength += f64::from(sync.correlation_at_zero.abs()) / runs as f64;
    }
    // One in twenty is what the limit of 0.95 says.
    assert!((1..=20).contains(&confident), "{confident} of {runs}");
    assert!(strength < 0.1, "{strength}");
}

#[test]
fn short_speech_is_not_told_from_chance() {
    // Real lips fitted a speech of 3.3 s that was not theirs with a correlation of 0.66, 0.45 s early.
    for (frames, verdict) in [
        (83, Verdict::TooShort),
        (150, Verdict::TooShort),
        (210, Verdict::Follows),
    ] {
        let loudness = speech(frames, FrameRate::FPS_25, 40);
        let sync = measured(&lips(&loudness, 0, 0.0, 41), &loudness);
        assert_eq!(sync.verdict(), verdict, "{frames} frames: {sync:?}");
        assert_eq!(sync.confidence.is_some(), verdict == Verdict::Follows);
        assert!(sync.correlation > 0.99);
    }
}

#[test]
fn frames_without_a_mouth_do_not_count() {
    let loudness = speech(500, FrameRate::FPS_25, 3);
    let mut openings = lips(&loudness, 2, 0.02, 4);
    for opening in openings.iter_mut().skip(100).take(200) {
        *opening = None;
    }
    let sync = measured(&openings, &loudness);
    assert_eq!((sync.frames, sync.lag_frames), (300, 2));
    for opening in openings.iter_mut().skip(20) {
        *opening = None;
    }
    assert_eq!(
        measure(&openings, &loudness, FrameRate::FPS_25),
        None,
        "20 frames are too few"
    );
    assert_eq!(measure(&[], &[], FrameRate::FPS_25), None);
}

#[test]
fn lips_that_never_move_follow_nothing() {
    let loudness = speech(500, FrameRate::FPS_25, 3);
    let sync = measured(&vec![Some(LipOpening(80)); 500], &loudness);
    assert_eq!(
        (sync.correlation, sync.lag_frames, sync.opening),
        (0.0, 0, [0.08, 0.08])
    );
    assert_eq!(sync.verdict(), Verdict::Unclear);
}

#[test]
fn a_shift_in_the_middle_shows_in_its_stretch() {
    let loudness = speech(750, FrameRate::FPS_25, 6);
    let mut openings = lips(&loudness, 0, 0.02, 7);
    openings[500..].copy_from_slice(&lips(&loudness, 4, 0.02, 7)[500..]);
    let sync = measured(&openings, &loudness);
    let lags: Vec<i32> = sync.stretches.iter().map(|stretch| stretch.lag_frames).collect();
    assert_eq!((sync.lag_frames, lags), (0, vec![0, 0, 4]));
    let [first, _, last] = sync.stretches.as_slice() else {
        unreachable!()
    };
    assert_eq!(
        (first.range, last.range),
        (FrameRange::new(0, 250), FrameRange::new(500, 750))
    );
    assert!(last.correlation_at_overall_lag < 0.5 && first.correlation_at_overall_lag > 0.8);
}

#[test]
fn a_short_rest_belongs_to_the_last_stretch() {
    let ends = |frames: usize| -> Vec<u64> {
        let loudness = speech(frames, FrameRate::FPS_25, 8);
        let sync = measured(&lips(&loudness, 0, 0.02, 9), &loudness);
        sync.stretches.iter().map(|stretch| stretch.range.end).collect()
    };
    assert_eq!(ends(83), [83]);
    assert_eq!(ends(374), [374]);
    assert_eq!(ends(375), [250, 375]);
    assert_eq!(ends(1000), [250, 500, 750, 1000]);
}

#[test]
fn lips_that_move_in_silence_are_told_from_trembling_ones() {
    // Loud and quiet frames in turn, and a pause of four seconds.
    let mut loudness: Vec<u8> = (0..500_u32)
        .map(|frame| if frame / 4 % 2 == 0 { 200 } else { 20 })
        .collect();
    loudness[200..300].fill(0);
    let silent = |openings: &[Option<LipOpening>]| {
        let sync = measure(openings, &loudness, FrameRate::FPS_25).unwrap();
        sync.silence.unwrap()
    };
    let mut openings = lips(&loudness, 0, 0.0, 12);
    let still = silent(&openings);
    // Three frames at either end do not count.
    assert_eq!(
        (still.frames, still.opening, still.is_moving()),
        (94, 0.02, false)
    );
    for (opening, frame) in openings[200..300].iter_mut().zip(0_u16..) {
        *opening = Some(LipOpening(20 + 3 * (frame % 2)));
    }
    assert!(
        !silent(&openings).is_moving(),
        "the mesh trembles by 3 thousandths"
    );
    for (opening, frame) in openings[200..300].iter_mut().zip(0_u16..) {
        *opening = Some(LipOpening(20 + 60 * (frame / 2 % 2)));
    }
    let moving = silent(&openings);
    assert!(moving.is_moving() && moving.opening > 0.075, "{moving:?}");
}

#[test]
fn short_pauses_are_part_of_speaking() {
    let mut loudness = vec![200; 500];
    for pause in [100..109, 200..226, 300..324] {
        loudness[pause].fill(0);
    }
    let silence = |loudness: &[u8]| {
        let sync = measure(&lips(loudness, 0, 0.0, 1), loudness, FrameRate::FPS_25).unwrap();
        sync.silence.map(|silence| silence.frames)
    };
    assert_eq!(silence(&loudness), Some(20 + 18), "0.36 s are too short");
    loudness[300..324].fill(200);
    assert_eq!(silence(&loudness), None, "there is less than a second of silence");
}

#[test]
fn openings_are_rounded_to_thousandths_and_clamped() {
    assert_eq!(LipOpening::from_share(0.0834), LipOpening(83));
    assert_eq!(LipOpening::from_share(-0.1), LipOpening(0));
    assert_eq!(LipOpening::from_share(f32::NAN), LipOpening(0));
    assert_eq!(LipOpening::from_share(1e9), LipOpening(u16::MAX));
    assert_eq!(LipOpening::from_share(LipOpening(83).share()), LipOpening(83));
}
