//! Tests of the decoder of speech.

use std::path::Path;

use latentfarm_common::media::SoundOrigin;

use crate::support::{Clips, heard, sound};

fn speech(path: &Path) -> Vec<i16> {
    heard(&mut sound(path, SoundOrigin::Container).unwrap())
}

#[test]
fn audio_of_any_shape_has_its_exact_length() {
    let clips = Clips::new();
    let tone = "-f lavfi -i sine=f=440:r=48000:d=2.5";
    for (name, coding, samples) in [
        ("stereo.wav", "-ar 44100 -ac 2", 40_000),
        ("six.flac", "-ar 48000 -ac 6", 40_000),
        ("six.m4a", "-ar 48000 -ac 6 -c:a aac", 40_000),
        ("stereo.m4a", "-ar 44100 -ac 2 -c:a aac", 40_000),
        ("voice.wav", "-ar 8000 -ac 1 -c:a pcm_u8", 40_000),
        ("voice.opus", "-ar 48000 -ac 1 -c:a libopus", 40_000),
        ("odd.wav", "-ar 22050 -ac 1 -frames:a 1 -c:a pcm_f32le", 0),
    ] {
        let path = clips.make(name, &format!("{tone} {coding}"));
        let decoded = speech(&path);
        if samples > 0 {
            assert_eq!(decoded.len(), samples, "{name}");
        }
        assert!(
            decoded.iter().any(|&sample| sample.unsigned_abs() > 500),
            "{name} is silent"
        );
    }
}

#[test]
fn encoder_priming_does_not_shift_the_sound() {
    let clips = Clips::new();
    clips.make(
        "click.wav",
        "-f lavfi -i aevalsrc=if(between(t\\,0.5\\,0.51)\\,sin(2*PI*1000*t)\\,0):s=44100:d=1",
    );
    clips.make("click.m4a", "-i IN:click.wav -c:a aac -b:a 192k");
    let onset = |path: &Path| {
        speech(path)
            .iter()
            .position(|sample| sample.unsigned_abs() > 8000)
            .unwrap()
    };
    let (plain, coded) = (onset(&clips.path("click.wav")), onset(&clips.path("click.m4a")));
    assert!(plain.abs_diff(8000) < 20, "{plain}");
    assert!(plain.abs_diff(coded) < 20, "{plain} {coded}");
}

#[test]
fn hole_in_the_sound_is_filled_with_silence() {
    let clips = Clips::new();
    let hole = "-f lavfi -i sine=f=440:r=16000:d=3 -af aselect=lt(t\\,1)+gt(t\\,2) -c:a pcm_s16le";
    let path = clips.make("hole.mkv", hole);
    let samples = speech(&path);
    assert!(samples.len().abs_diff(48_000) < 2048, "{}", samples.len());
    assert!(samples[20_000..28_000].iter().all(|&sample| sample == 0));
    assert!(samples[40_000..].iter().any(|&sample| sample != 0));
}

/// The tone of the next tests: half of full scale, 440 Hz, from 0.5 s to 1 s of 1.5 s.
const TONE: &str = "aevalsrc=if(between(t\\,0.5\\,1)\\,0.5*sin(2*PI*440*t)\\,0):d=1.5:s=";

/// Returns the level of the tone, where 1 is its whole amplitude, and the sample at which it starts; `None`
/// if it is absent.
fn tone(path: &Path) -> Option<(f64, usize)> {
    let samples = speech(path);
    // At 11,025 Hz the clip's last sample begins before its end.
    assert!(
        samples.len().abs_diff(24_000) <= 1,
        "{}: {}",
        path.display(),
        samples.len()
    );
    let onset = samples.iter().position(|sample| sample.unsigned_abs() > 300)?;
    let middle = &samples[9600..14_400];
    let square: f64 = middle.iter().map(|&sample| f64::from(sample).powi(2)).sum();
    let rms = (square / middle.len() as f64).sqrt();
    Some((rms / (0.5 * 32_768.0 / 2.0_f64.sqrt()), onset))
}

/// Shares of the channels in the mono sound: of a plain mix to mono, scaled so that nothing can clip. The
/// low-frequency channel has no speech and no share.
#[test]
fn each_channel_of_any_layout_is_heard_in_time() {
    let clips = Clips::new();
    for (layout, shares) in [
        ("mono", &[1.0][..]),
        ("stereo", &[0.5, 0.5]),
        ("5.1", &[0.207, 0.207, 0.293, 0.0, 0.146, 0.146]),
        ("7.1", &[0.160, 0.160, 0.227, 0.0, 0.113, 0.113, 0.113, 0.113]),
    ] {
        for (channel, &share) in shares.iter().enumerate() {
            let name = format!("{layout}-{channel}.wav");
            let args = format!("-f lavfi -i {TONE}48000 -af pan={layout}|c{channel}=c0");
            let measured = tone(&clips.make(&name, &args));
            if share == 0.0 {
                assert_eq!(measured, None, "{name}");
                continue;
            }
            let (level, onset) = measured.unwrap_or_else(|| panic!("{name} is silent"));
            println!("{name}: {level:.4} from {onset}");
            assert!((level - share).abs() < 0.002, "{name}: {level}");
            assert!(onset.abs_diff(8000) <= 16, "{name}: {onset}");
        }
        let channels: Vec<String> = (0..shares.len())
            .map(|channel| format!("c{channel}=c0"))
            .collect();
        let name = format!("{layout}-all.wav");
        let args = format!("-f lavfi -i {TONE}48000 -af pan={layout}|{}", channels.join("|"));
        let (level, _) = tone(&clips.make(&name, &args)).unwrap();
        assert!((level - 1.0).abs() < 0.002, "{name}: {level}");
    }
}

#[test]
fn sample_format_and_rate_change_neither_level_nor_time() {
    let clips = Clips::new();
    let formats = [
        "pcm_u8",
        "pcm_s16le",
        "pcm_s24le",
        "pcm_s32le",
        "pcm_f32le",
        "pcm_f64le",
    ];
    let rates = ["8000", "11025", "22050", "44100", "48000", "96000"];
    let shapes = formats
        .map(|format| (format, "48000"))
        .into_iter()
        .chain(rates.map(|rate| ("pcm_s16le", rate)));
    for (format, rate) in shapes {
        for (layout, share) in [("mono|c0=c0", 1.0), ("5.1|c2=c0", 0.293)] {
            let name = format!("{format}-{rate}-{share}.wav");
            let args = format!("-f lavfi -i {TONE}{rate} -af pan={layout} -c:a {format}");
            let (level, onset) = tone(&clips.make(&name, &args)).unwrap();
            println!("{name}: {level:.4} from {onset}");
            assert!((level - share).abs() < 0.01, "{name}: {level}");
            assert!(onset.abs_diff(8000) <= 16, "{name}: {onset}");
        }
    }
}
