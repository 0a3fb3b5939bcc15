//! `latentfarm-worker memtest`: does the engine govern its memory on this machine?
//!
//! It starts engines as `run` does, renders windows of made-up faces and sound, and looks at what they tell.

mod inputs;
mod plan;
mod process;
mod report;
mod suite;

use std::process::ExitCode;

use latentfarm_common::error::Chain;

use super::exit::{EXIT_UNFIT, refuse, say};
use plan::Plan;

pub(super) use plan::MemtestArgs;

pub(super) fn main(args: MemtestArgs) -> ExitCode {
    let plan = match Plan::new(args) {
        Ok(plan) => plan,
        Err(error) => return refuse(error.as_ref()),
    };
    let report = match suite::run(&plan) {
        Ok(report) => report,
        Err(error) => {
            tracing::error!("{}", Chain(error.as_ref()));
            return ExitCode::from(EXIT_UNFIT);
        }
    };
    let text = if plan.args.json {
        report.json()
    } else {
        report.table()
    };
    say(text.trim_end(), ExitCode::from(u8::from(!report.passed())))
}
