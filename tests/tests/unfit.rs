//! Machines whose GPU cannot be used, or fails whatever it is given: they cost the job nothing but time, and the farm says
//! what is the matter with them.

use std::process::Command;

use farm_tests::{Coordinator, Material, ProcessTag, Running, Server, StandInGpu, Worker, program};
use serde_json::Value;

const OLD_DRIVER: &str = "echo 'cannot use device `cuda:0`: the NVIDIA driver is too old: it supports CUDA 12.4, and this \
                          engine needs 13.0' >&2; exit 3";
const NO_LIBRARY: &str = "echo \"$0: error while loading shared libraries: libcublas.so.13: cannot open shared object \
                          file: No such file or directory\" >&2; exit 127";
/// An engine that starts, and fails each window.
const FAILS: &str = "exec \"$ENGINE\" --device cpu --fault error@denoise";

/// The events that a worker is unfit or set aside, until all of `names` are.
fn until_out(running: &mut Running, names: &[&str]) -> Vec<(String, String)> {
    let mut out: Vec<(String, String)> = Vec::new();
    while names
        .iter()
        .any(|name| out.iter().all(|(worker, _)| worker != name))
    {
        let event = running.wait_for("worker_set_aside");
        let text = |key: &str| event[key].as_str().expect("a text").to_owned();
        out.push((text("worker"), text("reason")));
    }
    out
}

#[test]
fn nodes_with_broken_gpus_are_told_apart_and_the_job_completes_on_the_others() {
    let material = Material::seconds("4", "4");
    let names = ["good", "old", "bare", "stuck", "broken"];
    let server = Server::start(&material.path("server"), &names);
    let (variable, key) = server.key("operator");
    let tag = ProcessTag::new();
    let coordinator = Coordinator::start(&server, &material.path("coordinator"), &tag);
    let start = |name: &str, more: &[&str]| {
        let log = material.path(&format!("{name}.log"));
        Worker::start_with(&server, name, &material.weights, &log, &tag, more)
    };
    let start_gpu = |name: &str, check: &str, serve: &str| {
        let gpu = StandInGpu::new(&material.path("."), name, check, serve);
        let mut options = gpu.options();
        options.extend(["--device", "cuda:0", "--check-limit", "2"].map(str::to_owned));
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        start(name, &options)
    };
    let nodes = [
        start("good", &[]),
        start_gpu("old", OLD_DRIVER, "exit 9"),
        start_gpu("bare", NO_LIBRARY, "exit 9"),
        start_gpu("stuck", "exec sleep 1000", "exit 9"),
        start_gpu("broken", "exit 0", FAILS),
    ];
    let mut running = material
        .render("out.mp4")
        .args(["--nats", &server.url, "--chunk-frames", "16"])
        .env(variable, &key)
        .spawn();
    let out = until_out(&mut running, &names[1..]);
    let reason = |name: &str| {
        let (_, reason) = out.iter().find(|(worker, _)| worker == name).unwrap();
        reason.as_str()
    };
    assert!(
        reason("old").contains("it supports CUDA 12.4, and this engine needs 13.0"),
        "{out:?}"
    );
    assert!(
        reason("bare").contains("libcublas.so.13 is missing: run `deploy/cuda-libs`"),
        "{out:?}"
    );
    assert!(
        reason("stuck").contains("could not be opened within 2 s"),
        "{out:?}"
    );
    assert!(reason("broken").contains("while others finish theirs"), "{out:?}");

    // `top` shows all of them, each with its reason.
    let (observer, observer_key) = server.key("observer");
    let top = Command::new(program("latentfarm"))
        .args(["top", "--json", "--nats", &server.url])
        .env(observer, observer_key)
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&top.stdout).into_owned();
    for name in ["old", "bare", "stuck"] {
        let line = shown
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let row = line.into_iter().find(|row| row["worker"] == name).unwrap();
        assert_eq!(row["state"], "unfit", "{shown}");
        assert!(
            row["problem"]
                .as_str()
                .unwrap()
                .contains("Stand-in 24 cannot be used"),
            "{shown}"
        );
    }

    let finished = running.finish().complete();
    assert_eq!(finished.report["given_up"].as_array().unwrap().len(), 0);
    let workers = finished.report["workers"].as_object().unwrap();
    assert!(workers.contains_key("good"), "{workers:?}");
    let set_aside = finished.report["set_aside"].as_object().unwrap();
    for name in &names[1..] {
        assert!(set_aside.contains_key(*name), "{set_aside:?}");
    }

    let job = &finished.event("estimate").unwrap()["job"];
    let explained = Command::new(program("latentfarm"))
        .args(["explain", "--nats", &server.url])
        .arg(job.as_str().unwrap())
        .env(variable, &key)
        .output()
        .unwrap();
    let explained = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(explained.contains("broken was set aside for"), "{explained}");
    assert!(
        explained.contains("old was unfit: cuda:0 Stand-in 24 cannot be used"),
        "{explained}"
    );

    for node in nodes {
        assert_eq!(node.drain(), Some(0));
    }
    assert_eq!(coordinator.interrupt(), Some(0));
    tag.assert_nothing_left();
}

#[test]
fn a_machine_whose_only_gpu_is_broken_says_so_in_one_sentence() {
    let material = Material::seconds("1", "1");
    for (name, check, serve, wanted) in [
        (
            "old",
            OLD_DRIVER,
            "exit 9",
            "cuda:0 Stand-in 24 cannot be used: the NVIDIA driver is too old",
        ),
        ("broken", "exit 0", FAILS, "no chunk could be rendered"),
    ] {
        let gpu = StandInGpu::new(&material.path("."), name, check, serve);
        let log = material.path(&format!("{name}.txt"));
        let errors = std::fs::File::create(&log).unwrap();
        let code = material
            .render(&format!("{name}.mp4"))
            .args(["--worker", &format!("name={name},device=cuda:0,{}", gpu.spec())])
            .run_into(std::process::Stdio::null(), errors);
        let text = std::fs::read_to_string(&log).unwrap();
        assert_ne!(code, Some(0), "{text}");
        let line = text.lines().find(|line| line.contains(wanted));
        assert!(line.is_some(), "{text}");
    }
}

#[test]
fn probe_says_why_a_gpu_cannot_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let gpu = StandInGpu::new(dir.path(), "old", OLD_DRIVER, "exit 9");
    let probe = Command::new(program("latentfarm-worker"))
        .args(["probe", "--json", "--device", "cuda:0"])
        .args(gpu.options())
        .output()
        .unwrap();
    assert_eq!(probe.status.code(), Some(3));
    let report: Value = serde_json::from_slice(&probe.stdout).unwrap();
    let reason = "the NVIDIA driver is too old: it supports CUDA 12.4, and this engine needs 13.0";
    assert!(report["refused"].as_str().unwrap().contains(reason), "{report}");
    assert!(
        report["gpus"][0]["problem"].as_str().unwrap().contains(reason),
        "{report}"
    );
    assert_eq!(report["workers"].as_array().unwrap().len(), 0);
}

#[test]
fn auto_renders_on_the_cpu_and_goes_over_to_the_gpu_once_that_can_be_used() {
    let material = Material::seconds("1", "1");
    let mended = material.path("mended");
    let check = format!("[ -e '{}' ] || {{ {OLD_DRIVER}; }}", mended.display());
    let gpu = StandInGpu::new(
        &material.path("."),
        "gpu",
        &check,
        "exec \"$ENGINE\" --device cpu",
    );
    let server = Server::start(&material.path("server"), &["node"]);
    let tag = ProcessTag::new();
    let coordinator = Coordinator::start(&server, &material.path("coordinator"), &tag);
    let mut options = gpu.options();
    options.extend(["--device", "auto", "--recheck", "1"].map(str::to_owned));
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let log = material.path("node.log");
    let node = Worker::start_with(&server, "node", &material.weights, &log, &tag, &options);
    let (observer, observer_key) = server.key("observer");
    let row = || -> Option<Value> {
        let top = Command::new(program("latentfarm"))
            .args(["top", "--json", "--nats", &server.url])
            .env(observer, &observer_key)
            .output()
            .unwrap();
        serde_json::from_slice(&top.stdout).ok()
    };
    let before = row().unwrap();
    assert_eq!(
        (before["device"].as_str(), before["state"].as_str()),
        (Some("cpu"), Some("idle")),
        "{before}"
    );
    assert!(
        before["problem"].as_str().unwrap().contains("renders on the CPU"),
        "{before}"
    );
    std::fs::write(&mended, "").unwrap();
    let after = std::iter::repeat_with(row).take(20).flatten();
    let mut after = after.filter(|row| row["device"] == "cuda:0 Stand-in 24" && row["state"] == "idle");
    let after = after.next().unwrap();
    assert!(after["problem"].is_null(), "{after}");
    assert_eq!(node.drain(), Some(0));
    assert_eq!(coordinator.interrupt(), Some(0));
    tag.assert_nothing_left();
}
