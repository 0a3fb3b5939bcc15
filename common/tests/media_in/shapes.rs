//! Sound files of unusual shape: lengths that the header has wrong, many channels, several tracks, values that are no numbers.

use std::path::{Path, PathBuf};

use latentfarm_common::media::{
    AudioOffset, Container, MediaError, Sound, SoundOrigin, SoundRequest, TrackChoice, decode_sound,
};
use latentfarm_common::time::FrameRate;

use crate::support::{Clips, heard, refusal, sound};

fn rms(samples: &[i16]) -> f64 {
    let square: f64 = samples.iter().map(|&sample| f64::from(sample).powi(2)).sum();
    (square / samples.len().max(1) as f64).sqrt()
}

/// A place in a header: the name before it, the bytes between, and its number of bytes.
type Field = (&'static [u8], usize, usize);

#[test]
fn lengths_in_headers_are_not_believed() {
    let clips = Clips::new();
    let tone = "-f lavfi -i sine=f=440:r=16000:d=1";
    let w64 = b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0\x4f\x8e\xdb\x8a";
    let cases: [(&str, &str, Field); 7] = [
        ("a.wav", "-bitexact", (b"data", 0, 4)),
        ("tagged.wav", "-metadata title=x", (b"data", 0, 4)),
        ("g.wav", "-ar 8000 -c:a pcm_mulaw -bitexact", (b"data", 0, 4)),
        ("a.aiff", "", (b"SSND", 0, 4)),
        ("frames.aiff", "", (b"COMM", 6, 4)),
        ("a.w64", "", (w64, 0, 8)),
        ("wide.wav", "-rf64 always", (b"ds64", 12, 8)),
    ];
    for (name, coding, (tag, skip, bytes)) in cases {
        let path = clips.make(name, &format!("{tone} {coding}"));
        let whole = std::fs::read(&path).unwrap();
        let expected = heard(&mut sound(&path, SoundOrigin::Container).unwrap());
        assert_eq!(expected.len(), 16_000, "{name}");
        let at = whole.windows(tag.len()).position(|window| window == tag).unwrap() + tag.len() + skip;
        for (how, fill) in [
            ("zero", [0_u8; 8]),
            ("ones", [0xff; 8]),
            ("large", [16, 0, 0, 16, 0, 0, 0, 0]),
            ("negative", [0xb2, 0, 0xce, 0xb8, 0, 0, 0, 0]),
        ] {
            let mut changed = whole.clone();
            changed[at..at + bytes].copy_from_slice(&fill[..bytes]);
            let path = clips.path(&format!("{how}-{name}"));
            std::fs::write(&path, changed).unwrap();
            let mut decoded = sound(&path, SoundOrigin::Container).unwrap_or_else(|error| {
                panic!("{how} {name}: {}", latentfarm_common::error::one_line(&error))
            });
            let found = heard(&mut decoded);
            // A chunk of tags after the samples may be heard as some samples more.
            assert!(
                found.len().abs_diff(expected.len()) < 100,
                "{how} {name}: {}",
                found.len()
            );
            assert_eq!(found[..15_900], expected[..15_900], "{how} {name}");
            assert_eq!(decoded.notes(), [""; 0], "{how} {name}");
        }
    }
    let left: Vec<PathBuf> = std::fs::read_dir(clips.0.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(".tmp"))
        .collect();
    assert!(left.is_empty(), "copies were left: {left:?}");
}

/// Writes a WAV file without a channel layout, of 32-bit floats.
fn floats(path: &Path, rate_hz: u32, channels: u16, value: impl Fn(u32, u16) -> f32) {
    let samples = rate_hz;
    let block = 4 * channels;
    let data = samples * u32::from(block);
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + data).to_le_bytes());
    bytes.extend(b"WAVEfmt \x10\0\0\0\x03\0");
    bytes.extend(channels.to_le_bytes());
    bytes.extend(rate_hz.to_le_bytes());
    bytes.extend((rate_hz * u32::from(block)).to_le_bytes());
    bytes.extend(block.to_le_bytes());
    bytes.extend(b"\x20\0data");
    bytes.extend(data.to_le_bytes());
    for at in 0..samples {
        for channel in 0..channels {
            bytes.extend(value(at, channel).to_le_bytes());
        }
    }
    std::fs::write(path, bytes).unwrap();
}

fn tone(at: u32, rate_hz: u32) -> f32 {
    let at = f64::from(at) / f64::from(rate_hz);
    #[expect(clippy::cast_possible_truncation, reason = "a sample of a tone")]
    let sample = (0.5 * (std::f64::consts::TAU * 200.0 * at).sin()) as f32;
    sample
}

/// Makes the sound of outputs in both containers, and returns the loudness of the model's speech.
fn loudness(path: &Path) -> f64 {
    for container in [Container::Mp4, Container::Matroska] {
        let mut decoded = decode(path, &TrackChoice::Default, container).unwrap();
        let output = path.with_extension("out");
        decoded.write(&output, 25, FrameRate::FPS_25).unwrap();
        assert!(
            std::fs::metadata(output).unwrap().len() > 500,
            "{}",
            path.display()
        );
    }
    rms(&heard(&mut sound(path, SoundOrigin::Container).unwrap()))
}

fn decode(path: &Path, track: &TrackChoice, container: Container) -> Result<Sound, MediaError> {
    decode_sound(&SoundRequest {
        path,
        track,
        origin: SoundOrigin::Container,
        offset: AudioOffset::default(),
        container,
        exact: false,
        scratch: path.parent().unwrap(),
    })
}

#[test]
fn one_voice_among_any_number_of_channels_is_heard() {
    let clips = Clips::new();
    let path = clips.path("many.wav");
    floats(&path, 16_000, 1, |at, _| tone(at, 16_000));
    let alone = loudness(&path);
    for channels in [3, 4, 6, 7, 8, 9, 16, 31, 64] {
        for voice in [0, channels / 2, channels - 1] {
            floats(&path, 16_000, channels, |at, channel| {
                if channel == voice { tone(at, 16_000) } else { 0.0 }
            });
            let level = loudness(&path);
            assert!(
                (level / alone - 1.0).abs() < 0.02,
                "{voice} of {channels}: {level}"
            );
        }
    }
}

#[test]
fn any_rate_can_be_rendered() {
    let clips = Clips::new();
    let path = clips.path("rate.wav");
    for rate_hz in [1000, 4000, 7350, 12_345, 65_537, 192_000, 655_350, 768_000] {
        floats(&path, rate_hz, 1, |at, _| tone(at, rate_hz));
        let level = loudness(&path);
        assert!(
            (level - 0.5 * 32_768.0 / 2.0_f64.sqrt()).abs() < 500.0,
            "{rate_hz}: {level}"
        );
        let length = heard(&mut sound(&path, SoundOrigin::Container).unwrap()).len();
        assert_eq!(length, 16_000, "{rate_hz}");
    }
}

#[test]
fn sides_that_cancel_are_heard_and_said() {
    let clips = Clips::new();
    let path = clips.path("anti.wav");
    for (left, right, side) in [(1.0, -1.0, "channel 1"), (0.9, -1.0, "channel 2")] {
        floats(&path, 48_000, 2, |at, channel| {
            tone(at, 48_000) * if channel == 0 { left } else { right }
        });
        assert!(loudness(&path) > 10_000.0);
        let decoded = sound(&path, SoundOrigin::Container).unwrap();
        let notes = decoded.notes().join("\n");
        assert!(
            notes.contains("cancel each other") && notes.contains(side),
            "{notes}"
        );
    }
}

#[test]
fn values_that_are_no_numbers_are_silent() {
    let clips = Clips::new();
    let path = clips.path("nan.wav");
    floats(&path, 16_000, 1, |at, _| match at {
        5000 => f32::NAN,
        5001 => f32::INFINITY,
        5002 => f32::NEG_INFINITY,
        5003 => 1e30,
        _ => tone(at, 16_000),
    });
    assert!(loudness(&path) > 10_000.0);
    let decoded = sound(&path, SoundOrigin::Container).unwrap();
    assert!(
        decoded.notes()[0].starts_with("4 values"),
        "{:?}",
        decoded.notes()
    );
    let mut decoded = decode(&path, &TrackChoice::Default, Container::Matroska).unwrap();
    let treatment = decoded
        .write(&clips.path("out.mkv"), 25, FrameRate::FPS_25)
        .unwrap();
    assert_eq!(treatment.to_string(), "transcoded: parts of it are damaged");
    floats(&path, 16_000, 2, |_, _| f32::NAN);
    let mut decoded = sound(&path, SoundOrigin::Container).unwrap();
    assert!(heard(&mut decoded).iter().all(|&sample| sample == 0));
}

#[test]
fn the_first_default_track_that_can_be_decoded_is_taken() {
    let clips = Clips::new();
    let tracks = "-f lavfi -i anullsrc=d=1 -f lavfi -i sine=d=1 -f lavfi -i sine=f=50:d=1 -map 0 -map 1 -map 2 -c:a:0 aac \
                  -c:a:1 aac -c:a:2 flac -disposition:a:0 0 -disposition:a:1 default -disposition:a:2 default \
                  -metadata:s:a:0 language=eng -metadata:s:a:1 language=deu -metadata:s:a:2 title=Music";
    let path = clips.make("three.mkv", tracks);
    let chosen = |path: &Path, track: &TrackChoice| {
        let decoded = decode(path, track, Container::Mp4).unwrap();
        decoded.notes().join("\n")
    };
    let named = |name: &str| name.parse::<TrackChoice>().unwrap();
    let note = chosen(&path, &TrackChoice::Default);
    assert!(
        note.contains("is track 2: deu, aac") && note.contains("3: \"Music\""),
        "{note}"
    );
    for (name, track) in [
        ("1", "is track 1"),
        ("eng", "is track 1"),
        ("music", "is track 3"),
    ] {
        let note = chosen(&path, &named(name));
        assert!(note.contains(track), "{name}: {note}");
    }
    let refused = refusal(decode(&path, &named("fra"), Container::Mp4));
    for part in [
        "--audio-track",
        "three.mkv",
        "1: eng, aac",
        "2: deu, aac",
        "3: \"Music\", flac",
    ] {
        assert!(refused.contains(part), "{refused}");
    }

    // A codec that nobody knows does not hide the others, unless the user asks for it.
    let mut bytes = std::fs::read(&path).unwrap();
    let codec = bytes
        .windows(6)
        .enumerate()
        .filter(|(_, window)| window == b"A_AAC\x67" || window.starts_with(b"A_AAC"));
    let places: Vec<usize> = codec.map(|(at, _)| at).collect();
    bytes[places[1]..places[1] + 5].copy_from_slice(b"A_XXX");
    let broken = clips.path("broken.mkv");
    std::fs::write(&broken, bytes).unwrap();
    let note = chosen(&broken, &TrackChoice::Default);
    assert!(
        note.contains("is track 3") && note.contains("2: deu, none, 1 channel"),
        "{note}"
    );
    let refused = refusal(decode(&broken, &named("2"), Container::Mp4));
    assert!(
        refused.contains("no decoder") && refused.contains("broken.mkv"),
        "{refused}"
    );
}

#[test]
fn sound_that_cannot_be_decoded_is_refused_and_does_not_hide_a_track_that_can() {
    let clips = Clips::new();
    let key = "-encryption_scheme cenc-aes-ctr -encryption_key 76a6c65c5ea762046bd749a2e632ccbb -encryption_kid \
               a7e61c373e219033c21091fa607bf3b8";
    let path = clips.make("locked.mp4", &format!("-f lavfi -i sine=d=1 -c:a aac {key}"));
    let refused = refusal(sound(&path, SoundOrigin::Container));
    assert!(
        refused.contains("encrypted") && refused.contains("locked.mp4"),
        "{refused}"
    );

    let tone = "-f lavfi -i sine=d=2 -f lavfi -i sine=d=2 -map 0 -map 1 -c:a:0 flac -c:a:1 aac";
    let path = clips.make("noise.mkv", &format!("{tone} -disposition:a default"));
    let mut bytes = std::fs::read(&path).unwrap();
    // Each frame of FLAC begins with this; without it none is found.
    for at in 0..bytes.len() - 1 {
        if bytes[at] == 0xff && bytes[at + 1] == 0xf8 {
            bytes[at] = 0;
        }
    }
    std::fs::write(&path, bytes).unwrap();
    let decoded = sound(&path, SoundOrigin::Container).unwrap();
    assert!(decoded.notes()[0].contains("is track 2"), "{:?}", decoded.notes());
    let first = "1".parse().unwrap();
    let refused = refusal(decode(&path, &first, Container::Mp4));
    assert!(
        refused.contains("noise.mkv") && refused.contains("decoded"),
        "{refused}"
    );
}
