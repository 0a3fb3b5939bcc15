//! The printed commands of farms of several machines, with what a test does with each.

use crate::table::How::{As, Beside, BesideAs, Prepares, PreparesUntil, Runs, Stays, StaysAs};
use crate::table::Row;

/// A farm of several machines, whose server admits by keys.
pub(crate) const IN_A_FARM: &[Row] = &[
    (
        "latentfarm nats-config /srv/farm --worker gpu1 --worker gpu2",
        Runs,
    ),
    ("latentfarm nats-config /srv/latentfarm", Runs),
    (
        "latentfarm nats-config /srv/cluster --server-name n1 --route nats://n2:6222 --route nats://n3:6222",
        Runs,
    ),
    (
        "nats-server --config /srv/latentfarm/nats.conf",
        Stays("Server is ready"),
    ),
    (
        "latentfarm invite gpu1 --dir /srv/latentfarm",
        As("latentfarm invite gpu1 --dir /srv/latentfarm --url nats://HOST:4222"),
    ),
    (
        "latentfarm-worker run --join gpu1.join --weights DIR",
        Stays("ready for tasks"),
    ),
    (
        "latentfarm-worker run --join gpu1.join --weights auto",
        Stays("ready for tasks"),
    ),
    (
        "latentfarm nats-config",
        As("latentfarm nats-config /srv/latentfarm"),
    ),
    ("nats-server --signal reload=/srv/latentfarm/run/nats.pid", Runs),
    (
        "nats-server --config /srv/farm/nats.conf",
        Stays("Server is ready"),
    ),
    ("nats-server --signal reload=/srv/farm/run/nats.pid", Runs),
    (
        "export LATENTFARM_NKEY_SEED=$(cat worker-gpu1.nk) && latentfarm-worker run --nats nats://farm.example:4222 \
         --name gpu1 --weights /srv/latentsync",
        PreparesUntil("ready for tasks"),
    ),
    (
        "LATENTFARM_NKEY_SEED=$(cat worker-gpu1.nk) latentfarm-worker run --nats nats://HOST:4222 --name gpu1 --weights DIR",
        StaysAs(
            "LATENTFARM_NKEY_SEED=$(cat worker-gpu2.nk) latentfarm-worker run --nats nats://HOST:4222 --name gpu2 --weights DIR",
            "ready for tasks",
        ),
    ),
    (
        "latentfarm top --nats nats://farm.example:4222",
        BesideAs("LATENTFARM_NKEY_SEED=$(cat observer.nk) latentfarm top --nats nats://farm.example:4222"),
    ),
    (
        "latentfarm top --nats nats://farm.example:4222 --json",
        BesideAs(
            "LATENTFARM_NKEY_SEED=$(cat observer.nk) latentfarm top --nats nats://farm.example:4222 --json",
        ),
    ),
    (
        "latentfarm top --nats {url}",
        BesideAs("LATENTFARM_NKEY_SEED=$(cat observer.nk) latentfarm top --nats nats://farm.example:4222"),
    ),
    (
        "LATENTFARM_NKEY_SEED=$(cat observer.nk) latentfarm top --nats nats://HOST:4222",
        Beside,
    ),
    (
        "latentfarm serve --nats nats://farm.example:4222 --dir /srv/farm/coordinator",
        StaysAs(
            "LATENTFARM_NKEY_SEED=$(cat coordinator.nk) latentfarm serve --nats nats://farm.example:4222 --dir \
             /srv/farm/coordinator",
            "coordinating the farm",
        ),
    ),
    (
        "latentfarm serve --nats nats://farm.example:4222 --dir /srv/farm/standby --standby",
        StaysAs(
            "LATENTFARM_NKEY_SEED=$(cat coordinator.nk) latentfarm serve --nats nats://farm.example:4222 --dir \
             /srv/farm/standby --standby",
            "standing by for",
        ),
    ),
    (
        "LATENTFARM_NKEY_SEED=$(cat operator.nk) latentfarm render VIDEO AUDIO -o OUT --weights DIR --nats nats://HOST:4222",
        Runs,
    ),
    ("latentfarm revoke gpu1 --dir /srv/latentfarm", Runs),
    (
        "latentfarm explain JOB --nats nats://HOST:4222",
        As("LATENTFARM_NKEY_SEED=$(cat observer.nk) latentfarm explain JOB --nats nats://HOST:4222"),
    ),
    (
        "latentfarm explain 0123456789abcdef --nats nats://farm:4222",
        As("LATENTFARM_NKEY_SEED=$(cat observer.nk) latentfarm explain JOB --nats nats://farm:4222"),
    ),
];

/// A farm whose server admits everybody.
pub(crate) const WITHOUT_KEYS: &[Row] = &[
    ("nats-server --jetstream", Stays("Server is ready")),
    (
        "latentfarm-worker run --nats nats://farm.example:4222 --weights /srv/latentsync --tag eu,nvenc",
        Stays("ready for tasks"),
    ),
    (
        "latentfarm serve --nats URL --dir first & SERVE=$!; until latentfarm backup farm.backup --nats URL; do sleep 1; done; kill -INT $SERVE; wait $SERVE",
        Prepares,
    ),
    (
        "latentfarm restore farm.backup --nats nats://farm.example:4222",
        As("latentfarm restore farm.backup --nats URL"),
    ),
    (
        "latentfarm restore",
        As("latentfarm restore farm.backup --nats URL"),
    ),
    (
        "latentfarm serve --nats {url}",
        StaysAs("latentfarm serve --nats URL", "coordinating the farm"),
    ),
    (
        "latentfarm-worker run --nats URL --weights DIR",
        StaysAs(
            "latentfarm-worker run --nats URL --weights DIR --name second",
            "ready for tasks",
        ),
    ),
    (
        "latentfarm-worker run --nats {url} --weights {weights}",
        StaysAs(
            "latentfarm-worker run --nats URL --weights DIR --name third",
            "ready for tasks",
        ),
    ),
];
