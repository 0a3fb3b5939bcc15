//! The command line of `latentfarm`: it parses arguments, runs one subcommand and prints text. Each
//! subcommand has a file or folder of its own.

mod args;
mod argument_error;
mod audit;
mod backup;
mod batch;
mod bench;
mod doctor;
mod drain;
mod events;
mod exit;
mod explain;
mod invite;
mod jobs;
mod lip_sync;
mod nats_config;
mod progress;
mod render;
mod report;
mod serve;
mod settings;
mod share_weights;
mod stdout;
mod submit;
mod sync;
mod top;
mod worker_list;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};
use latentfarm_common::console::{print_line, tell};
use latentfarm_common::error::{Chain, one_line};
use latentfarm_common::telemetry;

use args::Args;
use exit::{CommandError, ExitStatus};

use crate::farm::Control;
use crate::segment_check;

/// Parses this process's command line and runs its subcommand; `version` is what `--version` prints. An error is
/// printed once, with all its causes.
pub fn main(version: &'static str) -> ExitCode {
    let command = Args::command().version(version);
    match command
        .try_get_matches()
        .and_then(|matches| Args::from_arg_matches(&matches))
    {
        Ok(args) => run(args),
        Err(refusal) => {
            // `--help` and `--version` end here too, with exit code 0.
            let _closed = refusal.print();
            if refusal.use_stderr() && std::env::args_os().any(|arg| arg == "--json") {
                let _unread = print_line(events::error_json(ExitStatus::Refused, &exit::reason(&refusal)));
            }
            ExitCode::from(u8::try_from(refusal.exit_code()).unwrap_or(2))
        }
    }
}

/// Runs as a child of a coordinator, which writes requests to the standard input of this process.
fn check_segments() -> Result<ExitStatus, CommandError> {
    let served = segment_check::serve(std::io::stdin().lock(), std::io::stdout().lock());
    served
        .map(|()| ExitStatus::Complete)
        .map_err(CommandError::failed)
}

/// Runs the subcommand of a parsed command line.
fn run(args: Args) -> ExitCode {
    // The operator reads the command's own lines, to which the log adds errors only by default; that of a
    // coordinator is read in the morning.
    let level = match args.command {
        args::Command::Serve(_) => "info",
        _ => "error",
    };
    if let Err(error) = telemetry::init(level) {
        tell(format_args!("error: {}", Chain(&error)));
        return ExitStatus::Refused.code();
    }
    let json = args.command.prints_json();
    let outcome = match args.command {
        args::Command::Render(args) => render::main(*args),
        args::Command::Serve(args) => serve::main(args),
        args::Command::Submit(args) => submit::main(*args),
        args::Command::Jobs(args) => jobs::list(args),
        args::Command::Status(args) => jobs::status(&args),
        args::Command::Watch(args) => submit::watch(&args),
        args::Command::Pause(args) => jobs::control(&args, Control::Pause),
        args::Command::Resume(args) => jobs::control(&args, Control::Resume),
        args::Command::Cancel(args) => jobs::control(&args, Control::Cancel),
        args::Command::Retry(args) => jobs::control(&args, Control::Retry),
        args::Command::Delete(args) => jobs::delete(&args),
        args::Command::Set(args) => jobs::control(&args.control, Control::SetPriority(args.priority)),
        args::Command::Fetch(args) => submit::fetch(&args),
        args::Command::Drain(args) => drain::main(&args),
        args::Command::Explain(args) => explain::main(&args),
        args::Command::Sync(args) => sync::main(args),
        args::Command::Doctor(args) => doctor::main(&args),
        args::Command::Bench(args) => bench::main(args),
        args::Command::Top(args) => top::main(&args),
        args::Command::NatsConfig(args) => nats_config::main(&args),
        args::Command::Invite(args) => invite::invite(&args),
        args::Command::Revoke(args) => invite::revoke(&args),
        args::Command::CheckSegments => check_segments(),
        args::Command::ShareWeights(args) => share_weights::main(&args),
        args::Command::Audit(args) => audit::main(&args),
        args::Command::Backup(args) => backup::backup(&args),
        args::Command::Restore(args) => backup::restore(&args),
    };
    let status = outcome.unwrap_or_else(|error| {
        tell(format_args!("error: {}", Chain(error.source.as_ref())));
        if json {
            let _unread = print_line(events::error_json(error.status, &one_line(error.source.as_ref())));
        }
        error.status
    });
    status.code()
}
