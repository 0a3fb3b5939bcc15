//! Machines join a farm with one file, and are shut out.

#![expect(clippy::unwrap_used, reason = "helpers of a test panic where it fails")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use farm_tests::{Access, Card, Coordinator, Material, ProcessTag, Running, Worker, eventually, program};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A machine that is shut out must be out within this time.
const OUT_WITHIN: Duration = Duration::from_secs(10);

fn latentfarm(args: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(program("latentfarm"));
    command.args(args).arg("--dir").arg(dir).output().unwrap()
}

/// Invites a machine and returns its join file.
#[track_caller]
fn invite(machine: &str, dir: &Path, file: &Path) {
    let invited = latentfarm(&["invite", machine, "-o", file.to_str().unwrap()], dir);
    assert_eq!(invited.status.code(), Some(0), "{invited:?}");
    assert_eq!(
        String::from_utf8_lossy(&invited.stdout).trim(),
        file.to_str().unwrap()
    );
}

#[track_caller]
fn assert_refused(output: &Output, part: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains(part), "`{part}` is not in: {stderr}");
}

fn render(material: &Material, server: &Access, name: &str, seed: &str) -> Running {
    let (variable, key) = server.key("operator");
    let (ca, authority) = server.authority().unwrap();
    material
        .render(name)
        .args(["--nats", &server.url, "--chunk-frames", "16", "--steps", "10"])
        .args(["--seed", seed])
        .env(variable, &key)
        .env(ca, authority.to_str().unwrap())
        .spawn()
}

/// Returns the process of the only engine, which starts with its first task.
#[track_caller]
fn engine_of(tag: &ProcessTag) -> Pid {
    eventually(
        "an engine starts",
        || match tag.matching("latentfarm-engine")[..] {
            [engine] => Some(Pid::from_raw(engine)),
            _ => None,
        },
    )
}

#[test]
fn a_machine_joins_with_one_file_and_one_that_is_shut_out_counts_no_more() {
    let material = Material::seconds("4", "4");
    let tag = ProcessTag::new();
    let dir = material.path("farm");
    let (coordinator, server) =
        Coordinator::with_own_server(&dir, "spare", "127.0.0.1:0", &["--host", "127.0.0.1"], &tag);
    let (file, log) = (material.path("gpu1.join"), material.path("gpu1.log"));
    invite("gpu1", &dir, &file);
    assert_refused(
        &latentfarm(&["invite", "gpu1", "-o", "/nonexistent/x"], &dir),
        "has a key already",
    );
    assert_refused(
        &latentfarm(&["invite", "gpu1-g0"], &dir),
        "the machine `gpu1` would have workers of one name",
    );
    assert_refused(
        &latentfarm(&["invite", "gpu2", "-o", file.to_str().unwrap()], &dir),
        "exists",
    );
    assert_refused(
        &latentfarm(&["revoke", "gpu2"], &dir),
        "those that have: `gpu1`, `spare`",
    );
    assert_refused(
        &latentfarm(&["revoke", "gpu1"], &material.path("")),
        "has no server of a farm",
    );

    let worker = Worker::join(&file, "cpu", &material.weights, &log, &tag);
    let mut running = render(&material, &server, "out.mp4", "1");
    let begun = loop {
        let event = running.wait_for("chunk_started");
        if event["work"] == "render" {
            break event;
        }
    };
    assert_eq!(begun["worker"], "gpu1");
    // Its result comes only after it is shut out.
    let engine = engine_of(&tag);
    kill(engine, Signal::SIGSTOP).unwrap();
    let revoking = Instant::now();
    let revoked = latentfarm(&["revoke", "gpu1"], &dir);
    assert_eq!(revoked.status.code(), Some(0), "{revoked:?}");
    assert!(revoking.elapsed() < OUT_WITHIN, "{:?}", revoking.elapsed());
    let printed = String::from_utf8_lossy(&revoked.stdout);
    assert!(printed.contains("`gpu1` is shut out"), "{printed}");
    kill(engine, Signal::SIGCONT).unwrap();
    let spare = Worker::start(
        &server,
        "spare",
        &material.weights,
        &material.path("spare.log"),
        &tag,
    );
    let finished = running.finish().complete();
    let of_chunk =
        |event: &&serde_json::Value| event["event"] == "chunk_done" && event["chunk"] == begun["chunk"];
    let done: Vec<_> = finished.events.iter().filter(of_chunk).collect();
    assert_eq!(done.len(), 1, "{done:#?}");
    assert_eq!(done[0]["worker"], "spare");
    eventually("the worker says that it is not admitted any more", || {
        let said = fs::read_to_string(&log).unwrap();
        said.contains("does not admit this program any more")
            .then_some(())
    });
    drop(worker);

    // The file is worth nothing any more, even after the server was started again.
    let again = || Worker::join(&file, "cpu", &material.weights, &log, &tag).ended();
    assert_ne!(again(), Some(0));
    let said = fs::read_to_string(&log).unwrap();
    assert!(
        said.contains("refused these credentials") && said.contains("revoked"),
        "{said}"
    );
    let pids = tag.matching("nats-server");
    kill(Pid::from_raw(pids[0]), Signal::SIGKILL).unwrap();
    assert_eq!(server.operate(["jobs"]).code, Some(0));
    assert_ne!(again(), Some(0));

    // With a new one the machine has a worker for each of its devices.
    fs::remove_file(&file).unwrap();
    invite("gpu1", &dir, &file);
    assert_eq!(spare.drain(), Some(0));
    let card = Card::new(&material.path(""), "card", 16_384, 100);
    let devices = format!("{},cpu", card.device());
    let worker = Worker::join(&file, &devices, &material.weights, &log, &tag);
    let running = render(&material, &server, "more.mp4", "2");
    let there = server.operate(["top", "--nats", &server.url]);
    for name in ["gpu1-g0", "gpu1-cpu"] {
        assert!(
            there.lines.iter().any(|line| line["worker"] == name),
            "{there:#?}"
        );
    }
    let _complete = running.finish().complete();
    // The machine is drained by its name.
    let drained = server.operate(["drain", "gpu1"]).last();
    assert_eq!(drained["event"], "drained");
    assert_eq!(worker.ended(), Some(0));
    assert_eq!(coordinator.interrupt(), Some(0));
    tag.assert_nothing_left();
}
