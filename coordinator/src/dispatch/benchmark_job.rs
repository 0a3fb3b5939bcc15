//! The job of the queue benchmark (`latentfarm bench`). Its blobs do not exist, because the benchmark's
//! worker opens none. The dispatcher's tests use the job too.

use latentfarm_common::audio::windows;
use latentfarm_common::digest::Digest;
use latentfarm_common::frame::{Colour, PictureFormat};
use latentfarm_common::ids::JobId;
use latentfarm_common::time::{FrameRate, TimeBase};
use latentfarm_common::wire::blob::BlobRef;
use latentfarm_common::wire::job::{
    AudioSpec, AudioWindows, EncoderSpec, JobSpec, ModelSpec, OutputFrame, SegmentEntry, SegmentRecord,
    SilenceMode, SoundSpec, SourceSpec, Timeline, WeightsKind,
};

fn blob(name: &str) -> BlobRef {
    BlobRef {
        digest: Digest::of(name.as_bytes()),
        bytes: name.len() as u64,
    }
}

/// The segments of the benchmark's source video, of 32 frames each.
pub fn benchmark_segments(sources: u32) -> Vec<SegmentRecord> {
    let segments = (0..u64::from(sources)).step_by(32).map(|first| SegmentRecord {
        entry: SegmentEntry {
            blob: blob(&format!("segment {first}")),
            first,
            frames: 32.min(u64::from(sources) - first),
        },
        reencoded: false,
        defects: Vec::new(),
    });
    segments.collect()
}

/// A job of `outputs` output frames that show the `sources` source frames in a loop, in chunks of one window.
pub fn benchmark_job(sources: u32, outputs: u32) -> (JobSpec, Timeline) {
    let samples = u64::from(outputs) * 640;
    let audio_windows = windows::count(samples, AudioWindows::Overlapping);
    let timeline = Timeline {
        source_pts: (0..i64::from(sources)).map(|n| n * 40).collect(),
        outputs: (0..outputs)
            .map(|n| OutputFrame {
                source: n % sources.max(1),
                synced: true,
            })
            .collect(),
        audio: (0..audio_windows)
            .map(|index| blob(&format!("window {index}")))
            .collect(),
        silence: Vec::new(),
        loudness: vec![0; outputs as usize],
    };
    let colour = Colour::BT709;
    let spec = JobSpec {
        id: JobId::from_digest(&Digest::of(format!("{sources} {outputs}").as_bytes())),
        video_digest: Digest::of(b"video"),
        audio_digest: Digest::of(b"audio"),
        source: SourceSpec {
            picture: PictureFormat {
                width: 640,
                height: 480,
                colour,
                sample_aspect: (1, 1),
            },
            time_base: TimeBase { num: 1, den: 1000 },
            frames: u64::from(sources),
        },
        audio: AudioSpec {
            digest: Digest::of(b"pcm"),
            samples,
            log_mel_max: 0.5,
            windows: AudioWindows::Overlapping,
            silence: SilenceMode::Off,
        },
        sound: SoundSpec {
            blob: blob("sound"),
            treatment: "copied".to_owned(),
        },
        model: ModelSpec {
            weights: Digest::of(b"weights"),
            weights_kind: WeightsKind::Synthetic,
            resolution_px: 256,
            steps: 1,
            guidance_scale: 1.0,
            seed: 1,
        },
        encoder: EncoderSpec {
            rate: FrameRate::FPS_25,
            crf: None,
            preset: "medium".to_owned(),
        },
        frames: u64::from(outputs),
        chunk_frames: 16,
        analyze_frames: 16,
        face_frames: timeline.face_frames(),
        timeline: blob("timeline"),
    };
    (spec, timeline)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dispatch::task_inputs;

    #[test]
    fn a_job_of_the_longest_benchmark_has_every_audio_window_that_it_needs() {
        for chunks in [2, 200, 10_000] {
            let (spec, timeline) = benchmark_job(32, chunks * 16);
            task_inputs::check(&spec, &timeline).unwrap();
        }
    }
}
