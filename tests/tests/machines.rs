//! Renders on machines as they are: nobody reads the output, files cannot be read, places cannot be written.

#![expect(clippy::unwrap_used, reason = "helpers of a test panic where it fails")]

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use farm_tests::{Material, Render, Running, SmallDisk, as_plain_user, program, unshared};
use nix::sys::signal::Signal;

/// Half a second of video and speech.
fn short() -> Material {
    Material::seconds("0.5", "0.5")
}

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Returns a pipe that nobody reads any more.
fn closed_pipe() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

#[test]
fn a_render_goes_on_without_anybody_who_reads_it() {
    let material = short();
    let render = |name: &str| material.render(name).env("LATENTFARM_LOG", "debug");
    // Without `--json` there are progress lines and a report, with it events.
    assert_eq!(render("full.mp4").run_into(full(), full()), Some(0));
    let events = render("closed.mp4").args(["--json"]);
    assert_eq!(events.run_into(closed_pipe(), closed_pipe()), Some(0));
    let absent = render("absent.mp4").under("sh", ["-c", "exec \"$@\" >&- 2>&-", "sh"]);
    assert_eq!(absent.run_into(Stdio::null(), Stdio::null()), Some(0));
    for name in ["full.mp4", "closed.mp4", "absent.mp4"] {
        assert!(material.path(name).is_file(), "{name}");
    }
    // A refusal keeps its exit code.
    let refused = Render::new(
        &material.path("none.mp4"),
        &material.audio,
        &material.path("o.mp4"),
        &material.weights,
    );
    assert_eq!(refused.args(["--json"]).run_into(full(), full()), Some(2));
}

#[test]
fn the_operator_is_told_once_that_the_events_are_lost() {
    let material = short();
    let printed = material.path("stderr");
    let render = material.render("out.mp4").args(["--json"]);
    assert_eq!(render.run_into(full(), File::create(&printed).unwrap()), Some(0));
    let text = fs::read_to_string(&printed).unwrap();
    assert_eq!(text.matches("goes on without its events").count(), 1, "{text}");
    assert!(text.contains("No space left"), "{text}");
}

#[test]
fn a_command_whose_product_is_its_output_fails_if_that_is_lost() {
    let run = |name: &str, args: &[&str], stdout: Stdio| {
        let mut command = Command::new(program(name));
        let status = command.args(args).stdout(stdout).stderr(full()).status();
        status.unwrap().code()
    };
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    let config = ["nats-config", keys.to_str().unwrap()];
    assert_eq!(run("latentfarm", &config, full()), Some(1));
    fs::remove_dir_all(&keys).unwrap();
    assert_eq!(run("latentfarm", &config, closed_pipe()), Some(0));
    assert_eq!(
        run("latentfarm-worker", &["probe", "--device", "cpu"], full()),
        Some(1)
    );
    assert_eq!(run("latentfarm-worker", &["run"], full()), Some(2), "wrong usage");
}

/// Asserts exit code 2, an error with all of `expected`, and no job folder.
#[track_caller]
fn assert_refused(material: &Material, render: Render, expected: &[&str]) {
    let finished = render.run();
    let stderr = &finished.stderr;
    assert_eq!(finished.code(), Some(2), "{stderr}\n{:#?}", finished.events);
    for part in expected {
        assert!(stderr.contains(part), "`{part}` is not in: {stderr}");
    }
    assert!(finished.event("refused").is_some(), "a refusal is an event");
    assert!(
        !material.path("open/out.mp4.latentfarm").exists(),
        "a job folder was left"
    );
}

#[test]
fn what_cannot_be_read_or_written_is_named_with_the_cause() {
    let material = short();
    let Some(plain) = as_plain_user() else { return };
    let open = material.path("open");
    fs::create_dir(&open).unwrap();
    allow(material.path("").as_path(), 0o755);
    allow(&open, 0o777);
    let secret = |path: &Path, name: &str| {
        let copy = material.path(name);
        fs::copy(path, &copy).unwrap();
        allow(&copy, 0o000);
        copy
    };
    let (video, audio) = (
        secret(&material.video, "secret.mp4"),
        secret(&material.audio, "secret.wav"),
    );
    let hidden = material.path("hidden");
    fs::create_dir(&hidden).unwrap();
    allow(&hidden, 0o000);
    let pipe = material.path("pipe.wav");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
    let output = open.join("out.mp4");
    let render = |video: &PathBuf, audio: &PathBuf, weights: &PathBuf| {
        plain(Render::new(video, audio, &output, weights)).env("HOME", "/nonexistent")
    };
    let Material {
        video: good_video,
        audio: good_audio,
        weights,
        ..
    } = &material;
    // The job folder of another user, who was interrupted.
    let foreign = material.path("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("lock"), "").unwrap();
    allow(&foreign, 0o755);
    allow(&foreign.join("lock"), 0o644);
    let cases: [(Render, &[&str]); 9] = [
        (
            render(&video, good_audio, weights),
            &["secret.mp4", "Permission denied"],
        ),
        (
            render(good_video, &audio, weights),
            &["secret.wav", "Permission denied"],
        ),
        (
            render(good_video, &pipe, weights),
            &["pipe.wav", "not a regular file"],
        ),
        (
            render(good_video, &hidden.join("a.wav"), weights),
            &["hidden/a.wav", "Permission denied"],
        ),
        (
            render(good_video, good_audio, &hidden),
            &["hidden", "Permission denied"],
        ),
        (
            render(good_video, good_audio, weights).env("TMPDIR", "/nonexistent"),
            &["/nonexistent", "No such file", "TMPDIR"],
        ),
        (
            render(good_video, good_audio, weights).env("TMPDIR", hidden.to_str().unwrap()),
            &["hidden", "Permission denied", "TMPDIR"],
        ),
        (
            render(good_video, good_audio, weights)
                .args(["--work-dir"])
                .args([hidden.join("work")]),
            &["hidden/work", "Permission denied", "--work-dir"],
        ),
        (
            render(good_video, good_audio, weights)
                .args(["--work-dir"])
                .args([&foreign]),
            &["foreign", "Permission denied", "--work-dir"],
        ),
    ];
    for (render, expected) in cases {
        assert_refused(&material, render, expected);
    }
    allow(&hidden, 0o755);
    // With all of that in order the same user's render is complete.
    let home = foreign.to_str().unwrap();
    let finished = render(good_video, good_audio, weights).env("HOME", home);
    let finished = finished.run().complete();
    assert!(output.is_file(), "{}", finished.stderr);
}

#[test]
fn a_machine_without_a_loopback_interface_is_refused_with_the_cause() {
    let Some(args) = unshared(&["--net"], "true") else {
        return;
    };
    let material = short();
    let finished = material.render("out.mp4").under("unshare", args).run();
    assert_eq!(finished.code(), Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains("loopback"), "{}", finished.stderr);
}

/// Waits until `is_so`, which is asked again and again.
#[track_caller]
fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Returns the states of all processes of a farm, as `T` for a stopped one.
fn states(running: &Running) -> Vec<char> {
    let state = |(pid, _): (i32, String)| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.trim_start().chars().next()
    };
    running.tag().processes().into_iter().filter_map(state).collect()
}

/// Starts a render of four chunks that take a second or two each, and waits until one is being rendered.
fn under_way(material: &Material, clock_shift: &Path) -> Running {
    let args = [
        "--lossless",
        "--workers",
        "1",
        "--chunk-frames",
        "16",
        "--steps",
        "40",
        "--keep",
    ];
    let shift = clock_shift.to_str().unwrap();
    let render = material
        .render("out.mp4")
        .args(args)
        .env("LATENTFARM_TEST_CLOCK_SHIFT", shift);
    let mut running = render.spawn();
    while running.wait_for("chunk_started")["work"] != "render" {}
    running
}

#[test]
fn a_stopped_render_goes_on_with_its_children_and_its_lease_whatever_the_clock_says() {
    let material = Material::seconds("2", "2");
    let clock = material.path("clock");
    let mut running = under_way(&material, &clock);
    // The worker reports that a chunk has begun before it starts the engine for it.
    eventually(
        "coordinator, nats-server, worker, media child and engine run",
        || states(&running).len() == 5,
    );
    // Ctrl-Z in a terminal reaches the coordinator alone; all of the farm stops with it.
    running.signal(Signal::SIGTSTP);
    eventually("nats-server, worker, media child and engine stop", || {
        let states = states(&running);
        states.len() == 5 && states.iter().all(|&state| state == 'T')
    });
    fs::write(&clock, "3600").unwrap();
    running.signal(Signal::SIGCONT);
    running.wait_for("chunk_done");
    // The coordinator alone is stopped, as by a debugger, for longer than its lease lasts. Its children compute on.
    running.signal(Signal::SIGSTOP);
    fs::write(&clock, "-3600").unwrap();
    let stopped = Instant::now();
    eventually("the lease of 15 s has lapsed", || {
        stopped.elapsed() > Duration::from_secs(17)
    });
    running.signal(Signal::SIGCONT);
    let finished = running.finish().complete();
    for (event, why) in [
        ("chunk_requeued", "no attempt was lost"),
        ("worker_died", "no worker was killed"),
        ("worker_lost", "no worker counts as lost"),
    ] {
        assert!(finished.event(event).is_none(), "{why}: {:#?}", finished.events);
    }
    // The steps of the clock do not show in the journal.
    let journal = fs::read_to_string(material.path("out.mp4.latentfarm/journal.jsonl")).unwrap();
    let times: Vec<u64> = journal
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["at_ms"]
                .as_u64()
                .unwrap()
        })
        .collect();
    assert!(times.is_sorted(), "{times:?}");
    assert!(times[times.len() - 1] - times[0] < 600_000, "{times:?}");
}

#[test]
fn a_closed_terminal_drains_and_a_second_signal_stops() {
    let material = Material::seconds("2", "2");
    let clock = material.path("clock");
    let mut running = under_way(&material, &clock);
    running.signal(Signal::SIGHUP);
    running.wait_for("draining");
    running.signal(Signal::SIGTERM);
    let stopped = running.finish();
    assert_eq!(stopped.code(), Some(130), "{}", stopped.stderr);
    assert!(stopped.stderr.contains("resumes the job"), "{}", stopped.stderr);
}

#[test]
fn too_little_room_at_the_output_is_refused_before_any_work() {
    let material = short();
    let output = material.path("open");
    fs::create_dir(&output).unwrap();
    let Some(disk) = SmallDisk::mount(&output, "64k") else {
        return;
    };
    let Material {
        video,
        audio,
        weights,
        ..
    } = &material;
    let render = Render::new(video, audio, &output.join("out.mp4"), weights).arg("--lossless");
    let render = disk.with(render.arg("--work-dir").arg(material.path("work")));
    assert_refused(
        &material,
        render,
        &["the output `", "open/out.mp4", "0 MiB are free", "-o"],
    );
    assert!(!material.path("work").exists());
}

#[test]
fn low_limits_are_named() {
    let material = short();
    let limited = |limit: &str, value: &str| {
        let script = format!("ulimit -{limit} {value} && exec \"$@\"");
        material.render("out.mp4").under("sh", ["-c", &script, "sh"])
    };
    for (limit, value, named) in [("v", "1000000", "ulimit -v"), ("n", "20", "ulimit -n")] {
        assert_refused(&material, limited(limit, value), &[named]);
    }
    // The soft limit of open files is raised, so that only the hard one counts.
    let _raised = limited("S -n", "20").run().complete();
}

#[test]
fn too_few_processes_are_named() {
    let material = short();
    let Some(plain) = as_plain_user() else { return };
    let open = material.path("open");
    fs::create_dir(&open).unwrap();
    allow(material.path("").as_path(), 0o755);
    allow(&open, 0o777);
    let Material {
        video,
        audio,
        weights,
        ..
    } = &material;
    let render = plain(Render::new(video, audio, &open.join("out.mp4"), weights));
    assert_refused(
        &material,
        render.under("prlimit", ["--nproc=12"]),
        &["ulimit -u", "12"],
    );
}
