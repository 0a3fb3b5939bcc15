//! Tests that compare the sound of the final file with the original.

use super::*;

/// Returns the offset in samples at which `played` follows `original` best, and the similarity there, over
/// the first 0.3 s.
fn alignment(original: &[f32], played: &[f32]) -> (i64, f64) {
    const SPAN: i64 = 13_000;
    let at = |sound: &[f32], index: i64| {
        usize::try_from(index)
            .ok()
            .and_then(|index| sound.get(index))
            .map_or(0.0, |v| f64::from(*v))
    };
    (-1300..=1300_i64)
        .map(|offset| {
            let (mut product, mut left, mut right) = (0.0, 0.0, 0.0);
            for index in 0..SPAN {
                let (a, b) = (at(original, index), at(played, index + offset));
                product += a * b;
                left += a * a;
                right += b * b;
            }
            (offset, product / (left * right).sqrt().max(1e-9))
        })
        .max_by(|one, two| one.1.total_cmp(&two.1))
        .unwrap()
}

fn assert_in_sync(dir: &Path, audio: &Path, output: &Path) {
    let (offset, similarity) = alignment(&decoded(dir, audio), &decoded(dir, output));
    assert_eq!(offset, 0, "{} is shifted", output.display());
    assert!(
        similarity > 0.95,
        "{} sounds different: {similarity}",
        output.display()
    );
}

#[test]
fn audio_is_copied_where_the_container_allows_and_stays_in_sync() {
    let fixture = Fixture::new("25", &[48, 75]);
    let dir = fixture.dir.path();
    let reason = |what: &str| AudioTreatment::Transcoded {
        reason: what.to_owned(),
    };
    let cases = [
        ("a.m4a", "-c:a aac -ac 2", "out.mp4", AudioTreatment::Copied),
        ("a.mp3", "-c:a libmp3lame", "out.mp4", AudioTreatment::Copied),
        (
            "stereo.mp3",
            "-c:a libmp3lame -ac 2",
            "out.mp4",
            AudioTreatment::Copied,
        ),
        ("a.wav", "", "out.mp4", reason("mp4 cannot carry pcm_s16le")),
        (
            "stereo.wav",
            "-ac 2 -ar 48000",
            "out.mp4",
            reason("mp4 cannot carry pcm_s16le"),
        ),
        (
            "slow.wav",
            "-ar 16000",
            "out.mp4",
            reason("mp4 cannot carry pcm_s16le"),
        ),
        (
            "fast.wav",
            "-ar 192000",
            "out.mp4",
            reason("mp4 cannot carry pcm_s16le"),
        ),
        ("a.flac", "", "out.mp4", AudioTreatment::Copied),
        ("alac.m4a", "-c:a alac", "out.mp4", AudioTreatment::Copied),
        ("a.opus", "-c:a libopus", "out.mp4", AudioTreatment::Copied),
        ("webm.mkv", "-c:a libopus", "out.mp4", AudioTreatment::Copied),
        (
            "a.ogg",
            "-c:a libvorbis",
            "out.mp4",
            reason("mp4 cannot carry vorbis"),
        ),
        ("a.aac", "-c:a aac", "out.mp4", AudioTreatment::Copied),
        ("aac.mkv", "-c:a aac", "out.mp4", AudioTreatment::Copied),
        ("a.wav", "", "out.mkv", AudioTreatment::Copied),
        ("a.flac", "", "out.mkv", AudioTreatment::Copied),
        ("a.opus", "-c:a libopus", "out.mkv", AudioTreatment::Copied),
        (
            "a.ogg",
            "-c:a libvorbis",
            "out.mkv",
            reason("mkv cannot mark the 128 samples that vorbis needs cut from its start"),
        ),
        (
            "a.m4a",
            "-c:a aac",
            "out.mkv",
            reason("mkv cannot mark the 1024 samples that aac needs cut from its start"),
        ),
        (
            "a.mp3",
            "-c:a libmp3lame",
            "out.mkv",
            reason("mkv cannot mark the 1105 samples that mp3 needs cut from its start"),
        ),
    ];
    for (name, options, output, treatment) in cases {
        let audio = sound(dir, name, "2.99", options);
        let (output, treated) = fixture.join(&audio, output, false);
        assert_eq!(treated, treatment, "{name}");
        fixture.check(&output);
        assert_in_sync(dir, &audio, &output);
    }
}

/// A player of the file hears the sound late; so does who watches the output.
#[test]
fn audio_that_starts_late_in_its_file_keeps_its_place() {
    let fixture = Fixture::new("25", &[48, 75]);
    let dir = fixture.dir.path();
    let whole = decoded(dir, &sound(dir, "plain.m4a", "1.5", "-c:a aac"));
    let tracks = "-f lavfi -i testsrc2=s=64x64:d=4 -map 0 -map 1 -c:a copy";
    for (name, output) in [
        ("late.mp4", "out.mp4"),
        ("late.mkv", "out.mp4"),
        ("late.ts", "out.mp4"),
        ("late.mkv", "out.mkv"),
    ] {
        ffmpeg(dir, &format!("-itsoffset 1.5 -i plain.m4a {tracks} {name}"));
        let (output, treatment) = fixture.join(&dir.join(name), output, false);
        assert!(
            matches!(treatment, AudioTreatment::Transcoded { .. }),
            "{treatment}"
        );
        fixture.check(&output);
        let (before, after) = {
            let mut played = decoded(dir, &output);
            let after = played.split_off(66_150);
            (played, after)
        };
        assert!(before[..64_000].iter().all(|value| value.abs() < 0.01), "{name}");
        let (offset, similarity) = alignment(&whole, &after);
        // The containers round the start to a millisecond, and a packet of AAC more or less precedes it.
        assert!(
            offset.abs() <= 1100 && similarity > 0.9,
            "{name}: {offset}, {similarity}"
        );
    }
}

#[test]
fn audio_longer_than_the_video_is_cut() {
    let fixture = Fixture::new("25", &[48, 75]);
    let dir = fixture.dir.path();
    for (name, options) in [
        ("a.m4a", "-c:a aac"),
        ("a.mp3", "-c:a libmp3lame"),
        ("a.wav", ""),
        ("a.opus", "-c:a libopus"),
    ] {
        let audio = sound(dir, name, "7.3", options);
        for output in ["out.mp4", "out.mkv"] {
            for exact in [false, true] {
                let (output, _) = fixture.join(&audio, output, exact);
                let report = fixture.check(&output);
                assert!(report.audio_ms.abs_diff(3000) <= 1, "{name} {report:?}");
                assert_in_sync(dir, &audio, &output);
            }
        }
    }
}

/// One packet of such a track is decoded to many frames of the encoder.
#[test]
fn sound_in_packets_of_any_length_is_transcoded() {
    let fixture = Fixture::new("25", &[48, 75]);
    let dir = fixture.dir.path();
    let cases = [
        ("phone.wav", "-ar 8000 -c:a pcm_mulaw"),
        ("bytes.wav", "-c:a pcm_u8"),
        ("long.flac", "-c:a flac -frame_size 65535"),
        ("long.wv", "-c:a wavpack -frame_size 131072"),
        ("a.tta", "-c:a tta"),
        ("short.wav", "-c:a adpcm_ima_wav -block_size 64"),
    ];
    for (name, options) in cases {
        let audio = sound(dir, name, "2.99", options);
        for output in ["out.mp4", "out.mkv"] {
            let (output, treatment) = fixture.join(&audio, output, true);
            assert!(matches!(treatment, AudioTreatment::Transcoded { .. }), "{name}");
            fixture.check(&output);
            assert_in_sync(dir, &audio, &output);
        }
    }
}

#[test]
fn exact_audio_ends_at_the_exact_sample() {
    let fixture = Fixture::new("24000/1001", &[48, 71]);
    let dir = fixture.dir.path();
    let audio = sound(dir, "a.m4a", "5", "-c:a aac");
    // 71 frames are 130,592.96 samples at 44.1 kHz.
    let (output, treatment) = fixture.join(&audio, "out.mkv", true);
    assert_eq!(
        treatment,
        AudioTreatment::Transcoded {
            reason: "the audio is cut at the exact sample".to_owned()
        }
    );
    assert_eq!(decoded(dir, &output).len(), 130_593);
    let (output, _) = fixture.join(&audio, "out.mp4", true);
    let durations = probe(&output, "-select_streams a -show_entries stream=duration_ts");
    assert_eq!(durations, "130593");
}

#[test]
fn audio_that_ends_within_the_last_frame_is_kept_whole() {
    let fixture = Fixture::new("25", &[48, 75]);
    let dir = fixture.dir.path();
    let audio = sound(dir, "a.wav", "2.963", "");
    let (output, _) = fixture.join(&audio, "out.mkv", false);
    fixture.check(&output);
    assert_eq!(decoded(dir, &output).len(), decoded(dir, &audio).len());

    let short = sound(dir, "short.wav", "2.5", "");
    for name in ["out.mkv", "out.mp4"] {
        let (output, _) = fixture.join(&short, name, false);
        let refused = verify_output(&output, fixture.rate, fixture.frames(), AudioLength::LikeVideo);
        assert!(matches!(refused, Err(MediaError::Rejected { .. })));
        verify_output(&output, fixture.rate, fixture.frames(), AudioLength::MayEndEarly).unwrap();
        assert!(
            verify_output(
                &output,
                fixture.rate,
                fixture.frames() + 1,
                AudioLength::MayEndEarly
            )
            .is_err()
        );
        assert!(verify_output(&output, rate("24"), fixture.frames(), AudioLength::MayEndEarly).is_err());
    }
}
