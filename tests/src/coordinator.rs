//! A coordinator in a process of its own.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::farm::{START_DEADLINE, installed_server};
use crate::{Access, ProcessTag, program};

/// What a coordinator says once it is at work.
const AT_WORK: &str = "coordinating the farm";

/// The tests count attempts, so that no chunk may be rendered again by chance.
const NO_CHECKS: &str = "0";

/// A running `latentfarm serve`. Dropping it kills the coordinator.
#[derive(Debug)]
pub struct Coordinator {
    process: Child,
    /// What it has written to standard error.
    log: Arc<Mutex<String>>,
}

impl Coordinator {
    /// Starts the coordinator of a farm, with its folder in `dir`, and waits until it answers.
    #[track_caller]
    pub fn start(server: &Access, dir: &Path, tag: &ProcessTag) -> Self {
        Self::start_at(&server.url, server, dir, tag)
    }

    /// Starts a coordinator that reaches the server under another address.
    #[track_caller]
    pub fn start_at(url: &str, server: &Access, dir: &Path, tag: &ProcessTag) -> Self {
        Self::run(Self::command(server, url, dir, NO_CHECKS), AT_WORK, tag)
    }

    /// Starts a coordinator that has every chunk rendered again, and waits until it answers.
    #[track_caller]
    pub fn checking(server: &Access, dir: &Path, tag: &ProcessTag) -> Self {
        Self::run(Self::command(server, &server.url, dir, "1"), AT_WORK, tag)
    }

    /// Starts a coordinator that is to take over from the one at work, and waits until it stands by.
    #[track_caller]
    pub fn standby(server: &Access, dir: &Path, tag: &ProcessTag) -> Self {
        let mut command = Self::command(server, &server.url, dir, NO_CHECKS);
        command.arg("--standby");
        Self::run(command, "standing by for", tag)
    }

    #[track_caller]
    fn command(server: &Access, url: &str, dir: &Path, spot_check: &str) -> Command {
        let (seed_variable, seed) = server.key("coordinator");
        let mut command = Command::new(program("latentfarm"));
        command
            .args(["serve", "--spot-check", spot_check, "--nats", url, "--dir"])
            .arg(dir)
            .env(seed_variable, seed);
        command
    }

    /// Starts a coordinator with a server of its own, which listens at `listen` and admits this worker, and waits
    /// until it answers.
    #[track_caller]
    pub fn with_own_server(
        dir: &Path,
        worker: &str,
        listen: &str,
        more: &[&str],
        tag: &ProcessTag,
    ) -> (Self, Access) {
        let mut command = Command::new(program("latentfarm"));
        command
            .args([
                "serve",
                "--spot-check",
                NO_CHECKS,
                "--worker",
                worker,
                "--listen",
                listen,
                "--dir",
            ])
            .arg(dir)
            .args(more);
        if std::env::var_os("LATENTFARM_NATS_SERVER").is_none() {
            command.env("LATENTFARM_NATS_SERVER", installed_server());
        }
        let coordinator = Self::run(command, AT_WORK, tag);
        let log = coordinator.log();
        let address = log.split("coordinating the farm at ").nth(1);
        let url = address
            .and_then(|rest| rest.split(": ").next())
            .expect("an address");
        let access = Access {
            url: url.to_owned(),
            keys: dir.join("server/keys"),
            authority: Some(dir.join("server/tls/ca.pem")),
        };
        (coordinator, access)
    }

    #[track_caller]
    fn run(mut command: Command, ready: &str, tag: &ProcessTag) -> Self {
        let (variable, value) = tag.env();
        let process = command
            .env(variable, value)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut coordinator = Self {
            process: process.expect("start a coordinator"),
            log: Arc::default(),
        };
        let stderr = coordinator.process.stderr.take().expect("stderr");
        let (sender, lines) = mpsc::channel();
        let log = Arc::clone(&coordinator.log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = log.lock().expect("the log");
                log.push_str(&line);
                log.push('\n');
                // Whoever started it may have heard enough.
                let _nobody = sender.send(line);
            }
        });
        while let Ok(line) = lines.recv_timeout(START_DEADLINE) {
            if line.contains(ready) {
                return coordinator;
            }
        }
        panic!("the coordinator does not begin: {}", coordinator.log());
    }

    /// Returns what the coordinator has written to standard error.
    #[track_caller]
    pub fn log(&self) -> String {
        self.log.lock().expect("the log").clone()
    }

    /// Waits until a coordinator that stood by is at work.
    #[track_caller]
    pub fn wait_until_at_work(&self) {
        let deadline = Instant::now() + START_DEADLINE;
        while !self.log().contains(AT_WORK) {
            assert!(Instant::now() < deadline, "it does not take over: {}", self.log());
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.process.id()).expect("pid");
        kill(Pid::from_raw(pid), signal).expect("signal");
    }

    /// Waits for the exit code of a coordinator that ends of itself.
    #[track_caller]
    pub fn ended(mut self) -> Option<i32> {
        self.process.wait().expect("wait").code()
    }

    /// Kills the coordinator and waits until it is gone.
    pub fn kill(&mut self) {
        let _already_gone = self.process.kill();
        let _already_gone = self.process.wait();
    }

    /// Sends SIGINT, and returns the exit code.
    #[track_caller]
    pub fn interrupt(mut self) -> Option<i32> {
        self.signal(Signal::SIGINT);
        self.process.wait().expect("wait").code()
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        self.kill();
    }
}
