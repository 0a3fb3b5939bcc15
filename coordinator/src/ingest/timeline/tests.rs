use super::*;
use proptest::prelude::*;

const MS: TimeBase = TimeBase { num: 1, den: 1000 };

fn request(source_pts: &[i64], seconds: u64) -> TableRequest<'_> {
    TableRequest {
        source: SourceClock {
            pts: source_pts,
            last_duration: None,
            time_base: MS,
        },
        rate: FrameRate::FPS_25,
        speech_samples: seconds * 16_000,
        on_short: OnShort::Bounce,
        keep_tail: false,
    }
}

fn sources(request: &TableRequest) -> Vec<u32> {
    let table = frame_table(request).unwrap();
    table.outputs.iter().map(|output| output.source).collect()
}

/// Returns PTS of 25 frames per second in milliseconds.
fn steady(frames: i64) -> Vec<i64> {
    (0..frames).map(|n| n * 40).collect()
}

#[test]
fn bounce_turns_as_the_reference_does() {
    let pts = steady(12);
    let mut request = request(&pts, 1);
    request.speech_samples = 20 * 640;
    let expected = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 11, 10, 9, 8, 7, 6, 5, 4];
    assert_eq!(sources(&request), expected);
    request.speech_samples = 50 * 640;
    assert_eq!(sources(&request)[20..28], [3, 2, 1, 0, 0, 1, 2, 3]);
}

#[test]
fn short_video_loops_holds_or_cuts() {
    let pts = steady(3);
    let mut request = request(&pts, 1);
    request.speech_samples = 7 * 640;
    request.on_short = OnShort::Loop;
    assert_eq!(sources(&request), [0, 1, 2, 0, 1, 2, 0]);
    request.on_short = OnShort::Hold;
    assert_eq!(sources(&request), [0, 1, 2, 2, 2, 2, 2]);
    request.on_short = OnShort::Cut;
    assert_eq!(sources(&request), [0, 1, 2]);
}

#[test]
fn long_video_is_cut_unless_its_tail_is_kept() {
    let pts = steady(100);
    let mut request = request(&pts, 1);
    let table = frame_table(&request).unwrap();
    assert_eq!(
        (table.outputs.len(), table.sources, table.video_frames),
        (25, 25, 100)
    );
    assert!(table.outputs.iter().all(|output| output.synced));
    request.keep_tail = true;
    let table = frame_table(&request).unwrap();
    let synced = table.outputs.iter().filter(|output| output.synced).count();
    assert_eq!((table.outputs.len(), synced, table.speech_frames), (100, 25, 25));
    assert!(!table.outputs[25].synced && table.outputs[24].synced);
}

/// 30 frames in 1.2 s of video, speech shorter, as long, and longer, to the sample.
#[test]
fn output_ends_with_the_speech_whichever_is_longer() {
    let pts = steady(30);
    for (samples, frames) in [
        (640, 1),
        (641, 2),
        (19_199, 30),
        (19_200, 30),
        (19_201, 31),
        (40_000, 63),
        (1_600_000, 2500),
    ] {
        for on_short in [OnShort::Bounce, OnShort::Loop, OnShort::Hold, OnShort::Cut] {
            let request = TableRequest {
                speech_samples: samples,
                on_short,
                ..request(&pts, 1)
            };
            let table = frame_table(&request).unwrap();
            let expected = if on_short == OnShort::Cut {
                frames.min(30)
            } else {
                frames
            };
            assert_eq!(table.outputs.len(), expected, "{samples} samples, {on_short:?}");
            assert_eq!(
                table.sources,
                frames.min(30) as u64,
                "{samples} samples, {on_short:?}"
            );
            assert!(table.outputs.iter().all(|output| output.synced));
            let kept = TableRequest {
                keep_tail: true,
                ..request
            };
            let table = frame_table(&kept).unwrap();
            assert_eq!(
                table.outputs.len(),
                expected.max(30),
                "{samples} samples, {on_short:?}"
            );
            let synced = table.outputs.iter().filter(|output| output.synced).count();
            assert_eq!(synced, expected, "{samples} samples, {on_short:?}");
        }
    }
}

#[test]
fn speech_of_a_fraction_of_a_frame_gets_a_frame() {
    let pts = steady(100);
    let mut request = request(&pts, 1);
    request.speech_samples = 16_001;
    assert_eq!(sources(&request).len(), 26);
    request.speech_samples = 1;
    assert_eq!(sources(&request), [0]);
}

#[test]
fn rounded_time_stamps_still_give_the_identity() {
    // 29.97 and 59.94 per second as Matroska rounds them, not starting at 0.
    for (num, den) in [(30_000_i64, 1001_i64), (60_000, 1001), (24_000, 1001), (25, 1)] {
        let pts: Vec<i64> = (0..3000).map(|n| 7 + (n * den * 1000 + num / 2) / num).collect();
        let mut request = request(&pts, 1000);
        request.rate = FrameRate::new(u32::try_from(num).unwrap(), u32::try_from(den).unwrap()).unwrap();
        request.on_short = OnShort::Cut;
        assert_eq!(sources(&request), (0..3000).collect::<Vec<u32>>(), "{num}/{den}");
    }
}

#[test]
fn gap_in_the_time_stamps_repeats_the_frame_before_it() {
    let mut request = request(&[0, 40, 200, 240], 1);
    request.on_short = OnShort::Cut;
    assert_eq!(sources(&request), [0, 1, 1, 1, 1, 2, 3]);
}

#[test]
fn single_frame_is_a_video() {
    assert_eq!(sources(&request(&[5], 1)), [0; 25]);
}

#[test]
fn broken_time_stamps_are_refused_only_where_they_matter() {
    let pts = [0, 40, i64::MAX / 2];
    assert_eq!(sources(&request(&pts, 1))[..3], [0, 1, 1]);
    let kept = TableRequest {
        keep_tail: true,
        ..request(&pts, 1)
    };
    assert!(matches!(frame_table(&kept), Err(TableError::TooLong { .. })));
    assert_eq!(frame_table(&request(&[], 1)), Err(TableError::NoFrames));
}

prop_compose! {
    fn any_source()(
        start in -100_000_i64..100_000,
        steps in prop::collection::vec(1_i64..4000, 1..200),
    ) -> Vec<i64> {
        let mut at = start;
        steps.into_iter().map(|step| { at += step; at }).collect()
    }
}

proptest! {
    #[test]
    fn each_frame_of_a_pass_shows_what_is_on_at_its_middle(
        pts in any_source(),
        (num, den) in (1_u32..60_000, 1_u32..1002),
        ticks in 1_u32..100_000,
        samples in 1_u64..1_000_000,
    ) {
        prop_assume!(u64::from(num) <= 240 * u64::from(den) && num.div_ceil(den) >= 1);
        let rate = FrameRate::new(num, den).unwrap();
        let request = TableRequest {
            source: SourceClock { pts: &pts, last_duration: None, time_base: TimeBase { num: 1, den: ticks } },
            rate,
            speech_samples: samples,
            on_short: OnShort::Cut,
            ..request(&pts, 1)
        };
        let table = frame_table(&request).unwrap();
        prop_assert_eq!(table.speech_frames, rate.frames_covering(samples, 16_000));
        prop_assert_eq!(table.outputs.len() as u64, table.speech_frames.min(table.video_frames));
        // Twice the middle of frame n, in ticks x rate.num: (2n + 1) x ticks x rate.den.
        for (n, output) in (0_i128..).zip(&table.outputs) {
            let middle = (2 * n + 1) * i128::from(ticks) * i128::from(rate.den());
            let start = |at: usize| pts.get(at).map(|&p| 2 * i128::from(p - pts[0]) * i128::from(rate.num()));
            let shown = output.source as usize;
            prop_assert!(shown == 0 || start(shown).unwrap() < middle);
            prop_assert!(start(shown + 1).is_none_or(|next| next >= middle));
        }
    }

    #[test]
    fn every_way_of_filling_up_has_the_length_of_the_speech(
        pts in any_source(),
        samples in 1_u64..400_000,
        way in 0_usize..3,
        keep_tail: bool,
    ) {
        let on_short = [OnShort::Bounce, OnShort::Loop, OnShort::Hold][way];
        let request = TableRequest { speech_samples: samples, on_short, keep_tail, ..request(&pts, 1) };
        let table = frame_table(&request).unwrap();
        let expected = if keep_tail { table.speech_frames.max(table.video_frames) } else { table.speech_frames };
        prop_assert_eq!(table.outputs.len() as u64, expected);
        let synced = table.outputs.iter().take_while(|output| output.synced).count();
        prop_assert_eq!(synced as u64, table.speech_frames.min(expected));
        prop_assert!(table.outputs[synced..].iter().all(|output| !output.synced));
        prop_assert!(table.sources <= pts.len() as u64);
        if on_short == OnShort::Bounce {
            let video = table.video_frames;
            for (n, pair) in (1_u64..).zip(table.outputs.windows(2)) {
                if n % video == 0 {
                    prop_assert_eq!(pair[0].source, pair[1].source, "end frames are shown twice");
                }
            }
        }
    }
}
