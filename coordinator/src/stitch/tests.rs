use std::fs;
use std::path::Path;

use latentfarm_common::digest::Digest;
use latentfarm_common::error::one_line;
use latentfarm_common::frame::{Colour, ColourMatrix, ColourRange, Picture};
use latentfarm_common::media::{
    AudioOffset, Container, SegmentEncoder, SoundOrigin, SoundRequest, TrackChoice, verify_output,
};
use latentfarm_common::wire::job::EncoderSpec;

use super::*;

const FORMAT: PictureFormat = PictureFormat {
    width: 80,
    height: 64,
    colour: Colour {
        matrix: ColourMatrix::Bt601,
        range: ColourRange::Limited,
        primaries_tag: 2,
        transfer_tag: 2,
        matrix_tag: 2,
        range_tagged: false,
    },
    sample_aspect: (1, 1),
};

type Segment = (FrameRange, PathBuf, BlobRef);

fn picture(frame: u64) -> Picture {
    let mut picture = Picture::black(FORMAT);
    for (index, value) in (0_u64..).zip(&mut picture.y) {
        *value = u8::try_from(16 + (index * 7 + index / 80 * 11 + frame * 3) % 200).unwrap();
    }
    picture
}

fn blob_of(path: &Path) -> BlobRef {
    let (digest, bytes) = Digest::of_file(path).unwrap();
    BlobRef { digest, bytes }
}

fn render(dir: &Path, range: FrameRange, crf: Option<u8>) -> Segment {
    let path = dir.join(format!("{:05}.nut", range.start));
    let spec = EncoderSpec {
        rate: FrameRate::FPS_25,
        crf,
        preset: "ultrafast".to_owned(),
    };
    let mut encoder = SegmentEncoder::create(&path, &FORMAT, &spec, range.start).unwrap();
    for frame in range.frames() {
        encoder.push(&picture(frame)).unwrap();
    }
    encoder.finish().unwrap();
    let blob = blob_of(&path);
    (range, path, blob)
}

/// Writes a WAV file of mono 16-bit noise at 16 kHz.
fn wav(path: &Path, samples: u32) {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(b"RIFF");
    bytes.extend_from_slice(&(36 + 2 * samples).to_le_bytes());
    bytes.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    bytes.extend_from_slice(&16_000_u32.to_le_bytes());
    bytes.extend_from_slice(&32_000_u32.to_le_bytes());
    bytes.extend_from_slice(b"\x02\0\x10\0data");
    bytes.extend_from_slice(&(2 * samples).to_le_bytes());
    let noise = (0..samples).scan(1_u32, |state, _| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some(u16::try_from(*state >> 20).unwrap())
    });
    bytes.extend(noise.flat_map(u16::to_le_bytes));
    fs::write(path, bytes).unwrap();
}

/// Makes the sound of a job of 40 frames from so many samples of noise at 16 kHz.
fn make_sound(dir: &Path, samples: u32, container: Container) -> (PathBuf, BlobRef) {
    let (audio, sound) = (dir.join("speech.wav"), dir.join("sound"));
    wav(&audio, samples);
    let request = SoundRequest {
        path: &audio,
        track: &TrackChoice::Default,
        origin: SoundOrigin::Container,
        offset: AudioOffset::default(),
        container,
        exact: false,
        scratch: dir,
    };
    let mut decoded = media::decode_sound(&request).unwrap();
    decoded.write(&sound, 40, FrameRate::FPS_25).unwrap();
    let blob = blob_of(&sound);
    (sound, blob)
}

/// Makes 40 frames in three segments, the last of one frame, with sound for 39.5 frames.
fn job(dir: &Path, output: &str, crf: Option<u8>) -> StitchRequest {
    let target = OutputTarget::check(&dir.join(output), &[], false).unwrap();
    let bounds = [(0, 16), (16, 39), (39, 40)];
    StitchRequest {
        segments: bounds
            .map(|(start, end)| render(dir, FrameRange::new(start, end), crf))
            .to_vec(),
        picture: FORMAT,
        rate: FrameRate::FPS_25,
        frames: 40,
        sound: make_sound(dir, 25_280, target.container()),
        audio_length: AudioLength::LikeVideo,
        lossless: crf
            .is_none()
            .then(|| (0..40).map(|frame| picture(frame).hash()).collect()),
        metadata: vec![("comment".to_owned(), "made by latentfarm".to_owned())],
        output: target,
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn stitch(request: &StitchRequest, progress: &mut dyn FnMut(StitchStep)) -> Result<FinalReport, StitchError> {
    assemble(request, progress)?.commit()
}

/// Returns the index of the segment that the error names.
fn faulty_segment(error: &StitchError) -> Option<usize> {
    match error {
        StitchError::Segment { index, .. } => Some(*index),
        _ => None,
    }
}

/// Asserts that the stitch fails and leaves the folder as it was.
fn refuse(request: &StitchRequest, expected: &str) -> StitchError {
    let folder = request.output.path().parent().unwrap();
    let before = names(folder);
    let error = stitch(request, &mut |_| {}).unwrap_err();
    assert!(one_line(&error).contains(expected), "{}", one_line(&error));
    assert_eq!(names(folder), before, "after: {error}");
    error
}

#[test]
fn segments_become_the_final_file() {
    for (output, crf) in [("out.mp4", None), ("out.mkv", None), ("out.mp4", Some(20))] {
        let dir = tempfile::tempdir().unwrap();
        let request = job(dir.path(), output, crf);
        let mut steps = Vec::new();
        let report = stitch(&request, &mut |step| steps.push(step)).unwrap();
        assert_eq!(
            (report.frames, report.video_ms, report.audio_ms),
            (40, 1600, 1580)
        );
        assert_eq!(
            steps[..3],
            [16, 39, 40].map(|frames| StitchStep::Checked { frames })
        );
        assert_eq!(
            steps[steps.len() - 2..],
            [StitchStep::Joined { frames: 40 }, StitchStep::Verifying]
        );
        verify_output(
            &dir.path().join(output),
            FrameRate::FPS_25,
            40,
            AudioLength::LikeVideo,
        )
        .unwrap();
        assert!(names(dir.path()).iter().all(|name| !name.contains("partial")));
    }
}

#[test]
fn gap_overlap_and_disorder_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let whole = job(dir.path(), "out.mp4", Some(20));
    let mut request = whole.clone();
    request.segments.remove(1);
    refuse(&request, "frames 16..39 are missing");
    request.segments = whole.segments.clone();
    request.segments.swap(0, 1);
    refuse(&request, "frames 0..16 are missing");
    request.segments = whole.segments.clone();
    request.segments.push(whole.segments[2].clone());
    refuse(&request, "are repeated or out of order");
    request.segments = whole.segments;
    request.frames = 39;
    refuse(&request, "frames 39..40 are past the end");
}

#[test]
fn segment_that_is_not_what_its_record_says_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let request = job(dir.path(), "out.mp4", None);

    // This changes one bit of the picture data.
    let path = &request.segments[1].1;
    let whole = fs::read(path).unwrap();
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x10;
    fs::write(path, damaged).unwrap();
    assert_eq!(faulty_segment(&refuse(&request, "digest")), Some(1));
    fs::remove_file(path).unwrap();
    assert_eq!(faulty_segment(&refuse(&request, "cannot read")), Some(1));
    fs::write(path, whole).unwrap();

    // The record fits the file, but the file contains another frame.
    let mut other = request.clone();
    other.lossless = None;
    let (_, path, blob) = render(elsewhere.path(), FrameRange::new(20, 21), None);
    other.segments[2] = (FrameRange::new(39, 40), path, blob);
    assert_eq!(faulty_segment(&refuse(&other, "do not continue at 39")), Some(2));

    let mut lossy = request.clone();
    lossy.segments[0] = render(elsewhere.path(), FrameRange::new(0, 16), Some(20));
    assert_eq!(
        faulty_segment(&refuse(&lossy, "frame 0 does not decode")),
        Some(0)
    );
    lossy.lossless = None;
    assert_eq!(faulty_segment(&refuse(&lossy, "codec header differs")), Some(1));

    let mut unhashed = request;
    unhashed.lossless.as_mut().unwrap().pop();
    assert_eq!(faulty_segment(&refuse(&unhashed, "0 frame hashes")), Some(2));
}

#[test]
fn sound_that_is_not_what_ingest_wrote_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let request = job(dir.path(), "out.mp4", Some(20));
    let mut bytes = fs::read(&request.sound.0).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&request.sound.0, bytes).unwrap();
    refuse(&request, "the job's copy of the sound is damaged");
}

#[test]
fn new_record_is_checked_by_decoding() {
    let dir = tempfile::tempdir().unwrap();
    let (range, path, mut blob) = render(dir.path(), FrameRange::new(16, 48), Some(20));
    let info = check_segment(&path, &blob, range).unwrap();
    assert_eq!(info.frames, 32);
    assert!(matches!(
        check_segment(&path, &blob, FrameRange::new(16, 47)),
        Err(SegmentError::Media(_))
    ));
    blob.bytes += 1;
    assert!(matches!(
        check_segment(&path, &blob, range),
        Err(SegmentError::Content { .. })
    ));
}

#[test]
fn failed_verification_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let mut request = job(dir.path(), "out.mkv", Some(20));
    request.sound = make_sound(dir.path(), 16_000, request.output.container());
    let error = refuse(&request, "the audio lasts 1000 ms, the video 1600 ms");
    assert_eq!(faulty_segment(&error), None);
    request.audio_length = AudioLength::MayEndEarly;
    stitch(&request, &mut |_| {}).unwrap();
}

#[test]
fn file_that_appeared_meanwhile_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let mut request = job(dir.path(), "out.mp4", Some(20));
    let output = request.output.path().to_owned();
    let assembled = assemble(&request, &mut |_| {}).unwrap();
    assert!(!output.exists(), "the final name was taken before the commit");
    fs::write(&output, "somebody else's").unwrap();
    assert!(matches!(
        assembled.commit(),
        Err(StitchError::Target(OutputError::Exists { .. }))
    ));
    assert_eq!(fs::read(&output).unwrap(), b"somebody else's");
    assert!(names(dir.path()).iter().all(|name| !name.contains("partial")));

    request.output = OutputTarget::check(&output, &[], true).unwrap();
    stitch(&request, &mut |_| {}).unwrap();
    assert!(fs::metadata(&output).unwrap().len() > 1000);
}

#[test]
fn unusable_outputs_are_refused_before_work_starts() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("there.mp4"), "").unwrap();
    fs::create_dir(at("folder.mp4")).unwrap();
    let long = format!("{}.mp4", "n".repeat(250));
    let cases = [
        ("out.mov", "must end in .mp4 or .mkv"),
        ("out", "must end in .mp4 or .mkv"),
        ("missing/out.mp4", "does not exist; create it first"),
        ("there.mp4/out.mp4", "is not a folder"),
        ("folder.mp4", "is a folder"),
        ("there.mp4", "--force"),
        (&long, "cannot create a file"),
    ];
    for (name, expected) in cases {
        let error = OutputTarget::check(&at(name), &[], false).unwrap_err();
        assert!(error.to_string().contains(expected), "{name}: {error}");
    }
    for (name, force) in [("there.mp4", true), ("OUT.MKV", false), ("a:b.mp4", false)] {
        OutputTarget::check(&at(name), &[], force).unwrap();
    }
    assert_eq!(
        names(dir.path()),
        ["folder.mp4", "there.mp4"],
        "a check left something behind"
    );
}

#[test]
fn an_input_is_no_output_by_any_path_or_link() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("talk.mp4"), b"precious").unwrap();
    fs::write(at("speech.wav"), b"sound").unwrap();
    fs::create_dir(at("sub")).unwrap();
    std::os::unix::fs::symlink(at("talk.mp4"), at("link.mp4")).unwrap();
    fs::hard_link(at("talk.mp4"), at("hard.mp4")).unwrap();
    let (video, audio) = (at("talk.mp4"), at("speech.wav"));
    for name in ["talk.mp4", "sub/../talk.mp4", "link.mp4", "hard.mp4"] {
        let error = OutputTarget::check(&at(name), &[&audio, &video], true).unwrap_err();
        assert!(
            matches!(&error, OutputError::IsInput { input, .. } if *input == video),
            "{name}: {error}"
        );
    }
    fs::write(at("old.mp4"), b"an earlier result").unwrap();
    OutputTarget::check(&at("old.mp4"), &[&video, &audio], true).unwrap();
    OutputTarget::check(&at("new.mp4"), &[&video, &at("no such file")], true).unwrap();
}
