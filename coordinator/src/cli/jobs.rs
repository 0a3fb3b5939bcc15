//! `latentfarm jobs`, `status`, `pause`, `resume`, `cancel` and `set`: what a farm's coordinator has to do, shown
//! and changed.

use std::fmt::Write as _;
use std::time::Duration;

use latentfarm_common::clock;
use latentfarm_common::console::tell;
use latentfarm_common::error::one_line;
use latentfarm_common::nats::{Connection, Role, topology};
use latentfarm_common::nats::{Identity, connect};
use latentfarm_common::time::milliseconds;
use latentfarm_common::waiting::{WaitReport, WaitReporter, rough_time};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::args::{ControlArgs, JobsArgs, StatusArgs};
use super::exit::{CommandError, ExitStatus, runtime};
use super::stdout::print_result;
use crate::farm::{
    ClientError, Control, Delivery, FarmClient, JobPhase, JobRecord, JobView, ListFilter, OneMore, Outlook,
};

/// How often a command that waits looks how the job stands.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Returns what the commands of operators connect to a farm with.
pub(super) fn operator() -> Identity {
    Identity::from_environment(Role::Operator, "latentfarm".to_owned())
}

/// Connects to a farm as an operator.
pub(super) async fn connection(url: &str) -> Result<Connection, CommandError> {
    let connected = connect::connect(url, &operator(), connect::BRIEF).await;
    let connection = connected.map_err(CommandError::failed)?;
    let checked = topology::check_store(&connection.context).await;
    checked.map_err(CommandError::failed)?;
    Ok(connection)
}

pub(super) fn list(args: JobsArgs) -> Result<ExitStatus, CommandError> {
    runtime(1)?.block_on(async {
        let client = FarmClient::new(&connection(&args.farm.nats).await?);
        let mut filter = ListFilter {
            phases: args.phase,
            text: args.text,
            sort: args.sort,
            offset: args.offset,
        };
        let (mut jobs, mut total, outlook) = client.list(filter.clone()).await?;
        if args.forecast {
            print_result(if args.json {
                outlook_json(&outlook).to_string()
            } else {
                outlook_text(&outlook)
            })?;
            return Ok(ExitStatus::Complete);
        }
        while jobs.len() < args.limit.min(total - args.offset.min(total)) {
            filter.offset = args.offset + jobs.len();
            let (more, of, _) = client.list(filter.clone()).await?;
            // The last ones may be gone by now.
            if more.is_empty() {
                break;
            }
            jobs.extend(more);
            total = of;
        }
        jobs.truncate(args.limit);
        if args.json {
            for job in &jobs {
                print_result(to_json(job))?;
            }
            return Ok(ExitStatus::Complete);
        }
        print_result(table(&jobs))?;
        let listed = args.offset + jobs.len();
        if listed < total {
            print_result(format_args!("{} more: --offset {listed}", total - listed))?;
        }
        if outlook.open > 0 {
            print_result(outlook_text(&outlook))?;
        }
        Ok(ExitStatus::Complete)
    })
}

pub(super) fn status(args: &StatusArgs) -> Result<ExitStatus, CommandError> {
    runtime(1)?.block_on(async {
        let client = FarmClient::new(&connection(&args.farm.nats).await?);
        let mut view = client.show(args.job).await?;
        let (mut reporter, tell) = (WaitReporter::default(), |text: String| tell(text));
        while args.wait && !view.record.phase.is_over() {
            if args.json {
                print(&view, true)?;
            }
            let phase = view.record.phase;
            while view.record.phase == phase {
                tokio::time::sleep(LOOK_EVERY).await;
                view = look(&client, view, &mut reporter, tell).await?;
            }
        }
        print(&view, args.json)?;
        Ok(exit_status(view.record.phase))
    })
}

pub(super) fn control(args: &ControlArgs, control: Control) -> Result<ExitStatus, CommandError> {
    runtime(1)?.block_on(async {
        let client = FarmClient::new(&connection(&args.farm.nats).await?);
        let view = client.control(args.job, control).await?;
        print(&view, args.json)?;
        Ok(ExitStatus::Complete)
    })
}

pub(super) fn delete(args: &ControlArgs) -> Result<ExitStatus, CommandError> {
    runtime(1)?.block_on(async {
        let client = FarmClient::new(&connection(&args.farm.nats).await?);
        client.delete(args.job).await?;
        if args.json {
            print_result(json!({ "event": "deleted", "job": args.job.to_string() }))?;
        }
        Ok(ExitStatus::Complete)
    })
}

/// Asks how a job stands. While no coordinator answers, which may be restarted, the job stands as before, and
/// `tell` gets a line now and then.
pub(super) async fn look(
    client: &FarmClient,
    before: JobView,
    reporter: &mut WaitReporter<()>,
    tell: impl FnOnce(String),
) -> Result<JobView, ClientError> {
    let error = match client.show(before.job).await {
        Err(error) if error.may_pass() => error,
        shown => {
            reporter.observe(None, Instant::now());
            return shown;
        }
    };
    if let Some(WaitReport::GoesOn(waited)) = reporter.observe(Some(()), Instant::now()) {
        tell(format!(
            "waiting for the farm's coordinator for {}: {}",
            rough_time(waited),
            one_line(&error)
        ));
    }
    Ok(before)
}

/// Returns the exit status of a command that shows a job in this phase.
pub(super) fn exit_status(phase: JobPhase) -> ExitStatus {
    match phase {
        JobPhase::Queued | JobPhase::Running | JobPhase::Paused | JobPhase::Complete => ExitStatus::Complete,
        JobPhase::Incomplete | JobPhase::Failed | JobPhase::Cancelled => ExitStatus::Incomplete,
    }
}

pub(super) fn print(view: &JobView, json: bool) -> Result<(), CommandError> {
    if json {
        print_result(to_json(view))?;
    } else {
        print_result(to_text(view))?;
    }
    Ok(())
}

pub(super) fn to_json(view: &JobView) -> Value {
    let record = &view.record;
    json!({
        "event": "job",
        "job": view.job.to_string(),
        "name": view.name,
        "submitter": view.submitter,
        "phase": record.phase.to_string(),
        "reason": record.reason,
        "waits_for": view.waits_for,
        "needed_tags": view.needed_tags,
        "priority": record.priority,
        "frames": record.frames,
        "frames_done": record.frames_done,
        "submitted_ms": record.submitted_ms,
        "begun_ms": record.begun_ms,
        "ended_ms": record.ended_ms,
        "done_in_seconds": view.done_in.map(|time| time.as_secs()),
        "first_forecast_ms": record.forecast.map(|forecast| forecast.done_ms),
        "forecast_error_seconds": forecast_error_ms(record).map(|error| error as f64 / 1000.0),
        "deadline_ms": record.deadline_ms,
        "fetched_ms": record.fetched_ms,
        "delivery": delivery(&record.delivery),
    })
}

/// Returns the lines that describe one job.
fn to_text(view: &JobView) -> String {
    let record = &view.record;
    let mut lines = vec![
        format!("job {}: {}", view.job, view.name),
        format!(
            "  {}{}, priority {}, {} of {} frames",
            record.phase,
            took(view).map_or(String::new(), |took| format!(" after {took}")),
            record.priority,
            record.frames_done,
            record.frames
        ),
        format!(
            "  submitted by {} {} ago",
            view.submitter,
            rough_time(since(record.submitted_ms))
        ),
    ];
    if !view.needed_tags.is_empty() {
        lines.push(format!("  only on workers with the tags: {}", view.needed_tags));
    }
    let done_in = |time| format!("  done in about {}", rough_time(time));
    lines.extend(view.done_in.map(done_in));
    lines.extend(forecast_line(record));
    lines.extend(deadline(record, milliseconds(clock::since_1970())));
    lines.extend(delivery(&record.delivery).map(|what| format!("  output at the coordinator: {what}")));
    lines.extend(record.reason.iter().map(|why| format!("  reason: {why}")));
    lines.extend(view.waits_for.iter().map(|why| format!("  now: {why}")));
    lines.join("\n")
}

/// By how much a complete job was done later than the first forecast said, in milliseconds; less than 0 if it was
/// earlier.
fn forecast_error_ms(record: &JobRecord) -> Option<i64> {
    let (forecast, ended_ms) = (record.forecast?, record.ended_ms?);
    let is_complete = record.phase == JobPhase::Complete;
    is_complete.then(|| {
        ended_ms
            .cast_signed()
            .saturating_sub(forecast.done_ms.cast_signed())
    })
}

/// Returns how far off the first forecast of a complete job was.
fn forecast_line(record: &JobRecord) -> Option<String> {
    let (error_ms, forecast) = (forecast_error_ms(record)?, record.forecast?);
    let time = |ms| rough_time(Duration::from_millis(ms));
    let expected = time(forecast.done_ms.saturating_sub(forecast.made_ms));
    let side = if error_ms < 0 { "earlier" } else { "later" };
    Some(format!(
        "  done {} {side} than its first forecast, of {expected}",
        time(error_ms.unsigned_abs())
    ))
}

/// Returns what is to be expected of the jobs that were asked for.
fn outlook_text(outlook: &Outlook) -> String {
    let Outlook {
        open,
        frames_left,
        done_in,
        one_more,
    } = outlook;
    let noun = if *open == 1 { "job" } else { "jobs" };
    let mut text = format!("{open} {noun} open, {frames_left} frames left");
    match done_in {
        Some(time) => {
            let _written = write!(text, ": done in about {}", rough_time(*time));
        }
        None if *open > 0 => text.push_str(": no forecast before frames are rendered"),
        None => {}
    }
    if let Some(OneMore {
        like,
        device_mib,
        saves,
    }) = one_more
    {
        let _written = write!(
            text,
            "; one more worker like {like} ({} GiB) saves {}",
            device_mib.div_ceil(1024),
            rough_time(*saves)
        );
    }
    text
}

fn outlook_json(outlook: &Outlook) -> Value {
    json!({
        "event": "forecast",
        "open": outlook.open,
        "frames_left": outlook.frames_left,
        "done_in_seconds": outlook.done_in.map(|time| time.as_secs()),
        "one_more": outlook.one_more.as_ref().map(|more| json!({
            "like": more.like,
            "device_mib": more.device_mib,
            "saves_seconds": more.saves.as_secs(),
        })),
    })
}

/// Returns what has become of the output at the coordinator; `None` if nothing is to.
fn delivery(delivery: &Delivery) -> Option<String> {
    match delivery {
        Delivery::Fetched => None,
        Delivery::Wanted => Some("written when the job is complete".to_owned()),
        Delivery::Begun => Some("being written".to_owned()),
        Delivery::Done => Some("written".to_owned()),
        Delivery::Failed { reason } => Some(format!("not written: {reason}; `latentfarm retry` tries again")),
    }
}

/// Returns what is to be known of the time in which the job is wanted.
fn deadline(record: &JobRecord, now_ms: u64) -> Option<String> {
    let wanted = record.deadline_ms?;
    let at = record.ended_ms.unwrap_or(now_ms);
    let time = |ms| rough_time(Duration::from_millis(ms));
    Some(match (record.phase.is_over(), at <= wanted) {
        (true, true) => format!("  in time, {} before it was wanted", time(wanted - at)),
        (true, false) => format!("  late, {} after it was wanted", time(at - wanted)),
        (false, true) => format!("  wanted in {}", time(wanted - at)),
        (false, false) => format!("  wanted {} ago", time(at - wanted)),
    })
}

/// Returns a table with a line for each job.
fn table(jobs: &[JobView]) -> String {
    let mut lines = vec![format!(
        "{:16}  {:10}  P  {:>13}  {:>7}  NAME",
        "JOB", "PHASE", "FRAMES", "AGE"
    )];
    lines.extend(jobs.iter().map(|view| {
        let record = &view.record;
        let why = record.reason.as_ref().or(view.waits_for.as_ref());
        format!(
            "{:16}  {:10}  {}  {:>13}  {:>7}  {}{}",
            view.job.to_string(),
            record.phase.to_string(),
            record.priority,
            format!("{}/{}", record.frames_done, record.frames),
            short_time(since(record.submitted_ms)),
            view.name,
            why.map_or(String::new(), |why| format!(": {why}"))
        )
    }));
    lines.join("\n")
}

/// The time since a moment in milliseconds since the Unix epoch.
fn since(moment_ms: u64) -> Duration {
    clock::since_1970().saturating_sub(Duration::from_millis(moment_ms))
}

/// Returns how long a job that is over took from its begin, in words.
fn took(view: &JobView) -> Option<String> {
    let (begun_ms, ended_ms) = (view.record.begun_ms?, view.record.ended_ms?);
    Some(rough_time(Duration::from_millis(
        ended_ms.saturating_sub(begun_ms),
    )))
}

/// Returns a time in one unit, for a column of a table.
fn short_time(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_the_unit_that_fits_it() {
        for (seconds, text) in [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7200, "2 h"),
            (172_800, "2 d"),
        ] {
            assert_eq!(short_time(Duration::from_secs(seconds)), text);
        }
    }
}
