//! A killed worker, engine, server or coordinator costs time and changes no frame.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Instant;

use farm_tests::{Material, Render, Running, decoded, wait_until};
use latentfarm_common::frame::FrameHash;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Returns a render with so many steps that a chunk takes seconds, and is still running when a process is
/// killed.
fn render(material: &Material, name: &str) -> Render {
    let farm = [
        "--lossless",
        "--workers",
        "2",
        "--chunk-frames",
        "16",
        "--steps",
        "40",
    ];
    material.render(name).args(farm)
}

/// Asserts that a render in which nothing is killed has the same frames.
fn assert_undisturbed(material: &Material, digest: &str, frames: &[FrameHash]) {
    let undisturbed = render(material, "undisturbed.mp4").run().complete();
    assert_eq!(digest, undisturbed.frames_digest());
    assert_eq!(frames, decoded(&material.path("undisturbed.mp4")));
}

/// Runs the same command again and asserts that it resumes the job and ends with the same frames.
fn assert_resumes(material: &Material) {
    assert!(
        !material.path("out.mp4").exists(),
        "an unfinished job has no output"
    );
    let finished = render(material, "out.mp4").run().complete();
    assert!(
        finished.report["resumed_chunks"]
            .as_u64()
            .is_some_and(|chunks| chunks > 0),
        "{}",
        finished.report
    );
    assert!(
        !material.path("out.mp4.latentfarm").exists(),
        "the job folder goes when the job is complete"
    );
    assert_undisturbed(
        material,
        &finished.frames_digest(),
        &decoded(&material.path("out.mp4")),
    );
}

/// Kills the first process whose command line contains `part`, if there is one.
fn kill_one(running: &Running, part: &str) {
    if let Some(victim) = running.tag().matching(part).first() {
        // The process may have ended by itself.
        let _already_ended = kill(Pid::from_raw(*victim), Signal::SIGKILL);
    }
}

#[test]
fn a_worker_killed_in_the_middle_of_a_chunk_changes_no_frame() {
    let material = Material::seconds("4", "4");
    let mut running = render(&material, "out.mp4").spawn();
    while running.wait_for("chunk_started")["work"] != "render" {}
    kill_one(&running, "latentfarm-worker run");
    let finished = running.finish().complete();
    assert!(finished.event("worker_died").is_some(), "{:#?}", finished.events);
    assert_undisturbed(
        &material,
        &finished.frames_digest(),
        &decoded(&material.path("out.mp4")),
    );
}

#[test]
fn a_killed_engine_changes_no_frame_and_its_chunk_is_reported() {
    let material = Material::seconds("4", "4");
    let mut running = render(&material, "out.mp4").spawn();
    // An engine that is killed between two chunks is replaced without an event. So one is killed at every
    // progress event until a chunk was interrupted.
    let requeued = loop {
        let event = running.next_event();
        if event["event"] == "chunk_requeued" {
            break event;
        }
        if event["event"] == "progress" {
            kill_one(&running, "latentfarm-engine");
        }
    };
    // The kernel sends the same signal when memory runs out. Only on a machine that counts such kills can the
    // worker exclude that.
    let reason = requeued["reason"].to_string();
    assert!(
        reason.contains("out of memory") || reason.contains("SIGKILL"),
        "{requeued}"
    );
    let finished = running.finish().complete();
    assert_undisturbed(
        &material,
        &finished.frames_digest(),
        &decoded(&material.path("out.mp4")),
    );
}

#[test]
fn a_killed_nats_server_is_started_again_and_changes_no_frame() {
    let material = Material::seconds("4", "4");
    let mut running = render(&material, "out.mp4").spawn();
    while running.wait_for("chunk_started")["work"] != "render" {}
    kill_one(&running, "nats-server");
    let finished = running.finish().complete();
    assert!(
        finished.event("server_restarted").is_some(),
        "{:#?}",
        finished.events
    );
    assert_undisturbed(
        &material,
        &finished.frames_digest(),
        &decoded(&material.path("out.mp4")),
    );
}

#[test]
fn the_whole_command_killed_half_way_resumes() {
    let material = Material::seconds("4", "4");
    let mut running = render(&material, "out.mp4").spawn();
    while running.wait_for("chunk_done")["work"] != "render" {}
    running.signal(Signal::SIGKILL);
    let killed = running.finish();
    assert_eq!(killed.code(), None);
    assert_resumes(&material);
}

#[test]
fn interrupt_drains_and_the_same_command_resumes() {
    let material = Material::seconds("4", "4");
    let mut running = render(&material, "out.mp4").spawn();
    while running.wait_for("chunk_done")["work"] != "render" {}
    running.signal(Signal::SIGINT);
    let stopped = running.finish();
    assert_eq!(
        stopped.code(),
        Some(130),
        "{:#?}\n{}",
        stopped.events,
        stopped.stderr
    );
    assert!(stopped.stderr.contains("resume"), "{}", stopped.stderr);
    assert_resumes(&material);
}

#[test]
fn an_output_that_is_being_joined_is_finished_after_an_interrupt() {
    let material = Material::seconds("4", "4");
    let mut running = render(&material, "out.mp4").spawn();
    running.wait_for("joining");
    running.signal(Signal::SIGINT);
    let finished = running.finish().complete();
    assert_undisturbed(
        &material,
        &finished.frames_digest(),
        &decoded(&material.path("out.mp4")),
    );
}

/// From before the programs have read their arguments to when the output is joined.
#[test]
fn an_interrupt_at_any_moment_leaves_nothing_half_done() {
    const MOMENTS: u32 = 16;
    let material = Material::seconds("0.5", "0.5");
    let scratch = material.path("temporary");
    fs::create_dir(&scratch).unwrap();
    let render = |name: &str| {
        let args = ["--workers", "1", "--chunk-frames", "16"];
        let temporary = scratch.to_str().unwrap();
        material.render(name).args(args).env("TMPDIR", temporary)
    };
    let started = Instant::now();
    let undisturbed = render("undisturbed.mp4").run().complete();
    let took = started.elapsed();
    let temporary = || -> BTreeSet<OsString> {
        let entries = fs::read_dir(&scratch).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    };
    // The folder in which the workers of a machine say what memory they use stays.
    let usual = temporary();
    assert!(usual.len() <= 1, "{usual:?}");
    let mut interrupted = 0;
    for moment in 0..MOMENTS {
        let output = format!("out-{moment}.mp4");
        let running = render(&output).spawn();
        wait_until(Instant::now() + took * moment / MOMENTS);
        running.signal(Signal::SIGINT);
        let stopped = running.finish();
        let is_complete = match stopped.status.signal() {
            // It had not begun to listen to signals.
            Some(signal) => {
                assert_eq!(signal, Signal::SIGINT as i32, "{}", stopped.stderr);
                false
            }
            None => match stopped.code() {
                Some(0) => true,
                Some(130) => false,
                code => panic!("moment {moment}: {code:?}: {}", stopped.stderr),
            },
        };
        interrupted += u32::from(!is_complete);
        assert_eq!(material.path(&output).exists(), is_complete, "moment {moment}");
        assert_eq!(temporary(), usual, "moment {moment}");
        if !is_complete {
            let resumed = render(&output).run().complete();
            assert_eq!(resumed.frames_digest(), undisturbed.frames_digest());
        }
        assert!(!material.path(&format!("{output}.latentfarm")).exists());
    }
    // Another machine load may make the first run longer than the others.
    assert!(
        interrupted >= MOMENTS / 4,
        "{interrupted} of {MOMENTS} were interrupted"
    );
}
