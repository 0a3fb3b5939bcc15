//! Renders on machines as they are: nobody reads the output, files cannot be read, places cannot be written.

#![expect(clippy::unwrap_used, reason = "helpers of a test panic where it fails")]

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use farm_tests::{Material, Render, as_plain_user, program, unshared};

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
    let told = material.path("stderr");
    let render = material.render("out.mp4").args(["--json"]);
    assert_eq!(render.run_into(full(), File::create(&told).unwrap()), Some(0));
    let text = fs::read_to_string(&told).unwrap();
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
    let cases: [(Render, &[&str]); 8] = [
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
    ];
    for (render, expected) in cases {
        assert_refused(&material, render, expected);
    }
    allow(&hidden, 0o755);
    // With all of that in order the same user's render is complete.
    let finished = render(good_video, good_audio, weights).run().complete();
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
