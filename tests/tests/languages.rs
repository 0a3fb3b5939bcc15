//! One video with several speeches on one farm: what the first job makes of the video serves the others.

use farm_tests::{Finished, Stage, transcode};

/// Renders on the farm with the speech of the stage.
#[track_caller]
fn render(stage: &Stage, output: &str, seed: &str) -> Finished {
    let (variable, key) = stage.server.key("operator");
    let render = stage.material.render(output).args(&stage.options[2..]);
    let render = render.args(["--seed", seed, "--nats", &stage.server.url]);
    render.env(variable, &key).run().complete()
}

#[test]
fn a_language_with_a_longer_speech_costs_no_cut_and_no_analysis_of_the_video() {
    let mut stage = Stage::open();
    let coordinator = stage.coordinator();
    let long_speech = stage.material.audio.clone();
    let short_speech = transcode(&long_speech, &["-t", "1.3"], stage.material.path("short.wav"));
    stage.material.audio = short_speech.clone();
    let short = render(&stage, "short.mp4", "1");
    let is_about_video = |finished: &Finished| {
        finished.events.iter().any(|event| {
            event["event"] == "ingest_progress"
                || event["event"] == "chunk_started" && event["work"] == "analyze"
        })
    };
    assert!(
        is_about_video(&short),
        "the first job cuts and analyses the video"
    );
    stage.material.audio = long_speech;
    let long = render(&stage, "long.mp4", "2");
    assert!(long.report["frames"].as_u64() > short.report["frames"].as_u64());
    assert!(!is_about_video(&long), "{:#?}", long.events);
    stage.assert_like_a_render("long.mp4", "2", &long.frames_digest().into());
    stage.material.audio = short_speech;
    stage.assert_like_a_render("short.mp4", "1", &short.frames_digest().into());
    stage.close(coordinator);
}
