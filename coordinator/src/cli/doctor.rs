//! `latentfarm doctor`: does this machine have what a render needs?

use std::error::Error;
use std::io::Write as _;
use std::path::Path;

use latentfarm_common::error::one_line;
use latentfarm_common::nats::server;

use super::args::DoctorArgs;
use super::exit::ExitStatus;
use crate::local::worker_program;
use crate::render::WeightsInfo;

type Finding = Result<String, Box<dyn Error>>;

/// Prints a line for each thing looked at; refused if any is missing.
pub(super) fn main(args: &DoctorArgs) -> ExitStatus {
    let findings = [
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
    let mut out = std::io::stdout();
    for (what, finding) in &findings {
        let (mark, text) = match finding {
            Ok(text) => ("ok     ", text.clone()),
            Err(error) => {
                is_ready = false;
                ("MISSING", one_line(error.as_ref()))
            }
        };
        let _closed = writeln!(out, "{mark} {what}: {text}");
    }
    if is_ready {
        ExitStatus::Complete
    } else {
        ExitStatus::Refused
    }
}

fn nats_server(explicit: Option<&Path>) -> Finding {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let program = runtime.block_on(server::locate(explicit))?;
    Ok(format!("{} ({})", program.version, program.path.display()))
}

fn worker() -> Finding {
    Ok(worker_program()?.display().to_string())
}

fn weights(dir: Option<&Path>) -> Finding {
    let dir = dir.ok_or(
        "give --weights DIR; `latentfarm-worker weights synth --size tiny --out DIR` makes random ones for trying",
    )?;
    let info = WeightsInfo::read(&worker_program()?, dir)?;
    let kind = if info.synthetic { "SYNTHETIC" } else { "real" };
    Ok(format!(
        "{kind}, {} px, {:.0} M values",
        info.resolution_px,
        info.unet_parameters as f64 / 1e6
    ))
}
