//! The model's speech and the sound of the output have the same timing: clicks at known times come out of both at the
//! same times, whatever the time stamps of the input are.

use std::path::Path;
use std::process::Command;

use latentfarm_common::media::{
    AudioOffset, Container, Sound, SoundOrigin, SoundRequest, TrackChoice, decode_sound,
};
use latentfarm_common::time::{FrameRate, TimeBase};

use crate::support::{Clips, heard, refusal};

/// The two may differ by so much: encoders spread the start of a click a little.
const SLACK_S: f64 = 0.0015;
const MS: TimeBase = TimeBase { num: 1, den: 1000 };

/// 2.4 s of stereo sound with clicks of 10 ms at 0.5, 1.0, 1.5 and 2.0 s.
const CLICKS: &str =
    "aevalsrc=0.9*sin(2*PI*1000*t)*lt(mod(t\\,0.5)\\,0.01)*gt(t\\,0.4):s=48000:d=2.4:c=stereo";

/// Returns the times at which clicks begin in mono sound.
fn clicks(samples: &[i16], rate_hz: u32) -> Vec<f64> {
    let mut times = Vec::new();
    let mut quiet_from = 0;
    for (at, sample) in samples.iter().enumerate() {
        if sample.unsigned_abs() > 5000 {
            if at >= quiet_from {
                times.push(at as f64 / f64::from(rate_hz));
            }
            quiet_from = at + rate_hz as usize / 10;
        }
    }
    times
}

/// Returns the sound of a file as a player plays it against time 0, mono at 48 kHz.
fn played(path: &Path) -> Vec<i16> {
    let filter = "aresample=48000:async=1:min_hard_comp=0.01:first_pts=0";
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-copyts", "-i"])
        .arg(path)
        .args(["-af", filter, "-ac", "1", "-f", "s16le", "-"])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
        .stdout
        .chunks_exact(2)
        .map(|bytes| i16::from_le_bytes([bytes[0], bytes[1]]))
        .collect()
}

#[track_caller]
fn assert_times(found: &[f64], expected: &[f64], what: &str) {
    let near = |(found, expected): (&f64, &f64)| (found - expected).abs() < SLACK_S;
    let fits = found.len() == expected.len() && found.iter().zip(expected).all(near);
    assert!(fits, "{what}: {found:?} instead of {expected:?}");
}

fn decode(path: &Path, origin: SoundOrigin, offset: &str, container: Container) -> Sound {
    let request = SoundRequest {
        path,
        track: &TrackChoice::Default,
        origin,
        offset: offset.parse().unwrap(),
        container,
        exact: false,
        scratch: path.parent().unwrap(),
    };
    decode_sound(&request).unwrap()
}

/// Asserts that model and output have their clicks at the same times, and returns these with the notes and what was done
/// for MP4.
#[track_caller]
fn agreed(path: &Path, origin: SoundOrigin, offset: &str) -> (Vec<f64>, String, String) {
    let mut result = None;
    for container in [Container::Matroska, Container::Mp4] {
        let mut sound = decode(path, origin, offset, container);
        let model = heard(&mut sound);
        let output = path.with_extension(format!("out.{}", container.extension()));
        let treatment = sound.write(&output, 250, FrameRate::FPS_25).unwrap().to_string();
        let player = played(&output);
        let what = format!("{} in {}, {treatment}", path.display(), container.extension());
        let times = clicks(&model, 16_000);
        assert_times(&clicks(&player, 48_000), &times, &what);
        let (model_s, player_s) = (model.len() as f64 / 16_000.0, player.len() as f64 / 48_000.0);
        // A player may play the padding of the last packet of AAC, which lasts 0.128 s at 8 kHz.
        let padding = player_s - model_s;
        assert!(
            (-0.03..0.14).contains(&padding),
            "{what}: {model_s} s, {player_s} s"
        );
        result = Some((times, sound.notes().join("\n"), treatment));
    }
    result.unwrap()
}

#[test]
fn any_codec_keeps_its_time() {
    let clips = Clips::new();
    for (name, coding, copied) in [
        ("plain.wav", "", false),
        ("phone.wav", "-ar 8000 -c:a pcm_mulaw", false),
        ("slow.wav", "-ar 11025 -c:a adpcm_ms", false),
        ("fast.wav", "-ar 768000", false),
        ("deep.wav", "-c:a pcm_f64le", false),
        ("long.flac", "-frame_size 65535", true),
        ("a.m4a", "-c:a aac", true),
        ("a.aac", "-c:a aac", true),
        ("a.mka", "-c:a aac", true),
        ("a.mp3", "-c:a libmp3lame", true),
        ("a.opus", "-c:a libopus", true),
        ("a.ogg", "-c:a libvorbis", false),
        ("a.wma", "-c:a wmav2", false),
        ("a.ac3", "-c:a ac3", true),
        ("a.avi", "-c:a libmp3lame", true),
        ("a.flv", "-c:a aac", true),
    ] {
        let path = clips.make(name, &format!("-f lavfi -i {CLICKS} {coding}"));
        let (times, notes, treatment) = agreed(&path, SoundOrigin::Container, "0");
        let first = times[0] - 0.5;
        assert!(first.abs() < 0.05, "{name}: {times:?}");
        let expected: Vec<f64> = [0.5, 1.0, 1.5, 2.0].iter().map(|at| at + first).collect();
        assert_times(&times, &expected, name);
        assert_eq!(notes, "", "{name}");
        assert_eq!(treatment == "copied", copied, "{name}: {treatment}");
    }
}

#[test]
fn gaps_are_silent_and_what_follows_keeps_its_place() {
    let clips = Clips::new();
    for (name, filter, coding) in [
        ("long.mkv", "aselect=lt(t\\,0.6)+gt(t\\,0.9)", "-c:a pcm_s16le"),
        ("short.mkv", "aselect=lt(t\\,0.7)+gt(t\\,0.75)", "-c:a pcm_s16le"),
        (
            "twice.ts",
            "aselect=lt(t\\,0.6)+between(t\\,0.8\\,1.1)+gt(t\\,1.4)",
            "-c:a mp2",
        ),
        ("lossy.mp4", "aselect=lt(t\\,0.6)+gt(t\\,0.9)", "-c:a aac"),
    ] {
        let path = clips.make(name, &format!("-f lavfi -i {CLICKS} -af {filter} {coding}"));
        let (times, notes, treatment) = agreed(&path, SoundOrigin::Container, "0");
        let expected: Vec<f64> = [0.0, 0.5, 1.0, 1.5].iter().map(|at| at + times[0]).collect();
        assert_times(&times, &expected, name);
        assert!((times[0] - 0.5).abs() < 0.03, "{name}: {times:?}");
        assert!(
            notes.contains("has gaps of 0.") && notes.contains(name),
            "{notes}"
        );
        assert!(treatment.starts_with("transcoded"), "{treatment}");
    }
}

#[test]
fn joined_recordings_play_one_after_the_other() {
    let clips = Clips::new();
    let parts = [
        ("a", "-t 1.25"),
        ("b", "-ss 1.25"),
        ("c", "-output_ts_offset 5000"),
    ];
    for (extension, coding) in [
        ("ts", "-c:a aac"),
        ("ac3", "-c:a ac3"),
        ("mpg", "-c:a mp2 -f mpeg"),
    ] {
        for (part, cut) in parts {
            clips.make(
                &format!("{part}.{extension}"),
                &format!("-f lavfi -i {CLICKS} {cut} {coding}"),
            );
        }
        for order in ["ab", "ac"] {
            let bytes: Vec<u8> = order
                .chars()
                .flat_map(|part| std::fs::read(clips.path(&format!("{part}.{extension}"))).unwrap())
                .collect();
            let path = clips.path(&format!("{order}.{extension}"));
            std::fs::write(&path, bytes).unwrap();
            let (times, notes, _) = agreed(&path, SoundOrigin::Container, "0");
            assert_eq!(
                times.len(),
                if order == "ab" { 4 } else { 6 },
                "{order} {extension}: {times:?}"
            );
            assert!(times.is_sorted() && times[2] - times[1] > 0.45, "{times:?}");
            if extension == "ts" {
                assert!(notes.contains("start anew at 1.2"), "{notes}");
            }
        }
    }
}

#[test]
fn the_sound_of_the_video_keeps_its_place_against_the_pictures() {
    let clips = Clips::new();
    clips.make("clicks.wav", &format!("-f lavfi -i {CLICKS}"));
    let picture = "-f lavfi -i testsrc2=s=128x96:r=25:d=3";
    for (name, order, first_pts, expected) in [
        (
            "late.mov",
            format!("{picture} -itsoffset 0.8 -i IN:clicks.wav"),
            0,
            [1.3, 1.8, 2.3, 2.8].as_slice(),
        ),
        (
            "late.mkv",
            format!("{picture} -itsoffset 0.8 -i IN:clicks.wav"),
            0,
            &[1.3, 1.8, 2.3, 2.8],
        ),
        (
            "early.mkv",
            format!("-itsoffset 0.6 {picture} -i IN:clicks.wav"),
            600,
            &[0.4, 0.9, 1.4],
        ),
    ] {
        let path = clips.make(
            name,
            &format!("{order} -c:v libx264 -bf 0 -c:a pcm_s16le -map 0 -map 1"),
        );
        let origin = SoundOrigin::Picture {
            pts: first_pts,
            time_base: MS,
        };
        let (times, notes, treatment) = agreed(&path, origin, "0");
        assert_times(&times, expected, name);
        assert!(
            notes.contains("after the start") || notes.contains("left out"),
            "{notes}"
        );
        assert!(treatment.starts_with("transcoded"), "{treatment}");
    }
    // As the sound for another video, the whole file begins with that video.
    let (times, ..) = agreed(&clips.path("early.mkv"), SoundOrigin::Container, "0");
    assert_times(&times, &[0.5, 1.0, 1.5, 2.0], "early.mkv");
}

#[test]
fn an_offset_moves_the_sound_either_way() {
    let clips = Clips::new();
    for (name, coding) in [("a.wav", ""), ("a.m4a", "-c:a aac"), ("raw.aac", "-c:a aac")] {
        let path = clips.make(name, &format!("-f lavfi -i {CLICKS} {coding}"));
        let (plain, ..) = agreed(&path, SoundOrigin::Container, "0");
        for offset in ["0.125", "-0.125", "-0.7"] {
            let by: f64 = offset.parse().unwrap();
            let moved = plain.iter().map(|at| at + by).filter(|at| *at >= 0.0);
            let (times, ..) = agreed(&path, SoundOrigin::Container, offset);
            assert_times(&times, &moved.collect::<Vec<_>>(), &format!("{name} {offset}"));
        }
        let request = SoundRequest {
            path: &path,
            track: &TrackChoice::Default,
            origin: SoundOrigin::Container,
            offset: "-3".parse::<AudioOffset>().unwrap(),
            container: Container::Mp4,
            exact: false,
            scratch: path.parent().unwrap(),
        };
        assert!(
            refusal(decode_sound(&request)).contains("--audio-offset"),
            "{name}"
        );
    }
}

#[test]
fn a_change_of_rate_or_channels_in_the_middle_is_heard_in_full() {
    let clips = Clips::new();
    for (name, one, two) in [
        ("rate.aac", "-ar 48000", "-ar 32000"),
        ("sides.aac", "-ac 2", "-ac 1"),
        ("both.aac", "-ar 22050 -ac 1", "-ar 44100 -ac 2"),
    ] {
        let mut bytes = Vec::new();
        for coding in [one, two] {
            let part = clips.make("part.aac", &format!("-f lavfi -i {CLICKS} {coding} -c:a aac"));
            bytes.extend(std::fs::read(part).unwrap());
        }
        let path = clips.path(name);
        std::fs::write(&path, bytes).unwrap();
        let (times, _, treatment) = agreed(&path, SoundOrigin::Container, "0");
        assert!(
            treatment.ends_with("its rate or its channels change"),
            "{name}: {treatment}"
        );
        assert_eq!(times.len(), 8, "{name}: {times:?}");
        for half in [&times[..4], &times[4..]] {
            let expected: Vec<f64> = [0.0, 0.5, 1.0, 1.5].iter().map(|at| at + half[0]).collect();
            assert_times(half, &expected, name);
        }
    }
}

#[test]
fn sound_that_cannot_be_read_to_its_end_is_used_as_far_as_it_can_and_the_rest_is_said() {
    let clips = Clips::new();
    let coding = "-f lavfi -i sine=f=440:r=48000:d=20 -c:a flac";
    let path = clips.make("hole.oga", coding);
    let mut bytes = std::fs::read(&path).unwrap();
    let start = bytes.len() * 2 / 5;
    // FFmpeg does not look further than 64 KiB for the next page.
    bytes[start..start + 70_000].fill(0);
    std::fs::write(&path, bytes).unwrap();
    let mut sound = decode(&path, SoundOrigin::Container, "0", Container::Mp4);
    let seconds = heard(&mut sound).len() as f64 / 16_000.0;
    assert!((6.0..8.0).contains(&seconds), "{seconds} s");
    let notes = sound.notes().join("\n");
    let (_, at) = notes.split_once("hole.oga` is damaged from ").expect(&notes);
    let at: f64 = at.strip_suffix(" s to its end").expect(&notes).parse().unwrap();
    assert!((at - seconds).abs() < 0.02, "{notes}: {seconds} s");
}

#[test]
fn damage_is_silent_and_said_with_its_time() {
    let clips = Clips::new();
    let path = clips.make("hole.mkv", &format!("-f lavfi -i {CLICKS} -c:a aac -b:a 128k"));
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    // This overwrites the content of a packet or two near 1.0 s, not their headers.
    for byte in &mut bytes[middle..middle + 40] {
        *byte ^= 0x5a;
    }
    std::fs::write(&path, bytes).unwrap();
    let (times, notes, treatment) = agreed(&path, SoundOrigin::Container, "0");
    assert!(times.len() >= 3 && (times[0] - 0.5).abs() < 0.03, "{times:?}");
    assert!(notes.contains("is damaged at 1.00 s"), "{notes}");
    assert!(treatment.ends_with("parts of it are damaged"), "{treatment}");
}
