//! Tests on measured noise; the head of `noise.txt` describes how it was measured.

use super::*;

const MIB: u64 = 1 << 20;

/// Returns the measured memory in use and memory held, in bytes, after each window.
fn measured() -> Vec<(u64, u64)> {
    let lines = include_str!("noise.txt").lines();
    lines
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| {
            let mut numbers = line
                .split_whitespace()
                .map(|number| number.parse::<u64>().unwrap());
            let (times, live, own) = (numbers.next(), numbers.next(), numbers.next());
            let times = usize::try_from(times.unwrap()).unwrap();
            vec![(live.unwrap(), own.unwrap() * MIB); times]
        })
        .collect()
}

/// Joins pieces of the measured series, of 5 to 36 windows each, from places that depend on `seed` alone.
fn resampled(count: usize, seed: u64) -> Vec<(u64, u64)> {
    let measured = measured();
    let mut state = seed;
    let mut next = |below: usize| {
        // splitmix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) >> 33).unwrap() % below
    };
    let mut series = Vec::new();
    while series.len() < count {
        let length = 5 + next(32);
        let from = next(measured.len() - length);
        series.extend_from_slice(&measured[from..from + length]);
    }
    series.truncate(count);
    series
}

/// Returns the first leak that is detected, and the window after which it is, counted from 1.
fn detected(series: impl IntoIterator<Item = (u64, u64)>) -> Option<(usize, Leak)> {
    let mut leak_detector = LeakDetector::default();
    series
        .into_iter()
        .zip(1..)
        .find_map(|((live, own), window)| Some((window, leak_detector.push_bytes(live, own)?)))
}

/// Adds a leak to a series: `per_window` bytes after every window from `from` on, to memory in use and memory
/// held.
fn leaking(series: Vec<(u64, u64)>, from: usize, per_window: u64) -> impl Iterator<Item = (u64, u64)> {
    series.into_iter().enumerate().map(move |(at, (live, own))| {
        let windows = u64::try_from((at + 1).saturating_sub(from)).unwrap();
        (live + windows * per_window, own + windows * per_window)
    })
}

#[test]
fn the_measured_series_is_as_long_as_it_says() {
    assert_eq!(measured().len(), 1000);
}

#[test]
fn ten_thousand_windows_of_measured_noise_are_steady() {
    assert_eq!(detected(measured()), None);
    for seed in 0..50 {
        assert_eq!(detected(resampled(10_000, seed)), None, "seed {seed}");
    }
}

#[test]
fn a_leak_of_one_mebibyte_a_window_is_detected_within_fifty() {
    // The series of a real run from its first window, and any stretch of noise, the leak beginning anywhere
    // in it.
    let cases = (0..200).map(|seed| (resampled(400, seed), usize::try_from(seed).unwrap()));
    for (series, from) in cases.chain([(measured(), 0)]) {
        let (window, leak) = detected(leaking(series, from, MIB)).unwrap();
        assert!(window <= from + 50, "from {from}: only after {window} windows");
        assert!(window > from, "from {from}: before it began");
        let error = leak.bytes_per_window.abs_diff(MIB);
        assert!(error < MIB / 4, "{leak}");
        // Of a device of 24 GiB it is one in five hundred by then.
        assert!((window - from) as u64 * MIB * 100 < 24 << 30);
    }
}

#[test]
fn memory_held_may_leak_while_memory_in_use_does_not() {
    let (_, leak) = detected((0..100).map(|window| (5 * MIB, 100 * MIB + window * MIB))).unwrap();
    assert_eq!(
        leak,
        Leak {
            of: Series::Own,
            bytes_per_window: MIB,
            windows: 40
        }
    );
    assert_eq!(
        leak.to_string(),
        "memory held grows by 1.00 MiB a window, measured over 40 windows"
    );
}

#[test]
fn a_slow_leak_shows_in_a_longer_view() {
    for (per_window, within) in [(100 << 10, 400), (12 << 10, 3100)] {
        let series = leaking(resampled(4000, 7), 0, per_window);
        let (window, leak) = detected(series).unwrap();
        assert!(window <= within, "{per_window}: only after {window} windows");
        assert!(
            leak.bytes_per_window.abs_diff(per_window) < per_window / 3,
            "{leak}"
        );
    }
}

#[test]
fn a_single_step_of_any_size_at_any_window_is_no_leak() {
    for step in [MIB, 20 * MIB, 200 * MIB, 2048 * MIB] {
        for at in 1..200 {
            let series = resampled(1000, at);
            let at = usize::try_from(at).unwrap();
            let stepped = series.into_iter().enumerate().map(|(window, (live, own))| {
                let more = if window >= at { step } else { 0 };
                (live + more, own + more)
            });
            assert_eq!(detected(stepped), None, "{step} bytes at {at}");
        }
    }
}

#[test]
fn wide_noise_and_a_fall_are_no_leaks() {
    // Uniform over 400 MiB, from the bits of a fixed sequence; and a baseline that sinks.
    let noise = |window: u64| (window.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % (400 * MIB);
    assert_eq!(
        detected((0..10_000).map(|window| (0, 1000 * MIB + noise(window)))),
        None
    );
    assert_eq!(detected((0..1000).map(|window| (0, (2000 - window) * MIB))), None);
}
