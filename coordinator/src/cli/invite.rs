//! `latentfarm invite` and `latentfarm revoke`: admit a machine to a farm, and shut one out. Both work in the folder of the
//! farm's server, on its machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use latentfarm_common::backoff::RetryLimit;
use latentfarm_common::console::tell;
use latentfarm_common::error::one_line;
use latentfarm_common::nats::join::JoinFile;
use latentfarm_common::nats::server::{ServerError, ServerFolder};
use latentfarm_common::nats::{ConnectError, connect};
use latentfarm_common::tags::Tags;
use latentfarm_common::waiting::rough_time;
use tokio::time::{Instant, sleep};

use super::args::{InviteArgs, RevokeArgs};
use super::exit::{CommandError, ExitStatus, runtime};
use super::stdout::print_result;

/// A server reads its keys again within a fraction of a second.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Whether the server does now what it was asked to.
enum Settled {
    Yes,
    /// Nothing answers here at the server's address, for this reason.
    NoAnswer(String),
    No,
}

pub(super) fn invite(args: &InviteArgs) -> Result<ExitStatus, CommandError> {
    let path = args
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("{}.join", args.machine)));
    if path.exists() {
        return Err(CommandError::refused(anyhow!(
            "`{}` exists: name another file with -o, or remove it",
            path.display()
        )));
    }
    let tags = Tags::new(args.tag.iter().copied()).map_err(CommandError::refused)?;
    let folder = ServerFolder::find(&args.dir).map_err(refused)?;
    let join = folder
        .invite(&args.machine, args.url.clone(), args.valid)
        .map_err(refused)?
        .with_tags(tags);
    if let Err(error) = join.write(&path) {
        // Nobody has the key.
        folder.revoke(&args.machine).map_err(refused)?;
        return Err(CommandError::refused(error));
    }
    wait_until_settled(&join, true, &args.dir)?;
    print_result(path.display())?;
    tell(format_args!(
        "`{}` is admitted at {} for {}; on that machine: latentfarm-worker run --join {} --weights DIR",
        args.machine,
        join.url,
        rough_time(args.valid),
        shown(&path),
    ));
    Ok(ExitStatus::Complete)
}

pub(super) fn revoke(args: &RevokeArgs) -> Result<ExitStatus, CommandError> {
    let folder = ServerFolder::find(&args.dir).map_err(refused)?;
    let join = folder.revoke(&args.machine).map_err(refused)?;
    wait_until_settled(&join, false, &args.dir)?;
    print_result(format_args!(
        "`{}` is shut out; what it was rendering goes to other workers",
        args.machine
    ))?;
    Ok(ExitStatus::Complete)
}

/// Waits until the server admits the key, or does not any more, as far as that can be tried from here.
fn wait_until_settled(join: &JoinFile, admits: bool, dir: &Path) -> Result<(), CommandError> {
    match runtime(1)?.block_on(settled(join, admits)) {
        Settled::Yes => {}
        Settled::NoAnswer(reason) => tell(format_args!(
            "no server answers here at {}, so the key is not tried: if the server runs elsewhere, it reads its keys again \
             within seconds; otherwise when it starts ({reason})",
            join.url
        )),
        Settled::No => return Err(CommandError::failed(not_applied(dir))),
    }
    Ok(())
}

/// Tries the key until the server admits it, or does not any more.
async fn settled(join: &JoinFile, admits: bool) -> Settled {
    let deadline = Instant::now() + SETTLED_WITHIN;
    let identity = match join.identity(&join.name) {
        Ok(identity) => identity,
        Err(error) => return Settled::NoAnswer(one_line(&error)),
    };
    loop {
        let does_admit = match connect(&join.url, &identity, RetryLimit::Tries(1)).await {
            Ok(connection) => {
                connection.close().await;
                true
            }
            Err(ConnectError::Refused { .. }) => false,
            Err(error) => return Settled::NoAnswer(one_line(&error)),
        };
        if does_admit == admits {
            return Settled::Yes;
        }
        if Instant::now() >= deadline {
            return Settled::No;
        }
        sleep(LOOK_EVERY).await;
    }
}

fn not_applied(dir: &Path) -> anyhow::Error {
    anyhow!(
        "the nats-server has not read its keys again within {}: see its log, and whether it runs with the configuration \
         in `{}`; a SIGHUP to its process makes it read them",
        rough_time(SETTLED_WITHIN),
        dir.display()
    )
}

/// Returns a path as it is typed in a shell.
fn shown(path: &Path) -> String {
    let text = path.display().to_string();
    if text.contains(|c: char| !c.is_ascii_alphanumeric() && !"/._-+".contains(c)) {
        format!("'{}'", text.replace('\'', "'\\''"))
    } else {
        text
    }
}

/// Errors that other arguments can mend are refusals, the others failures.
fn refused(error: ServerError) -> CommandError {
    match error {
        ServerError::NoServer { .. }
        | ServerError::LongName(_)
        | ServerError::HasKey(_)
        | ServerError::NameOfOther { .. }
        | ServerError::NoKey { .. } => CommandError::refused(error),
        _ => CommandError::failed(error),
    }
}
