//! A farm that goes on from a backup on another server.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use farm_tests::{Access, Coordinator, ProcessTag, Stage, Worker, installed_server, program, wait_until};
use latentfarm_common::ids::WorkKind;
use latentfarm_common::nats::done::DoneLog;
use serde_json::Value;

/// Restores a backup into the folder of a coordinator with a server of its own.
fn restore_into(dir: &Path, file: &Path, tag: &ProcessTag) -> (Option<i32>, String) {
    let (variable, value) = tag.env();
    let mut command = Command::new(program("latentfarm"));
    command.arg("restore").arg(file).arg("--dir").arg(dir);
    let ended = command
        .env(variable, value)
        .env("LATENTFARM_NATS_SERVER", installed_server())
        .output();
    let ended = ended.expect("run latentfarm");
    let printed = [ended.stdout, ended.stderr].concat();
    (
        ended.status.code(),
        String::from_utf8_lossy(&printed).into_owned(),
    )
}

/// Returns how many chunks of a job each worker has rendered.
fn rendered(server: &Access, job: &Value) -> BTreeMap<String, usize> {
    server.connected("observer", async |connection| {
        let log = DoneLog::new(&connection);
        let job = job.as_str().expect("a job").parse().expect("a job");
        let mut found = BTreeMap::new();
        for entry in log.list(job).await.expect("the done log") {
            let record = entry.record.expect("a record");
            if record.chunk.work == WorkKind::Render {
                *found.entry(record.worker.to_string()).or_default() += 1;
            }
        }
        found
    })
}

/// Returns how many frames of a job are rendered.
fn frames_done(job: &Value) -> u64 {
    job["frames_done"].as_u64().expect("a number of frames")
}

#[test]
fn a_farm_goes_on_from_its_backup_on_another_server_and_renders_nothing_again() {
    let stage = Stage::open();
    let coordinator = stage.coordinator();
    let complete = stage.submit("a.mp4", "1", &[]);
    assert_eq!(stage.about("status", &complete, &["--wait"])["phase"], "complete");
    let half = stage.submit("b.mp4", "2", &[]);
    let deadline = Instant::now() + Duration::from_mins(2);
    let mut look = Instant::now();
    while frames_done(&stage.about("status", &half, &[])) == 0 {
        look += Duration::from_millis(100);
        assert!(Instant::now() < deadline, "{}", coordinator.log());
        wait_until(look);
    }
    let paused = stage.about("pause", &half, &[]);
    assert_eq!(paused["phase"], "paused");

    let file = stage.material.path("farm.backup");
    // A worker may not read what others have done.
    let (code, printed) = stage
        .server
        .run_as("worker-first", ["backup".as_ref(), file.as_os_str()]);
    assert!(code == Some(1) && !file.exists(), "{printed}");
    let (code, printed) = stage
        .server
        .run_as("observer", ["backup".as_ref(), file.as_os_str()]);
    assert_eq!(code, Some(0), "{printed}");
    let left: Vec<_> = fs::read_dir(file.parent().expect("a folder"))
        .expect("a folder")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .filter(|name| name.starts_with(".latentfarm"))
        .collect();
    assert_eq!(left, [""; 0]);
    let (code, printed) = stage
        .server
        .run_as("coordinator", ["restore".as_ref(), file.as_os_str()]);
    assert_eq!(code, Some(2), "{printed}");
    assert!(
        printed.contains("another coordinator is at work on this farm"),
        "{printed}"
    );
    let outputs = [&complete, &half].map(|job| job["job"].clone());
    let [done_first, _] = outputs.each_ref().map(|job| rendered(&stage.server, job));
    let options = stage.options;
    let material = stage.close_keeping(coordinator);
    fs::remove_dir_all(material.path("server")).expect("the server's folder");

    let tag = ProcessTag::new();
    let dir = material.path("restored");
    let whole = fs::read(&file).expect("the backup");
    let cut = material.path("cut.backup");
    fs::write(&cut, &whole[..whole.len() - 1]).expect("a file");
    let (code, printed) = restore_into(&dir, &cut, &tag);
    assert_eq!(code, Some(2), "{printed}");
    assert!(printed.contains("it is not whole") && !dir.exists(), "{printed}");
    // The same command again finds all of it.
    for _ in 0..2 {
        let (code, printed) = restore_into(&dir, &file, &tag);
        assert_eq!(code, Some(0), "{printed}");
        assert!(printed.contains("goes on with the jobs"), "{printed}");
    }

    let (coordinator, server) = Coordinator::with_own_server(&dir, "second", "127.0.0.1:0", &[], &tag);
    let about = |command: &str, job: &Value, more: &[&str]| {
        let id = job.as_str().expect("a job");
        server.operate([&[command, id], more].concat()).last()
    };
    let [complete, half] = &outputs;
    assert_eq!(about("status", complete, &[])["phase"], "complete");
    let restored = about("status", half, &[]);
    assert_eq!(restored["phase"], "paused");
    let before = frames_done(&restored);
    assert!(before > 0, "{restored}");
    let log = material.path("second.log");
    let worker = Worker::start(&server, "second", &material.weights, &log, &tag);
    about("resume", half, &[]);
    let ended = about("status", half, &["--wait"]);
    assert_eq!(ended["phase"], "complete", "{ended}");
    let audit = server.operate(["audit", "--verify"]).last();
    assert_eq!(audit["findings"], serde_json::json!([]), "{audit}");
    for (job, name, seed) in [(complete, "a", "1"), (half, "b", "2")] {
        let path = material.path(&format!("{name}.mp4"));
        let _ = fs::remove_file(&path);
        let id = job.as_str().expect("a job");
        let fetched = server.operate(["fetch", id, "-o", path.to_str().expect("a path")]);
        let digest = &fetched.written()["frames_digest"];
        let alone = material.render(&format!("alone-{seed}.mp4"));
        let alone = alone.args(&options[2..]).args(["--seed", seed]);
        let alone = alone.args(["--workers", "1"]).run().complete();
        assert_eq!(digest, alone.frames_digest().as_str());
    }
    // The second farm rendered what the first had not.
    assert_eq!(rendered(&server, complete), done_first);
    let halves = rendered(&server, half);
    assert!(halves["first"] > 0 && halves["second"] > 0, "{halves:?}");

    assert_eq!(worker.drain(), Some(0));
    assert_eq!(coordinator.interrupt(), Some(0));
    // It has gone on.
    let (code, printed) = restore_into(&dir, &file, &tag);
    assert_eq!(code, Some(2), "{printed}");
    assert!(printed.contains("has jobs already"), "{printed}");
    tag.assert_nothing_left();
}
