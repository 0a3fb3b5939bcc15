//! The programs of a farm, each on a host of its own, and what happens to them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use farm_tests::{Access, Material, ProcessTag, eventually, fill_disk, installed_server, program};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::network::Network;
use crate::proxy::Proxy;
use crate::schedule::{BEHIND_PROXY, COORDINATORS, Deed, REVOKED, SERVER, WORKERS};
use crate::tampering::{hurt, tamper};

const PORT: u16 = 4222;
/// The size of the file system of the server's store.
const DISK: &str = "size=300m";
/// A program that has ended is started again after this time, as a service manager does.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// A program of the farm.
#[derive(Debug)]
struct Program {
    command: Command,
    process: Option<Child>,
    /// How many faults keep it down.
    held_down: u32,
    /// How many faults have stopped it.
    stopped: u32,
    ended: Option<Instant>,
}

/// The farm. Dropping it kills its programs.
#[derive(Debug)]
pub(crate) struct Farm {
    pub(crate) access: Access,
    pub(crate) tag: ProcessTag,
    dir: PathBuf,
    programs: BTreeMap<&'static str, Program>,
    proxy: Proxy,
    network: Network,
}

impl Farm {
    /// Starts all programs of a farm, with its files in the folder of the material.
    pub(crate) fn start(material: &Material, spot_check: &str) -> Self {
        let hosts = [&[SERVER], &COORDINATORS[..], &WORKERS[..]].concat();
        let network = Network::new(&hosts);
        let dir = material.path("server");
        configure(&dir);
        let server = format!("{}:{PORT}", network.address(SERVER));
        let proxy = Proxy::start(&Network::test_address(), server.clone());
        let access = Access::of_folder(format!("nats://{server}"), &dir);
        let mut farm = Self {
            access,
            tag: ProcessTag::new(),
            dir,
            programs: BTreeMap::new(),
            proxy,
            network,
        };
        farm.add_server(material);
        for name in COORDINATORS {
            farm.add_coordinator(name, material, spot_check);
        }
        for name in WORKERS {
            farm.add_worker(name, material);
        }
        farm
    }

    fn add_server(&mut self, material: &Material) {
        let named = std::env::var_os("LATENTFARM_NATS_SERVER");
        let binary = named.map_or_else(installed_server, Into::into);
        let mut command = self.network.command(SERVER, binary);
        command.arg("--config").arg(self.dir.join("nats.conf"));
        self.add(SERVER, command, material);
        let address = self.access.url.trim_start_matches("nats://").to_owned();
        eventually("the server listens", || {
            std::net::TcpStream::connect(&address).ok()
        });
    }

    fn add_coordinator(&mut self, name: &'static str, material: &Material, spot_check: &str) {
        let (variable, key) = self.access.key("coordinator");
        let mut command = self.network.command(name, program("latentfarm"));
        command
            .args(["serve", "--standby", "--spot-check", spot_check, "--nats"])
            .args([&self.access.url, "--dir"])
            .arg(material.path(name))
            .env(variable, key);
        self.add(name, command, material);
        // The first is the one at work.
        if name == COORDINATORS[0] {
            let log = log_of(material, name);
            eventually("the first coordinator is at work", || {
                let text = fs::read_to_string(&log).ok()?;
                text.contains("coordinating the farm at").then_some(())
            });
        }
    }

    fn add_worker(&mut self, name: &'static str, material: &Material) {
        let (variable, key) = self.access.key(&format!("worker-{name}"));
        let url = if name == BEHIND_PROXY {
            format!("nats://{}", self.proxy.address)
        } else {
            self.access.url.clone()
        };
        let mut command = self.network.command(name, program("latentfarm-worker"));
        command
            .args(["run", "--threads", "1", "--device", "cpu", "--name", name])
            .args(["--nats", &url, "--weights"])
            .arg(&material.weights)
            .env(variable, key);
        self.add(name, command, material);
    }

    fn add(&mut self, name: &'static str, mut command: Command, material: &Material) {
        let (variable, value) = self.tag.env();
        let log = File::options()
            .create(true)
            .append(true)
            .open(log_of(material, name))
            .expect("a log");
        command
            .env(variable, value)
            .env("LATENTFARM_TEST_CLOCK_SHIFT", self.clock_of(name))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let mut program = Program {
            command,
            process: None,
            held_down: 0,
            stopped: 0,
            ended: None,
        };
        program.start();
        self.programs.insert(name, program);
    }

    fn clock_of(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.clock"))
    }

    /// Starts programs again that have ended of themselves.
    pub(crate) fn supervise(&mut self) {
        for program in self.programs.values_mut() {
            program.supervise();
        }
    }

    fn program(&mut self, name: &str) -> &mut Program {
        self.programs.get_mut(name).expect("a program of the farm")
    }

    /// Does something to the farm. Returns what could not be done.
    pub(crate) fn apply(&mut self, deed: Deed, rng: &mut fastrand::Rng) -> Result<(), String> {
        match deed {
            Deed::Kill(who) => self.program(who).hold_down(),
            Deed::Revive(who) => self.program(who).let_up(),
            Deed::KillEngine(who) => return self.kill_engine(who),
            Deed::Stop(who) => self.program(who).stop(),
            Deed::Continue(who) => self.program(who).go_on(),
            Deed::Cut(who) => self.network.cut(who, true),
            Deed::Join(who) => self.network.cut(who, false),
            Deed::Slow(who, kbit) => self.network.limit(who, Some(kbit)),
            Deed::Fast(who) => self.network.limit(who, None),
            Deed::Stall => self.proxy.stall(true),
            Deed::Flow => self.proxy.stall(false),
            Deed::Break => self.proxy.break_all(),
            Deed::FillDisk => fill_disk(&self.filler()),
            Deed::FreeDisk => {
                fs::remove_file(self.filler()).map_err(|error| error.to_string())?;
                self.program(SERVER).hold_down();
                self.program(SERVER).let_up();
            }
            Deed::Tamper(what) => return tamper(&self.access, what, rng),
            Deed::Hurt(damage, stream) => {
                self.program(SERVER).hold_down();
                let done = hurt(&self.store(), damage, stream, rng);
                self.program(SERVER).let_up();
                return done;
            }
            Deed::Revoke => return self.revoke(),
            Deed::Shift(who, seconds) => {
                fs::write(self.clock_of(who), seconds.to_string()).expect("a clock");
            }
        }
        Ok(())
    }

    fn kill_engine(&self, who: &str) -> Result<(), String> {
        let id = self.programs[who].id().ok_or("it does not run")?;
        let engine = self
            .tag
            .matching("latentfarm-engine")
            .into_iter()
            .find(|engine| parent(*engine) == Some(id))
            .ok_or("it has no engine")?;
        kill(Pid::from_raw(engine), Signal::SIGKILL).map_err(|error| error.to_string())
    }

    fn revoke(&self) -> Result<(), String> {
        // The server reads its keys again when it is asked to.
        let (code, printed) = self.access.run_as(
            "operator",
            [
                "revoke".as_ref(),
                REVOKED.as_ref(),
                "--dir".as_ref(),
                self.dir.as_os_str(),
            ],
        );
        (code == Some(0)).then_some(()).ok_or(printed)
    }

    fn store(&self) -> PathBuf {
        self.dir.join("js/jetstream/FARM/streams")
    }

    fn filler(&self) -> PathBuf {
        self.dir.join("js/filler")
    }

    /// Ends the workers and the coordinators in order. Returns the names of those that did not end well.
    pub(crate) fn end(&mut self) -> Vec<(&'static str, Option<i32>)> {
        let mut codes = Vec::new();
        for name in WORKERS.iter().chain(&COORDINATORS) {
            if *name != REVOKED {
                codes.push((*name, self.program(name).interrupt()));
            }
        }
        self.programs.clear();
        codes.retain(|(_, code)| *code != Some(0));
        codes
    }
}

impl Program {
    fn id(&self) -> Option<i32> {
        let process = self.process.as_ref()?;
        i32::try_from(process.id()).ok()
    }

    fn start(&mut self) {
        self.process = Some(self.command.spawn().expect("start a program"));
        self.ended = None;
    }

    fn supervise(&mut self) {
        if let Some(process) = &mut self.process {
            if process.try_wait().expect("wait").is_some() {
                self.process = None;
                self.ended = Some(Instant::now());
            }
        } else if self.held_down == 0 && self.ended.is_none_or(|ended| ended.elapsed() > RESTART_AFTER) {
            self.start();
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(id) = self.id() {
            // It may have ended just now.
            let _already_gone = kill(Pid::from_raw(id), signal);
        }
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _already_gone = process.kill();
            let _already_gone = process.wait();
        }
    }

    fn hold_down(&mut self) {
        self.held_down += 1;
        self.kill();
    }

    fn let_up(&mut self) {
        self.held_down -= 1;
        if self.held_down == 0 && self.process.is_none() {
            self.start();
        }
    }

    fn stop(&mut self) {
        self.stopped += 1;
        self.signal(Signal::SIGSTOP);
    }

    fn go_on(&mut self) {
        self.stopped -= 1;
        if self.stopped == 0 {
            self.signal(Signal::SIGCONT);
        }
    }

    /// Sends SIGINT, and returns the exit code.
    fn interrupt(&mut self) -> Option<i32> {
        self.signal(Signal::SIGINT);
        let mut process = self.process.take()?;
        process.wait().expect("wait").code()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        self.programs.clear();
        let _not_mounted = Command::new("umount").arg(self.dir.join("js")).status();
    }
}

pub(crate) fn log_of(material: &Material, name: &str) -> PathBuf {
    material.path(&format!("{name}.log"))
}

/// Configures a server that admits the workers, and gives its store a small file system.
fn configure(dir: &Path) {
    let mut command = Command::new(program("latentfarm"));
    command.args(["nats-config", "--listen", &format!("0.0.0.0:{PORT}")]);
    command.args(WORKERS.iter().flat_map(|worker| ["--worker", worker]));
    let status = command.arg(dir).stdout(Stdio::null()).status();
    assert!(status.expect("run latentfarm").success());
    let store = dir.join("js");
    fs::create_dir(&store).expect("a folder");
    let mut mount = Command::new("mount");
    let status = mount
        .args(["-t", "tmpfs", "-o", DISK, "tmpfs"])
        .arg(&store)
        .status();
    assert!(status.expect("run mount").success());
}

/// Returns the parent of a process, which is the second number behind the name in brackets.
fn parent(id: i32) -> Option<i32> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok()
}
