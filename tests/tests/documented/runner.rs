//! A folder in which commands are run as the documentation prints them, with the names that it uses.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use farm_tests::{Clips, ProcessTag, eventually, program, transcode};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::table::{How, Row};

const READY_DEADLINE: Duration = Duration::from_mins(1);

/// A command that runs beside others.
struct Started {
    command: String,
    process: Child,
    log: PathBuf,
    /// It runs until it is interrupted.
    stays: bool,
}

/// The folder, which is also the home of the user who gives the commands.
pub(crate) struct Runner {
    dir: TempDir,
    tag: ProcessTag,
    started: Vec<Started>,
    commands: usize,
    /// What stands in place of the address of the documentation's server.
    url: String,
    /// The last job that a render has named.
    job: String,
}

impl Runner {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| dir.path().join(name);
        for folder in ["bin", "home", "srv", "srv/farm", "ports"] {
            fs::create_dir(path(folder)).expect("a folder");
        }
        let clips = Clips::fetched();
        // 16 frames are one window, 64 are four chunks of 16.
        for (name, seconds) in [("talk", "0.64"), ("longer", "2.56")] {
            let video = path(&format!("{name}.mp4"));
            transcode(&clips.face(), &["-t", seconds, "-an", "-c:v", "copy"], video);
        }
        for (name, seconds) in [("speech", "0.64"), ("longer", "2.56")] {
            transcode(&clips.speech(), &["-t", seconds], path(&format!("{name}.wav")));
        }
        let link = |to: &str, name: &str| symlink(to, path(name)).expect("a link");
        // The server of `serve` has its files beside the others, so that keys are in one place.
        link(".", "srv/farm/server");
        link("srv/farm/tls/ca.pem", "ca.pem");
        link("talk.mp4", "VIDEO");
        link("speech.wav", "AUDIO");
        link("../home/latentsync", "srv/latentsync");
        for key in [
            "coordinator.nk",
            "operator.nk",
            "observer.nk",
            "worker-gpu1.nk",
            "worker-gpu2.nk",
        ] {
            link(&format!("srv/farm/keys/{key}"), key);
        }
        let named = std::env::var_os("LATENTFARM_NATS_SERVER").map(PathBuf::from);
        let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/bin/nats-server");
        let server = named.unwrap_or(installed);
        symlink(
            fs::canonicalize(server).expect("nats-server"),
            path("bin/nats-server"),
        )
        .expect("a link");
        Self {
            dir,
            tag: ProcessTag::new(),
            started: Vec::new(),
            commands: 0,
            url: String::new(),
            job: String::new(),
        }
    }

    /// Makes the weights that the documentation calls `DIR` and `~/latentsync`.
    pub(crate) fn with_weights() -> Self {
        let mut runner = Self::new();
        for weights in ["DIR", "~/latentsync"] {
            let command = format!("latentfarm-worker weights synth --size tiny --out {weights}");
            let started = runner.start(&command, &command, false);
            runner.end(started);
        }
        runner
    }

    /// Runs all rows in turn. Then those that still run are interrupted, the last one first.
    pub(crate) fn run(mut self, rows: &[Row]) {
        for &(printed, how) in rows {
            match how {
                How::Runs | How::Prepares => self.finish(printed, printed),
                How::As(command) => self.finish(printed, command),
                How::Beside => self.beside(printed, printed),
                How::BesideAs(command) => self.beside(printed, command),
                How::Stays(ready) | How::PreparesUntil(ready) => self.until_ready(printed, printed, ready),
                How::StaysAs(command, ready) => self.until_ready(printed, command, ready),
            }
        }
        while let Some(at) = self.started.iter().position(|started| !started.stays) {
            let started = self.started.remove(at);
            self.end(started);
        }
        while let Some(started) = self.started.pop() {
            let group = Pid::from_raw(i32::try_from(started.process.id()).expect("a process id"));
            killpg(group, Signal::SIGINT).expect("interrupt a command");
            self.end(started);
        }
        self.tag.assert_nothing_left();
    }

    fn finish(&mut self, printed: &str, command: &str) {
        let started = self.start(printed, command, false);
        self.end(started);
    }

    fn beside(&mut self, printed: &str, command: &str) {
        let started = self.start(printed, command, false);
        self.started.push(started);
    }

    fn until_ready(&mut self, printed: &str, command: &str, ready: &str) {
        let mut started = self.start(printed, command, true);
        let deadline = Instant::now() + READY_DEADLINE;
        while !fs::read_to_string(&started.log).expect("a log").contains(ready) {
            let over = started.process.try_wait().expect("wait");
            if over.is_some() || Instant::now() > deadline {
                let _already_gone = started.process.kill();
                panic!(
                    "`{printed}` is not ready:\n{}",
                    fs::read_to_string(&started.log).expect("a log")
                );
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        let log = fs::read_to_string(&started.log).expect("a log");
        if let Some(url) = log
            .split("coordinating the farm at ")
            .nth(1)
            .and_then(|rest| rest.split(": ").next())
        {
            url.clone_into(&mut self.url);
        }
        if command.starts_with("nats-server") {
            let ports = self.path(&format!("ports/nats-server_{}.ports", started.process.id()));
            // The server writes them when it has said that it is ready.
            let ports = eventually("the server has written its ports", || {
                let text = fs::read_to_string(&ports).ok()?;
                serde_json::from_str::<serde_json::Value>(&text).ok()
            });
            ports["nats"][0]
                .as_str()
                .expect("an address")
                .clone_into(&mut self.url);
        }
        self.started.push(started);
    }

    fn start(&mut self, printed: &str, command: &str, stays: bool) -> Started {
        for output in ["out.mp4", "out.mkv"].iter().filter(|_| command.contains(" -o ")) {
            let _missing = fs::remove_file(self.path(output));
        }
        self.commands += 1;
        let log = self.path(&format!("{}.log", self.commands));
        let file = File::create(&log).expect("a log");
        let programs = program("latentfarm");
        let programs = programs.parent().expect("the programs' folder").display();
        let path = std::env::var("PATH").expect("PATH");
        let (name, value) = self.tag.env();
        let process = Command::new("bash")
            .args(["-c", &self.filled_in(command)])
            .current_dir(self.dir.path())
            .env(
                "PATH",
                format!("{}:{programs}:{path}", self.path("bin").display()),
            )
            .env("HOME", self.path("home"))
            .env("LATENTFARM_WEIGHTS", self.path("DIR"))
            .env("LATENTFARM_NATS_SERVER", self.path("bin/nats-server"))
            .env(name, value)
            .envs(
                self.url
                    .starts_with("tls://")
                    .then(|| ("LATENTFARM_CA", self.path("ca.pem"))),
            )
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a log"))
            .stderr(file)
            // A terminal interrupts the whole group.
            .process_group(0)
            .spawn()
            .expect("run bash");
        Started {
            command: printed.to_owned(),
            process,
            log,
            stays,
        }
    }

    /// Puts what exists here in place of the names that stand for the reader's own.
    fn filled_in(&self, command: &str) -> String {
        let srv = format!("{}/", self.path("srv").display());
        let mut text = command.replace("/srv/", &srv).replace("-o OUT", "-o out.mp4");
        text = text.replace("top OUT", "top out.mp4");
        text.push(' ');
        for job in [" JOB ", " 0123456789abcdef "] {
            text = text.replace(job, &format!(" {} ", self.job));
        }
        for server in [
            "tls://farm.example:4222",
            "nats://farm.example:4222",
            "nats://farm:4222",
            "nats://HOST:4222",
            "--nats URL",
        ] {
            let filled = if server.starts_with("--") {
                format!("--nats {}", self.url)
            } else {
                self.url.clone()
            };
            text = text.replace(server, &filled);
        }
        if text.starts_with("nats-server --") && !text.contains("--signal") {
            // Tests run beside each other, so each server takes any port that is free.
            let ports = self.path("ports");
            text = format!("exec {text} --port -1 --ports_file_dir {}", ports.display());
        }
        if text.contains("--jetstream") {
            text = format!("{text} --store_dir {}", self.path("srv/store").display());
        }
        text
    }

    /// Waits for a command and checks that it succeeded.
    fn end(&mut self, mut started: Started) {
        let status = started.process.wait().expect("wait");
        let log = fs::read_to_string(&started.log).expect("a log");
        let command = &started.command;
        // A render that is interrupted says so.
        let rendering = started.stays && command.starts_with("latentfarm render");
        let expected = if rendering { 130 } else { 0 };
        assert_eq!(status.code(), Some(expected), "`{command}`: {status}\n{log}");
        let mut named = log.lines().filter_map(|line| line.strip_prefix("job "));
        if let Some((job, _)) = named.find_map(|line| line.split_once(':')) {
            job.clone_into(&mut self.job);
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        for started in &mut self.started {
            let group = Pid::from_raw(i32::try_from(started.process.id()).unwrap_or(i32::MAX));
            let _already_gone = killpg(group, Signal::SIGKILL);
            let _already_gone = started.process.wait();
        }
    }
}
