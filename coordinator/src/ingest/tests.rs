use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::Command;

use super::*;
use crate::job::segments::Segments;
use latentfarm_common::audio::windows;
use latentfarm_common::digest::Digest;
use latentfarm_common::error::one_line;
use latentfarm_common::media::{AudioOffset, Container, CutLimits, FrameReader, TrackChoice};
use latentfarm_common::time::FrameRate;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::job::{AudioWindows, CutRecord, SilenceMode};
use latentfarm_common::wire::media::LocalSlice;

/// A blob store in memory.
#[derive(Default)]
pub(super) struct MemoryStore(pub(super) BTreeMap<Digest, Vec<u8>>);

impl BlobSink for MemoryStore {
    fn put_file(&mut self, path: &Path) -> io::Result<BlobRef> {
        self.put_bytes(&std::fs::read(path)?)
    }

    fn put_bytes(&mut self, bytes: &[u8]) -> io::Result<BlobRef> {
        let digest = Digest::of(bytes);
        self.0.insert(digest, bytes.to_owned());
        let bytes = bytes.len() as u64;
        Ok(BlobRef { digest, bytes })
    }
}

/// A blob store on a full disk.
struct FullDisk;

impl BlobSink for FullDisk {
    fn put_file(&mut self, _path: &Path) -> io::Result<BlobRef> {
        Err(io::ErrorKind::StorageFull.into())
    }
    fn put_bytes(&mut self, _bytes: &[u8]) -> io::Result<BlobRef> {
        Err(io::ErrorKind::StorageFull.into())
    }
}

/// Stores everything, and returns the segments with it.
fn ingest(request: &IngestRequest, sink: &mut dyn BlobSink) -> Result<(Ingested, Segments), IngestError> {
    let (ingested, video) = examine(request)?.store(sink)?;
    let segments = cut(&video, &ingested, sink)?;
    Ok((ingested, segments))
}

/// Cuts the video to its end.
pub(super) fn cut(
    video: &SourceVideo,
    ingested: &Ingested,
    sink: &mut dyn BlobSink,
) -> Result<Segments, IngestError> {
    let mut segments = Segments::new(ingested.source.frames);
    video.cut(0, &|| Ok(()), sink, &mut |record| {
        segments
            .add(&CutRecord::Segment(record))
            .map_err(io::Error::other)
    })?;
    segments.add(&CutRecord::End).unwrap();
    Ok(segments)
}

fn make(path: &Path, args: &str) {
    let mut command = Command::new("ffmpeg");
    command
        .args(["-v", "error", "-y"])
        .args(args.split_whitespace())
        .arg(path);
    assert!(command.status().unwrap().success(), "ffmpeg {args}");
}

/// Makes a clip of `frames` frames at 30 per second and `seconds` of sound, and returns the request to ingest
/// them.
pub(super) fn request(dir: &Path, frames: u32, seconds: f32) -> IngestRequest {
    let (video, audio) = (dir.join("v.mp4"), dir.join("a.m4a"));
    let picture = "-f lavfi -i testsrc2=s=128x96:r=30 -pix_fmt yuv420p -c:v libx264";
    make(&video, &format!("{picture} -g 25 -bf 2 -frames:v {frames}"));
    make(
        &audio,
        &format!("-f lavfi -i sine=f=300:r=44100:d={seconds} -ac 2 -c:a aac"),
    );
    let scratch = dir.join("scratch");
    std::fs::create_dir_all(&scratch).unwrap();
    IngestRequest {
        video,
        audio,
        audio_track: TrackChoice::Default,
        audio_offset: AudioOffset::default(),
        exact_audio: false,
        container: Container::Mp4,
        scratch,
        rate: RateChoice::Fixed(FrameRate::FPS_25),
        on_short: OnShort::Bounce,
        keep_tail: false,
        windows: AudioWindows::Overlapping,
        silence: SilenceMode::Off,
        limits: CutLimits {
            target_frames: 32,
            max_frames: 64,
        },
    }
}

#[test]
fn all_that_the_timeline_names_is_stored_and_the_scratch_is_empty() {
    let dir = tempfile::tempdir().unwrap();
    let request = request(dir.path(), 90, 41.3);
    let mut store = MemoryStore::default();
    let (done, segments) = ingest(&request, &mut store).unwrap();
    assert_eq!(segments.defects(), []);
    assert_eq!(std::fs::read_dir(&request.scratch).unwrap().count(), 0);

    // 41.3 s at 25 per second; the video's 3 s bounce.
    assert_eq!((done.frames, done.timeline.outputs.len()), (1033, 1033));
    assert_eq!(done.audio.samples, 660_800);
    assert!(done.audio.log_mel_max > -2.0 && done.audio.log_mel_max < 4.0);
    assert_eq!(done.source.frames, 90);
    assert_eq!(done.timeline.source_pts.len(), 90);
    let notes = examine(&request).unwrap().notes();
    assert_eq!(notes.len(), 2, "rate and bounce: {notes:?}");

    let count = windows::count(done.audio.samples, AudioWindows::Overlapping);
    assert_eq!(done.timeline.audio.len(), count as usize);
    let mut whole = Vec::new();
    for (index, blob) in (0..).zip(&done.timeline.audio) {
        let range = windows::pcm_range(index, done.audio.samples, AudioWindows::Overlapping);
        let bytes = &store.0[&blob.digest];
        assert_eq!(bytes.len() as u64, (range.end - range.start) * 2);
        let known = usize::try_from(whole.len() as u64 / 2 - range.start).unwrap();
        whole.extend_from_slice(&bytes[known * 2..]);
    }
    assert_eq!(
        Digest::of(&whole),
        done.audio.digest,
        "the windows hold the whole track"
    );

    let mut next = 0;
    let mut slices = Vec::new();
    for segment in segments.entries() {
        assert_eq!(segment.first, next);
        next += segment.frames;
        let path = dir.path().join(segment.blob.digest.to_string());
        std::fs::write(&path, &store.0[&segment.blob.digest]).unwrap();
        let range = usize::try_from(segment.first).unwrap()..usize::try_from(next).unwrap();
        slices.push(LocalSlice {
            path: path.to_str().unwrap().to_owned(),
            first: segment.first,
            pts: done.timeline.source_pts[range].to_vec(),
        });
    }
    assert_eq!(next, 90);
    let mut reader = FrameReader::new(slices, &done.source);
    for output in &done.timeline.outputs[..200] {
        reader.frame(u64::from(output.source)).unwrap();
    }
}

#[test]
fn only_what_is_shown_of_a_long_video_is_stored() {
    let dir = tempfile::tempdir().unwrap();
    let request = request(dir.path(), 300, 1.0);
    let mut store = MemoryStore::default();
    let (done, segments) = ingest(&request, &mut store).unwrap();
    assert_eq!((done.frames, done.source.frames), (25, 30));
    assert_eq!(done.timeline.source_pts.len(), 30);
    let stored: u64 = segments.entries().iter().map(|segment| segment.frames).sum();
    assert_eq!(stored, 30, "{segments:?}");
    let notes = examine(&request).unwrap().notes();
    assert!(notes.iter().any(|note| note.contains("cut off")), "{notes:?}");
}

#[test]
fn same_input_gives_the_same_blobs() {
    let dir = tempfile::tempdir().unwrap();
    let mut request = request(dir.path(), 90, 2.0);
    request.limits.max_frames = 1;
    request.limits.target_frames = 1;
    let (first, cut) = ingest(&request, &mut MemoryStore::default()).unwrap();
    let (again, cut_again) = ingest(&request, &mut MemoryStore::default()).unwrap();
    assert_eq!((first.timeline, &cut), (again.timeline, &cut_again));
    assert!(cut.reencoded() > 0, "{cut:?}");
}

#[test]
fn own_rate_of_the_source_maps_frame_to_frame() {
    let dir = tempfile::tempdir().unwrap();
    let mut request = request(dir.path(), 90, 2.0);
    request.rate = RateChoice::Source;
    let examined = examine(&request).unwrap();
    assert_eq!(examined.rate.to_string(), "30");
    let sources: Vec<u32> = examined
        .table
        .outputs
        .iter()
        .map(|output| output.source)
        .collect();
    assert_eq!(sources, (0..60).collect::<Vec<u32>>());
    assert_eq!(
        std::fs::read_dir(&request.scratch).unwrap().count(),
        0,
        "the speech has no name"
    );
}

#[test]
fn bad_input_is_distinguished_from_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let good = request(dir.path(), 30, 1.0);
    let swapped = IngestRequest {
        video: good.audio.clone(),
        ..good.clone()
    };
    let error = ingest(&swapped, &mut MemoryStore::default()).err().unwrap();
    assert!(
        error.is_bad_input() && one_line(&error).contains("no video track"),
        "{}",
        one_line(&error)
    );

    let error = ingest(&good, &mut FullDisk).err().unwrap();
    assert!(!error.is_bad_input(), "{}", one_line(&error));
}

/// Another program may reuse the name of a temporary file while the job is rendered.
#[test]
fn sound_that_is_overwritten_after_the_checks_is_the_one_that_was_checked() {
    let dir = tempfile::tempdir().unwrap();
    let good = request(dir.path(), 30, 1.0);
    let (mut before, mut after) = (MemoryStore::default(), MemoryStore::default());
    let (expected, _cut) = ingest(&good, &mut before).unwrap();
    let examined = examine(&good).unwrap();
    make(&good.audio, "-f lavfi -i sine=f=2000:d=1 -c:a aac");
    let (done, _video) = examined.store(&mut after).unwrap();
    assert_eq!((&done.audio, &done.sound), (&expected.audio, &expected.sound));
    assert!(after.0.contains_key(&done.sound.blob.digest));
    assert_eq!(done.sound.treatment, "copied");
}

#[test]
fn silence_is_told_and_a_single_sample_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let good = request(dir.path(), 30, 1.0);
    for (volume, expected) in [
        ("0", Some("is silent")),
        ("0.0005", Some("nearly silent")),
        ("0.1", None),
    ] {
        let filter = format!("-f lavfi -i sine=d=1 -af volume={volume} -c:a pcm_s16le -f wav");
        make(&good.audio, &filter);
        let notes = examine(&good).unwrap().notes();
        let told = notes.iter().find(|note| note.contains("silent"));
        match expected {
            Some(how) => assert!(
                told.is_some_and(|note| note.contains(how) && note.contains("a.m4a")),
                "{notes:?}"
            ),
            None => assert_eq!(told, None),
        }
    }
    for samples in ["0", "1", "10"] {
        let filter = format!("-f lavfi -i sine=r=16000:d=1 -af atrim=end_sample={samples} -f wav");
        make(&good.audio, &filter);
        let error = examine(&good).err().unwrap();
        assert!(
            error.is_bad_input() && one_line(&error).contains("a.m4a"),
            "{}",
            one_line(&error)
        );
    }
}

#[test]
fn damage_is_recorded_with_its_segment_and_the_stored_segments_are_whole() {
    let dir = tempfile::tempdir().unwrap();
    let request = request(dir.path(), 90, 3.0);
    let whole = std::fs::read(&request.video).unwrap();
    let middle = whole.len() / 2;
    let damaged = [&whole[..middle], &[0; 600], &whole[middle + 600..]].concat();
    std::fs::write(&request.video, damaged).unwrap();
    let mut store = MemoryStore::default();
    let (done, cut) = ingest(&request, &mut store).unwrap();
    let defects = cut.defects();
    assert!(!defects.is_empty());
    let start_ms = defects[0].frames.start * 1000 / 30;
    assert_eq!(defects[0].start_ms, start_ms, "{defects:?}");
    let mut slices = Vec::new();
    for segment in cut.entries() {
        let path = dir.path().join(segment.blob.digest.to_string());
        std::fs::write(&path, &store.0[&segment.blob.digest]).unwrap();
        let first = usize::try_from(segment.first).unwrap();
        slices.push(LocalSlice {
            path: path.to_str().unwrap().to_owned(),
            first: segment.first,
            pts: done.timeline.source_pts[first..first + usize::try_from(segment.frames).unwrap()].to_vec(),
        });
    }
    let mut reader = FrameReader::new(slices, &done.source);
    for frame in 0..done.source.frames {
        reader.frame(frame).unwrap();
    }
    let (_again, cut_again) = ingest(&request, &mut MemoryStore::default()).unwrap();
    assert_eq!(cut_again, cut, "damage is resolved in the same way again");
}

#[test]
fn a_video_that_cannot_be_decoded_is_bad_input_with_its_name_and_time() {
    let dir = tempfile::tempdir().unwrap();
    let request = request(dir.path(), 90, 3.0);
    let mut bytes = std::fs::read(&request.video).unwrap();
    let place = |name: &[u8; 4]| bytes.windows(4).position(|word| word == name).unwrap();
    let (data, index) = (place(b"mdat"), place(b"moov"));
    let from = data + (index - data) * 4 / 10;
    bytes[from..index - 4].fill(0x5a);
    std::fs::write(&request.video, bytes).unwrap();
    let error = ingest(&request, &mut MemoryStore::default()).err().unwrap();
    let text = one_line(&error);
    assert!(error.is_bad_input(), "{text}");
    assert!(
        text.contains("v.mp4") && text.contains(" s (frame ") && text.contains("again"),
        "{text}"
    );
    assert_eq!(
        std::fs::read_dir(&request.scratch).unwrap().count(),
        0,
        "the scratch is empty"
    );
}

#[test]
fn time_stamps_that_jump_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut request = request(dir.path(), 90, 60.0);
    let jumped = dir.path().join("jump.mp4");
    let source = request.video.display().to_string();
    make(
        &jumped,
        &format!("-i {source} -c copy -bsf:v setts=ts=if(gte(N\\,50)\\,PTS+7200/TB\\,PTS)"),
    );
    request.video = jumped;
    let notes = examine(&request).unwrap().notes();
    let jump = notes.iter().find(|note| note.contains("stands still"));
    assert!(jump.is_some_and(|note| note.contains("to 720")), "{notes:?}");
}
