//! Runs `latentfarm render` as a child process, and reads its JSON events and its report.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;

use crate::ProcessTag;

/// A test fails if a render sends no event for this long.
const EVENT_DEADLINE: Duration = Duration::from_mins(4);

/// Returns the path of a program of the release, which is in the folder that the tests were built to.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("own path");
    let folder = own.ancestors().find(|dir| dir.join(name).is_file());
    let folder = folder.unwrap_or_else(|| panic!("`{name}` is not built: run deploy/test"));
    folder.join(name)
}

/// The command line of a render that has not started yet.
#[derive(Debug)]
pub struct Render {
    command: Command,
    tag: ProcessTag,
}

impl Render {
    /// Makes a render with the preset that takes the least time.
    pub fn new(video: &Path, audio: &Path, output: &Path, weights: &Path) -> Self {
        Self::with_defaults(video, audio, output, weights).args(["--preset", "lean"])
    }

    /// Makes a render that leaves all choices but the weights to the program.
    pub fn with_defaults(video: &Path, audio: &Path, output: &Path, weights: &Path) -> Self {
        Self::with_demo_weights(video, audio, output)
            .arg("--weights")
            .arg(weights)
    }

    /// Makes a render that leaves all choices to the program, which takes its demo weights.
    pub fn with_demo_weights(video: &Path, audio: &Path, output: &Path) -> Self {
        let tag = ProcessTag::new();
        let (name, value) = tag.env();
        let mut command = Command::new(program("latentfarm"));
        command.env(name, value).env_remove("LATENTFARM_WEIGHTS");
        command.arg("render").arg(video).arg(audio).arg("-o").arg(output);
        command.stdin(Stdio::null());
        Self { command, tag }
    }

    #[must_use]
    pub fn args<S: AsRef<std::ffi::OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    #[must_use]
    pub fn arg(self, arg: impl AsRef<std::ffi::OsStr>) -> Self {
        self.args([arg])
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Lets the programs run under another one, such as `setpriv`, whose arguments end with a command line.
    #[must_use]
    pub fn under<S: AsRef<std::ffi::OsStr>>(
        mut self,
        wrapper: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Self {
        let mut outer = Command::new(wrapper);
        outer
            .args(args)
            .arg(self.command.get_program())
            .args(self.command.get_args())
            .stdin(Stdio::null());
        let set = self
            .command
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?)));
        outer.envs(set);
        self.command = outer;
        self
    }

    /// Runs the render to its end with these standard streams and returns its exit code; `--json` is left to
    /// the arguments. Panics if any process of the farm is left.
    pub fn run_into(mut self, stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Option<i32> {
        self.command.stdout(stdout).stderr(stderr);
        let status = self.command.status().expect("start latentfarm");
        self.tag.assert_nothing_left();
        status.code()
    }

    pub fn spawn(mut self) -> Running {
        self.command
            .arg("--json")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self.command.spawn().expect("start latentfarm");
        let stdout = BufReader::new(child.stdout.take().expect("stdout"));
        let mut stderr = child.stderr.take().expect("stderr");
        let (sender, events) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let event: Value = serde_json::from_str(&line).unwrap_or(Value::String(line));
                if sender.send(event).is_err() {
                    return;
                }
            }
        });
        let (error_sender, errors) = mpsc::channel();
        std::thread::spawn(move || {
            let mut text = String::new();
            let _broken_off = stderr.read_to_string(&mut text);
            let _nobody_waits = error_sender.send(text);
        });
        Running {
            child,
            tag: self.tag,
            events,
            errors,
            received: Vec::new(),
        }
    }

    /// Runs the render to its end and checks that no process is left.
    pub fn run(self) -> Finished {
        self.spawn().finish()
    }
}

/// A running render. Dropping it kills the command.
#[derive(Debug)]
pub struct Running {
    child: Child,
    tag: ProcessTag,
    events: mpsc::Receiver<Value>,
    errors: mpsc::Receiver<String>,
    received: Vec<Value>,
}

impl Running {
    pub fn tag(&self) -> &ProcessTag {
        &self.tag
    }

    /// Waits for the next event; panics if the render ends first.
    pub fn next_event(&mut self) -> Value {
        match self.events.recv_timeout(EVENT_DEADLINE) {
            Ok(event) => {
                self.received.push(event.clone());
                event
            }
            Err(error) => {
                let _already_gone = self.child.kill();
                let stderr = self.errors.recv().unwrap_or_default();
                panic!(
                    "no further event ({error}); events: {:#?}\nstderr: {stderr}",
                    self.received
                );
            }
        }
    }

    /// Waits for an event of this `"event"` name; panics if the render ends first.
    pub fn wait_for(&mut self, name: &str) -> Value {
        loop {
            let event = self.next_event();
            if event["event"] == name {
                return event;
            }
        }
    }

    /// Sends a signal to the command itself.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = i32::try_from(self.child.id()).expect("pid");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("signal");
    }

    /// Waits until the render has ended. Panics if any process of the farm is left.
    pub fn finish(mut self) -> Finished {
        let mut report = Value::Null;
        // The channel closes when the command closes its standard output.
        loop {
            match self.events.recv_timeout(EVENT_DEADLINE) {
                Ok(event) => {
                    if event["event"] == "report" {
                        report = event.clone();
                    }
                    self.received.push(event);
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    panic!(
                        "nothing happened for {EVENT_DEADLINE:?}; events: {:#?}",
                        self.received
                    );
                }
            }
        }
        let status = self.child.wait().expect("wait");
        let stderr = self.errors.recv().unwrap_or_default();
        self.tag.assert_nothing_left();
        Finished {
            status,
            report,
            stderr,
            events: std::mem::take(&mut self.received),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _already_gone = self.child.wait();
    }
}

/// A render that has ended.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    /// The `report` event, or null if there was none.
    pub report: Value,
    pub stderr: String,
    pub events: Vec<Value>,
}

impl Finished {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Panics unless the render was complete.
    #[must_use]
    #[track_caller]
    pub fn complete(self) -> Self {
        assert_eq!(
            self.code(),
            Some(0),
            "events: {:#?}\nstderr: {}",
            self.events,
            self.stderr
        );
        self
    }

    /// Returns the first event of this name.
    pub fn event(&self, name: &str) -> Option<&Value> {
        self.events.iter().find(|event| event["event"] == name)
    }

    /// Returns the digest over the hashes of all rendered frames.
    #[track_caller]
    pub fn frames_digest(&self) -> String {
        self.report["frames_digest"]
            .as_str()
            .expect("frames_digest in the report")
            .to_owned()
    }
}
