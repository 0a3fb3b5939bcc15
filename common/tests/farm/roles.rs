//! What each role may do on a farm's server, as a table that `deploy/README.md` prints: each operation is tried with the
//! key of each role.

use std::fmt::Write as _;

use async_nats::{Client, ConnectOptions, Event, ServerError};
use latentfarm_common::nats::Identity;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::support::{Farm, LIMIT, worker};

/// The page with the table.
const PAGE: &str = include_str!("../../../deploy/README.md");
const ROLES: [&str; 4] = ["coordinator", "operator", "worker", "observer"];

/// Something that somebody does by publishing to a subject, or by subscribing to it.
#[derive(Clone, Copy)]
enum Deed {
    Publish(&'static str),
    Subscribe(&'static str),
}
use Deed::{Publish, Subscribe};

/// The operations, and whether coordinator, operator, the worker `w1` and observer may do them. What would delete
/// something names nothing that exists.
const OPERATIONS: &[(&str, Deed, [bool; 4])] = &[
    (
        "publish a task",
        Publish("farm.task.analyze.p1.0123456789abcdef.r00000"),
        [true, false, false, false],
    ),
    (
        "pull a task",
        Publish("$JS.API.CONSUMER.MSG.NEXT.FARM_TASKS.analyze-p1"),
        [true, false, true, false],
    ),
    (
        "acknowledge a task",
        Publish("$JS.ACK.FARM_TASKS.analyze-p1.1.1.1.1.0"),
        [true, false, true, false],
    ),
    (
        "write a done record",
        Publish("farm.done.0123456789abcdef.r00000"),
        [true, false, true, false],
    ),
    (
        "read done records",
        Publish("$JS.API.DIRECT.GET.FARM_DONE.farm.done.0123456789abcdef.r00000"),
        [true, true, true, true],
    ),
    (
        "publish events and heartbeats under the own name",
        Publish("farm.hb.w1"),
        [true, false, true, false],
    ),
    (
        "publish events of another worker",
        Publish("farm.evt.w2.0123456789abcdef.started"),
        [true, false, false, false],
    ),
    (
        "publish heartbeats of another worker",
        Publish("farm.hb.w2"),
        [true, false, false, false],
    ),
    (
        "read events and heartbeats of all",
        Subscribe("farm.hb.>"),
        [true, true, false, true],
    ),
    (
        "command a worker",
        Publish("farm.ctl.w1"),
        [true, false, false, false],
    ),
    (
        "receive the own commands",
        Subscribe("farm.ctl.w1"),
        [true, false, true, false],
    ),
    (
        "receive commands to another worker",
        Subscribe("farm.ctl.w2"),
        [true, false, false, false],
    ),
    (
        "store a blob",
        Publish("$O.farm-media.C.0123456789abcdef"),
        [true, true, true, false],
    ),
    (
        "read blobs",
        Publish("$JS.API.DIRECT.GET.OBJ_farm-media"),
        [true, true, true, true],
    ),
    (
        "read shared weights",
        Publish("$JS.API.DIRECT.GET.OBJ_farm-weights.farm.weights.0123"),
        [true, true, true, true],
    ),
    (
        "share weights",
        Publish("farm.weights.0123"),
        [true, false, false, false],
    ),
    (
        "store a file of shared weights",
        Publish("$O.farm-weights.M.0123"),
        [true, false, false, false],
    ),
    (
        "record a segment of a video",
        Publish("$KV.farm-jobs.0123456789abcdef.segment.0"),
        [true, true, false, false],
    ),
    (
        "write manifests and records of jobs",
        Publish("$KV.farm-jobs.0123456789abcdef.record"),
        [true, false, false, false],
    ),
    (
        "read manifests and records of jobs",
        Publish("$JS.API.DIRECT.GET.KV_farm-jobs.$KV.farm-jobs.0123456789abcdef.record"),
        [true, true, false, true],
    ),
    (
        "ask the coordinator to change something",
        Publish("farm.request"),
        [true, true, false, false],
    ),
    (
        "ask the coordinator a question",
        Publish("farm.question"),
        [true, true, false, true],
    ),
    (
        "take the coordinator's lease",
        Publish("$KV.farm-lease.coordinator"),
        [true, false, false, false],
    ),
    (
        "record memory needs",
        Publish("$KV.farm-needs.0123456789abcdef"),
        [true, false, false, false],
    ),
    (
        "create streams and consumers",
        Publish("$JS.API.CONSUMER.CREATE.NONE.mine"),
        [true, false, false, false],
    ),
    (
        "delete streams",
        Publish("$JS.API.STREAM.DELETE.NONE"),
        [true, false, false, false],
    ),
    (
        "purge streams",
        Publish("$JS.API.STREAM.PURGE.NONE"),
        [true, false, false, false],
    ),
    (
        "delete single messages",
        Publish("$JS.API.STREAM.MSG.DELETE.NONE"),
        [true, false, false, false],
    ),
    (
        "restore a stream from a backup",
        Publish("$JS.API.STREAM.RESTORE.NONE"),
        [false, false, false, false],
    ),
    (
        "purge the account",
        Publish("$JS.API.ACCOUNT.PURGE.NONE"),
        [false, false, false, false],
    ),
    (
        "receive replies to a worker",
        Subscribe("_INBOX_w2.>"),
        [false, false, false, false],
    ),
    ("receive everything", Subscribe(">"), [false, false, false, false]),
];

/// A client with the errors that the server has sent it, in lower case.
struct Actor {
    client: Client,
    errors: watch::Receiver<Vec<String>>,
}

impl Actor {
    async fn connect(farm: &Farm, identity: Identity) -> Self {
        let (collected, errors) = watch::channel(Vec::new());
        let client = ConnectOptions::with_nkey(identity.nkey_seed.unwrap())
            .custom_inbox_prefix(identity.role.inbox_prefix())
            .event_callback(move |event| {
                if let Event::ServerError(ServerError::Other(error)) = event {
                    collected.send_modify(|all| all.push(error.to_lowercase()));
                }
                std::future::ready(())
            });
        let client = client.connect(farm.server.url()).await.unwrap();
        Self { client, errors }
    }

    /// Whether the server lets the client do this. The server answers in order: once it has refused what is never
    /// allowed, it has allowed or refused what came before.
    async fn may(&self, deed: Deed, number: usize) -> bool {
        let (kind, subject) = match deed {
            Publish(subject) => {
                self.client.publish(subject, "x".into()).await.unwrap();
                ("publish", subject)
            }
            Subscribe(subject) => {
                drop(self.client.subscribe(subject).await.unwrap());
                ("subscription", subject)
            }
        };
        let probe = format!("nobody.may.{number}");
        self.client.publish(probe.clone(), "x".into()).await.unwrap();
        self.client.flush().await.unwrap();
        let is_refused = |all: &Vec<String>, kind: &str, subject: &str| {
            let part = format!("for {kind} to \"{}\"", subject.to_lowercase());
            all.iter().any(|line| line.contains(&part))
        };
        let mut errors = self.errors.clone();
        let answered = errors.wait_for(|all| is_refused(all, "publish", &probe));
        let answered = timeout(LIMIT, answered).await;
        let all = answered.expect("the server refuses what nobody may").unwrap();
        !is_refused(&all, kind, subject)
    }
}

#[tokio::test]
async fn every_role_may_do_its_work_and_nothing_else() {
    let farm = Farm::start().await;
    let server = &farm.server;
    let identities = [
        server.coordinator(),
        server.operator(),
        server.worker(&worker("w1")).unwrap(),
        server.observer(),
    ];
    let mut actors = Vec::new();
    for identity in identities {
        actors.push(Actor::connect(&farm, identity).await);
    }
    let mut table = format!("| operation | {} |\n|---|---|---|---|---|\n", ROLES.join(" | "));
    for (number, (name, deed, allowed)) in OPERATIONS.iter().enumerate() {
        let _written = write!(table, "| {name} |");
        for (role, (actor, allowed)) in ROLES.iter().zip(actors.iter().zip(allowed)) {
            assert_eq!(actor.may(*deed, number).await, *allowed, "{role}: {name}");
            table.push_str(if *allowed { " yes |" } else { " |" });
        }
        table.push('\n');
    }
    assert!(
        PAGE.contains(&table),
        "deploy/README.md lacks this table:\n{table}"
    );
}
