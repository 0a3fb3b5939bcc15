//! `latentfarm doctor` checks this machine before a render that starts its own server and workers here:
//! nats-server, the worker program, the weights, and the number of CPU cores, which is only printed.

use std::error::Error;
use std::path::Path;

use latentfarm_common::error::one_line;
use latentfarm_common::nats::server;

use super::args::DoctorArgs;
use super::exit::{CommandError, ExitStatus};
use super::stdout::print_result;
use crate::local::worker_program;
use crate::render::{WeightsInfo, demo_folder};

/// The text after `ok`, or why the check failed.
type CheckResult = Result<String, Box<dyn Error>>;

/// Runs the checks and prints one line for each. The exit status is [`ExitStatus::Refused`] if any check
/// failed.
pub(super) fn main(args: &DoctorArgs) -> Result<ExitStatus, CommandError> {
    let checks = [
        ("nats-server", nats_server(args.nats_server.as_deref())),
        ("worker", worker()),
        ("weights", weights(args.weights.as_deref())),
        (
            "cores",
            Ok(std::thread::available_parallelism()
                .map_or(1, std::num::NonZero::get)
                .to_string()),
        ),
    ];
    let mut is_ready = true;
    let mut lines = Vec::with_capacity(checks.len());
    for (name, result) in &checks {
        is_ready &= result.is_ok();
        lines.push(match result {
            Ok(text) => format!("ok      {name}: {text}"),
            Err(error) => format!("MISSING {name}: {}", one_line(error.as_ref())),
        });
    }
    print_result(lines.join("\n"))?;
    Ok(if is_ready {
        ExitStatus::Complete
    } else {
        ExitStatus::Refused
    })
}

fn nats_server(explicit: Option<&Path>) -> CheckResult {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let program = runtime.block_on(server::locate(explicit))?;
    Ok(format!("{} ({})", program.version, program.path.display()))
}

fn worker() -> CheckResult {
    Ok(worker_program()?.display().to_string())
}

fn weights(dir: Option<&Path>) -> CheckResult {
    let worker = worker_program()?;
    let dir = match dir {
        Some(dir) => dir.to_owned(),
        None => demo_folder(&worker)?,
    };
    let info = WeightsInfo::read(&worker, &dir)?;
    let kind = info.kind.mark().unwrap_or("real weights");
    Ok(format!(
        "{kind}, {} px, {:.0} M values",
        info.resolution_px,
        info.unet_parameters as f64 / 1e6
    ))
}
