//! A damaged video is rendered with what can be decoded, and the report says what was done and where.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use farm_tests::{Material, zeroed};
use latentfarm_common::wire::job::SourceDefect;
use serde_json::Value;

/// Returns the defects that a report lists.
fn defects(report: &Value) -> Vec<SourceDefect> {
    serde_json::from_value(report["source_defects"].clone()).unwrap()
}

#[test]
fn a_hole_in_the_video_is_reported_and_the_frames_do_not_depend_on_chunks() {
    let mut material = Material::seconds("2", "2");
    material.video = zeroed(&material.video, 0.5..0.54, material.path("hole.mp4"));
    let render = |name: &str, args: [&str; 4]| material.render(name).args(args).run().complete();
    let small = render("small.mp4", ["--chunk-frames", "16", "--workers", "2"]);
    let large = render("large.mp4", ["--chunk-frames", "48", "--workers", "1"]);
    let found = defects(&small.report);
    assert!(!found.is_empty() && found[0].start_ms > 0, "{found:?}");
    assert_eq!(found, defects(&large.report));
    assert_eq!(small.frames_digest(), large.frames_digest());
    let notes = small.events.iter().filter(|event| event["event"] == "note");
    let time = format!("{}.{:03} to ", found[0].start_ms / 1000, found[0].start_ms % 1000);
    assert!(
        notes
            .clone()
            .any(|note| note["text"].as_str().unwrap().contains(&time)),
        "{time}: {:?}",
        small.events
    );
}
