//! Sends commands to the workers. A command may be lost: whoever depends on one sends it again.

use latentfarm_common::ids::WorkerId;
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::subjects::Subject;
use latentfarm_common::wire;
use latentfarm_common::wire::outcome::WorkerCommand;

/// Sends a command to one worker, or to all.
pub(crate) async fn send(
    connection: &Connection,
    to: Option<WorkerId>,
    command: &WorkerCommand,
) -> Result<(), async_nats::Error> {
    let payload = wire::encode(command)?;
    let subject = Subject::Control(to).to_string();
    connection.client.publish(subject, payload.into()).await?;
    Ok(())
}
