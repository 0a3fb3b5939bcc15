//! A coordinator that starts and keeps the nats-server of its farm.

use std::ffi::OsString;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use farm_tests::{Coordinator, Material, ProcessTag, Server, Worker, decoded, program, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn a_coordinator_with_a_server_of_its_own_keeps_jobs_over_a_killed_server_and_its_own_restart() {
    let material = Material::seconds("1", "1");
    let tag = ProcessTag::new();
    let dir = material.path("farm");
    let outputs = material.path("outputs");
    let more = ["--output-root", outputs.to_str().expect("a path")];
    let (coordinator, server) = Coordinator::with_own_server(&dir, "first", "127.0.0.1:0", &more, &tag);
    let log = material.path("first.log");
    let worker = Worker::start(&server, "first", &material.weights, &log, &tag);
    let mut args: Vec<OsString> = vec![
        "submit".into(),
        (&material.video).into(),
        (&material.audio).into(),
    ];
    args.extend([
        "-o".into(),
        material.path("out.mp4").into(),
        "--weights".into(),
        (&material.weights).into(),
    ]);
    args.extend(["--chunk-frames", "16", "--steps", "10", "--lossless"].map(OsString::from));
    let outside = [
        args.clone(),
        ["--deliver", "../out.mp4"].map(OsString::from).to_vec(),
    ]
    .concat();
    let refused = server.operate(outside);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(
        refused.stderr.contains("below the coordinator's output folder"),
        "{}",
        refused.stderr
    );
    let delivered = ["--deliver", "night/1.mp4"].map(OsString::from).to_vec();
    let job = server.operate([args.clone(), delivered].concat()).last();
    assert_eq!(job["delivery"], "written when the job is complete");
    let pids = tag.matching("nats-server");
    assert_eq!(pids.len(), 1, "{pids:?}");
    kill(Pid::from_raw(pids[0]), Signal::SIGKILL).unwrap();
    let status = |more: &[&str]| server.operate([&["status", job["job"].as_str().unwrap()], more].concat());
    assert_eq!(status(&[]).last()["job"], job["job"]);
    assert!(
        coordinator.log().contains("was started again"),
        "{}",
        coordinator.log()
    );
    // The next coordinator has the same server, at the same address, with the same keys.
    assert_eq!(coordinator.interrupt(), Some(0));
    let address = server.url.trim_start_matches("tls://").to_owned();
    let (coordinator, again) = Coordinator::with_own_server(&dir, "first", &address, &more, &tag);
    assert_eq!(again.url, server.url);
    assert_eq!(status(&["--wait"]).last()["phase"], "complete");
    args.push("--wait".into());
    let fetched = server.operate(args);
    let digest = &fetched.written()["frames_digest"];
    let alone = material
        .render("alone.mp4")
        .args(["--chunk-frames", "16", "--steps", "10", "--lossless"]);
    assert_eq!(
        digest,
        alone
            .args(["--workers", "1"])
            .run()
            .complete()
            .frames_digest()
            .as_str()
    );
    // The coordinator has written the output too.
    let begun = Instant::now();
    let mut look = begun;
    while status(&[]).last()["delivery"] != "written" {
        look += Duration::from_millis(200);
        assert!(begun.elapsed() < Duration::from_mins(1), "{}", coordinator.log());
        wait_until(look);
    }
    assert_eq!(
        decoded(&outputs.join("night/1.mp4")),
        decoded(&material.path("out.mp4"))
    );
    assert_eq!(worker.drain(), Some(0));
    assert_eq!(coordinator.interrupt(), Some(0));
    tag.assert_nothing_left();
}

#[test]
fn a_batch_that_needs_more_than_the_store_holds_waits_for_room_and_loses_nothing() {
    let material = Material::seconds("2", "2");
    let tag = ProcessTag::new();
    let dir = material.path("farm");
    // The estimate of one job is 8 MiB, most of it for lossless results.
    let more = ["--store-limit", "12"];
    let (coordinator, server) = Coordinator::with_own_server(&dir, "first", "127.0.0.1:0", &more, &tag);
    let log = material.path("first.log");
    let worker = Worker::start(&server, "first", &material.weights, &log, &tag);
    let line = |seed: u32| {
        serde_json::json!({
            "video": material.video, "audio": material.audio, "output": format!("{seed}.mp4"), "seed": seed,
            "preset": "lean", "lossless": true,
        })
    };
    let batch = material.path("jobs.jsonl");
    let submit = |lines: &[u32], more: &[&str]| {
        let lines: Vec<String> = lines.iter().map(|seed| line(*seed).to_string()).collect();
        fs::write(&batch, lines.join("\n")).unwrap();
        let mut args: Vec<OsString> = vec!["submit".into(), "--batch".into(), (&batch).into()];
        args.extend(["--weights".into(), (&material.weights).into()]);
        args.extend(more.iter().map(OsString::from));
        server.operate(args)
    };
    let refused = submit(&[1, 2, 3], &[]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    for part in [
        "the jobs that the farm has need",
        "MiB more",
        "of its 12 MiB free",
    ] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    let waited = submit(&[1, 2, 3], &["--wait"]);
    assert_eq!(waited.code, Some(0), "{waited:?}");
    for seed in ["1", "2", "3"] {
        let alone = material.render(&format!("alone-{seed}.mp4"));
        let alone = alone.args(["--lossless", "--workers", "1", "--seed", seed]);
        let _ = alone.run().complete();
        assert_eq!(
            decoded(&material.path(&format!("{seed}.mp4"))),
            decoded(&material.path(&format!("alone-{seed}.mp4")))
        );
    }
    assert!(
        coordinator.log().contains("removed from the store"),
        "{}",
        coordinator.log()
    );
    assert_eq!(worker.drain(), Some(0));
    assert_eq!(coordinator.interrupt(), Some(0));
    tag.assert_nothing_left();
}

#[test]
fn copies_that_a_single_server_cannot_keep_are_refused_with_what_mends_it() {
    let material = Material::seconds("1", "1");
    let server = Server::start(&material.path("server"), &["first"]);
    let (variable, key) = server.key("coordinator");
    // On a new farm, and on one that has its streams.
    for _ in 0..2 {
        let refused = Command::new(program("latentfarm"))
            .args(["serve", "--nats", &server.url, "--replicas", "3", "--dir"])
            .arg(material.path("coordinator"))
            .env(variable, &key)
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success());
        for part in [&server.url, "not part of a cluster", "leave out --replicas"] {
            assert!(stderr.contains(part), "{stderr}");
        }
        let tag = ProcessTag::new();
        let coordinator = Coordinator::start(&server, &material.path("coordinator"), &tag);
        assert_eq!(coordinator.interrupt(), Some(0));
    }
}
