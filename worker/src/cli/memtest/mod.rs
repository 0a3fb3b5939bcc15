//! `latentfarm-worker memtest` checks how the engine manages its memory on this machine.
//!
//! It starts engines as `run` does, renders windows of made-up faces and sound, and checks the memory samples
//! that the engines report on the way.

mod engine_under_test;
mod report;
mod requests;
mod setup;
mod suite;

use std::process::ExitCode;

use super::exit::{EXIT_CANNOT_WORK, block_on, failed, print, usage_error};
use setup::Setup;

pub(super) use setup::MemtestArgs;

pub(super) fn main(args: MemtestArgs) -> ExitCode {
    let setup = match Setup::new(args) {
        Ok(setup) => setup,
        Err(error) => return usage_error(error.as_ref()),
    };
    let tested = setup.engine().map(|engine| block_on(suite::run(&setup, &engine)));
    let report = match tested.and_then(|report| report) {
        Ok(report) => report,
        Err(error) => return failed(error.as_ref(), EXIT_CANNOT_WORK),
    };
    let text = if setup.args.json {
        serde_json::to_string_pretty(&report).unwrap_or_default()
    } else {
        report.table()
    };
    print(&text, ExitCode::from(u8::from(!report.passed)))
}
