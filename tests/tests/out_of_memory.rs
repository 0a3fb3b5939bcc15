//! A farm renders what one of its machines cannot hold. Machines of different sizes, wrong predictions, other
//! programs, leaks, hangs and kills cost attempts and change no frame.

use farm_tests::{Card, Finished, Material, Running, decoded, tiny_weights_as};
use serde_json::Value;

/// Makes inputs whose simulated cards count the memory of the published model of 256 px.
fn material(video: &str, audio: &str) -> Material {
    let mut material = Material::seconds(video, audio);
    material.weights = tiny_weights_as(&material.path("."), "1.5");
    material
}

const SMALL_CHUNKS: [&str; 3] = ["--lossless", "--chunk-frames", "16"];

fn worker(name: &str, device: &str, more: &[&str]) -> [String; 2] {
    let mut spec = format!("name={name},threads=1,device={device}");
    for option in more {
        spec.push(',');
        spec.push_str(option);
    }
    ["--worker".to_owned(), spec]
}

/// Waits until a worker has finished a render chunk.
fn wait_for_a_chunk_of(running: &mut Running, worker: &str) {
    loop {
        let event = running.wait_for("chunk_done");
        if event["work"] == "render" && event["worker"] == worker {
            return;
        }
    }
}

fn ooms(finished: &Finished) -> Vec<Value> {
    let list = &finished.report["memory"]["out_of_memory"];
    list.as_array().expect("a list in the report").clone()
}

/// Asserts that every frame is there once and equals that of the undisturbed render.
#[track_caller]
fn assert_same_frames(material: &Material, finished: &Finished, undisturbed: &Finished) {
    assert_eq!(finished.frames_digest(), undisturbed.frames_digest());
    assert_eq!(
        decoded(&material.path("out.mp4")),
        decoded(&material.path("undisturbed.mp4"))
    );
    for figure in ["frames", "synced", "passed"] {
        assert_eq!(finished.report[figure], undisturbed.report[figure], "{figure}");
    }
    let chunks = |report: &Value| -> u64 {
        let workers = report["workers"].as_object().expect("workers");
        workers.values().filter_map(Value::as_u64).sum()
    };
    assert_eq!(
        chunks(&finished.report),
        chunks(&undisturbed.report),
        "a chunk was counted twice"
    );
}

#[test]
fn a_farm_of_different_machines_with_every_kind_of_failure_ends_with_the_same_frames() {
    let material = material("7", "7");
    let dir = material.path(".");
    // Everything uses half as much memory again as was predicted.
    let small = Card::new(&dir, "small", 4 << 10, 150);
    let middle = Card::new(&dir, "middle", 8 << 10, 100);
    let large = Card::new(&dir, "large", 24 << 10, 100);
    let fault = |fault: &str, name: &str| {
        [
            format!("engine-arg=--fault={fault}"),
            format!("engine-arg=--fault-once={}", material.path(name).display()),
        ]
    };
    let hang = fault("hang@denoise#2", "hung");
    let kill = fault("kill@vae-decode#1", "killed");
    // It is aborted in its first chunk: after that one the card has another tenant, and nothing may reach this stage.
    let abort = fault("abort@vae-encode#1", "aborted");
    let farm = [
        worker("small", &small.device(), &["engine-arg=--fault=leak=1048576"]),
        worker("middle", &middle.device(), &[&abort[0], &abort[1]]),
        worker("large", &large.device(), &[&hang[0], &hang[1], "silence-limit=3"]),
        worker("processor", "cpu", &[&kill[0], &kill[1], "memory-limit=6000"]),
    ];
    let mut running = material
        .render("out.mp4")
        .args(SMALL_CHUNKS)
        .args(["--steps", "8", "--guidance", "1.5", "--cpu-fallback", "always"])
        .args(farm.as_flattened())
        .spawn();
    wait_for_a_chunk_of(&mut running, "middle");
    middle.set_tenant(7 << 10);
    let finished = running.finish().complete();

    let ooms = ooms(&finished);
    let by = |worker: &str| ooms.iter().filter(|oom| oom["worker"] == worker).count();
    assert!(by("small") > 0, "the wrong prediction was not noticed: {ooms:#?}");
    for oom in &ooms {
        assert!(
            oom["stage"].as_str().is_some_and(|stage| !stage.is_empty()),
            "{oom}"
        );
        assert!(
            oom["plan"].is_string() && oom["free_before_mib"].is_u64(),
            "{oom}"
        );
    }
    // If the kernel counts the processes that it kills for memory, a kill that it does not count is a lost
    // process.
    let lost = finished.report["retries"]["lost engine or media process"].as_u64();
    let failures = lost.unwrap_or(0) + by("processor") as u64;
    assert_eq!(
        failures, 3,
        "a hang, an abort and a kill: {}",
        finished.report["retries"]
    );
    let undisturbed = ["--steps", "8", "--guidance", "1.5", "--workers", "1"];
    let undisturbed = material
        .render("undisturbed.mp4")
        .args(SMALL_CHUNKS)
        .args(undisturbed)
        .run()
        .complete();
    assert_same_frames(&material, &finished, &undisturbed);
}

#[test]
fn a_chunk_that_fits_nowhere_says_what_it_needs_and_what_there_is() {
    let material = material("2", "2");
    let card = Card::new(&material.path("."), "card", 2 << 10, 500);
    let finished = material
        .render("out.mp4")
        .args(SMALL_CHUNKS)
        .args(["--cpu-fallback", "never", "--unplaceable-wait", "2s"])
        .args(worker("only", &card.device(), &[]))
        .run();
    assert_ne!(finished.code(), Some(0));
    let given_up = finished.report["given_up"].to_string();
    assert!(
        given_up.contains("needs") && given_up.contains("the largest free is"),
        "{given_up}\n{}",
        finished.stderr
    );
    assert!(!material.path("out.mp4").exists(), "nothing was rendered");
}

#[test]
fn an_engine_that_leaks_is_replaced_between_tasks_and_the_job_goes_on() {
    // The video has fifty windows, and the leak detector needs forty.
    let mut material = Material::seconds("7", "7");
    let long_audio = material.path("long_audio.wav");
    farm_tests::repeat(&material.audio, "32", &long_audio);
    material.audio = long_audio;
    let mut running = material
        .render("out.mp4")
        .args(["--chunk-frames", "96", "--keep"])
        .args(worker("leaky", "cpu", &["engine-arg=--fault=leak=4194304"]))
        .spawn();
    let mut engines = std::collections::BTreeSet::new();
    loop {
        let event = running.next_event();
        engines.extend(running.tag().matching("latentfarm-engine"));
        if event["event"] == "report" {
            break;
        }
    }
    let _ = running.finish().complete();
    let path = material.path("out.mp4.latentfarm/scratch/leaky.log");
    let log = std::fs::read_to_string(path).expect("the worker's log");
    assert!(log.contains("grows by 4."), "{log}");
    assert_eq!(engines.len(), 2, "{log}");
}
