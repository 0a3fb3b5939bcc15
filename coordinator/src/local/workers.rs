//! Worker processes of a local farm: started with the job, restarted when one dies, gone with the coordinator.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use latentfarm_common::ids::WorkerId;
use latentfarm_common::nats::connect::SEED_VARIABLE;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::notice::LocalNotice;

/// Exit code of a worker that cannot do this work: starting it again would not help.
const EXIT_UNFIT: i32 = 3;
/// A worker that lived so long was healthy; its next death counts as the first.
const HEALTHY_AFTER: Duration = Duration::from_mins(1);
/// Deaths in quick succession after which a worker is given up.
const MAX_QUICK_DEATHS: u32 = 8;
/// Workers told to go at once are killed after this.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// What the workers are started with.
#[derive(Clone, Debug)]
pub(super) struct WorkerPlan {
    pub(super) program: PathBuf,
    pub(super) nats_url: String,
    pub(super) workers: Vec<WorkerSeat>,
    pub(super) weights: PathBuf,
    /// Threads of each worker's engine.
    pub(super) threads: usize,
    /// Folder for scratch files and logs.
    pub(super) folder: PathBuf,
}

/// What one worker is asked to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerOptions {
    pub id: WorkerId,
    /// Further options of `latentfarm-worker run`.
    pub args: Vec<String>,
}

/// One worker to start.
#[derive(Clone, Debug)]
pub(super) struct WorkerSeat {
    pub(super) options: WorkerOptions,
    /// Seed of its nkey, passed by environment, never on the command line or on disk.
    pub(super) nkey_seed: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Running,
    /// Finish the chunk in hand, then leave.
    Drained,
    /// Give the chunk back and leave now.
    Stopped,
}

/// The running workers. Dropping this kills them.
#[derive(Debug)]
pub(super) struct LocalWorkers {
    keepers: JoinSet<()>,
    wanted: watch::Sender<Wanted>,
}

impl LocalWorkers {
    /// Starts the workers and keeps them running.
    pub(super) fn start(plan: &WorkerPlan, notices: &mpsc::UnboundedSender<LocalNotice>) -> Self {
        let (wanted, _) = watch::channel(Wanted::Running);
        let mut keepers = JoinSet::new();
        for seat in &plan.workers {
            keepers.spawn(keep(
                plan.clone(),
                seat.clone(),
                wanted.subscribe(),
                notices.clone(),
            ));
        }
        Self { keepers, wanted }
    }

    /// Asks every worker to finish its chunk and leave; returns at once.
    pub(super) fn drain(&self) {
        self.wanted.send_if_modified(|wanted| {
            let is_running = *wanted == Wanted::Running;
            if is_running {
                *wanted = Wanted::Drained;
            }
            is_running
        });
    }

    /// Makes every worker leave now, and waits until all are gone.
    pub(super) async fn stop(mut self) {
        self.wanted.send_replace(Wanted::Stopped);
        while self.keepers.join_next().await.is_some() {}
    }
}

/// Runs one worker until it is not wanted any more or not worth starting again.
async fn keep(
    plan: WorkerPlan,
    seat: WorkerSeat,
    mut wanted: watch::Receiver<Wanted>,
    notices: mpsc::UnboundedSender<LocalNotice>,
) {
    let worker = seat.options.id.clone();
    let log = plan.folder.join(format!("{worker}.log"));
    let mut quick_deaths = 0;
    while *wanted.borrow_and_update() == Wanted::Running {
        let started = Instant::now();
        let mut child = match start(&plan, &seat, &log) {
            Ok(child) => child,
            Err(error) => {
                let why = format!("cannot start `{}`: {error}", plan.program.display());
                let _nobody_listens = notices.send(LocalNotice::WorkerGivenUp { worker, why });
                return;
            }
        };
        let status = until_gone(&mut child, &mut wanted).await;
        if *wanted.borrow() != Wanted::Running {
            return;
        }
        quick_deaths = if started.elapsed() > HEALTHY_AFTER {
            1
        } else {
            quick_deaths + 1
        };
        let is_unfit = status
            .as_ref()
            .is_ok_and(|status| status.code() == Some(EXIT_UNFIT));
        let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        if is_unfit || quick_deaths > MAX_QUICK_DEATHS {
            let why = format!(
                "{how}: {}",
                last_line(&log).unwrap_or_else(|| log.display().to_string())
            );
            let _nobody_listens = notices.send(LocalNotice::WorkerGivenUp { worker, why });
            return;
        }
        let restarts_in = Duration::from_millis(100 << quick_deaths.min(6));
        let notice = LocalNotice::WorkerDied {
            worker: worker.clone(),
            how,
            restarts_in,
        };
        let _nobody_listens = notices.send(notice);
        let _changed = tokio::time::timeout(restarts_in, wanted.changed()).await;
    }
}

/// Waits for the child's end, passing on wishes as signals.
async fn until_gone(child: &mut Child, wanted: &mut watch::Receiver<Wanted>) -> io::Result<ExitStatus> {
    loop {
        tokio::select! {
            status = child.wait() => return status,
            changed = wanted.changed() => {
                let wish = if changed.is_ok() { *wanted.borrow_and_update() } else { Wanted::Stopped };
                signal(child, Signal::SIGTERM);
                if wish == Wanted::Stopped {
                    // The second signal means "now".
                    signal(child, Signal::SIGTERM);
                    if let Ok(status) = tokio::time::timeout(STOP_GRACE, child.wait()).await {
                        return status;
                    }
                    child.start_kill()?;
                    return child.wait().await;
                }
            }
        }
    }
}

fn signal(child: &Child, signal: Signal) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // A child that is gone already needs no signal.
        let _gone = kill(Pid::from_raw(pid), signal);
    }
}

fn start(plan: &WorkerPlan, seat: &WorkerSeat, log: &Path) -> io::Result<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    let (name, args) = (seat.options.id.as_str(), &seat.options.args);
    let mut command = Command::new(&plan.program);
    command
        .args(["run", "--nats", &plan.nats_url, "--name", name])
        .arg("--weights")
        .arg(&plan.weights)
        .arg("--scratch")
        .arg(plan.folder.join(name))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        // Ctrl-C is for the coordinator, which drains its workers itself.
        .process_group(0)
        .kill_on_drop(true);
    let names_threads = |arg: &String| arg.split('=').next() == Some("--threads");
    if !args.iter().any(names_threads) {
        command.args(["--threads", &plan.threads.to_string()]);
    }
    if let Some(seed) = &seat.nkey_seed {
        command.env(SEED_VARIABLE, seed);
    }
    latentfarm_common::child::die_with_parent(command.as_std_mut());
    command.spawn()
}

fn last_line(log: &Path) -> Option<String> {
    let text = std::fs::read_to_string(log).ok()?;
    text.lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn plan(folder: &Path, script: &str, count: usize) -> WorkerPlan {
        let program = folder.join("worker");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        WorkerPlan {
            program,
            nats_url: "nats://localhost:1".into(),
            workers: (1..=count)
                .map(|number| WorkerSeat {
                    options: WorkerOptions {
                        id: format!("w{number}").parse().unwrap(),
                        args: Vec::new(),
                    },
                    nkey_seed: None,
                })
                .collect(),
            weights: folder.into(),
            threads: 1,
            folder: folder.into(),
        }
    }

    #[tokio::test]
    async fn a_dead_worker_is_restarted_and_an_unfit_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let script = "if [ -e ran ]; then echo 'no weights' >&2; exit 3; fi; touch ran; kill -KILL $$";
        let script = format!("cd {}; {script}", folder.path().display());
        let (sender, mut notices) = mpsc::unbounded_channel();
        let mut workers = LocalWorkers::start(&plan(folder.path(), &script, 1), &sender);
        assert!(matches!(
            notices.recv().await,
            Some(LocalNotice::WorkerDied { .. })
        ));
        let Some(LocalNotice::WorkerGivenUp { why, .. }) = notices.recv().await else {
            panic!("no second notice")
        };
        assert!(why.contains("no weights"), "{why}");
        while workers.keepers.join_next().await.is_some() {}
    }

    #[tokio::test]
    async fn stop_waits_until_every_worker_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let script = format!("cd {}; touch up-$$; exec sleep 1000", folder.path().display());
        let (sender, _notices) = mpsc::unbounded_channel();
        let workers = LocalWorkers::start(&plan(folder.path(), &script, 2), &sender);
        workers.stop().await;
    }
}
