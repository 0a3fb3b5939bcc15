//! Hosts that are network namespaces, joined by a switch in the test's own namespace.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::process::{Child, Command};

use farm_tests::{namespace_holder, skip, unshared};

/// Environment variable that is set in the process that has a network of its own.
const INSIDE: &str = "LATENTFARM_CHAOS_INSIDE";
/// The first three numbers of all addresses.
const NET: &str = "10.77.0";
/// The number of the test itself on the switch.
const TEST: u8 = 254;
const SWITCH: &str = "switch0";

/// Runs the test of this name once more in a process with namespaces of its own, and returns whether this is that process.
/// A machine that permits no namespaces skips the test; in continuous integration that is a failure.
#[track_caller]
pub(crate) fn is_inside(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let Some(args) = unshared(
        &["--net", "--mount"],
        "ip link set lo up && tc qdisc show >/dev/null",
    ) else {
        assert!(
            std::env::var_os("CI").is_none(),
            "chaos tests need network namespaces, `ip` and `tc`"
        );
        skip("the hosts of this test are network namespaces with `ip` and `tc` of iproute2");
        return false;
    };
    let status = Command::new("unshare")
        .args(args)
        .arg(std::env::current_exe().expect("the path of the test"))
        .args([test, "--exact", "--nocapture", "--include-ignored"])
        .env(INSIDE, "1")
        .status()
        .expect("start unshare");
    assert!(status.success(), "{test} failed in its namespaces");
    false
}

/// The hosts of a farm.
#[derive(Debug)]
pub(crate) struct Network {
    hosts: BTreeMap<&'static str, Host>,
}

#[derive(Debug)]
struct Host {
    /// A process that keeps the namespace.
    holder: Child,
    address: String,
}

impl Network {
    /// Makes the hosts of these names.
    #[track_caller]
    pub(crate) fn new(names: &[&'static str]) -> Self {
        run("ip", &["link", "set", "lo", "up"]);
        run("ip", &["link", "add", SWITCH, "type", "bridge"]);
        let own = format!("{}/24", Self::test_address());
        run("ip", &["addr", "add", &own, "dev", SWITCH]);
        run("ip", &["link", "set", SWITCH, "up"]);
        let hosts = (1..)
            .zip(names)
            .map(|(number, name)| (*name, Host::new(name, number)));
        Self {
            hosts: hosts.collect(),
        }
    }

    /// The address at which hosts reach the test itself.
    pub(crate) fn test_address() -> String {
        format!("{NET}.{TEST}")
    }

    pub(crate) fn address(&self, host: &str) -> &str {
        &self.hosts[host].address
    }

    /// Returns the command that starts a program on a host. The program has the id of the process that is started.
    pub(crate) fn command(&self, host: &str, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", self.hosts[host].holder.id()))
            .arg(program);
        command
    }

    /// Drops all packets from and to a host, or passes them on again. Neither side sees that the line is down.
    #[track_caller]
    pub(crate) fn cut(&self, host: &str, is_cut: bool) {
        assert!(self.hosts.contains_key(host), "no host `{host}`");
        let state = if is_cut { "disabled" } else { "forwarding" };
        run("bridge", &["link", "set", "dev", host, "state", state]);
    }

    /// Limits what a host sends and receives to so many kbit a second, or removes the limit.
    #[track_caller]
    pub(crate) fn limit(&self, host: &str, kbit: Option<u32>) {
        let rate = kbit.map(|kbit| format!("{kbit}kbit"));
        let args = |device| match &rate {
            Some(rate) => vec![
                "qdisc", "replace", "dev", device, "root", "tbf", "rate", rate, "burst", "32k", "latency",
                "500ms",
            ],
            None => vec!["qdisc", "del", "dev", device, "root"],
        };
        run("tc", &args(host));
        let status = self.command(host, "tc").args(args("eth0")).status();
        assert!(status.expect("start tc").success(), "cannot limit `{host}`");
    }
}

impl Host {
    #[track_caller]
    fn new(name: &str, number: u8) -> Self {
        let holder = namespace_holder(["--net"]);
        let id = holder.id().to_string();
        let address = format!("{NET}.{number}");
        run(
            "ip",
            &[
                "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", &id,
            ],
        );
        run("ip", &["link", "set", name, "master", SWITCH, "up"]);
        let inside = |args: &[&str]| {
            let net = format!("--net=/proc/{id}/ns/net");
            run("nsenter", &[&[net.as_str(), "ip"], args].concat());
        };
        inside(&["link", "set", "lo", "up"]);
        inside(&["addr", "add", &format!("{address}/24"), "dev", "eth0"]);
        inside(&["link", "set", "eth0", "up"]);
        Self { holder, address }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _already_gone = self.holder.kill();
        let _already_gone = self.holder.wait();
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // A link would outlive its host's namespace for a moment, and the next network has links of the same names.
        for link in self.hosts.keys().chain([&SWITCH]) {
            let _already_gone = Command::new("ip").args(["link", "del", link]).status();
        }
    }
}

#[track_caller]
fn run(program: &str, args: &[&str]) {
    let ended = Command::new(program).args(args).output();
    let ended = ended.unwrap_or_else(|error| panic!("cannot start `{program}`: {error}"));
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{program} {args:?}: {stderr}");
}
