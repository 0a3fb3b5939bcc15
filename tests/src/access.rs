//! How the programs of a farm, and the tests themselves, reach its server.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use latentfarm_common::backoff::RetryLimit;
use latentfarm_common::nats::identity::PemFile;
use latentfarm_common::nats::{ConnectError, Connection, Identity, Role, connect};
use serde_json::Value;
use tokio::time::timeout;

use crate::{Material, ProcessTag, program};

/// How the programs of a farm reach its server.
#[derive(Clone, Debug)]
pub struct Access {
    pub url: String,
    pub(crate) keys: PathBuf,
    /// The certificate by which they recognise it, if it encrypts.
    pub(crate) authority: Option<PathBuf>,
}

impl Access {
    /// The way to the server at `url` that `latentfarm nats-config` has configured in `dir`.
    pub fn of_folder(url: String, dir: &Path) -> Self {
        Self {
            url,
            keys: dir.join("keys"),
            authority: None,
        }
    }

    /// Returns the environment variable with which a program connects as `user`: `coordinator`, `operator`,
    /// `observer`, or `worker-NAME`.
    #[track_caller]
    pub fn key(&self, user: &str) -> (&'static str, String) {
        let path = self.keys.join(format!("{user}.nk"));
        let seed = fs::read_to_string(&path).unwrap_or_else(|error| panic!("no key of {user}: {error}"));
        ("LATENTFARM_NKEY_SEED", seed.trim().to_owned())
    }

    /// Returns the environment variable that names the certificate of the server's authority, if it has one.
    pub fn authority(&self) -> Option<(&'static str, &Path)> {
        self.authority.as_deref().map(|path| ("LATENTFARM_CA", path))
    }

    /// Returns a `latentfarm` command of an operator of this farm.
    #[track_caller]
    pub fn operator(&self, tag: &ProcessTag) -> Command {
        let (variable, value) = tag.env();
        let (seed_variable, seed) = self.key("operator");
        let mut command = Command::new(program("latentfarm"));
        command
            .env(variable, value)
            .env(seed_variable, seed)
            .envs(self.authority())
            .env("LATENTFARM_NATS", &self.url)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command of an operator to its end, with `--json`.
    #[track_caller]
    pub fn operate<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Answer {
        let tag = ProcessTag::new();
        let ended = self.operator(&tag).args(args).arg("--json").output();
        let ended = ended.expect("run latentfarm");
        let text = String::from_utf8_lossy(&ended.stdout);
        tag.assert_nothing_left();
        Answer {
            code: ended.status.code(),
            lines: text
                .lines()
                .filter_map(|line| serde_json::from_str(line).ok())
                .collect(),
            stderr: String::from_utf8_lossy(&ended.stderr).into_owned(),
        }
    }

    /// Submits a batch, each job of which is an object, with the weights of the material, in whose folder the file of the
    /// batch is.
    #[track_caller]
    pub fn submit_batch(&self, material: &Material, jobs: &[Value]) -> Answer {
        let path = material.path("batch.jsonl");
        let lines: Vec<String> = jobs.iter().map(Value::to_string).collect();
        fs::write(&path, lines.join("\n")).expect("write the batch");
        self.operate([
            "submit".as_ref(),
            "--batch".as_ref(),
            path.as_os_str(),
            "--weights".as_ref(),
            material.weights.as_os_str(),
        ])
    }

    /// Runs a command with the key of `user`. Returns its exit code, and what it printed.
    #[track_caller]
    pub fn run_as<S: AsRef<OsStr>>(
        &self,
        user: &str,
        args: impl IntoIterator<Item = S>,
    ) -> (Option<i32>, String) {
        let (variable, key) = self.key(user);
        let ended = Command::new(program("latentfarm"))
            .args(args)
            .env("LATENTFARM_NATS", &self.url)
            .env(variable, key)
            .envs(self.authority())
            .output();
        let Output {
            status,
            stdout,
            stderr,
        } = ended.expect("run latentfarm");
        let printed = [stdout, stderr].concat();
        (status.code(), String::from_utf8_lossy(&printed).into_owned())
    }

    /// Does something to the farm with the key of `user`, which is `coordinator` or `observer`.
    #[track_caller]
    pub fn connected<T>(&self, user: &str, deed: impl AsyncFnOnce(Connection) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let connection = self.connection(user).await;
            deed(connection.expect("a connection")).await
        })
    }

    /// Does something to a farm that may be out of reach. Returns why it could not be done in that time.
    #[track_caller]
    pub fn try_connected<T>(
        &self,
        user: &str,
        within: Duration,
        deed: impl AsyncFnOnce(Connection) -> T,
    ) -> Result<T, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let done = timeout(within, async {
                let connection = self.connection(user).await;
                Ok(deed(connection.map_err(|error| error.to_string())?).await)
            });
            done.await.unwrap_or_else(|_late| Err("no answer".to_owned()))
        })
    }

    async fn connection(&self, user: &str) -> Result<Connection, ConnectError> {
        let identity = Identity {
            role: match user {
                "coordinator" => Role::Coordinator,
                "observer" => Role::Observer,
                other => panic!("a test does nothing as `{other}`"),
            },
            nkey_seed: Some(self.key(user).1),
            authority: self.authority().map(|(_, path)| PemFile::File(path.to_owned())),
            client: None,
            name: "test".to_owned(),
        };
        connect(&self.url, &identity, RetryLimit::Tries(1)).await
    }
}

/// What a command printed.
#[derive(Debug)]
pub struct Answer {
    pub code: Option<i32>,
    /// The JSON lines on standard output.
    pub lines: Vec<Value>,
    pub stderr: String,
}

impl Answer {
    /// Returns the last line, and panics unless the command ended with 0.
    #[track_caller]
    pub fn last(self) -> Value {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.lines.into_iter().next_back().expect("a line")
    }

    /// Returns the event of a written output, and panics unless there is one.
    #[track_caller]
    pub fn written(&self) -> &Value {
        let found = self.lines.iter().find(|line| line["event"] == "written");
        found.unwrap_or_else(|| panic!("nothing was written: {self:#?}"))
    }
}
