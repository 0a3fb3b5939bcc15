//! As whom a process connects to the farm's server, and by which certificate it recognises the server.

use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::sync::Arc;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::role::Role;

/// Environment variable with the nkey seed that the process signs in with.
pub const SEED_VARIABLE: &str = "LATENTFARM_NKEY_SEED";

/// Environment variable with the path of the certificate by which the server is recognised.
pub const AUTHORITY_VARIABLE: &str = "LATENTFARM_CA";

/// The user that a process connects as.
#[derive(Clone)]
pub struct Identity {
    /// The role decides the prefix of reply subjects.
    pub role: Role,
    /// The nkey seed (`SU...`), if the server requires one.
    pub nkey_seed: Option<String>,
    /// The authority that has signed the server's certificate, if that is none of the system's.
    pub authority: Option<Authority>,
    /// The name is shown by the server's monitoring.
    pub name: String,
}

/// The certificate of an authority, in PEM. The client library reads it from a file, for each connection.
#[derive(Clone, Debug)]
pub enum Authority {
    /// The path of the file.
    File(PathBuf),
    /// A file that exists in memory alone.
    Memory(Arc<File>),
}

impl Authority {
    /// Keeps a certificate in memory.
    pub fn from_pem(pem: &str) -> io::Result<Self> {
        let mut file = File::from(memfd_create(c"ca.pem", MFdFlags::MFD_CLOEXEC)?);
        file.write_all(pem.as_bytes())?;
        Ok(Self::Memory(Arc::new(file)))
    }

    /// Returns the path of the file, which is valid while this value exists.
    pub(super) fn path(&self) -> PathBuf {
        match self {
            Self::File(path) => path.clone(),
            Self::Memory(file) => format!("/proc/self/fd/{}", file.as_raw_fd()).into(),
        }
    }
}

impl Identity {
    /// Takes the nkey seed from [`SEED_VARIABLE`] and the authority from [`AUTHORITY_VARIABLE`], if those are set.
    pub fn from_environment(role: Role, name: String) -> Self {
        let nkey_seed = std::env::var(SEED_VARIABLE).ok();
        Self {
            role,
            nkey_seed,
            authority: std::env::var_os(AUTHORITY_VARIABLE)
                .filter(|path| !path.is_empty())
                .map(|path| Authority::File(path.into())),
            name,
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("role", &self.role)
            .field("nkey_seed", &self.nkey_seed.as_ref().map(|_| "(hidden)"))
            .field("authority", &self.authority)
            .field("name", &self.name)
            .finish()
    }
}
