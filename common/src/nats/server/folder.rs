//! The folder of a server that other machines reach, with a key for each of them: machines are invited and shut out while
//! the server runs. A server of the coordinator's own and one that an operator runs are alike here.
//!
//! ```text
//! <dir>/address                  where other machines reach the server
//! <dir>/users.conf               the part of the configuration that a change rewrites
//! <dir>/keys/worker-NAME.nk      key of a machine
//! <dir>/keys/worker-NAME.expires when that expires, in seconds since the Unix epoch
//! <dir>/keys.lock                locked while keys are changed
//! ```

use std::fs;
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::config::{self, USERS_FILE};
use super::error::ServerError;
use super::files::{create_file, lock_file};
use super::tls::client_certificate;
use super::users::{self, Users};
use crate::clock::since_1970;
use crate::host;
use crate::ids::WorkerId;
use crate::nats::join::{Certificates, JoinFile};

/// The folder of a server.
#[derive(Clone, Debug)]
pub struct ServerFolder {
    dir: PathBuf,
}

impl ServerFolder {
    /// Finds the server's folder: `dir` as `latentfarm nats-config` has filled it, or the folder in it of the server
    /// that `latentfarm serve` runs.
    pub fn find(dir: &Path) -> Result<Self, ServerError> {
        let folders = [dir.to_owned(), dir.join("server")];
        let found = folders
            .into_iter()
            .find(|dir| dir.join("keys").is_dir() && dir.join(USERS_FILE).is_file());
        found
            .map(|dir| Self { dir })
            .ok_or_else(|| ServerError::NoServer { dir: dir.to_owned() })
    }

    /// Makes a key for a machine, which is valid for so long, and asks the server to admit it. `url` is the address at
    /// which the machine reaches the server; by default that which the server was set up with. The key replaces one of the
    /// machine that has expired.
    pub fn invite(
        &self,
        machine: &WorkerId,
        url: Option<String>,
        valid: Duration,
    ) -> Result<JoinFile, ServerError> {
        let _lock = self.lock()?;
        let keys = self.keys();
        let mut others = users::workers_with_keys(&keys)?;
        if machine.of_gpu(WorkerId::MACHINE_GPUS - 1).is_err() {
            return Err(ServerError::LongName(machine.clone()));
        }
        let has_key = others.contains(machine);
        if has_key && !users::expired_in(&keys)?.contains(machine) {
            return Err(ServerError::HasKey(machine.clone()));
        }
        others.retain(|other| other != machine);
        if let Some(other) = others
            .iter()
            .find(|other| other.of_machine().contains(machine) || machine.of_machine().contains(other))
        {
            return Err(ServerError::NameOfOther {
                machine: machine.clone(),
                other: other.clone(),
            });
        }
        let url = url.map_or_else(|| self.address(), Ok)?;
        let certificates = self.certificates(machine)?;
        if has_key {
            users::remove_key(machine, &keys)?;
        }
        let expires = since_1970().saturating_add(valid).as_secs();
        let seed = users::make_key(machine, expires, &keys)?;
        self.apply(&Users::kept(&keys, &[])?)?;
        Ok(JoinFile::new(machine.clone(), url, seed, certificates, expires))
    }

    /// Removes the key of a machine, and asks the server to close the connections of its workers and to admit them no
    /// more. Returns the key that is valid no more, with which that can be tried.
    pub fn revoke(&self, machine: &WorkerId) -> Result<JoinFile, ServerError> {
        let _lock = self.lock()?;
        let keys = self.keys();
        let Some(seed) = users::seed_of(machine, &keys)? else {
            return Err(ServerError::NoKey {
                machine: machine.clone(),
                others: users::workers_with_keys(&keys)?,
            });
        };
        let (url, certificates) = (self.address()?, self.certificates(machine)?);
        users::remove_key(machine, &keys)?;
        self.apply(&Users::kept(&keys, &[])?)?;
        let now = since_1970().as_secs();
        Ok(JoinFile::new(machine.clone(), url, seed, certificates, now))
    }

    /// Shuts out the machines whose keys have expired, and returns which those are, sorted. Their keys stay in the folder, and
    /// the machines are admitted again if the clock goes back.
    pub fn shut_out_expired(&self) -> Result<Vec<WorkerId>, ServerError> {
        let _lock = self.lock()?;
        let keys = self.keys();
        let path = self.dir.join(USERS_FILE);
        let admitted = fs::read_to_string(&path).map_err(ServerError::files("read", &path))?;
        let users = Users::kept(&keys, &[])?;
        if admitted != config::render_users(&users.all()) {
            self.apply(&users)?;
        }
        users::expired_in(&keys)
    }

    /// Returns when the keys were changed last.
    pub fn changed(&self) -> Option<SystemTime> {
        let users = fs::metadata(self.dir.join(USERS_FILE)).ok()?;
        users.modified().ok()
    }

    /// Asks the server to read its keys again, if it runs where this process can see it: not in another container.
    pub fn reload(&self) -> Result<(), ServerError> {
        let Some(pid) = self.running() else {
            return Ok(());
        };
        match kill(pid, Signal::SIGHUP) {
            // It has ended meanwhile, and reads its keys when it starts.
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(ServerError::Signal {
                pid: pid.as_raw(),
                source: errno.into(),
            }),
        }
    }

    fn keys(&self) -> PathBuf {
        self.dir.join("keys")
    }

    /// Makes the certificates of a machine, as far as the server has any.
    fn certificates(&self, machine: &WorkerId) -> Result<Certificates, ServerError> {
        let dir = self.dir.join("tls");
        let path = dir.join("ca.pem");
        let authority = match fs::read_to_string(&path) {
            Ok(pem) => pem,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Certificates::default()),
            Err(error) => return Err(ServerError::files("read", &path)(error)),
        };
        Ok(Certificates {
            authority: Some(authority),
            client: client_certificate(&dir, machine.as_str())?,
        })
    }

    fn address(&self) -> Result<String, ServerError> {
        let path = self.dir.join("address");
        let text = fs::read_to_string(&path).map_err(ServerError::files("read", &path))?;
        Ok(text.trim().to_owned())
    }

    /// Keeps two commands from writing what either has read before.
    fn lock(&self) -> Result<Flock<fs::File>, ServerError> {
        let path = self.dir.join("keys.lock");
        Flock::lock(lock_file(&path)?, FlockArg::LockExclusive)
            .map_err(|(_, errno)| ServerError::files("lock", &path)(errno.into()))
    }

    /// Writes who may connect, and asks the server to read it.
    fn apply(&self, users: &Users) -> Result<(), ServerError> {
        write_users(&self.dir, users)?;
        self.reload()
    }

    /// Returns the process of the server, if it runs. The process id in its file may be that of an earlier one, which
    /// another program has now: it counts if its command line names the configuration.
    fn running(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.dir.join("run/nats.pid")).ok()?;
        let pid: i32 = text.trim().parse().ok()?;
        let command = procfs::process::Process::new(pid).ok()?.cmdline().ok()?;
        let names_it = |argument: &String| {
            Path::new(argument)
                .file_name()
                .is_some_and(|name| name == "nats.conf")
        };
        command.iter().any(names_it).then(|| Pid::from_raw(pid))
    }
}

/// Writes the file with the users. A server that reads it at the same time finds the old one or the new one.
pub(super) fn write_users(dir: &Path, users: &Users) -> Result<(), ServerError> {
    let (path, partial) = (dir.join(USERS_FILE), dir.join("users.conf.partial"));
    let text = config::render_users(&users.all());
    let mut file = create_file(&partial)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(ServerError::files("write", &partial))?;
    fs::rename(&partial, &path).map_err(ServerError::files("write", &path))
}

/// Writes where other machines reach the server.
pub(super) fn write_address(dir: &Path, scheme: &str, host: &str, port: u16) -> Result<(), ServerError> {
    let path = dir.join("address");
    let host = match host.parse::<Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) => host.to_owned(),
    };
    let written = writeln!(create_file(&path)?, "{scheme}://{host}:{port}");
    written.map_err(ServerError::files("write", &path))
}

/// Returns the name by which other machines reach a server that listens at `ip`: the address itself, or the name of this
/// machine for one that listens at all of its addresses.
pub(super) fn host_of(ip: IpAddr) -> String {
    if ip.is_unspecified() {
        host::name().unwrap_or_else(|| "127.0.0.1".to_owned())
    } else {
        ip.to_string()
    }
}
