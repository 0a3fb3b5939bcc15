//! `latentfarm audit`: whether what a farm has stored holds together.

use std::time::Duration;

use latentfarm_common::console::tell;
use latentfarm_common::nats::{Identity, Role};
use serde_json::json;
use tokio::time::sleep;

use super::args::AuditArgs;
use super::exit::{CommandError, ExitStatus, runtime};
use super::stdout::print_result;
use crate::dispatch::Farm;
use crate::farm;

/// The time between two looks at a farm that may be at work: what the coordinator is about to mend is mended then.
const BETWEEN_LOOKS: Duration = Duration::from_secs(15);

pub(super) fn main(args: &AuditArgs) -> Result<ExitStatus, CommandError> {
    runtime(2)?.block_on(async {
        let identity = Identity::from_environment(Role::Observer, "latentfarm audit".to_owned());
        let connected = Farm::connect(&args.nats, &identity).await;
        let farm = connected.map_err(CommandError::failed)?;
        let look = || farm::audit(&farm, args.verify);
        let mut audit = look().await.map_err(CommandError::failed)?;
        if !audit.findings.is_empty() {
            tell(format_args!(
                "{} findings; looking again in {} s, as a farm at work changes",
                audit.findings.len(),
                BETWEEN_LOOKS.as_secs()
            ));
            sleep(BETWEEN_LOOKS).await;
            let again = look().await.map_err(CommandError::failed)?;
            audit.findings.retain(|finding| again.findings.contains(finding));
        }
        farm.connection.close().await;
        let findings: Vec<String> = audit.findings.iter().map(ToString::to_string).collect();
        if args.json {
            print_result(json!({
                "event": "audit",
                "jobs": audit.jobs,
                "done_records": audit.done_records,
                "blobs": audit.blobs,
                "findings": findings,
            }))?;
        } else {
            for finding in &findings {
                print_result(finding)?;
            }
            print_result(format_args!(
                "{} findings in {} jobs, {} done records and {} blobs",
                findings.len(),
                audit.jobs,
                audit.done_records,
                audit.blobs
            ))?;
        }
        Ok(if findings.is_empty() {
            ExitStatus::Complete
        } else {
            ExitStatus::Incomplete
        })
    })
}
