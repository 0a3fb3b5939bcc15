//! Makes clips, cuts them, and compares the frames with those that the `ffmpeg` command decodes.

use std::path::{Path, PathBuf};
use std::process::Command;

use latentfarm_common::media::{
    AudioOffset, Container, CutLimits, FrameReader, MediaError, SegmentFile, Sound, SoundOrigin,
    SoundRequest, TrackChoice, VideoProbe, cut_segments, decode_sound, index_video, probe_video,
};
use latentfarm_common::wire::job::{SourceDefect, SourceSpec};
use latentfarm_common::wire::media::LocalSlice;

pub(crate) const LIMITS: CutLimits = CutLimits {
    target_frames: 32,
    max_frames: 64,
};
pub(crate) const SIZE: &str = "128x96";
pub(crate) const FRAME_BYTES: usize = 128 * 96 * 3 / 2;

pub(crate) struct Clips(pub(crate) tempfile::TempDir);

impl Clips {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Overwrites `bytes` bytes with `fill`, from `share` of the media data of the MP4 clip `name` on.
    pub(crate) fn damage(&self, name: &str, share: f64, bytes: usize, fill: u8) {
        let path = self.path(name);
        let mut whole = std::fs::read(&path).unwrap();
        let place = |name: &[u8; 4]| whole.windows(4).position(|word| word == name).unwrap() + 4;
        // The index follows the data.
        let (data, data_end) = (place(b"mdat"), place(b"moov") - 8);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a place in a small file"
        )]
        let start = data + ((data_end - data) as f64 * share) as usize;
        whole[start..data_end.min(start + bytes)].fill(fill);
        std::fs::write(&path, whole).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs `ffmpeg ARGS NAME`; in the arguments, `IN:x` stands for the path of clip x.
    pub(crate) fn make(&self, name: &str, args: &str) -> PathBuf {
        let path = self.path(name);
        let mut command = Command::new("ffmpeg");
        command.args(["-v", "error", "-y"]);
        for arg in args.split_whitespace() {
            match arg.strip_prefix("IN:") {
                Some(clip) => command.arg(self.path(clip)),
                None => command.arg(arg),
            };
        }
        let done = command.arg(&path).output().unwrap();
        assert!(
            done.status.success(),
            "ffmpeg {args}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        path
    }

    /// Makes a moving test picture of `frames` frames at 25 fps.
    pub(crate) fn video(&self, name: &str, frames: u32, coding: &str) -> PathBuf {
        let args = format!("-f lavfi -i testsrc2=s={SIZE}:r=25 -frames:v {frames} -pix_fmt yuv420p {coding}");
        self.make(name, &args)
    }
}

/// Returns PTS and pixels of every frame, in order, as the `ffmpeg` command decodes them.
pub(crate) fn shown(path: &Path) -> Vec<(i64, Vec<u8>)> {
    let probe = Command::new("ffprobe")
        .args([
            "-v",
            "error",
            "-select_streams",
            "v:0",
            "-show_entries",
            "frame=pts",
        ])
        .args(["-of", "csv=p=0"])
        .arg(path)
        .output()
        .unwrap();
    let text = String::from_utf8(probe.stdout).unwrap();
    let pts: Vec<i64> = text
        .lines()
        .filter_map(|line| line.split(',').next().filter(|pts| !pts.is_empty()))
        .map(|pts| pts.parse().unwrap())
        .collect();
    let raw = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(path)
        .args(["-map", "0:v:0", "-vsync", "passthrough", "-f", "rawvideo", "-"])
        .output()
        .unwrap();
    let frames = raw.stdout.chunks(FRAME_BYTES).map(<[u8]>::to_vec);
    assert_eq!(
        raw.stdout.len(),
        pts.len() * FRAME_BYTES,
        "ffmpeg and ffprobe disagree"
    );
    pts.into_iter().zip(frames).collect()
}

/// A video that was cut completely.
#[derive(Debug)]
pub(crate) struct CutVideo {
    /// PTS of every source frame, strictly increasing.
    pub(crate) pts: Vec<i64>,
    /// The segments of the video in order.
    pub(crate) segments: Vec<SegmentFile>,
    /// The stretches that are not shown as the file has them.
    pub(crate) defects: Vec<SourceDefect>,
}

/// Indexes a video and cuts all of it into segments in `out_dir`, which must exist.
pub(crate) fn cut_video(path: &Path, probe: &VideoProbe, out_dir: &Path) -> Result<CutVideo, MediaError> {
    let mut indexed = 0;
    let index = index_video(path, probe, &mut |frames| indexed = frames)?;
    assert_eq!(indexed, index.pts.len() as u64, "progress ends at the last frame");
    let mut segments = Vec::new();
    let frames = index.pts.len() as u64;
    let mut defects = Vec::new();
    let keep_on = || Ok(());
    cut_segments(
        &index,
        &probe.picture,
        frames,
        out_dir,
        LIMITS,
        &keep_on,
        &mut |segment| {
            SourceDefect::append(&mut defects, &segment.defects);
            segments.push(segment);
            Ok(())
        },
    )?;
    Ok(CutVideo {
        pts: index.pts,
        segments,
        defects,
    })
}

pub(crate) fn source(path: &Path, cut: &CutVideo) -> SourceSpec {
    let probe = probe_video(path).unwrap();
    SourceSpec {
        picture: probe.picture,
        time_base: probe.time_base,
        frames: cut.pts.len() as u64,
    }
}

pub(crate) fn slices(cut: &CutVideo) -> Vec<LocalSlice> {
    let range =
        |first: u64, frames: u64| usize::try_from(first).unwrap()..usize::try_from(first + frames).unwrap();
    cut.segments
        .iter()
        .map(|segment| LocalSlice {
            path: segment.path.to_str().unwrap().to_owned(),
            first: segment.first,
            pts: cut.pts[range(segment.first, segment.frames)].to_vec(),
        })
        .collect()
}

pub(crate) fn cut(path: &Path, dir: &Path) -> CutVideo {
    let out = dir.join("segments");
    std::fs::create_dir_all(&out).unwrap();
    let probe = probe_video(path).unwrap();
    let cut = cut_video(path, &probe, &out).unwrap();
    let mut next = 0;
    for segment in &cut.segments {
        assert_eq!(segment.first, next, "segments join without gap");
        assert!((1..=LIMITS.max_frames).contains(&segment.frames), "{segment:?}");
        next += segment.frames;
    }
    assert_eq!(next, cut.pts.len() as u64, "segments hold every frame");
    cut
}

/// Cuts the clip, reads every frame back and compares it with what `ffmpeg` shows.
pub(crate) fn check(clips: &Clips, path: &Path) -> CutVideo {
    let cut = cut(path, clips.0.path());
    assert_eq!(cut.defects, []);
    let expected = shown(path);
    let expected_pts: Vec<i64> = expected.iter().map(|frame| frame.0).collect();
    assert_eq!(cut.pts, expected_pts);
    let mut reader = FrameReader::new(slices(&cut), &source(path, &cut));
    for (number, (_, pixels)) in (0..).zip(&expected) {
        let picture = reader.frame(number).unwrap();
        let planes = [&picture.y[..], &picture.u, &picture.v].concat();
        assert!(planes == *pixels, "frame {number} of {}", path.display());
    }
    cut
}

pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T, MediaError>) -> String {
    match result {
        Err(error @ MediaError::BadInput { .. }) => latentfarm_common::error::one_line(&error),
        other => panic!("not refused as bad input: {other:?}"),
    }
}

/// Decodes the sound of a file as ingest does, for an MP4 output.
pub(crate) fn sound(path: &Path, origin: SoundOrigin) -> Result<Sound, MediaError> {
    decode_sound(&SoundRequest {
        path,
        track: &TrackChoice::Default,
        origin,
        offset: AudioOffset::default(),
        container: Container::Mp4,
        exact: false,
        scratch: path.parent().unwrap(),
    })
}

/// Returns the speech that the model gets.
pub(crate) fn heard(sound: &mut Sound) -> Vec<i16> {
    let mut samples = Vec::new();
    let count = sound.speech(&mut |more| {
        samples.extend_from_slice(more);
        Ok(())
    });
    assert_eq!(count.unwrap(), samples.len() as u64);
    samples
}
