//! A farm as an operator sets it up: a nats-server, and workers that join and leave.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::{Access, ProcessTag, program};

pub(crate) const START_DEADLINE: Duration = Duration::from_secs(30);

/// A nats-server with accounts, as `latentfarm nats-config` configures it. Dropping it kills the server.
#[derive(Debug)]
pub struct Server {
    process: Child,
    dir: PathBuf,
    access: Access,
}

impl Deref for Server {
    type Target = Access;

    fn deref(&self) -> &Access {
        &self.access
    }
}

impl Server {
    /// Starts a server that stores its state in `dir` and admits these workers.
    #[track_caller]
    pub fn start(dir: &Path, workers: &[&str]) -> Self {
        let status = Command::new(program("latentfarm"))
            .args(["nats-config", "--listen", "127.0.0.1:4222"])
            .args(workers.iter().flat_map(|worker| ["--worker", worker]))
            .arg(dir)
            .stdout(Stdio::null())
            .status()
            .expect("run latentfarm");
        assert!(status.success(), "cannot configure the server");
        fs::create_dir(dir.join("ports")).expect("a folder for the server's port");
        // Tests run at the same time, so the server takes any free port instead of the configured one.
        let process = launch(dir, "-1");
        let url = address_of(dir, process.id());
        Self {
            process,
            dir: dir.to_owned(),
            access: Access::of_folder(url, dir),
        }
    }

    /// Changes the server's configuration, and starts the server again with it.
    #[track_caller]
    pub fn reconfigure(&mut self, change: impl FnOnce(String) -> String) {
        let path = self.dir.join("nats.conf");
        let text = fs::read_to_string(&path).expect("a configuration");
        fs::write(&path, change(text)).expect("a new configuration");
        self.kill();
        self.start_again();
    }

    /// Kills the server and waits until it is gone.
    pub fn kill(&mut self) {
        let _already_gone = self.process.kill();
        let _already_gone = self.process.wait();
    }

    /// Returns the id of the server's process.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).expect("pid")
    }

    /// Sends a signal to the server.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("signal");
    }

    /// Starts a server that was killed again, on the same port and with what it had stored.
    #[track_caller]
    pub fn start_again(&mut self) {
        let port = self.url.rsplit(':').next().expect("a port");
        self.process = launch(&self.dir, port);
        assert_eq!(address_of(&self.dir, self.process.id()), self.url);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts the server that is configured in `dir`.
#[track_caller]
fn launch(dir: &Path, port: &str) -> Child {
    let named = std::env::var_os("LATENTFARM_NATS_SERVER");
    let binary = named.map_or_else(installed_server, Into::into);
    Command::new(&binary)
        .arg("--config")
        .arg(dir.join("nats.conf"))
        .args(["--port", port, "--ports_file_dir"])
        .arg(dir.join("ports"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start `{}`: {error}", binary.display()))
}

/// Returns the path of the server that the project's set-up has installed.
pub fn installed_server() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/bin/nats-server")
}

/// Waits until the server of this process listens, and returns its address.
#[track_caller]
fn address_of(dir: &Path, id: u32) -> String {
    let file = dir.join("ports").join(format!("nats-server_{id}.ports"));
    let deadline = Instant::now() + START_DEADLINE;
    loop {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let found = serde_json::from_str::<Value>(&text).ok();
        if let Some(url) = found.as_ref().and_then(|ports| ports["nats"][0].as_str()) {
            return url.to_owned();
        }
        assert!(
            Instant::now() < deadline,
            "the server wrote no port to {}",
            file.display()
        );
        std::thread::yield_now();
    }
}

/// A running `latentfarm-worker run`. Dropping it kills the worker.
#[derive(Debug)]
pub struct Worker {
    process: Child,
}

impl Worker {
    #[track_caller]
    pub fn start(server: &Access, name: &str, weights: &Path, log: &Path, tag: &ProcessTag) -> Self {
        Self::start_with(server, name, weights, log, tag, &[])
    }

    /// Starts a worker with further options; it is on the CPU if they name no device.
    #[track_caller]
    pub fn start_with(
        server: &Access,
        name: &str,
        weights: &Path,
        log: &Path,
        tag: &ProcessTag,
        more: &[&str],
    ) -> Self {
        Self::run(Self::on_server(server, name, weights, more), log, tag)
    }

    /// Starts a worker in UTC whose clock goes wrong by as many seconds as this file says.
    #[track_caller]
    pub fn start_in_utc(
        server: &Access,
        name: &str,
        weights: &Path,
        log: &Path,
        tag: &ProcessTag,
        more: &[&str],
        clock_shift: &Path,
    ) -> Self {
        let mut command = Self::on_server(server, name, weights, more);
        command
            .env("TZ", "UTC")
            .env("LATENTFARM_TEST_CLOCK_SHIFT", clock_shift);
        Self::run(command, log, tag)
    }

    /// Starts the worker of a machine that was invited, on these devices.
    #[track_caller]
    pub fn join(file: &Path, devices: &str, weights: &Path, log: &Path, tag: &ProcessTag) -> Self {
        let mut command = Self::command(weights);
        command.arg("--join").arg(file).args(["--device", devices]);
        Self::run(command, log, tag)
    }

    #[track_caller]
    fn on_server(server: &Access, name: &str, weights: &Path, more: &[&str]) -> Command {
        let (seed_variable, seed) = server.key(&format!("worker-{name}"));
        let device: &[&str] = if more.contains(&"--device") {
            &[]
        } else {
            &["--device", "cpu"]
        };
        let mut command = Self::command(weights);
        command
            .args(["--nats", &server.url, "--name", name])
            .args(device)
            .args(more)
            .env(seed_variable, seed)
            .envs(server.authority());
        command
    }

    fn command(weights: &Path) -> Command {
        let mut command = Command::new(program("latentfarm-worker"));
        command.args(["run", "--threads", "1", "--weights"]).arg(weights);
        command
    }

    #[track_caller]
    fn run(mut command: Command, log: &Path, tag: &ProcessTag) -> Self {
        let (variable, value) = tag.env();
        let log = fs::File::create(log).expect("a log");
        let process = command
            .env(variable, value)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("start a worker");
        Self { process }
    }

    /// Sends SIGINT, on which the worker finishes its chunk and ends. Returns its exit code.
    #[track_caller]
    pub fn drain(mut self) -> Option<i32> {
        let pid = i32::try_from(self.process.id()).expect("pid");
        kill(Pid::from_raw(pid), Signal::SIGINT).expect("signal");
        self.process.wait().expect("wait").code()
    }

    /// Waits for the exit code of a worker that ends of itself.
    #[track_caller]
    pub fn ended(mut self) -> Option<i32> {
        self.process.wait().expect("wait").code()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _already_gone = self.process.kill();
        let _already_gone = self.process.wait();
    }
}
