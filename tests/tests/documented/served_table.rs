//! The printed commands of a farm with a standing coordinator, with what a test does with each.

use crate::table::How::{As, Prepares, PreparesUntil, Runs, Stays, StaysAs};
use crate::table::Row;

/// A farm with a standing coordinator.
pub(crate) const SERVED: &[Row] = &[
    (
        "latentfarm serve --dir /srv/farm --host farm.example",
        StaysAs(
            "latentfarm serve --dir /srv/farm --host farm.example --worker gpu2 --listen 127.0.0.1:0",
            "coordinating the farm",
        ),
    ),
    (
        "latentfarm invite gpu1 --dir /srv/farm",
        As("latentfarm invite gpu1 --dir /srv/farm --url tls://farm.example:4222"),
    ),
    (
        "latentfarm-worker run --join gpu1.join --weights /srv/latentsync",
        Stays("ready for tasks"),
    ),
    (
        "export LATENTFARM_NATS=tls://farm.example:4222 LATENTFARM_CA=ca.pem LATENTFARM_NKEY_SEED=$(cat operator.nk) && latentfarm submit talk.mp4 speech.wav -o out.mp4 --weights /srv/latentsync",
        Runs,
    ),
    (
        "latentfarm render talk.mp4 speech.wav -o out.mp4 --weights /srv/latentsync --nats $LATENTFARM_NATS",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) latentfarm render talk.mp4 speech.wav -o out.mp4 --weights /srv/latentsync --nats nats://farm.example:4222",
        ),
    ),
    (
        "latentfarm submit talk.mp4 speech.wav -o out.mp4 --weights ~/latentsync --nats nats://farm.example:4222",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) latentfarm submit talk.mp4 speech.wav -o out.mp4 --weights ~/latentsync --nats nats://farm.example:4222",
        ),
    ),
    // No worker of this farm has a tag.
    (
        "latentfarm submit talk.mp4 speech.wav -o out.mp4 --nats nats://farm.example:4222 --need-tag eu",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) latentfarm submit talk.mp4 speech.wav -o tagged.mp4 --seed 9 --nats nats://farm.example:4222 --need-tag eu",
        ),
    ),
    (
        "latentfarm submit talk.mp4 speech.wav -o out.mp4 --nats nats://farm.example:4222 --priority 0 --wait",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) latentfarm submit talk.mp4 speech.wav -o out.mp4 --nats nats://farm.example:4222 --priority 0 --wait",
        ),
    ),
    (
        "latentfarm submit --batch jobs.jsonl --nats nats://farm.example:4222",
        As(
            "echo '{\"video\": \"talk.mp4\", \"audio\": \"speech.wav\", \"output\": \"batch.mp4\", \"steps\": 2}' > jobs.jsonl \
             && LATENTFARM_NKEY_SEED=$(cat operator.nk) latentfarm submit --batch jobs.jsonl --nats nats://farm.example:4222",
        ),
    ),
    (
        "latentfarm submit --batch jobs.jsonl",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) LATENTFARM_NATS=nats://farm.example:4222 latentfarm submit --batch \
             jobs.jsonl",
        ),
    ),
    (
        "latentfarm jobs",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) LATENTFARM_NATS=nats://farm.example:4222 latentfarm jobs",
        ),
    ),
    (
        "latentfarm status JOB",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) LATENTFARM_NATS=nats://farm.example:4222 latentfarm status JOB",
        ),
    ),
    (
        "latentfarm watch JOB",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) LATENTFARM_NATS=nats://farm.example:4222 latentfarm watch JOB",
        ),
    ),
    (
        "latentfarm fetch JOB -o out.mp4",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) LATENTFARM_NATS=nats://farm.example:4222 latentfarm fetch JOB -o out.mp4",
        ),
    ),
    (
        "latentfarm jobs --nats nats://farm.example:4222",
        As("LATENTFARM_NKEY_SEED=$(cat operator.nk) latentfarm jobs --nats nats://farm.example:4222"),
    ),
    (
        "latentfarm jobs --nats nats://farm.example:4222 --phase running --phase queued",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) latentfarm jobs --nats nats://farm.example:4222 --phase running --phase queued",
        ),
    ),
    (
        "latentfarm jobs --nats nats://farm.example:4222 --text talk --json",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) latentfarm jobs --nats nats://farm.example:4222 --text talk --json",
        ),
    ),
    (
        "latentfarm status 0123456789abcdef --nats nats://farm.example:4222",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) latentfarm status 0123456789abcdef --nats nats://farm.example:4222",
        ),
    ),
    (
        "latentfarm status 0123456789abcdef --nats nats://farm.example:4222 --wait",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) latentfarm status 0123456789abcdef --nats nats://farm.example:4222 --wait",
        ),
    ),
    (
        "latentfarm watch 0123456789abcdef --nats nats://farm.example:4222",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) latentfarm watch 0123456789abcdef --nats nats://farm.example:4222",
        ),
    ),
    (
        "latentfarm watch 0123456789abcdef --nats nats://farm.example:4222 --json",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) latentfarm watch 0123456789abcdef --nats nats://farm.example:4222 --json",
        ),
    ),
    (
        "latentfarm fetch 0123456789abcdef -o out.mp4 --nats nats://farm.example:4222",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) latentfarm fetch 0123456789abcdef -o out.mp4 --nats nats://farm.example:4222",
        ),
    ),
    (
        "LATENTFARM_NKEY_SEED=$(cat operator.nk) LATENTFARM_NATS=nats://farm.example:4222 latentfarm submit longer.mp4 longer.wav -o longer-out.mp4 --steps 200 --chunk-frames 16",
        Prepares,
    ),
    (
        "latentfarm set JOB --priority 0",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) LATENTFARM_NATS=nats://farm.example:4222 latentfarm set JOB --priority 0",
        ),
    ),
    (
        "latentfarm pause 0123456789abcdef --nats nats://farm.example:4222",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) latentfarm pause 0123456789abcdef --nats nats://farm.example:4222",
        ),
    ),
    (
        "latentfarm resume 0123456789abcdef --nats nats://farm.example:4222",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) latentfarm resume 0123456789abcdef --nats nats://farm.example:4222",
        ),
    ),
    (
        "latentfarm set 0123456789abcdef --priority 0 --nats nats://farm.example:4222",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) latentfarm set 0123456789abcdef --priority 0 --nats nats://farm.example:4222",
        ),
    ),
    (
        "latentfarm set",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) LATENTFARM_NATS=nats://farm.example:4222 latentfarm set JOB --priority 1",
        ),
    ),
    (
        "latentfarm cancel {job}",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) LATENTFARM_NATS=nats://farm.example:4222 latentfarm cancel JOB",
        ),
    ),
    (
        "LATENTFARM_NKEY_SEED=$(cat operator.nk) LATENTFARM_NATS=nats://farm.example:4222 latentfarm retry JOB",
        Prepares,
    ),
    (
        "latentfarm cancel 0123456789abcdef --nats nats://farm.example:4222",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) latentfarm cancel 0123456789abcdef --nats nats://farm.example:4222",
        ),
    ),
    (
        "latentfarm retry 0123456789abcdef --nats nats://farm.example:4222",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) latentfarm retry 0123456789abcdef --nats nats://farm.example:4222",
        ),
    ),
    (
        "LATENTFARM_NKEY_SEED=$(cat operator.nk) latentfarm cancel 0123456789abcdef --nats nats://farm.example:4222",
        Prepares,
    ),
    (
        "latentfarm delete 0123456789abcdef --nats nats://farm.example:4222",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) latentfarm delete 0123456789abcdef --nats nats://farm.example:4222",
        ),
    ),
    (
        "LATENTFARM_NKEY_SEED=$(cat worker-gpu2.nk) latentfarm-worker run --nats nats://farm.example:4222 --name gpu2 --weights DIR",
        PreparesUntil("ready for tasks"),
    ),
    (
        "latentfarm drain gpu1",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) LATENTFARM_NATS=nats://farm.example:4222 latentfarm drain gpu1",
        ),
    ),
    (
        "latentfarm drain gpu1 --nats nats://farm.example:4222 --no-wait",
        As(
            "LATENTFARM_NKEY_SEED=$(cat operator.nk) latentfarm drain gpu2 --nats nats://farm.example:4222 --no-wait",
        ),
    ),
    (
        "LATENTFARM_NKEY_SEED=$(cat worker-gpu1.nk) latentfarm-worker run --nats nats://farm.example:4222 --name gpu1 --weights DIR",
        PreparesUntil("ready for tasks"),
    ),
    (
        "latentfarm drain gpu1 --nats nats://farm.example:4222",
        As("LATENTFARM_NKEY_SEED=$(cat operator.nk) latentfarm drain gpu1 --nats nats://farm.example:4222"),
    ),
    ("latentfarm revoke gpu1 --dir /srv/farm", Runs),
    (
        "latentfarm share-weights ~/latentsync --nats nats://farm.example:4222",
        As(
            "LATENTFARM_NKEY_SEED=$(cat coordinator.nk) latentfarm share-weights ~/latentsync --nats nats://farm.example:4222",
        ),
    ),
    (
        "latentfarm share-weights",
        As(
            "LATENTFARM_NKEY_SEED=$(cat coordinator.nk) LATENTFARM_NATS=nats://farm.example:4222 latentfarm share-weights DIR",
        ),
    ),
    (
        "latentfarm share-weights DIR --nats URL",
        As(
            "LATENTFARM_NKEY_SEED=$(cat coordinator.nk) latentfarm share-weights DIR --nats nats://farm.example:4222",
        ),
    ),
    (
        "latentfarm share-weights DIR --nats nats://farm.example:4222",
        As(
            "LATENTFARM_NKEY_SEED=$(cat coordinator.nk) latentfarm share-weights DIR --nats nats://farm.example:4222",
        ),
    ),
    (
        "latentfarm audit --nats nats://farm.example:4222",
        As("LATENTFARM_NKEY_SEED=$(cat observer.nk) latentfarm audit --nats nats://farm.example:4222"),
    ),
    (
        "latentfarm audit --nats nats://farm.example:4222 --verify",
        As(
            "LATENTFARM_NKEY_SEED=$(cat observer.nk) latentfarm audit --nats nats://farm.example:4222 --verify",
        ),
    ),
    (
        "latentfarm audit --nats nats://farm.example:4222 --verify --json",
        As(
            "LATENTFARM_NKEY_SEED=$(cat observer.nk) latentfarm audit --nats nats://farm.example:4222 --verify --json",
        ),
    ),
    (
        "latentfarm audit",
        As(
            "LATENTFARM_NKEY_SEED=$(cat observer.nk) LATENTFARM_NATS=nats://farm.example:4222 latentfarm audit",
        ),
    ),
    (
        "latentfarm backup farm.backup --nats nats://farm.example:4222",
        As(
            "LATENTFARM_NKEY_SEED=$(cat observer.nk) latentfarm backup farm.backup --nats nats://farm.example:4222",
        ),
    ),
    (
        "latentfarm backup farm.backup --nats nats://farm.example:4222 --no-media",
        As(
            "LATENTFARM_NKEY_SEED=$(cat observer.nk) latentfarm backup other.backup --nats nats://farm.example:4222 --no-media",
        ),
    ),
    (
        "latentfarm backup",
        As(
            "LATENTFARM_NKEY_SEED=$(cat observer.nk) LATENTFARM_NATS=nats://farm.example:4222 latentfarm backup farm.backup",
        ),
    ),
    ("latentfarm restore farm.backup --dir /srv/farm2", Runs),
    (
        "latentfarm serve --dir {dir}",
        StaysAs(
            "latentfarm serve --dir /srv/farm2 --listen 127.0.0.1:0",
            "coordinating the farm",
        ),
    ),
    (
        "latentfarm invite gpu1 --dir /srv/farm -o gpu1.join --valid 30d --tag eu --url tls://farm.example:4222",
        As(
            "rm gpu1.join && latentfarm invite gpu1 --dir /srv/farm -o gpu1.join --valid 30d --tag eu --url tls://farm.example:4222",
        ),
    ),
    (
        "latentfarm invite",
        As(
            "latentfarm revoke gpu1 --dir /srv/farm && latentfarm invite gpu1 --dir /srv/farm -o other.join --url tls://farm.example:4222",
        ),
    ),
    (
        "latentfarm revoke {name}",
        As("latentfarm revoke gpu1 --dir /srv/farm"),
    ),
    (
        "latentfarm invite {name}",
        As("latentfarm invite gpu1 --dir /srv/farm -o again.join --url tls://farm.example:4222"),
    ),
    (
        "latentfarm revoke {0}",
        As("latentfarm revoke gpu1 --dir /srv/farm"),
    ),
];
