//! Chunks are rendered while the rest of the video is still being checked and cut.

#![expect(clippy::unwrap_used, reason = "helpers of a test panic where it fails")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use farm_tests::{Clips, Finished, Material, Render, Running, repeat, transcode, zeroed};
use nix::sys::signal::Signal;
use serde_json::Value;

/// One second of speech, and a video whose first segment is cut at once, while the others take seconds: they
/// are one group of pictures, which is re-encoded.
fn slow_to_cut() -> Material {
    let mut material = Material::seconds("1", "1");
    let long = material.path("long.mp4");
    repeat(&Clips::fetched().face(), "30", &long);
    let coding =
        "-an -c:v libx264 -preset ultrafast -bf 0 -g 5000 -sc_threshold 0 -force_key_frames expr:eq(n,128)";
    let coding: Vec<&str> = coding.split(' ').collect();
    material.video = transcode(&long, &coding, material.path("slow.mp4"));
    material
}

/// Returns a render of the whole video, most of which has no speech and passes through unchanged. Few of its
/// frames are shown, so that the render itself is short.
fn render(material: &Material, output: &str) -> Render {
    let args = "--keep-tail --fps 5 --x264-preset ultrafast --chunk-frames 16 --workers 1";
    material.render(output).args(args.split(' '))
}

/// Returns how many source frames have been cut, and of how many, if the event says that.
fn cut(event: &Value) -> Option<(u64, u64)> {
    let is_progress = event["event"] == "ingest_progress";
    is_progress.then(|| {
        (
            event["source_frames"].as_u64().unwrap(),
            event["of"].as_u64().unwrap(),
        )
    })
}

/// Waits until the first segment has been cut.
fn first_segment(running: &mut Running) {
    while !cut(&running.next_event()).is_some_and(|(frames, of)| frames > 0 && frames < of) {}
}

fn chunks(finished: &Finished, event: &str) -> BTreeSet<String> {
    let of_kind = finished.events.iter().filter(|found| found["event"] == event);
    of_kind.map(|found| found["chunk"].to_string()).collect()
}

/// Asserts that the render was refused for what `expected` says, after the first segment, and left nothing.
#[track_caller]
fn assert_refused(material: &Material, finished: &Finished, expected: &[&str]) {
    let Finished { stderr, events, .. } = finished;
    assert_eq!(finished.code(), Some(2), "{stderr}\n{events:#?}");
    assert_eq!(stderr.matches("error:").count(), 1, "{stderr}");
    let refusal = finished.event("refused").expect("a refusal is an event");
    let reason = refusal["error"].as_str().unwrap();
    assert!(expected.iter().all(|part| reason.contains(part)), "{reason}");
    assert!(finished.event("ingested").is_none());
    let left = |name: &str| Path::exists(&material.path(name));
    assert!(
        !left("out.mp4") && !left("out.mp4.latentfarm"),
        "something was left"
    );
}

#[test]
fn the_command_killed_between_two_segments_resumes_with_the_first() {
    let material = slow_to_cut();
    let mut running = render(&material, "out.mp4").spawn();
    first_segment(&mut running);
    running.signal(Signal::SIGKILL);
    let killed = running.finish();
    assert_eq!(killed.code(), None);
    assert!(
        killed.event("ingested").is_none(),
        "the video had been cut to its end"
    );

    let resumed = render(&material, "out.mp4").run().complete();
    let (known, of) = resumed.events.iter().find_map(cut).unwrap();
    assert!(known >= 128 && known < of, "{known} of {of} frames were known");
    let (before, after) = (chunks(&killed, "chunk_done"), chunks(&resumed, "chunk_started"));
    assert!(before.is_disjoint(&after), "{before:?} {after:?}");
    let undisturbed = render(&material, "undisturbed.mp4").run().complete();
    assert_eq!(resumed.frames_digest(), undisturbed.frames_digest());
    assert!(undisturbed.event("ingested").is_some());
}

#[test]
fn a_video_that_changes_after_its_first_segment_is_refused() {
    let material = slow_to_cut();
    let mut running = render(&material, "out.mp4").spawn();
    first_segment(&mut running);
    let whole = fs::read(&material.video).unwrap();
    fs::write(&material.video, whole).unwrap();
    let finished = running.finish();
    assert_refused(
        &material,
        &finished,
        &["slow.mp4", "was changed while it was read"],
    );
}

#[test]
fn a_video_whose_second_half_cannot_be_decoded_is_refused_with_its_name_and_time() {
    let mut material = Material::seconds("1", "1");
    let coding = [
        "-an",
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-bf",
        "0",
        "-g",
        "32",
    ];
    let whole = transcode(&Clips::fetched().face(), &coding, material.path("whole.mp4"));
    material.video = zeroed(&whole, 0.4..1.0, material.path("half.mp4"));
    let mut running = render(&material, "out.mp4").spawn();
    first_segment(&mut running);
    let finished = running.finish();
    assert_refused(
        &material,
        &finished,
        &["half.mp4", " s (frame ", "copy or download"],
    );
}

/// The temporary folder is that of the user, so the segments that were cut beside the chunks must not stay there.
#[test]
fn an_interrupted_cut_leaves_no_temporary_files() {
    let material = slow_to_cut();
    let scratch = material.path("temporary");
    fs::create_dir(&scratch).unwrap();
    let render = render(&material, "out.mp4").env("TMPDIR", scratch.to_str().unwrap());
    let mut running = render.spawn();
    first_segment(&mut running);
    running.signal(Signal::SIGINT);
    let stopped = running.finish();
    assert_eq!(stopped.code(), Some(130), "{}", stopped.stderr);
    assert!(stopped.event("ingested").is_none());
    assert_eq!(
        fs::read_dir(&scratch).unwrap().count(),
        0,
        "temporary files are left"
    );
}
