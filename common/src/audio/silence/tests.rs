use super::*;
use proptest::prelude::*;

const RATE: FrameRate = FrameRate::FPS_25;

/// Makes `seconds` of a 200 Hz tone with an amplitude.
fn tone(seconds: f64, amplitude: f64) -> Vec<i16> {
    sound(seconds, |n| {
        amplitude * (std::f64::consts::TAU * 200.0 * n as f64 / 16_000.0).sin()
    })
}

/// Makes `seconds` of noise with an amplitude.
fn noise(seconds: f64, amplitude: f64) -> Vec<i16> {
    let mut state = 1_u32;
    sound(seconds, move |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        amplitude * (f64::from(state >> 16) / 32_768.0 - 1.0)
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "made-up sound"
)]
fn sound(seconds: f64, mut value: impl FnMut(usize) -> f64) -> Vec<i16> {
    (0..(seconds * 16_000.0) as usize)
        .map(|n| value(n) as i16)
        .collect()
}

fn silent(track: &[Vec<i16>]) -> Vec<FrameRange> {
    let pcm = track.concat();
    let frames = RATE.frames_covering(pcm.len() as u64, 16_000);
    levels(&pcm).silent_frames(RATE, frames)
}

fn levels(pcm: &[i16]) -> Levels {
    let mut meter = LevelMeter::default();
    meter.push(pcm);
    meter.finish()
}

fn ranges(bounds: &[(u64, u64)]) -> Vec<FrameRange> {
    bounds
        .iter()
        .map(|&(start, end)| FrameRange::new(start, end))
        .collect()
}

#[test]
fn a_pause_is_silent_but_for_lead_in_and_hang_over() {
    // Speech lasts to 1.0 s, with 0.15 s of hang-over, and begins again at 3.0 s, with 0.12 s of lead-in.
    let track = [tone(1.0, 8000.0), tone(2.0, 0.0), tone(1.0, 8000.0)];
    assert_eq!(silent(&track), ranges(&[(29, 72)]));
}

#[test]
fn loudness_is_linear_in_decibels_and_read_in_the_middle_of_each_frame() {
    // A fifth of the amplitude is 14 dB less; 30 dB less is 0.
    let track = [
        tone(1.0, 10_000.0),
        tone(1.0, 2000.0),
        tone(1.0, 200.0),
        tone(1.0, 0.0),
        tone(1.0, 10_000.0),
    ];
    let levels = levels(&track.concat());
    for (num, den) in [(25, 1), (24_000, 1001), (60, 1)] {
        let rate = FrameRate::new(num, den).unwrap();
        let second = rate.frames_covering(16_000, 16_000);
        let loudness = levels.loudness(rate, 6 * second);
        let at = |middle: u64| loudness[usize::try_from(second * middle / 10).unwrap()];
        // In the middle of each second, and after the end.
        assert_eq!(
            [at(5), at(15), at(25), at(35), at(45), at(55)],
            [255, 136, 0, 0, 255, 0],
            "{rate}"
        );
    }
    // The tone ends with frame 24: the middle of the last one is 20 ms, or a sixth of what is smoothed, before
    // the end, and so is the first one of the quieter tone after it.
    let loudness = levels.loudness(RATE, 125);
    assert_eq!(loudness[23..27], [255, 215, 176, 136]);
    assert!(Levels(Vec::new()).loudness(RATE, 3) == [0; 3]);
}

#[test]
fn silence_at_both_ends_reaches_the_ends() {
    let track = [tone(1.0, 0.0), tone(1.0, 8000.0), tone(1.01, 0.0)];
    assert_eq!(silent(&track), ranges(&[(0, 22), (54, 76)]));
}

#[test]
fn quiet_room_noise_in_a_pause_is_silent_and_noise_alone_is_not() {
    let track = [tone(1.0, 8000.0), noise(2.0, 60.0), tone(1.0, 8000.0)];
    assert_eq!(silent(&track), ranges(&[(29, 72)]));
    // Noise alone may be whispered speech: there is nothing louder to compare it with.
    assert_eq!(silent(&[noise(3.0, 300.0)]), []);
    // This noise is as near to speech as unstressed syllables are.
    let near = [tone(1.0, 8000.0), noise(2.0, 1000.0), tone(1.0, 8000.0)];
    assert_eq!(silent(&near), []);
}

#[test]
fn a_track_below_the_floor_is_all_silent() {
    assert_eq!(silent(&[tone(2.0, 0.0)]), ranges(&[(0, 50)]));
    assert_eq!(silent(&[noise(2.0, 20.0)]), ranges(&[(0, 50)]));
}

#[test]
fn a_short_pause_belongs_to_the_speech() {
    let pause = |seconds| silent(&[tone(1.0, 8000.0), tone(seconds, 0.0), tone(1.0, 8000.0)]);
    assert_eq!(pause(0.5), []);
    assert_eq!(pause(0.6), ranges(&[(29, 37)]));
}

#[test]
fn a_level_between_the_thresholds_keeps_what_was_before() {
    let loud = || tone(1.0, 8000.0);
    // This is 27 dB below the loud parts, between the thresholds of 24 and 30.
    let middle = || tone(1.0, 8000.0 * 10.0_f64.powf(-27.0 / 20.0));
    assert_eq!(silent(&[loud(), middle(), loud()]), [], "it goes on");
    let after_silence = silent(&[loud(), tone(1.0, 0.0), middle(), tone(1.0, 0.0), loud()]);
    assert_eq!(after_silence, ranges(&[(29, 97)]), "it does not begin");
}

#[test]
fn a_click_in_a_pause_is_no_speech_and_does_not_move_the_level() {
    let click = || noise(0.02, 30_000.0);
    let track = [
        tone(1.0, 500.0),
        tone(1.0, 0.0),
        click(),
        tone(1.0, 0.0),
        tone(1.0, 500.0),
    ];
    assert_eq!(silent(&track), ranges(&[(29, 72)]));
}

#[test]
fn a_frame_is_silent_only_if_all_of_it_is() {
    let pcm = [tone(1.0, 8000.0), tone(2.0, 0.0), tone(1.0, 8000.0)].concat();
    let ntsc = FrameRate::new(30_000, 1001).unwrap();
    let found = levels(&pcm).silent_frames(ntsc, 200);
    // 1.15 s x 29.97 = 34.47 and 2.88 s x 29.97 = 86.3.
    assert_eq!(found, ranges(&[(35, 86)]));
    assert_eq!(levels(&pcm).silent_frames(ntsc, 50), ranges(&[(35, 50)]));
}

#[test]
fn the_mouth_fades_inside_the_stretch_and_only_beside_speech() {
    let shares = |before, after| -> Vec<u8> {
        (10..20)
            .map(|frame| mouth_share(frame, FrameRange::new(10, 20), before, after))
            .collect()
    };
    assert_eq!(shares(true, true), [191, 127, 63, 0, 0, 0, 0, 63, 127, 191]);
    assert_eq!(shares(false, true), [0, 0, 0, 0, 0, 0, 0, 63, 127, 191]);
    assert_eq!(shares(true, false), [191, 127, 63, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(shares(false, false), [0; 10]);
}

/// Generates loud and quiet parts of some blocks each, in decibels below full scale.
fn parts() -> impl Strategy<Value = Vec<(usize, u8)>> {
    prop::collection::vec(
        (1_usize..120, prop_oneof![20_u8..30, 40_u8..70, Just(127)]),
        1..12,
    )
}

proptest! {
    #[test]
    fn pieces_do_not_show(parts in parts(), cuts in prop::collection::vec(1_usize..5000, 1..20)) {
        let pcm: Vec<i16> = parts
            .iter()
            .flat_map(|&(blocks, below)| {
                noise(blocks as f64 / 100.0, 32_000.0 * 10.0_f64.powf(-f64::from(below) / 20.0))
            })
            .collect();
        let mut meter = LevelMeter::default();
        let mut rest = &pcm[..];
        for cut in cuts.iter().cycle() {
            let (piece, left) = rest.split_at((*cut).min(rest.len()));
            meter.push(piece);
            rest = left;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(meter.finish(), levels(&pcm));
    }

    #[test]
    fn stretches_are_in_order_apart_and_within_the_frames(parts in parts(), num in 10_u32..70, frames in 0_u64..400) {
        let blocks = parts.iter().flat_map(|&(blocks, below)| {
            let level = below.saturating_mul(STEPS_PER_DB);
            std::iter::repeat_n(level, blocks)
        });
        let levels = Levels(blocks.collect());
        let found = levels.silent_frames(FrameRate::new(num, 1).unwrap(), frames);
        let mut end = None;
        for stretch in &found {
            prop_assert!(!stretch.is_empty() && stretch.end <= frames);
            prop_assert!(end.is_none_or(|end| end < stretch.start), "{:?}", found);
            end = Some(stretch.end);
        }
    }
}
