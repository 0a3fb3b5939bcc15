//! A farm of several jobs: its standing coordinator, and the commands with which people use it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use farm_tests::Stage;
use nix::sys::signal::Signal;
use serde_json::Value;

#[test]
fn jobs_of_a_farm_survive_its_coordinator_and_have_the_frames_of_single_renders() {
    let stage = Stage::open();
    let mut coordinator = stage.coordinator();
    let (first, second) = (
        stage.submit("a.mp4", "1", &[]),
        stage.submit("b.mp4", "2", &["--name", "talk b"]),
    );
    assert_eq!(first["name"], "a.mp4");
    assert_eq!(
        stage.submit("a.mp4", "1", &[])["job"],
        first["job"],
        "the same job again"
    );
    let listed = stage.server.operate(["jobs"]).lines;
    let names: Vec<&Value> = listed.iter().map(|job| &job["name"]).collect();
    assert_eq!(names, ["talk b", "a.mp4"], "the newest first");

    let mut waiting = stage.server.operator(&stage.tag);
    waiting.args(["status", first["job"].as_str().unwrap(), "--wait", "--json"]);
    let mut waiting: Child = waiting.stdout(Stdio::piped()).spawn().unwrap();
    let mut phases = BufReader::new(waiting.stdout.take().unwrap()).lines();
    let mut next_phase = || serde_json::from_str::<Value>(&phases.next()?.ok()?).ok();
    assert_eq!(next_phase().unwrap()["phase"], "running");
    coordinator.kill();
    let coordinator = stage.coordinator();
    let first = std::iter::from_fn(next_phase).last().unwrap();
    assert_eq!(waiting.wait().unwrap().code(), Some(0), "{first}");
    assert_eq!(first["phase"], "complete", "{first}");
    let second = stage.about("status", &second, &["--wait"]);
    assert_eq!(
        (&second["phase"], &second["frames_done"]),
        (&"complete".into(), &second["frames"])
    );

    // The coordinator says where each chunk was placed, and why, also to those who may only read.
    let (variable, key) = stage.server.key("observer");
    let mut explaining = stage.server.operator(&stage.tag);
    explaining
        .env(variable, key)
        .args(["explain", "--json", "--nats", &stage.server.url]);
    let explained = explaining.arg(first["job"].as_str().unwrap()).output().unwrap();
    let explained: Value = serde_json::from_slice(&explained.stdout).unwrap();
    let placed = |chunk: &Value| chunk["history"].to_string().contains("\"why\"");
    assert!(
        explained["chunks"].as_array().unwrap().iter().any(placed),
        "{explained}"
    );

    let output = stage.material.path("a.mp4");
    let output = output.to_str().unwrap();
    assert!(!fs::exists(output).unwrap(), "nobody has fetched it");
    let id = first["job"].as_str().unwrap();
    let fetched = stage.server.operate(["fetch", id, "-o", output]);
    stage.assert_like_a_render("a.mp4", "1", &fetched.written()["frames_digest"]);
    // It is there already, and another name is of another kind of file.
    for (name, part) in [(output, "exists already"), ("c.mkv", "makes a .mp4 file")] {
        let refused = stage.server.operate(["fetch", id, "-o", name]);
        assert_eq!(refused.code, Some(2));
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    // A complete job is not rendered again: its output is written at once.
    let again = stage.server.operate(stage.submission("b.mp4", "2", &["--wait"]));
    stage.assert_like_a_render("b.mp4", "2", &again.written()["frames_digest"]);
    stage.close(coordinator);
}

#[test]
fn jobs_are_paused_made_more_urgent_and_cancelled() {
    let stage = Stage::open();
    let coordinator = stage.coordinator();
    let paused = stage.submit("a.mp4", "1", &[]);
    assert_eq!(stage.about("pause", &paused, &[])["phase"], "paused");
    let (usual, urgent) = (stage.submit("b.mp4", "2", &[]), stage.submit("c.mp4", "3", &[]));
    assert_eq!(stage.about("set", &urgent, &["--priority", "0"])["priority"], 0);
    let urgent = stage.about("status", &urgent, &["--wait"]);
    assert_eq!(urgent["phase"], "complete");
    let usual = stage.about("status", &usual, &[]);
    assert_eq!(usual["phase"], "running", "it was submitted first: {usual}");
    assert_eq!(stage.about("cancel", &usual, &[])["phase"], "cancelled");
    let over = stage.server.operate(["status", usual["job"].as_str().unwrap()]);
    assert_eq!(over.code, Some(3), "{over:?}");
    let refused = stage.server.operate(["pause", usual["job"].as_str().unwrap()]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    let paused = stage.about("status", &paused, &[]);
    assert_eq!(paused["phase"], "paused", "{paused}");
    stage.about("resume", &paused, &[]);
    assert_eq!(stage.about("status", &paused, &["--wait"])["phase"], "complete");
    // A cancelled job may be tried again, and another one may wait for it.
    let follower = stage.submit("d.mp4", "4", &["--after", usual["job"].as_str().unwrap()]);
    assert_eq!(follower["phase"], "queued", "{follower}");
    assert!(
        follower["waits_for"].as_str().unwrap().contains("is cancelled"),
        "{follower}"
    );
    assert_eq!(stage.about("retry", &usual, &[])["reason"], Value::Null);
    let follower = stage.about("status", &follower, &["--wait"]);
    let usual = stage.about("status", &usual, &[]);
    assert_eq!(
        (&usual["phase"], &follower["phase"]),
        (&"complete".into(), &"complete".into())
    );
    let milliseconds = |job: &Value, name: &str| job[name].as_u64().unwrap();
    assert!(
        milliseconds(&follower, "begun_ms") >= milliseconds(&usual, "ended_ms"),
        "{usual} {follower}"
    );

    let complete = ["jobs", "--phase", "complete"];
    assert_eq!(
        stage
            .server
            .operate(complete.iter().chain(&["--limit", "2"]))
            .lines
            .len(),
        2
    );
    assert_eq!(stage.server.operate(complete).lines.len(), 4);
    assert_eq!(stage.about("delete", &usual, &[])["event"], "deleted");
    let id = usual["job"].as_str().unwrap();
    for command in ["status", "delete", "retry"] {
        let refused = stage.server.operate([command, id]);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(refused.stderr.contains("has no job"), "{}", refused.stderr);
    }
    // What is forgotten is rendered afresh, with the same frames.
    let again = stage.server.operate(stage.submission("b.mp4", "2", &["--wait"]));
    stage.assert_like_a_render("b.mp4", "2", &again.written()["frames_digest"]);
    stage.close(coordinator);
}

#[test]
fn a_farm_without_a_coordinator_and_bad_inputs_are_refused_with_the_mend() {
    let stage = Stage::open();
    for args in [vec!["jobs".into()], stage.submission("a.mp4", "1", &[])] {
        let refused = stage.server.operate(args);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(
            refused.stderr.contains("start one with `latentfarm serve --nats"),
            "{}",
            refused.stderr
        );
    }
    let coordinator = stage.coordinator();
    let broken = stage.material.path("broken.mp4");
    fs::write(&broken, "not a video").unwrap();
    let mut args = stage.submission("a.mp4", "1", &[]);
    args[1] = broken.into();
    let refused = stage.server.operate(args);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("broken.mp4"), "{}", refused.stderr);
    assert_eq!(
        stage.server.operate(["jobs"]).lines.len(),
        0,
        "nothing was queued"
    );
    let unknown = stage.server.operate(["status", "0123456789abcdef"]);
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
    assert!(unknown.stderr.contains("latentfarm jobs"), "{}", unknown.stderr);
    // There is one coordinator at a time.
    let (variable, key) = stage.server.key("coordinator");
    let mut second = stage.server.operator(&stage.tag);
    let second = second
        .env(variable, key)
        .args(["serve", "--dir"])
        .arg(stage.material.path("other"));
    let second = second.output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&second.stderr);
    assert!(stderr.contains("another coordinator is at work"), "{stderr}");
    stage.close(coordinator);
}

#[test]
fn renders_share_a_farm_and_one_that_was_interrupted_is_waited_for_again() {
    let mut stage = Stage::open();
    // A job takes longer than it takes to begin to watch it, also on a busy machine.
    stage.options[6] = "90";
    let (variable, key) = stage.server.key("operator");
    let render = |stage: &Stage, output: &str, seed: &str| {
        let render = stage.material.render(output).args(&stage.options[2..]);
        render
            .args(["--seed", seed, "--nats", &stage.server.url])
            .env(variable, &key)
    };
    // A farm without a coordinator is refused before anything is read.
    let refused = render(&stage, "a.mp4", "1").run();
    assert_eq!(refused.code(), Some(1), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("latentfarm serve --nats"),
        "{}",
        refused.stderr
    );
    let coordinator = stage.coordinator();
    let (mut first, mut second) = (
        render(&stage, "a.mp4", "1").spawn(),
        render(&stage, "b.mp4", "2").spawn(),
    );
    for running in [&mut first, &mut second] {
        assert_eq!(running.wait_for("chunk_started")["worker"], "first");
    }
    let estimate = "estimate";
    second.signal(Signal::SIGINT);
    let second = second.finish();
    assert_eq!(second.code(), Some(130), "{}", second.stderr);
    assert!(
        second.stderr.contains("the farm goes on with it"),
        "{}",
        second.stderr
    );
    let job = &second.event(estimate).unwrap()["job"];
    // Whoever watches a job gets its events from the coordinator.
    let watched = stage.server.operate(["watch", job.as_str().unwrap()]);
    assert_eq!(watched.code, Some(0), "{watched:?}");
    let last = watched.lines.last().unwrap();
    assert_eq!((&last["job"], &last["phase"]), (job, &"complete".into()));
    let is_of_job = |line: &&Value| {
        line["chunk"]
            .as_str()
            .is_some_and(|chunk| chunk.starts_with(job.as_str().unwrap()))
    };
    assert!(
        watched
            .lines
            .iter()
            .any(|line| is_of_job(&line) && line["event"] == "chunk_done"),
        "{watched:?}"
    );
    let first = first.finish().complete();
    let second = render(&stage, "b.mp4", "2").run().complete();
    for (finished, output, seed) in [(first, "a.mp4", "1"), (second, "b.mp4", "2")] {
        assert_eq!(
            finished.report["workers"]["first"].as_u64(),
            Some(5),
            "{}",
            finished.report
        );
        stage.assert_like_a_render(output, seed, &finished.frames_digest().into());
    }
    // The video was cut and analysed for the others, so that another job of it begins with rendering.
    stage.options[6] = "10";
    let third = render(&stage, "c.mp4", "3").run().complete();
    let is_about_video = |event: &&Value| {
        event["event"] == "ingest_progress" || event["event"] == "chunk_started" && event["work"] == "analyze"
    };
    assert!(
        third.events.iter().find(is_about_video).is_none(),
        "{:#?}",
        third.events
    );
    stage.assert_like_a_render("c.mp4", "3", &third.frames_digest().into());
    stage.close(coordinator);
}
