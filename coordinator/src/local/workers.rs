//! Worker processes of a local farm. One task supervises each: it starts the worker with the job, starts it
//! again if it dies, and ends it with the job.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use latentfarm_common::ids::WorkerId;
use nix::sys::signal::Signal;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::joins::Joins;
use super::notice::LocalNotice;
use super::process::{signal_child, spawn_worker};

/// Exit code of a worker that cannot render this job, for example because it has no weights. It is not
/// started again.
const EXIT_UNFIT: i32 = 3;
/// A worker that ran longer than this was healthy: its next death counts as the first.
const HEALTHY_AFTER: Duration = Duration::from_mins(1);
/// After more deaths in quick succession than this a worker is not started again.
const MAX_QUICK_DEATHS: u32 = 8;
/// A worker that has not ended so long after it was signalled to stop is killed.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// A worker that starts last waits no longer for the others. The first start of an engine on a new kind of GPU takes
/// up to 40 s.
const JOIN_LIMIT: Duration = Duration::from_mins(2);

/// The options that all workers are started with, and those of each.
#[derive(Clone, Debug)]
pub(super) struct LaunchPlan {
    pub(super) program: PathBuf,
    pub(super) nats_url: String,
    pub(super) workers: Vec<WorkerSpec>,
    pub(super) weights: PathBuf,
    /// Threads of each worker's engine.
    pub(super) threads: usize,
    /// Folder for scratch files and logs.
    pub(super) folder: PathBuf,
}

/// Name and options of one worker, as the command line gives them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerOptions {
    pub id: WorkerId,
    /// Further options of `latentfarm-worker run`.
    pub args: Vec<String>,
    /// Whether it is started only when all others have joined the farm.
    pub starts_last: bool,
}

/// One worker to start, with the key that it connects with.
#[derive(Clone, Debug)]
pub(super) struct WorkerSpec {
    pub(super) options: WorkerOptions,
    /// Seed of the worker's nkey. It is passed in the environment, never on the command line or on disk.
    pub(super) nkey_seed: Option<String>,
}

/// The state that the supervisors bring all workers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DesiredState {
    Running,
    /// The worker finishes its chunk, then ends.
    Drained,
    /// The worker returns its chunk and ends now.
    Stopped,
}

/// The running workers. Dropping this kills them.
#[derive(Debug)]
pub(super) struct LocalWorkers {
    supervisors: JoinSet<()>,
    desired: watch::Sender<DesiredState>,
}

impl LocalWorkers {
    /// Starts the workers and supervises them.
    pub(super) fn start(
        plan: &LaunchPlan,
        joins: &Joins,
        notices: &mpsc::UnboundedSender<LocalNotice>,
    ) -> Self {
        let (desired, _) = watch::channel(DesiredState::Running);
        let mut supervisors = JoinSet::new();
        for spec in &plan.workers {
            supervisors.spawn(supervise(
                plan.clone(),
                spec.clone(),
                joins.clone(),
                desired.subscribe(),
                notices.clone(),
            ));
        }
        Self { supervisors, desired }
    }

    /// Makes every worker finish its chunk and end; returns at once.
    pub(super) fn drain(&self) {
        if *self.desired.borrow() == DesiredState::Running {
            self.desired.send_replace(DesiredState::Drained);
        }
    }

    /// Makes every worker return its chunk and end, and waits until all have ended.
    pub(super) async fn stop(mut self) {
        self.desired.send_replace(DesiredState::Stopped);
        while self.supervisors.join_next().await.is_some() {}
    }
}

/// Runs one worker, and starts it again when it dies, until it is to end or has died too often.
async fn supervise(
    plan: LaunchPlan,
    spec: WorkerSpec,
    joins: Joins,
    mut desired: watch::Receiver<DesiredState>,
    notices: mpsc::UnboundedSender<LocalNotice>,
) {
    let worker = spec.options.id.clone();
    if spec.options.starts_last {
        tokio::select! {
            () = joins.complete() => {}
            () = tokio::time::sleep(JOIN_LIMIT) => {}
            _ended = desired.wait_for(|state| *state != DesiredState::Running) => return,
        }
    }
    let log = plan.folder.join(format!("{worker}.log"));
    let mut quick_deaths = 0;
    while *desired.borrow_and_update() == DesiredState::Running {
        let started = Instant::now();
        let mut child = match start(&plan, &spec, &log) {
            Ok(child) => child,
            Err(error) => {
                let why = format!("cannot start `{}`: {error}", plan.program.display());
                joins.settle(&worker);
                let _no_receiver = notices.send(LocalNotice::WorkerGivenUp { worker, why });
                return;
            }
        };
        let status = wait_for_exit(&mut child, &mut desired).await;
        if *desired.borrow() != DesiredState::Running {
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
            let last = last_line(&log).unwrap_or_else(|| log.display().to_string());
            let why = if is_unfit { last } else { format!("{how}: {last}") };
            joins.settle(&worker);
            let _no_receiver = notices.send(LocalNotice::WorkerGivenUp { worker, why });
            return;
        }
        let restarts_in = Duration::from_millis(100 << quick_deaths.min(6));
        let notice = LocalNotice::WorkerDied {
            worker: worker.clone(),
            how,
            restarts_in,
        };
        let _no_receiver = notices.send(notice);
        let _changed = tokio::time::timeout(restarts_in, desired.changed()).await;
    }
}

/// Waits until the child has ended. If the desired state changes meanwhile, the child is signalled.
async fn wait_for_exit(
    child: &mut Child,
    desired: &mut watch::Receiver<DesiredState>,
) -> io::Result<ExitStatus> {
    loop {
        tokio::select! {
            status = child.wait() => return status,
            changed = desired.changed() => {
                let state = if changed.is_ok() { *desired.borrow_and_update() } else { DesiredState::Stopped };
                // A worker drains on the first signal and stops at once on the second.
                signal_child(child, Signal::SIGTERM);
                if state == DesiredState::Stopped {
                    signal_child(child, Signal::SIGTERM);
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

fn start(plan: &LaunchPlan, spec: &WorkerSpec, log: &Path) -> io::Result<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    let (name, args) = (spec.options.id.as_str(), &spec.options.args);
    let mut command = Command::new(&plan.program);
    command
        .args(["run", "--nats", &plan.nats_url, "--name", name, "--exit-if-unfit"])
        .arg("--weights")
        .arg(&plan.weights)
        .arg("--scratch")
        .arg(plan.folder.join(name))
        .args(args)
        .stderr(log);
    let names_threads = |arg: &String| arg.split('=').next() == Some("--threads");
    if !args.iter().any(names_threads) {
        command.args(["--threads", &plan.threads.to_string()]);
    }
    spawn_worker(&mut command, spec.nkey_seed.as_deref())
}

/// Returns the last line of a log; of an error, the message alone.
fn last_line(log: &Path) -> Option<String> {
    let text = std::fs::read_to_string(log).ok()?;
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    let message = line
        .split_once(" ERROR ")
        .and_then(|(_, rest)| rest.split_once(": "))
        .map_or(line, |(_, message)| message);
    Some(message.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn plan(folder: &Path, script: &str, count: usize) -> LaunchPlan {
        let program = folder.join("worker");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        LaunchPlan {
            program,
            nats_url: "nats://localhost:1".into(),
            workers: (1..=count)
                .map(|number| WorkerSpec {
                    options: WorkerOptions {
                        id: format!("w{number}").parse().unwrap(),
                        args: Vec::new(),
                        starts_last: false,
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
        let mut workers = LocalWorkers::start(&plan(folder.path(), &script, 1), &Joins::of([]), &sender);
        assert!(matches!(
            notices.recv().await,
            Some(LocalNotice::WorkerDied { .. })
        ));
        let Some(LocalNotice::WorkerGivenUp { why, .. }) = notices.recv().await else {
            panic!("no second notice")
        };
        assert!(why.contains("no weights"), "{why}");
        while workers.supervisors.join_next().await.is_some() {}
    }

    #[tokio::test]
    async fn the_worker_that_starts_last_waits_until_the_others_have_joined_or_are_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let script = format!("cd {}; echo \"$5\" >> started; exit 3", folder.path().display());
        let mut plan = plan(folder.path(), &script, 3);
        plan.workers[0].options.starts_last = true;
        let others = [2, 3].map(|number| format!("w{number}").parse().unwrap());
        let joins = Joins::of(others);
        let (sender, mut notices) = mpsc::unbounded_channel();
        let mut workers = LocalWorkers::start(&plan, &joins, &sender);
        for _ in 0..3 {
            assert!(matches!(
                notices.recv().await,
                Some(LocalNotice::WorkerGivenUp { .. })
            ));
        }
        while workers.supervisors.join_next().await.is_some() {}
        let started = std::fs::read_to_string(folder.path().join("started")).unwrap();
        assert_eq!(started.lines().last(), Some("w1"), "{started}");
        // It is not started at all if the job ends before.
        let (sender, _notices) = mpsc::unbounded_channel();
        plan.workers.truncate(1);
        let joins = Joins::of(["w2".parse().unwrap()]);
        LocalWorkers::start(&plan, &joins, &sender).stop().await;
        let again = std::fs::read_to_string(folder.path().join("started")).unwrap();
        assert_eq!(again, started);
    }

    #[tokio::test]
    async fn stop_waits_until_every_worker_has_ended() {
        let folder = tempfile::tempdir().unwrap();
        let script = format!("cd {}; touch up-$$; exec sleep 1000", folder.path().display());
        let (sender, _notices) = mpsc::unbounded_channel();
        let workers = LocalWorkers::start(&plan(folder.path(), &script, 2), &Joins::of([]), &sender);
        workers.stop().await;
    }
}
