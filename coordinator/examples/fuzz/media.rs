//! Target `media`: damaged files as VIDEO and as AUDIO go through the whole of ingest, and every frame that
//! ingest promises is then decoded.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use latentfarm_common::digest::Digest;
use latentfarm_common::media::{AudioOffset, Container, FrameReader, TrackChoice};
use latentfarm_common::time::FrameRate;
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::job::{AudioWindows, SilenceMode};
use latentfarm_common::wire::media::LocalSlice;
use latentfarm_coordinator::ingest::{
    BlobSink, IngestError, IngestRequest, OnShort, RateChoice, SEGMENT_LIMITS, examine,
};

use crate::mutate::{Random, mutate};

/// Inputs of one child process.
pub(crate) const BATCH: u64 = 200;

const PICTURE: &str = "-f lavfi -i testsrc2=s=96x64:r=25:d=1.2";
const SOUND: &str = "-f lavfi -i sine=f=300:r=44100:d=1.2";
/// The undamaged files: a name, and the options of `ffmpeg` that make it.
const SEEDS: [(&str, &str); 18] = [
    ("h264.mp4", "PICTURE SOUND -c:v libx264 -g 8 -bf 2 -c:a aac"),
    (
        "fast.mp4",
        "PICTURE SOUND -c:v libx264 -g 30 -c:a aac -movflags faststart",
    ),
    (
        "parts.mp4",
        "PICTURE SOUND -c:v libx264 -g 8 -c:a aac -movflags frag_keyframe+empty_moov",
    ),
    (
        "hevc.mp4",
        "PICTURE -c:v libx265 -x265-params log-level=none:keyint=8",
    ),
    (
        "open.mkv",
        "PICTURE SOUND -c:v libx264 -x264-params open-gop=1:keyint=8 -c:a libopus",
    ),
    (
        "hevc.mkv",
        "PICTURE SOUND -c:v libx265 -x265-params log-level=none -c:a flac",
    ),
    ("h264.mov", "PICTURE SOUND -c:v libx264 -g 8 -c:a pcm_s16le"),
    ("sound.ts", "PICTURE SOUND -c:v libx264 -c:a aac"),
    (
        "vp9.webm",
        "PICTURE SOUND -c:v libvpx-vp9 -cpu-used 8 -c:a libopus",
    ),
    ("s16.wav", "SOUND -c:a pcm_s16le"),
    ("float.wav", "SOUND -ac 6 -c:a pcm_f32le"),
    ("phone.wav", "SOUND -ar 8000 -c:a pcm_alaw"),
    ("speech.flac", "SOUND -c:a flac"),
    ("speech.ogg", "SOUND -c:a libvorbis"),
    ("speech.mp3", "SOUND -c:a libmp3lame"),
    ("speech.aiff", "SOUND"),
    ("speech.m4a", "SOUND -c:a aac"),
    ("speech.wv", "SOUND -c:a wavpack"),
];

/// Makes the undamaged files that `folder` lacks.
pub(crate) fn make_seeds(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    for (name, options) in SEEDS {
        let path = folder.join(name);
        if path.exists() {
            continue;
        }
        let options = options.replace("PICTURE", PICTURE).replace("SOUND", SOUND);
        let options = options.replace("-c:v", "-pix_fmt yuv420p -c:v");
        let mut command = Command::new("ffmpeg");
        command.args(["-v", "error", "-y"]).args(options.split(' '));
        let status = command.arg(&path).status().context("cannot run ffmpeg")?;
        ensure!(status.success(), "ffmpeg cannot make {name}");
    }
    Ok(())
}

/// The damaged file `index` of the run `seed`, and the name of the file that it was made from.
pub(crate) fn input(seeds: &Path, seed: u64, index: u64) -> anyhow::Result<(&'static str, Vec<u8>)> {
    let mut random = Random::new(seed, index);
    let (name, _) = *random.pick(&SEEDS);
    let (other, _) = *random.pick(&SEEDS);
    let mut bytes = fs::read(seeds.join(name))?;
    let other = fs::read(seeds.join(other))?;
    mutate(&mut bytes, &other, 12, &mut random);
    Ok((name, bytes))
}

/// Puts one damaged file in place of each input. Fails if something is wrong with the program rather than
/// with the file; otherwise says in a word per role what happened.
pub(crate) fn run(seeds: &Path, scratch: &Path, seed: u64, index: u64) -> anyhow::Result<[&'static str; 2]> {
    let (name, bytes) = input(seeds, seed, index)?;
    let path = scratch.join(name);
    fs::write(&path, bytes)?;
    let as_video = guarded(|| ingest(&path, &seeds.join("s16.wav"), scratch));
    let as_audio = guarded(|| ingest(&seeds.join("h264.mp4"), &path, scratch));
    fs::remove_file(&path)?;
    Ok([as_video.context("as VIDEO")?, as_audio.context("as AUDIO")?])
}

fn guarded(ingest: impl FnOnce() -> anyhow::Result<&'static str>) -> anyhow::Result<&'static str> {
    catch_unwind(AssertUnwindSafe(ingest)).unwrap_or_else(|_| Err(anyhow::anyhow!("it panics")))
}

/// A blob store in a folder.
struct Store(PathBuf);

impl BlobSink for Store {
    fn put_file(&mut self, path: &Path) -> io::Result<BlobRef> {
        self.put_bytes(&fs::read(path)?)
    }

    fn put_bytes(&mut self, bytes: &[u8]) -> io::Result<BlobRef> {
        let digest = Digest::of(bytes);
        fs::write(self.0.join(digest.to_string()), bytes)?;
        let bytes = bytes.len() as u64;
        Ok(BlobRef { digest, bytes })
    }
}

/// Reads both files as a render does, and then every frame that the job would render.
fn ingest(video: &Path, audio: &Path, scratch: &Path) -> anyhow::Result<&'static str> {
    let blobs = tempfile::tempdir_in(scratch)?;
    let request = IngestRequest {
        video: video.to_owned(),
        audio: audio.to_owned(),
        audio_track: TrackChoice::Default,
        audio_offset: AudioOffset::default(),
        exact_audio: false,
        container: Container::Mp4,
        scratch: scratch.to_owned(),
        rate: RateChoice::Fixed(FrameRate::FPS_25),
        on_short: OnShort::Bounce,
        keep_tail: false,
        windows: AudioWindows::Overlapping,
        silence: SilenceMode::Keep,
        limits: SEGMENT_LIMITS,
    };
    let refusal = |error: IngestError| {
        let text = latentfarm_common::error::one_line(&error);
        // A refusal names the user's file.
        let names = [video, audio]
            .iter()
            .any(|path| text.contains(&*path.to_string_lossy()));
        ensure!(names, "a refusal names no input: {text}");
        Ok("refused")
    };
    let examined = match examine(&request) {
        Ok(examined) => examined,
        Err(error) => return refusal(error),
    };
    let promised = examined.frames();
    let mut store = Store(blobs.path().to_owned());
    let mut segments = Vec::new();
    let stored = examined.store(&mut store).and_then(|(done, source)| {
        source.cut(0, &|| Ok(()), &mut store, &mut |record| {
            segments.push(record.entry);
            Ok(())
        })?;
        Ok(done)
    });
    let done = match stored {
        Ok(done) => done,
        Err(error) => return refusal(error).map(|_| "refused while it was cut"),
    };
    ensure!(
        done.frames == promised,
        "{promised} frames were promised, {} stored",
        done.frames
    );
    ensure!(
        done.frames == done.timeline.outputs.len() as u64,
        "the frame table has another length"
    );
    let mut slices = Vec::new();
    let mut next = 0;
    for segment in &segments {
        ensure!(segment.first == next, "segments do not follow each other");
        next += segment.frames;
        // The last one may hold frames that another job needs.
        let end = next.min(done.source.frames);
        let range = usize::try_from(segment.first)?..usize::try_from(end)?;
        let pts = done
            .timeline
            .source_pts
            .get(range)
            .context("a segment begins behind the frames that are needed")?;
        slices.push(LocalSlice {
            path: blobs
                .path()
                .join(segment.blob.digest.to_string())
                .display()
                .to_string(),
            first: segment.first,
            pts: pts.to_vec(),
        });
    }
    ensure!(
        next >= done.source.frames,
        "segments hold {next} of {} frames",
        done.source.frames
    );
    let mut reader = FrameReader::new(slices, &done.source);
    for output in &done.timeline.outputs {
        let Ok(picture) = reader.frame(u64::from(output.source)) else {
            return Ok("not decoded");
        };
        ensure!(
            picture.format == done.source.picture,
            "a picture has another format"
        );
    }
    Ok("accepted")
}
