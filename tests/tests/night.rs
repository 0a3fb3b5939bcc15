//! A night in small: a file of forty-five jobs, five of them wrong, on a farm whose parts are killed, and what the
//! operator finds in the morning.

#![expect(clippy::unwrap_used, reason = "helpers of a test panic where it fails")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use farm_tests::{Access, Coordinator, Material, ProcessTag, Worker, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const JOBS: u64 = 40;
/// The jobs that operators pause and cancel; they are among the last of the queue.
const PAUSED: &str = "job 36";
const CANCELLED: &str = "job 38";
/// A job that follows another one, which is behind it in the queue.
const FOLLOWER: &str = "follower";
const FOLLOWED: &str = "job 37";
/// Jobs whose outputs are compared with those of single renders.
const COMPARED: [u64; 3] = [0, 17, 37];
const OPTIONS: [&str; 6] = ["--preset", "lean", "--chunk-frames", "16", "--crf", "18"];
const NIGHT: Duration = Duration::from_mins(8);

/// Writes the file of jobs. The wrong lines are in its middle.
fn write_batch(material: &Material) -> OsString {
    let line = |output: &str, more: Value| {
        let mut line = json!({
            "video": material.video, "audio": material.audio, "output": output, "preset": "lean", "chunk_frames": 16,
        });
        let more = more.as_object().unwrap().clone();
        line.as_object_mut().unwrap().extend(more);
        line.to_string()
    };
    let name = |seed: u64| format!("job {seed}");
    let output = |seed: u64| format!("{seed}.mp4");
    let mut lines: Vec<String> = (0..JOBS - 1)
        .map(|seed| {
            let priority = u8::from(seed % 10 != 5);
            line(
                &output(seed),
                json!({ "seed": seed, "name": name(seed), "priority": priority }),
            )
        })
        .collect();
    lines.push(line(
        &output(JOBS - 1),
        json!({ "seed": JOBS - 1, "name": FOLLOWER, "after": FOLLOWED, "priority": 0 }),
    ));
    fs::write(material.path("no-video.mp4"), "text").unwrap();
    let wrong = [
        line("v.mp4", json!({ "video": "missing.mp4" })),
        line("w.mp4", json!({ "video": "no-video.mp4" })),
        line("x.mp4", json!({ "steps": 0 })),
        line(&output(0), json!({ "seed": 1000 })),
        "{ \"video\": ".to_owned(),
    ];
    for (at, wrong) in wrong.into_iter().enumerate() {
        lines.insert(20 + 2 * at, wrong);
    }
    let path = material.path("night.jsonl");
    fs::write(&path, lines.join("\n")).unwrap();
    path.into()
}

/// Returns all jobs that the farm lists.
fn jobs(server: &Access, more: &[&str]) -> Vec<Value> {
    let listed = server.operate([&["jobs", "--limit", "100"], more].concat());
    assert_eq!(listed.code, Some(0), "{listed:?}");
    listed.lines
}

/// Returns the job of this name.
fn named(server: &Access, name: &str) -> Value {
    let found = jobs(server, &["--text", name]);
    found.into_iter().find(|job| job["name"] == name).unwrap()
}

fn control(server: &Access, command: &str, name: &str) -> Value {
    let job = named(server, name);
    server.operate([command, job["job"].as_str().unwrap()]).last()
}

/// Waits until so many jobs are complete.
fn wait_for_complete(server: &Access, count: usize, deadline: Instant) {
    let mut look = Instant::now();
    loop {
        let complete = jobs(server, &["--phase", "complete"]).len();
        if complete >= count {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{complete} of {count}: {:#?}",
            jobs(server, &[])
        );
        look += Duration::from_secs(1);
        wait_until(look);
    }
}

#[test]
fn a_night_of_forty_jobs_survives_what_nights_bring() {
    let material = Material::seconds("1.2", "1.2");
    let tag = ProcessTag::new();
    let dir = material.path("farm");
    let deadline = Instant::now() + NIGHT;
    let more = ["--worker", "second"];
    let (mut coordinator, server) = Coordinator::with_own_server(&dir, "first", "127.0.0.1:0", &more, &tag);
    let address = server.url.trim_start_matches("tls://").to_owned();
    let start = |name: &str| {
        let log = material.path(&format!("{name}.log"));
        Worker::start(&server, name, &material.weights, &log, &tag)
    };
    let (first, second) = (start("first"), start("second"));

    let mut batch: Vec<OsString> = vec!["submit".into(), "--batch".into(), write_batch(&material)];
    batch.extend(["--weights".into(), (&material.weights).into()]);
    let refused = server.operate(&batch);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    let wrong = refused.lines.iter().filter(|line| line["event"] == "invalid");
    let wrong: Vec<u64> = wrong.map(|line| line["line"].as_u64().unwrap()).collect();
    assert_eq!(wrong, [21, 23, 25, 27, 29], "{refused:?}");
    assert_eq!(jobs(&server, &[]).len(), 0);

    // The submitter's terminal is closed after some jobs.
    batch.push("--skip-invalid".into());
    let mut submitting = server.operator(&tag);
    submitting
        .args(&batch)
        .arg("--json")
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut submitting = submitting.spawn().unwrap();
    let lines = BufReader::new(submitting.stdout.take().unwrap()).lines();
    let _ = lines
        .map_while(Result::ok)
        .filter(|line| line.contains("\"phase\""))
        .nth(9)
        .unwrap();
    kill(
        Pid::from_raw(i32::try_from(submitting.id()).unwrap()),
        Signal::SIGHUP,
    )
    .unwrap();
    let _ = submitting.wait().unwrap();
    assert!(jobs(&server, &[]).len() < 40);
    let submitted = server.operate(&batch);
    assert_eq!(submitted.code, Some(3), "{submitted:?}");
    assert_eq!(jobs(&server, &[]).len(), 40);
    assert_eq!(control(&server, "pause", PAUSED)["phase"], "paused");
    assert_eq!(control(&server, "cancel", CANCELLED)["phase"], "cancelled");

    // The server is killed, then the coordinator, with which its server ends.
    wait_for_complete(&server, 5, deadline);
    kill(Pid::from_raw(tag.matching("nats-server")[0]), Signal::SIGKILL).unwrap();
    wait_for_complete(&server, 10, deadline);
    coordinator.kill();
    let (coordinator, _) = Coordinator::with_own_server(&dir, "first", &address, &more, &tag);
    wait_for_complete(&server, 38, deadline);

    // In the morning: what waits, and why.
    let paused = jobs(&server, &["--phase", "paused"]);
    assert_eq!(paused.len(), 1, "{paused:#?}");
    assert_eq!(jobs(&server, &["--phase", "cancelled"]).len(), 1);
    for phase in ["queued", "running", "failed", "incomplete"] {
        assert_eq!(jobs(&server, &["--phase", phase]).len(), 0, "{phase}");
    }
    control(&server, "resume", paused[0]["name"].as_str().unwrap());
    wait_for_complete(&server, 39, deadline);
    let complete = jobs(&server, &["--phase", "complete"]);
    assert!(
        complete.iter().all(|job| job["frames_done"] == job["frames"]),
        "{complete:#?}"
    );
    let (follower, before) = (named(&server, FOLLOWER), named(&server, FOLLOWED));
    assert!(
        follower["begun_ms"].as_u64() >= before["ended_ms"].as_u64(),
        "{follower} {before}"
    );

    // The frames are those of single renders, and each job has its own.
    let mut digests = BTreeSet::new();
    for job in &complete {
        let output = material.path(&format!("{}.mp4", job["job"].as_str().unwrap()));
        let args: [OsString; 4] = [
            "fetch".into(),
            job["job"].as_str().unwrap().into(),
            "-o".into(),
            output.into(),
        ];
        let fetched = server.operate(args);
        let digest = fetched.written()["frames_digest"].as_str().unwrap().to_owned();
        let seed = COMPARED.iter().find(|seed| job["name"] == format!("job {seed}"));
        if let Some(seed) = seed {
            let alone = material.render(&format!("alone-{seed}.mp4")).args(&OPTIONS[2..]);
            let alone = alone.args(["--workers", "1", "--seed", &seed.to_string()]);
            assert_eq!(digest, alone.run().complete().frames_digest(), "job {seed}");
        }
        digests.insert(digest);
    }
    assert_eq!(digests.len(), 39);
    assert_eq!((first.drain(), second.drain()), (Some(0), Some(0)));
    assert_eq!(coordinator.interrupt(), Some(0));
    tag.assert_nothing_left();
}
