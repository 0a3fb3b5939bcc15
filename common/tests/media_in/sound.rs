//! Decoding speech.

use std::path::Path;

use latentfarm_common::media::{decode_speech, probe_audio};

use crate::support::Clips;

fn speech(path: &Path) -> Vec<i16> {
    let mut samples = Vec::new();
    let count = decode_speech(path, &mut |more| {
        samples.extend_from_slice(more);
        Ok(())
    });
    assert_eq!(count.unwrap(), samples.len() as u64);
    samples
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
        let probe = probe_audio(&path).unwrap();
        assert!(probe.rate_hz >= 8000 && probe.channels >= 1, "{probe:?}");
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
