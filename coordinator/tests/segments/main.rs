//! The check of segments, in child processes of the real program: what is rendered as it should be passes, and garbage
//! that is a whole video file all the same does not.

#![allow(clippy::unwrap_used, reason = "a failed set-up is a failed test")]
#![allow(unreachable_pub, reason = "the module is private to this test")]

mod drawing;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use latentfarm_common::blob::Store;
use latentfarm_common::frame::Picture;
use latentfarm_common::ids::{Attempt, ChunkId, JobId, WorkKind};
use latentfarm_common::media::{self, SegmentEncoder};
use latentfarm_common::time::FrameRange;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::job::{EncoderSpec, SourceSpec};
use latentfarm_common::wire::outcome::{DoneBody, DoneRecord, StageTimings};
use latentfarm_common::wire::task::{Mouth, RenderFrame, RenderInput, SegmentSlice};
use latentfarm_coordinator::dispatch::SegmentReader;
use latentfarm_coordinator::ingest::SEGMENT_LIMITS;
use latentfarm_coordinator::segment_check::{BadSegment, ExpectedPictures};

use drawing::{FACE, Look, RESOLUTION, draw, format};

/// The frames of the chunk, which is not the first of its video.
const RANGE: FrameRange = FrameRange { start: 32, end: 80 };
const SOURCE_FRAMES: u64 = 96;

/// A source video in a store, and what looks at the segments of its chunk.
struct Stage {
    store: Store,
    folder: tempfile::TempDir,
    reader: SegmentReader,
    expected: ExpectedPictures,
}

impl Stage {
    async fn open() -> Self {
        Self::with_program(Path::new(env!("CARGO_BIN_EXE_latentfarm"))).await
    }

    async fn with_program(program: &Path) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let scratch = folder.path().join("scratch");
        std::fs::create_dir(&scratch).unwrap();
        let store = Store::open(&format!("file://{}/store", folder.path().display()), None).unwrap();
        let encoder = EncoderSpec {
            rate: "25".parse().unwrap(),
            crf: Some(18),
            preset: "veryfast".to_owned(),
        };
        let drawn = folder.path().join("drawn.nut");
        encode(&drawn, &encoder, FrameRange::new(0, SOURCE_FRAMES), &|frame| {
            draw(frame, Look::Source)
        });
        let file = folder.path().join("source.mkv");
        let converted = Command::new("ffmpeg")
            .args(["-v", "error", "-i"])
            .arg(&drawn)
            .args(["-c", "copy"])
            .arg(&file)
            .status();
        assert!(converted.unwrap().success());
        let probe = media::probe_video(&file).unwrap();
        let index = media::index_video(&file, &probe, &mut |_| {}).unwrap();
        let cut = folder.path().join("cut");
        std::fs::create_dir(&cut).unwrap();
        let mut files = Vec::new();
        let all_is_well = || Ok(());
        media::cut_segments(
            &index,
            &probe.picture,
            SOURCE_FRAMES,
            &cut,
            SEGMENT_LIMITS,
            &all_is_well,
            &mut |cut| {
                files.push(cut);
                Ok(())
            },
        )
        .unwrap();
        let mut segments = Vec::new();
        for file in files {
            let blob = store.put_file(&file.path).await.unwrap();
            let first = usize::try_from(file.first).unwrap();
            let pts = index.pts[first..first + usize::try_from(file.frames).unwrap()].to_vec();
            let first = file.first;
            segments.push(SegmentSlice { blob, first, pts });
        }
        let frames = RANGE.frames().map(|source| RenderFrame {
            source,
            face: Some(FACE),
            mouth: Mouth::Speech,
        });
        let expected = ExpectedPictures {
            source: SourceSpec {
                picture: probe.picture,
                time_base: probe.time_base,
                frames: SOURCE_FRAMES,
            },
            encoder,
            resolution_px: RESOLUTION,
            input: RenderInput {
                segments,
                frames: frames.collect(),
                audio: Vec::new(),
            },
            loudness: vec![220; 48],
        };
        let reader = SegmentReader::with_program(Some(program), &store, scratch);
        Self {
            store,
            folder,
            reader,
            expected,
        }
    }

    /// Stores a segment of the chunk's frames with these pictures.
    async fn segment(&self, picture: &dyn Fn(u64) -> Picture) -> BlobRef {
        let path = self.folder.path().join("segment.nut");
        encode(&path, &self.expected.encoder, RANGE, picture);
        self.store.put_file(&path).await.unwrap()
    }

    /// Checks a segment as the coordinator does when its record arrives.
    async fn check(&self, artifact: BlobRef, expected: Option<&ExpectedPictures>) -> Result<(), BadSegment> {
        let record = record(artifact);
        let (check, expected) = (Arc::clone(&self.reader.check), expected.cloned());
        let checked = tokio::task::spawn_blocking(move || check(&record, RANGE, expected.as_ref()));
        checked.await.unwrap()
    }

    /// Asserts that a segment of these pictures is implausible, for a reason that contains `reason`.
    async fn assert_implausible(&self, picture: &dyn Fn(u64) -> Picture, reason: &str) {
        let segment = self.segment(picture).await;
        assert_eq!(self.check(segment, None).await, Ok(()), "it is a whole segment");
        match self.check(segment, Some(&self.expected)).await {
            Err(BadSegment::Implausible(found)) => assert!(found.contains(reason), "{found}"),
            other => panic!("{other:?} instead of: {reason}"),
        }
    }
}

fn encode(path: &Path, spec: &EncoderSpec, range: FrameRange, picture: &dyn Fn(u64) -> Picture) {
    let mut encoder = SegmentEncoder::create(path, &format(), spec, range.start).unwrap();
    for frame in range.frames() {
        encoder.push(&picture(frame)).unwrap();
    }
    encoder.finish().unwrap();
}

fn record(artifact: BlobRef) -> DoneRecord {
    DoneRecord {
        chunk: ChunkId {
            job: JobId::from_digest(&artifact.digest),
            work: WorkKind::Render,
            index: 2,
        },
        attempt: Attempt { epoch: 1, number: 0 },
        worker: "w1".parse().unwrap(),
        numerics_fingerprint: "drawn".to_owned(),
        kind: None,
        artifact,
        body: DoneBody::Render {
            frame_hashes: Vec::new(),
            synced: 48,
            passed: 0,
            lips: Vec::new(),
        },
        timings: StageTimings::default(),
        memory: None,
    }
}

fn rendered(frame: u64) -> Picture {
    draw(frame, Look::Rendered)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rendered_mouth_passes() {
    let stage = Stage::open().await;
    let segment = stage.segment(&rendered).await;
    assert_eq!(stage.check(segment, Some(&stage.expected)).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_with_flipped_bits_are_implausible() {
    let stage = Stage::open().await;
    // Beside the face, in the face and everywhere.
    let flipped = |frame: u64, areas: [usize; 4], bit: u8| {
        let mut picture = rendered(frame);
        let [left, right, top, bottom] = areas;
        for row in top..bottom {
            for value in &mut picture.y[row * 256 + left..row * 256 + right] {
                *value ^= bit;
            }
        }
        picture
    };
    let corner = |frame| flipped(frame, [8, 40, 8, 40], 0x40);
    stage.assert_implausible(&corner, "outside the face").await;
    let mouth = |frame| flipped(frame, [90, 165, 120, 180], 0x80);
    stage.assert_implausible(&mouth, "the mouth").await;
    let one_frame = |frame| {
        if frame == 50 {
            flipped(frame, [0, 256, 0, 256], 0x10)
        } else {
            rendered(frame)
        }
    };
    stage.assert_implausible(&one_frame, "in frame 50").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pixels_of_the_source_are_implausible_while_somebody_speaks() {
    let stage = Stage::open().await;
    let own = |frame| draw(frame, Look::Source);
    stage.assert_implausible(&own, "the source's own").await;
    // In silence the model may well leave the mouth as it is.
    let mut silent = stage.expected.clone();
    silent.loudness = vec![0; 48];
    let segment = stage.segment(&own).await;
    assert_eq!(stage.check(segment, Some(&silent)).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pictures_of_another_chunk_are_implausible() {
    let stage = Stage::open().await;
    // They bear the numbers of this one, as otherwise they would not even be of the right frames.
    let other = |frame| rendered(frame - RANGE.start);
    stage.assert_implausible(&other, "differs from the source").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_mouth_a_flat_patch_and_noise_are_implausible() {
    let stage = Stage::open().await;
    let frozen = |frame| draw(frame, Look::Frozen);
    stage.assert_implausible(&frozen, "the same in every frame").await;
    let flat = |frame| draw(frame, Look::Flat);
    stage.assert_implausible(&flat, "flat patch").await;
    let noise = |frame| draw(frame, Look::Noise);
    stage.assert_implausible(&noise, "noise").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_segment_and_one_of_other_frames_are_broken() {
    let stage = Stage::open().await;
    let segment = stage.segment(&rendered).await;
    let mut bytes = stage.store.get_bytes(&segment).await.unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 64].fill(0xff);
    let damaged = stage.store.put_bytes(bytes).await.unwrap();
    let found = stage.check(damaged, Some(&stage.expected)).await;
    assert!(matches!(found, Err(BadSegment::Broken(_))), "{found:?}");

    let path = stage.folder.path().join("short.nut");
    encode(&path, &stage.expected.encoder, FrameRange::new(32, 79), &rendered);
    let short = stage.store.put_file(&path).await.unwrap();
    let found = stage.check(short, None).await;
    assert!(
        matches!(&found, Err(BadSegment::Broken(reason)) if reason.contains("47 frames")),
        "{found:?}"
    );
}

/// A decoder that crashes takes the child with it, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_crashes_makes_the_segment_a_broken_one() {
    let folder = tempfile::tempdir().unwrap();
    let crashing: PathBuf = folder.path().join("crashes");
    std::fs::write(&crashing, "#!/bin/sh\nkill -SEGV $$\n").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&crashing, executable).unwrap();
    let stage = Stage::with_program(&crashing).await;
    let segment = stage.segment(&rendered).await;
    for _again in 0..2 {
        let found = stage.check(segment, None).await;
        let Err(BadSegment::Broken(reason)) = found else {
            panic!("{found:?}");
        };
        assert!(reason.contains("the process that decodes it ended"), "{reason}");
    }
}

/// Without a process for it, the coordinator looks itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_segment_is_checked_although_no_child_can_be_started() {
    let stage = Stage::with_program(Path::new("/no/such/program")).await;
    let segment = stage.segment(&rendered).await;
    assert_eq!(stage.check(segment, None).await, Ok(()));
}
