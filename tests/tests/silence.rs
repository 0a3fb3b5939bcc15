//! `--silence` determines how the mouth is drawn in pauses of the speech.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use farm_tests::{Clips, Finished, Material, decoded, transcode};
use latentfarm_common::frame::FrameHash;
use serde_json::Value;

/// Makes four seconds of speech with a pause from 1 s to 3 s, and a video of the same length.
fn speech_with_a_pause() -> Material {
    let mut material = Material::seconds("5", "4");
    material.audio = transcode(
        &Clips::fetched().long_speech(),
        &["-t", "4", "-af", "volume=volume=0:enable='between(t,1,3)'"],
        material.path("paused.wav"),
    );
    material
}

/// Renders every source frame to one output frame, without loss.
fn render(material: &Material, name: &str, args: &[&str]) -> (Finished, Vec<FrameHash>) {
    let finished = material
        .render(name)
        .args(["--lossless", "--fps", "source"])
        .args(args);
    let finished = finished.run().complete();
    (finished, decoded(&material.path(name)))
}

/// Returns the frames of the only pause in the report.
#[track_caller]
fn pause(report: &Value) -> std::ops::Range<usize> {
    let ranges = report["silence"]["ranges"].as_array().unwrap();
    assert_eq!(ranges.len(), 1, "{report}");
    let bound = |name: &str| usize::try_from(ranges[0][name].as_u64().unwrap()).unwrap();
    bound("start")..bound("end")
}

#[test]
fn a_kept_silence_is_the_source_bit_for_bit_however_the_work_is_cut() {
    let material = speech_with_a_pause();
    let source = decoded(&material.video);
    let (off, off_frames) = render(&material, "off.mp4", &["--chunk-frames", "48"]);
    let small = ["--silence", "keep", "--chunk-frames", "16", "--workers", "1"];
    let (keep, frames) = render(&material, "keep.mp4", &small);
    let large = ["--silence", "keep", "--chunk-frames", "48", "--workers", "2"];
    let (again, frames_again) = render(&material, "again.mp4", &large);

    assert_eq!(off.report["silence"], Value::Null);
    assert_eq!(off.report["passed"], 0, "the clip has a face in every frame");
    assert_eq!(keep.frames_digest(), again.frames_digest());
    assert_eq!(frames, frames_again);

    // The pause is from frame 23.98 to 71.93. Hang-over and lead-in shorten it, and weak speech beside it
    // extends it.
    let pause = pause(&keep.report);
    assert!(
        (24..=32).contains(&pause.start) && (64..=72).contains(&pause.end),
        "{pause:?}"
    );
    let kept = pause.start + 3..pause.end - 3;
    assert_eq!(keep.report["silence"]["kept"], kept.len());
    assert_eq!(keep.report["passed"], kept.len());
    for frame in 0..frames.len() {
        let is_source = frames[frame] == source[frame];
        assert_eq!(is_source, kept.contains(&frame), "frame {frame}");
        assert!(
            off_frames[frame] != source[frame],
            "frame {frame} is not rendered at all"
        );
        // Speech beside a pause is rendered as without the pause, even in the same window.
        let is_as_before = frames[frame] == off_frames[frame];
        assert_eq!(is_as_before, !pause.contains(&frame), "frame {frame}");
    }
}

#[test]
fn a_closed_silence_is_rendered_from_silence_however_the_work_is_cut() {
    let material = speech_with_a_pause();
    let (_, off_frames) = render(&material, "off.mp4", &["--chunk-frames", "48"]);
    let small = ["--silence", "close", "--chunk-frames", "16", "--workers", "1"];
    let (close, frames) = render(&material, "close.mp4", &small);
    let large = ["--silence", "close", "--chunk-frames", "48", "--workers", "2"];
    let (again, frames_again) = render(&material, "again.mp4", &large);

    assert_eq!(close.frames_digest(), again.frames_digest());
    assert_eq!(frames, frames_again);
    assert_eq!(close.report["passed"], 0);
    let pause = pause(&close.report);
    for frame in 0..frames.len() {
        let window = frame / 16 * 16..frame / 16 * 16 + 16;
        let window_has_pause = window.start < pause.end && pause.start < window.end;
        if pause.contains(&frame) {
            assert!(
                frames[frame] != off_frames[frame],
                "frame {frame} is still rendered from the track"
            );
        } else if !window_has_pause {
            assert!(
                frames[frame] == off_frames[frame],
                "frame {frame} is far from the pause"
            );
        }
    }
}
