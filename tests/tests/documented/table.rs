//! Every printed command, with what a test does with it.

/// What a test does with a printed command.
#[derive(Clone, Copy, Debug)]
pub(crate) enum How {
    /// Runs it as it is printed; it succeeds.
    Runs,
    /// Runs this in its place; it succeeds. The difference is something that the reader fills in.
    As(&'static str),
    /// Runs it as it is printed, beside the commands after it; it succeeds.
    Beside,
    /// Runs this in its place, beside the commands after it; it succeeds.
    BesideAs(&'static str),
    /// Starts it and goes on when its output contains this text. At the end it is interrupted, and succeeds.
    Stays(&'static str),
    /// As `Stays`, with this in place of the printed command.
    StaysAs(&'static str, &'static str),
    /// Prepares what the commands after it need. It is not printed anywhere.
    Prepares,
    /// Prepares by running beside the commands after it; they begin when its output contains this text.
    PreparesUntil(&'static str),
}

use How::{As, Beside, Prepares, PreparesUntil, Runs};

pub(crate) type Row = (&'static str, How);

/// Commands for one machine, in an order in which each finds what it needs. The runner has made the files
/// `talk.mp4`, `speech.wav`, `longer.mp4` and `longer.wav`.
pub(crate) const ON_ONE_MACHINE: &[Row] = &[
    (
        "latentfarm-worker weights synth --size tiny --out weights-tiny",
        Runs,
    ),
    ("latentfarm-worker weights synth --size tiny --out DIR", Runs),
    ("latentfarm-worker weights demo", Runs),
    ("latentfarm-worker weights demo --out weights-demo", Runs),
    (
        "latentfarm-worker weights synth --size tiny --out ~/latentsync",
        Prepares,
    ),
    ("latentfarm-worker weights verify DIR", Runs),
    ("latentfarm-worker weights verify ~/latentsync", Runs),
    (
        "latentfarm-worker weights verify {out}",
        As("latentfarm-worker weights verify DIR"),
    ),
    ("latentfarm-worker weights convert DIR --out DIR-f16", Runs),
    (
        "latentfarm-worker weights convert ~/latentsync --out ~/latentsync-f16",
        Runs,
    ),
    (
        "latentfarm-worker weights convert ~/latentsync --out ~/latentsync-f32 --dtype f32",
        Runs,
    ),
    ("latentfarm-worker weights describe DIR", Runs),
    ("latentfarm-worker weights describe --json ~/latentsync", Runs),
    ("latentfarm-worker probe", Runs),
    ("latentfarm-worker probe --device auto,cpu --json", Runs),
    ("latentfarm doctor --weights DIR", Runs),
    ("latentfarm doctor --weights ~/latentsync", Runs),
    ("latentfarm render --help", Runs),
    (
        "latentfarm render talk.mp4 speech.wav -o out.mp4 --weights DIR --dry-run",
        Runs,
    ),
    ("latentfarm render talk.mp4 speech.wav -o out.mp4 --dry-run", Runs),
    (
        "latentfarm render talk.mp4 speech.wav -o out.mp4 --weights DIR",
        Runs,
    ),
    (
        "latentfarm render talk.mp4 speech.wav -o out.mp4 --weights ~/latentsync",
        Runs,
    ),
    (
        "latentfarm render talk.mp4 speech.wav -o out.mp4 --preset high --workers 4",
        Runs,
    ),
    (
        "latentfarm render talk.mp4 speech.wav -o out.mkv --lossless --fps source",
        Runs,
    ),
    // Four chunks, as the examples of `explain` need.
    (
        "latentfarm render longer.mp4 longer.wav -o out.mp4 --preset lean --chunk-frames 16 --keep",
        Prepares,
    ),
    ("latentfarm sync out.mp4", Runs),
    ("latentfarm sync talk.mp4 speech.wav --json", Runs),
    ("latentfarm sync out.mp4 --html sync.html", Runs),
    ("latentfarm explain out.mp4", Runs),
    ("latentfarm explain out.mp4.latentfarm r00003", Runs),
    ("latentfarm explain out.mp4 3 --json", Runs),
    (
        "latentfarm-worker bench --weights /srv/latentsync --threads 2 --parts unet,vae-decode",
        Runs,
    ),
];

/// Measurements, which take a while.
pub(crate) const MEASURING: &[Row] = &[
    ("latentfarm bench", Runs),
    ("latentfarm bench --video talk.mp4 --seconds 20", Runs),
    ("latentfarm-worker bench --weights DIR --threads 2", Runs),
];

/// A running render is looked at.
pub(crate) const WHILE_RENDERING: &[Row] = &[
    (
        "latentfarm render longer.mp4 longer.wav -o out.mp4 --steps 200 --chunk-frames 16",
        PreparesUntil("joined"),
    ),
    ("latentfarm top out.mp4", Beside),
    ("latentfarm top OUT", Beside),
];

/// Commands of minutes or gigabytes: `cargo t --run-ignored only -E 'binary(documented)'` runs them.
pub(crate) const AT_LENGTH: &[Row] = &[
    ("latentfarm-worker weights synth --size tiny --out DIR", Prepares),
    ("latentfarm bench --work-dir /srv/farm --chunks 1000 --json", Runs),
    ("latentfarm-worker bench", Runs),
    ("latentfarm-worker memtest --weights DIR", Runs),
    (
        "latentfarm-worker memtest --weights /srv/latentsync --windows 200",
        Runs,
    ),
    (
        "latentfarm-worker weights synth --size full --out DIR",
        As("latentfarm-worker weights synth --size full --out FULL"),
    ),
];

const NETWORK: &str = "needs the network";
const NO_COMMAND: &str = "names a program in a sentence";
const CI: &str = "continuous integration runs it";

/// Commands that no test runs, with the reason. A test checks that their scripts and options exist.
pub(crate) const NOT_RUN: &[(&str, &str)] = &[
    (".ci/circles", CI),
    (".ci/run", CI),
    ("bash .ci/run", CI),
    ("cargo build --release", CI),
    ("cargo lint", CI),
    ("cargo t", CI),
    ("cargo test", "runs this test"),
    (
        "cargo t --run-ignored only -E 'binary(documented)'",
        "runs the commands of `AT_LENGTH`",
    ),
    (
        "cargo t --run-ignored only -E 'test(a_thousand_windows)'",
        "takes 4 minutes",
    ),
    (
        "cargo t --run-ignored only -E 'binary(lips_follow)'",
        "takes 8 minutes",
    ),
    (
        "cargo t -E 'test(simulation)' --no-capture",
        "runs a part of the tests",
    ),
    (
        "LATENTFARM_SIMULATION_SEEDS=100000 cargo t -E 'test(simulation)'",
        "takes 15 minutes",
    ),
    (
        "LATENTFARM_SIMULATION_SEED=1234 cargo t -E 'test(simulation_of_one)' --no-capture",
        "runs a part of the tests",
    ),
    (
        "cargo t --run-ignored only -E 'binary(chaos)'",
        "takes 45 minutes",
    ),
    (
        "cargo t --run-ignored only --no-capture -E 'binary(scale)'",
        "takes 20 minutes",
    ),
    (
        "LATENTFARM_CHAOS_SEED=7 cargo t -E 'test(a_batch_survives)'",
        "runs a part of the tests",
    ),
    ("cargo quick", "runs a part of the tests"),
    ("cargo golden", "runs a part of the tests"),
    ("cargo golden --no-capture", "runs a part of the tests"),
    ("cargo install cargo-nextest --locked", NETWORK),
    ("deploy/setup", CI),
    ("deploy/clips", CI),
    ("deploy/test", CI),
    ("deploy/soak", "takes half an hour"),
    (
        "deploy/fuzz --seconds 3600",
        "takes an hour; continuous integration runs a minute of it",
    ),
    ("deploy/fuzz", CI),
    ("deploy/quickstart", NETWORK),
    ("deploy/quickstart VIDEO AUDIO OUT.mp4", NETWORK),
    ("deploy/pictures", NETWORK),
    ("deploy/demo-oom", NETWORK),
    ("deploy/bundle", NETWORK),
    ("deploy/build-cuda", NETWORK),
    ("deploy/build-cuda 75", NETWORK),
    ("deploy/cuda-libs", NETWORK),
    ("deploy/gpu-check", "needs a GPU"),
    ("deploy/gpu-check quick", "needs a GPU"),
    ("latentfarm serve --host", NO_COMMAND),
    ("latentfarm fetch", NO_COMMAND),
    ("latentfarm retry", NO_COMMAND),
    ("latentfarm serve --replicas 3", "needs a cluster of servers"),
    (
        "HF_ENDPOINT=https://mirror.example latentfarm-worker weights pull --out ~/latentsync",
        NETWORK,
    ),
    ("latentfarm-worker weights pull --out DIR", NETWORK),
    ("latentfarm-worker weights pull --out ~/latentsync", NETWORK),
    (
        "latentfarm-worker weights pull --model 1.6 --out ~/latentsync-1.6",
        NETWORK,
    ),
    (
        "latentfarm-worker bench --weights DIR --threads 2 --compare pytorch.json",
        "needs PyTorch's figures",
    ),
    (
        "python3 -m venv .venv && .venv/bin/pip install -r requirements.txt",
        NETWORK,
    ),
    (
        "nats-server --config {}",
        "is printed with the path of the configuration, as in the examples",
    ),
    ("latentfarm explain", NO_COMMAND),
    ("latentfarm top", NO_COMMAND),
    ("latentfarm render", NO_COMMAND),
    ("latentfarm resume", NO_COMMAND),
    ("latentfarm serve", NO_COMMAND),
    ("latentfarm status", NO_COMMAND),
    ("latentfarm submit", NO_COMMAND),
    ("latentfarm-worker bench --save SAVED", NO_COMMAND),
    ("latentfarm-worker memtest", NO_COMMAND),
    ("latentfarm-worker run", NO_COMMAND),
    ("latentfarm-worker weights pull", NO_COMMAND),
    ("latentfarm-worker weights synth", NO_COMMAND),
];
