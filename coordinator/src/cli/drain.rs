//! `latentfarm drain`: lets a worker of a farm finish what it has begun, and then end.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use async_nats::Subscriber;
use futures::StreamExt as _;
use latentfarm_common::console::tell;
use latentfarm_common::nats::subjects::Subject;
use latentfarm_common::waiting::{WaitReport, WaitReporter, rough_time};
use latentfarm_common::wire;
use latentfarm_common::wire::outcome::{Heartbeat, WorkerState};
use serde_json::json;
use tokio::time::{Instant, timeout};

use super::args::DrainArgs;
use super::exit::{CommandError, ExitStatus, runtime};
use super::jobs;
use super::stdout::print_result;
use crate::farm::FarmClient;

/// A worker publishes a heartbeat every 2 s: one that is there is seen in this time.
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
    let subject = Subject::Heartbeat(args.worker.clone()).to_string();
    let subscribed = connection.client.subscribe(subject).await;
    let mut heartbeats = subscribed.context("cannot subscribe to the worker's heartbeats")?;
    let worker = &args.worker;
    match timeout(SEEN_WITHIN, next(&mut heartbeats)).await {
        Ok(heartbeat) if heartbeat.state != WorkerState::Left => {}
        _ => {
            let url = &args.farm.nats;
            return Err(CommandError::refused(anyhow!(
                "no worker `{worker}` is on the farm at {url}: `latentfarm top --nats {url}` lists those that are"
            )));
        }
    }
    client.drain(worker.clone()).await?;
    if args.no_wait {
        return print(args, "asked", &format!("{worker} is asked to end"));
    }
    let (mut asked, mut seen) = (Instant::now(), Instant::now());
    let mut reporter = WaitReporter::default();
    loop {
        match timeout(SEEN_WITHIN, next(&mut heartbeats)).await {
            Ok(heartbeat) if heartbeat.state == WorkerState::Left => {
                return print(args, "drained", &format!("{worker} has left the farm"));
            }
            Ok(heartbeat) => {
                seen = Instant::now();
                if heartbeat.state != WorkerState::Draining && asked.elapsed() > ASK_EVERY {
                    match client.drain(worker.clone()).await {
                        // The coordinator may be restarting.
                        Err(error) if error.may_pass() => {}
                        answered => answered?,
                    }
                    asked = Instant::now();
                }
                if let Some(WaitReport::GoesOn(waited)) = reporter.observe(Some(()), seen) {
                    tell(format_args!(
                        "waiting for {worker} for {}: {}",
                        rough_time(waited),
                        rest(&heartbeat)
                    ));
                }
            }
            Err(_) if seen.elapsed() > GONE_AFTER => {
                return Err(CommandError::failed(anyhow!(
                    "{worker} has sent nothing for {}: it was killed, or has lost the farm's server; what it had begun \
                     goes to other workers",
                    rough_time(seen.elapsed())
                )));
            }
            Err(_) => {}
        }
    }
}

/// Returns the next heartbeat that can be read.
async fn next(heartbeats: &mut Subscriber) -> Heartbeat {
    loop {
        let Some(message) = heartbeats.next().await else {
            // The connection is closing: no heartbeat will come.
            return std::future::pending().await;
        };
        match wire::decode(&message.payload) {
            Ok(heartbeat) => return heartbeat,
            Err(error) => tracing::warn!(%error, "cannot decode a heartbeat"),
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
