mod audio;

use crate::time::FrameRate;
use std::path::{Path, PathBuf};

use super::*;
use crate::frame::FrameHash;
use crate::media::test_clips::{decoded, encode, ffmpeg, format, probe, rate, segments, sound, spec};
use crate::media::{
    AudioLength, AudioOffset, AudioTreatment, SoundOrigin, SoundRequest, TrackChoice, decode_hashes,
    decode_sound, verify_output,
};
use crate::time::FrameRange;

/// Ends of six segments: five hold 250 frames, and the last has a single frame.
const BOUNDS: [u64; 6] = [48, 96, 144, 208, 250, 251];

struct Fixture {
    dir: tempfile::TempDir,
    rate: FrameRate,
    segments: Vec<PathBuf>,
    hashes: Vec<FrameHash>,
}

impl Fixture {
    fn new(rate_text: &str, bounds: &[u64]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (segments, hashes) = segments(dir.path(), &spec(rate_text, None), bounds);
        Self {
            dir,
            rate: rate(rate_text),
            segments,
            hashes,
        }
    }

    fn frames(&self) -> u64 {
        self.hashes.len() as u64
    }

    /// Makes the sound as ingest does.
    fn make_sound(
        &self,
        audio: &Path,
        container: Container,
        exact: bool,
        origin: SoundOrigin,
    ) -> Result<(PathBuf, AudioTreatment), MediaError> {
        let mut decoded = decode_sound(&SoundRequest {
            path: audio,
            track: &TrackChoice::Default,
            origin,
            offset: AudioOffset::default(),
            container,
            exact,
            scratch: self.dir.path(),
        })?;
        let sound = self.dir.path().join("sound");
        let treatment = decoded.write(&sound, self.frames(), self.rate)?;
        Ok((sound, treatment))
    }

    fn try_join(&self, sound: &Path, output: &Path) -> Result<(), MediaError> {
        let metadata = [
            ("comment".to_owned(), "SYNTHETIC WEIGHTS".to_owned()),
            ("latentfarm".to_owned(), "job 1".to_owned()),
        ];
        let request = JoinRequest {
            segments: &self.segments,
            picture: &format(),
            rate: self.rate,
            frames: self.frames(),
            sound,
            metadata: &metadata,
            output,
            container: Container::from_path(output).unwrap(),
        };
        let mut reported = 0;
        join(&request, &mut |frames| reported = frames)?;
        assert_eq!(reported, self.frames());
        Ok(())
    }

    /// Makes the sound as ingest does, and joins it with the segments.
    fn join(&self, audio: &Path, name: &str, exact: bool) -> (PathBuf, AudioTreatment) {
        self.join_sound(audio, name, exact, SoundOrigin::Container)
    }

    fn join_sound(
        &self,
        audio: &Path,
        name: &str,
        exact: bool,
        origin: SoundOrigin,
    ) -> (PathBuf, AudioTreatment) {
        let output = self.dir.path().join(name);
        let container = Container::from_path(&output).unwrap();
        let (sound, treatment) = self.make_sound(audio, container, exact, origin).unwrap();
        self.try_join(&sound, &output).unwrap();
        (output, treatment)
    }

    fn seconds(&self) -> f64 {
        self.frames() as f64 / self.rate.as_f64()
    }

    /// Verifies the file and compares every picture with what went into the encoder.
    fn check(&self, output: &Path) -> crate::media::FinalReport {
        let report = verify_output(output, self.rate, self.frames(), AudioLength::LikeVideo).unwrap();
        let mut seen = Vec::new();
        // A whole file with exact timestamps has frame numbers like a segment.
        if Container::from_path(output) == Some(Container::Mp4) {
            decode_hashes(output, &mut |_, hash| seen.push(hash)).unwrap();
            assert!(seen == self.hashes, "pictures differ");
        }
        report
    }
}

#[test]
fn segments_join_at_any_rate_into_either_container() {
    for rate in ["25", "24000/1001", "30"] {
        let fixture = Fixture::new(rate, &BOUNDS);
        let seconds = format!("{:.3}", fixture.seconds() - 0.01);
        let audio = sound(fixture.dir.path(), "a.m4a", &seconds, "-c:a aac");
        for name in ["out.mp4", "out.mkv"] {
            let (output, _) = fixture.join(&audio, name, false);
            let report = fixture.check(&output);
            assert_eq!(report.frames, 251);
            let frame_ms = (1000.0 / fixture.rate.as_f64()).ceil();
            assert!(
                (report.audio_ms as f64 - report.video_ms as f64).abs() <= frame_ms,
                "{report:?}"
            );
            assert_eq!(
                probe(
                    &output,
                    "-count_packets -select_streams v -show_entries stream=nb_read_packets"
                ),
                "251"
            );
        }
    }
}

#[test]
fn decode_times_never_collide_at_seams() {
    let fixture = Fixture::new("25", &BOUNDS);
    let audio = sound(fixture.dir.path(), "a.m4a", "10.04", "-c:a aac");
    let (output, _) = fixture.join(&audio, "out.mp4", false);
    let times = probe(&output, "-select_streams v -show_entries packet=pts,dts");
    let numbers: Vec<i64> = times.lines().map(|line| line.parse().unwrap()).collect();
    let (pts, dts): (Vec<i64>, Vec<i64>) = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).unzip();
    let frame = dts[1] - dts[0];
    assert!(
        dts.windows(2).all(|pair| pair[1] - pair[0] == frame),
        "DTS off the grid"
    );
    assert!(
        pts.iter().zip(&dts).all(|(pts, dts)| pts >= dts),
        "a PTS before its DTS"
    );
}

#[test]
fn one_frame_joins() {
    let fixture = Fixture::new("25", &[1]);
    let audio = sound(fixture.dir.path(), "a.m4a", "0.04", "-c:a aac");
    for name in ["out.mp4", "out.mkv"] {
        let (output, _) = fixture.join(&audio, name, false);
        assert_eq!(fixture.check(&output).frames, 1);
    }
}

#[test]
fn equal_requests_give_equal_files() {
    let fixture = Fixture::new("25", &[48, 75]);
    for (name, options) in [("a.m4a", "-c:a aac"), ("a.wav", "")] {
        let audio = sound(fixture.dir.path(), name, "3", options);
        for output in ["out.mp4", "out.mkv"] {
            let first = std::fs::read(fixture.join(&audio, output, false).0).unwrap();
            let second = std::fs::read(fixture.join(&audio, output, false).0).unwrap();
            assert!(first == second, "{name} into {output} differs");
        }
    }
}

#[test]
fn tags_and_index_are_where_players_look() {
    let fixture = Fixture::new("25", &[48]);
    let audio = sound(fixture.dir.path(), "a.m4a", "1.9", "-c:a aac");
    let (mp4, _) = fixture.join(&audio, "out.mp4", false);
    assert_eq!(
        probe(&mp4, "-show_entries format_tags=comment"),
        "SYNTHETIC WEIGHTS; latentfarm=job 1"
    );
    let colours = probe(
        &mp4,
        "-select_streams v -show_entries stream=color_range,color_space,color_transfer,color_primaries",
    );
    assert_eq!(
        colours.lines().collect::<Vec<_>>(),
        ["tv", "bt709", "bt709", "bt709"]
    );
    let bytes = std::fs::read(&mp4).unwrap();
    let place = |name: &[u8]| bytes.windows(4).position(|window| window == name).unwrap();
    assert!(place(b"moov") < place(b"mdat"), "the index stands at the end");

    let (mkv, _) = fixture.join(&audio, "out.mkv", false);
    assert_eq!(
        probe(&mkv, "-show_entries format_tags=comment"),
        "SYNTHETIC WEIGHTS"
    );
    assert_eq!(probe(&mkv, "-show_entries format_tags=LATENTFARM"), "job 1");
}

#[test]
fn segments_that_do_not_fit_together_are_refused() {
    let mut fixture = Fixture::new("25", &[48, 75]);
    let dir = fixture.dir.path().to_owned();
    let audio = sound(&dir, "a.m4a", "3", "-c:a aac");
    let output = dir.join("out.mp4");
    let (sound, _) = fixture
        .make_sound(&audio, Container::Mp4, false, SoundOrigin::Container)
        .unwrap();
    let other = dir.join("other.nut");
    let whole = fixture.segments.clone();
    let mut refuse = |segments: Vec<PathBuf>, culprit: &Path, text: &str| {
        fixture.segments = segments;
        match fixture.try_join(&sound, &output) {
            Err(MediaError::Rejected { path, source }) => {
                assert_eq!(path, culprit, "{source}");
                assert!(source.0.contains(text), "{source}");
            }
            joined => panic!("joined: {joined:?}"),
        }
    };

    refuse(vec![whole[0].clone()], &output, "48 frames instead of 75");
    refuse(
        vec![whole[1].clone(), whole[0].clone()],
        &whole[1],
        "do not continue at 0",
    );
    refuse(vec![], &output, "no segment");

    let mut wide = format();
    wide.width = 128;
    encode(&other, &wide, &spec("25", None), FrameRange::new(48, 75));
    refuse(vec![whole[0].clone(), other.clone()], &other, "128x64, not 96x64");
    encode(&other, &format(), &spec("25", Some(20)), FrameRange::new(48, 75));
    refuse(
        vec![whole[0].clone(), other.clone()],
        &other,
        "codec header differs",
    );
    encode(&other, &format(), &spec("25", None), FrameRange::new(49, 76));
    refuse(
        vec![whole[0].clone(), other.clone()],
        &other,
        "do not continue at 48",
    );
}

#[test]
fn segments_with_different_rate_factors_join() {
    let mut fixture = Fixture::new("25", &[1]);
    let dir = fixture.dir.path().to_owned();
    let audio = sound(&dir, "a.m4a", "1.6", "-c:a aac");
    fixture.segments = vec![dir.join("1.nut"), dir.join("2.nut")];
    encode(
        &fixture.segments[0],
        &format(),
        &spec("25", Some(18)),
        FrameRange::new(0, 16),
    );
    encode(
        &fixture.segments[1],
        &format(),
        &spec("25", Some(30)),
        FrameRange::new(16, 40),
    );
    fixture.hashes = vec![fixture.hashes[0]; 40];
    let (output, _) = fixture.join(&audio, "out.mp4", false);
    verify_output(&output, fixture.rate, 40, AudioLength::LikeVideo).unwrap();
}

#[test]
fn file_without_sound_is_the_users_fault() {
    let fixture = Fixture::new("25", &[16]);
    let dir = fixture.dir.path();
    ffmpeg(dir, "-f lavfi -i testsrc2=s=64x64:d=1 silent.mp4");
    std::fs::write(dir.join("text.wav"), "no sound").unwrap();
    for (name, cause) in [
        ("silent.mp4", "no audio track"),
        ("text.wav", "not a media file"),
        ("missing.wav", "no such file"),
    ] {
        let made = fixture.make_sound(&dir.join(name), Container::Mp4, false, SoundOrigin::Container);
        match made {
            Err(error @ MediaError::BadInput { .. }) => {
                let message = crate::error::one_line(&error);
                assert!(message.contains(name) && message.contains(cause), "{message}");
            }
            made => panic!("{made:?}"),
        }
    }
}
