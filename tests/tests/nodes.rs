//! Machines join and leave while a job runs, and use no more memory for a long video than for a short one.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use farm_tests::{
    Clips, Coordinator, Material, ProcessTag, Render, Server, Worker, program, tiny_weights, transcode,
};
use serde_json::Value;

/// A machine that joins must have work within this time.
const USED_WITHIN: Duration = Duration::from_secs(5);

#[test]
fn a_machine_that_joins_is_used_at_once_and_one_that_leaves_is_not_missed() {
    let material = Material::seconds("7", "7");
    let server = Server::start(&material.path("server"), &["first", "second", "third"]);
    let (variable, key) = server.key("operator");
    let tag = ProcessTag::new();
    let start = |name: &str| {
        let log = material.path(&format!("{name}.log"));
        Worker::start(&server, name, &material.weights, &log, &tag)
    };
    let coordinator = Coordinator::start(&server, &material.path("coordinator"), &tag);
    let first = start("first");
    let mut running = material
        .render("out.mp4")
        .args(["--nats", &server.url, "--chunk-frames", "16", "--steps", "10"])
        .env(variable, &key)
        .spawn();
    while running.wait_for("chunk_done")["work"] != "render" {}

    let second = start("second");
    while running.wait_for("worker_joined")["worker"] != "second" {}
    let joined = Instant::now();
    while running.wait_for("chunk_started")["worker"] != "second" {}
    let waited = joined.elapsed();
    assert!(waited < USED_WITHIN, "it waited {waited:?} for work");

    let drained = server.operate(["drain", "first"]).last();
    assert_eq!(
        (&drained["event"], &drained["worker"]),
        (&"drained".into(), &"first".into())
    );
    assert_eq!(first.ended(), Some(0));
    while running.wait_for("chunk_done")["worker"] != "second" {}
    // The worker is killed while it renders.
    drop(second);
    let third = start("third");
    let finished = running.finish().complete();
    assert_eq!(third.drain(), Some(0));
    let absent = server.operate(["drain", "first"]);
    assert_eq!(absent.code, Some(2), "{absent:?}");
    assert!(
        absent.stderr.contains("no worker `first` is on the farm"),
        "{absent:?}"
    );
    assert_eq!(coordinator.interrupt(), Some(0));
    tag.assert_nothing_left();

    let workers = finished.report["workers"].as_object().unwrap();
    for name in ["first", "second", "third"] {
        assert!(workers.contains_key(name), "{name} did nothing: {workers:?}");
    }
    let left: Vec<&str> = finished
        .events
        .iter()
        .filter(|event| event["event"] == "worker_left")
        .filter_map(|event| event["worker"].as_str())
        .collect();
    assert_eq!(left, ["first"]);
    assert!(finished.event("worker_lost").is_some(), "{:#?}", finished.events);

    // An observer, whose key permits reading only, can read from the farm how the job went, and so can an operator.
    let job = &finished.event("estimate").expect("an estimate")["job"];
    for user in ["observer", "operator"] {
        let (variable, key) = server.key(user);
        let explained = Command::new(program("latentfarm"))
            .args(["explain", "--json", "--nats", &server.url])
            .arg(job.as_str().expect("a job's name"))
            .env(variable, key)
            .output()
            .expect("run latentfarm");
        let stderr = String::from_utf8_lossy(&explained.stderr);
        assert!(explained.status.success(), "{user}: {stderr}");
        let explained: Value = serde_json::from_slice(&explained.stdout).expect("one JSON object");
        let chunks = explained["chunks"].as_array().expect("chunks");
        let is_done = |chunk: &Value| {
            chunk["state"]
                .as_str()
                .is_some_and(|state| state.starts_with("done"))
        };
        assert!(!chunks.is_empty() && chunks.iter().all(is_done), "{explained}");
    }
}

/// Renders a small video of so many seconds, and returns the peak resident KiB of the coordinator and of the
/// supervisor.
fn peaks(dir: &Path, weights: &Path, seconds: &str) -> BTreeMap<&'static str, u64> {
    const PROGRAMS: [(&str, &str); 2] = [
        ("coordinator", "latentfarm render"),
        ("supervisor", "latentfarm-worker run"),
    ];
    let clips = Clips::fetched();
    let shrink = ["-vf", "scale=160:-2", "-an"];
    let once = transcode(&clips.no_face(), &shrink, dir.join("once.mp4"));
    let video = dir.join(format!("{seconds}.mp4"));
    farm_tests::repeat(&once, seconds, &video);
    let audio = dir.join(format!("{seconds}.wav"));
    farm_tests::repeat(&clips.long_speech(), seconds, &audio);
    let output = dir.join(format!("out-{seconds}.mp4"));
    let mut running = Render::new(&video, &audio, &output, weights)
        .args(["--workers", "1", "--allow-no-face", "--x264-preset", "ultrafast"])
        .spawn();
    let mut peaks = BTreeMap::new();
    loop {
        let event = running.next_event();
        for (name, command) in PROGRAMS {
            for pid in running.tag().matching(command) {
                let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
                let kib = peak.and_then(|text| text.trim().strip_suffix(" kB")?.parse().ok());
                let peak_kib = peaks.entry(name).or_insert(0);
                *peak_kib = kib.unwrap_or(0).max(*peak_kib);
            }
        }
        if event["event"] == "report" {
            break;
        }
    }
    let _ = running.finish().complete();
    peaks
}

#[test]
fn coordinator_and_supervisor_use_no_more_memory_for_a_long_video_than_for_a_short_one() {
    let dir = tempfile::tempdir().unwrap();
    let weights = tiny_weights(dir.path());
    let short = peaks(dir.path(), &weights, "10");
    let long = peaks(dir.path(), &weights, "120");
    for (name, kib) in &short {
        let ratio = long[name] as f64 / *kib as f64;
        assert!(
            ratio < 1.1,
            "{name}: {kib} KiB for 10 s, {} KiB for 120 s",
            long[name]
        );
    }
    assert_eq!(short.len(), 2);
}
