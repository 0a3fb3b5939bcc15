//! `latentfarm drain`: lets a worker of a farm, or all those of a machine, finish what they have begun, and then end.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use async_nats::Subscriber;
use futures::StreamExt as _;
use futures::stream::{SelectAll, select_all};
use latentfarm_common::console::tell;
use latentfarm_common::ids::WorkerId;
use latentfarm_common::nats::heartbeats;
use latentfarm_common::nats::subjects::Subject;
use latentfarm_common::waiting::{WaitReport, WaitReporter, rough_time};
use latentfarm_common::wire::outcome::{Heartbeat, WorkerState};
use serde_json::json;
use tokio::time::{Instant, timeout, timeout_at};

use super::args::DrainArgs;
use super::exit::{CommandError, ExitStatus, runtime};
use super::jobs;
use super::stdout::print_result;
use crate::farm::FarmClient;

/// A worker publishes a heartbeat every 2 s: those that are there are seen in this time.
const SEEN_WITHIN: Duration = Duration::from_secs(6);
/// A worker that was seen and is silent for this long has ended, or is cut off.
const GONE_AFTER: Duration = Duration::from_secs(30);
/// A worker that does not show that it drains is asked again this often: it may have been cut off.
const ASK_EVERY: Duration = Duration::from_secs(5);

pub(super) fn main(args: &DrainArgs) -> Result<ExitStatus, CommandError> {
    runtime(1)?.block_on(async {
        tokio::select! {
            drained = drain(args) => drained,
            _ = tokio::signal::ctrl_c() => {
                tell("stopped waiting; a worker that was asked to end does so when it has finished");
                Ok(ExitStatus::Interrupted)
            }
        }
    })
}

async fn drain(args: &DrainArgs) -> Result<ExitStatus, CommandError> {
    let connection = jobs::connection(&args.farm.nats).await?;
    let client = FarmClient::new(&connection);
    let mut subscribers = Vec::new();
    for worker in args.worker.of_machine() {
        let subject = Subject::Heartbeat(worker).to_string();
        let subscribed = connection.client.subscribe(subject).await;
        subscribers.push(subscribed.context("cannot subscribe to the worker's heartbeats")?);
    }
    let mut messages = select_all(subscribers);
    let name = &args.worker;
    let mut workers = present(&mut messages, name).await;
    if workers.is_empty() {
        let url = &args.farm.nats;
        return Err(CommandError::refused(anyhow!(
            "no worker `{name}` is on the farm at {url}: `latentfarm top --nats {url}` lists those that are"
        )));
    }
    for worker in workers.keys() {
        client.drain(worker.clone()).await?;
    }
    if args.no_wait {
        return print(args, "asked", &format!("{name} is asked to end"));
    }
    let mut asked = Instant::now();
    let mut reporter = WaitReporter::default();
    while !workers.is_empty() {
        let heartbeat = timeout(SEEN_WITHIN, next(&mut messages)).await.ok();
        let now = Instant::now();
        if let Some(heartbeat) = heartbeat {
            let worker = heartbeat.worker.clone();
            if heartbeat.state == WorkerState::Left {
                workers.remove(&worker);
                continue;
            }
            workers.insert(worker.clone(), now);
            if heartbeat.state != WorkerState::Draining && asked.elapsed() > ASK_EVERY {
                match client.drain(worker.clone()).await {
                    // The coordinator may be restarting.
                    Err(error) if error.may_pass() => {}
                    answered => answered?,
                }
                asked = now;
            }
            if let Some(WaitReport::GoesOn(waited)) = reporter.observe(Some(()), now) {
                tell(format_args!(
                    "waiting for {worker} for {}: {}",
                    rough_time(waited),
                    rest(&heartbeat)
                ));
            }
        }
        if let Some((worker, seen)) = workers.iter().find(|(_, seen)| now - **seen > GONE_AFTER) {
            return Err(CommandError::failed(anyhow!(
                "{worker} has sent nothing for {}: it was killed, or has lost the farm's server; what it had begun goes to \
                 other workers",
                rough_time(now - *seen)
            )));
        }
    }
    print(args, "drained", &format!("{name} has left the farm"))
}

/// Returns the workers of this name that are on the farm, with the time at which each was seen: the worker itself, or those on
/// the devices of the machine that has the name.
async fn present(messages: &mut Heartbeats, name: &WorkerId) -> BTreeMap<WorkerId, Instant> {
    let mut found = BTreeMap::new();
    let until = Instant::now() + SEEN_WITHIN;
    while let Ok(heartbeat) = timeout_at(until, next(messages)).await {
        if heartbeat.state == WorkerState::Left {
            found.remove(&heartbeat.worker);
            continue;
        }
        let is_alone = heartbeat.worker == *name;
        found.insert(heartbeat.worker, Instant::now());
        if is_alone {
            break;
        }
    }
    found
}

/// The heartbeats of some workers.
type Heartbeats = SelectAll<Subscriber>;

/// Returns the next heartbeat that can be read.
async fn next(messages: &mut Heartbeats) -> Heartbeat {
    loop {
        let Some(message) = messages.next().await else {
            // The connection is closing: no heartbeat will come.
            return std::future::pending().await;
        };
        match heartbeats::read(&message) {
            Ok((heartbeat, _)) => return heartbeat,
            Err(error) => tracing::warn!(%error, "a heartbeat cannot be read"),
        }
    }
}

/// Returns what a worker has still to do before it ends.
fn rest(heartbeat: &Heartbeat) -> String {
    let tasks: Vec<String> = heartbeat
        .tasks()
        .map(|task| {
            let (done, total) = (task.frames_done, task.frames_total);
            format!("{} has {done} of {total} frames", task.chunk)
        })
        .collect();
    if tasks.is_empty() {
        return "it has begun nothing, and ends in a moment".to_owned();
    }
    tasks.join(", ")
}

fn print(args: &DrainArgs, event: &str, text: &str) -> Result<ExitStatus, CommandError> {
    if args.json {
        print_result(json!({ "event": event, "worker": args.worker }))?;
    } else {
        print_result(text)?;
    }
    Ok(ExitStatus::Complete)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_is_waited_for_is_said_to_have_its_frames_or_nothing() {
        let mut heartbeat = Heartbeat::starting("w1".parse().unwrap(), "cpu".to_owned());
        assert_eq!(rest(&heartbeat), "it has begun nothing, and ends in a moment");
        heartbeat.task = Some(latentfarm_common::wire::outcome::TaskProgress {
            chunk: "0123456789abcdef.r00003".parse().unwrap(),
            attempt: latentfarm_common::ids::Attempt { epoch: 1, number: 1 },
            frames_done: 12,
            frames_total: 32,
            stage: latentfarm_common::wire::outcome::TaskStage::Starting,
            queue: None,
            plan: None,
        });
        assert_eq!(rest(&heartbeat), "0123456789abcdef.r00003 has 12 of 32 frames");
    }
}
