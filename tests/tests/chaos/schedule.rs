//! What happens in a run, and when: a function of the run's seed.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

/// The faults of a run begin within so many milliseconds from its start.
const WINDOW_MS: u64 = 40_000;
/// How many kinds of fault a run has.
const FAULTS: usize = 8;

pub(crate) const COORDINATORS: [&str; 2] = ["c1", "c2"];
pub(crate) const WORKERS: [&str; 3] = ["w1", "w2", "w3"];
pub(crate) const SERVER: &str = "nats";
/// The worker that reaches the server through a proxy.
pub(crate) const BEHIND_PROXY: &str = "w3";
/// The worker whose key is revoked.
pub(crate) const REVOKED: &str = "w2";

/// What is done to the tasks that are queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tampering {
    Duplicate,
    /// Removed and published again behind the others.
    Reorder,
    Delete,
}

/// What is done to a file of the server's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    FlipBit,
    TruncateTail,
}

/// Something that is done to the farm at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Kills a program, and keeps it down until it is revived.
    Kill(&'static str),
    Revive(&'static str),
    KillEngine(&'static str),
    /// Stops a program with SIGSTOP.
    Stop(&'static str),
    Continue(&'static str),
    /// Cuts a host off from the network.
    Cut(&'static str),
    Join(&'static str),
    /// Limits a host to so many kbit a second.
    Slow(&'static str, u32),
    Fast(&'static str),
    /// Nothing passes the proxy.
    Stall,
    Flow,
    /// The proxy's connections end.
    Break,
    FillDisk,
    /// Makes room, and starts the server again.
    FreeDisk,
    Tamper(Tampering),
    /// Kills the server, damages the newest file of a stream, and starts the server again.
    Hurt(Damage, &'static str),
    Revoke,
    /// Sets the clock of a program wrong by so many seconds.
    Shift(&'static str, i64),
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill(who) => write!(f, "kill -9 of {who}"),
            Self::Revive(who) => write!(f, "{who} starts again"),
            Self::KillEngine(who) => write!(f, "kill -9 of the engine of {who}"),
            Self::Stop(who) => write!(f, "SIGSTOP of {who}"),
            Self::Continue(who) => write!(f, "SIGCONT of {who}"),
            Self::Cut(who) => write!(f, "{who} is cut off"),
            Self::Join(who) => write!(f, "{who} is joined again"),
            Self::Slow(who, kbit) => write!(f, "the link of {who} is limited to {kbit} kbit/s"),
            Self::Fast(who) => write!(f, "the link of {who} is as before"),
            Self::Stall => write!(f, "the connections of {BEHIND_PROXY} stall"),
            Self::Flow => write!(f, "the connections of {BEHIND_PROXY} go on"),
            Self::Break => write!(f, "the connections of {BEHIND_PROXY} break"),
            Self::FillDisk => write!(f, "the server's disk is full"),
            Self::FreeDisk => write!(f, "the server's disk has room, and the server starts again"),
            Self::Tamper(what) => write!(f, "{what:?} of queued tasks"),
            Self::Hurt(damage, stream) => write!(f, "{damage:?} in {stream} while the server is down"),
            Self::Revoke => write!(f, "the key of {REVOKED} is revoked"),
            Self::Shift(who, seconds) => write!(f, "the clock of {who} is wrong by {seconds} s"),
        }
    }
}

/// The kinds of fault, of which a run has some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    KillServer,
    KillCoordinator,
    KillStandby,
    KillWorker,
    KillEngine,
    StopWorker,
    StopCoordinator,
    CutWorker,
    CutCoordinator,
    SlowLink,
    Stall,
    Break,
    FullDisk,
    Duplicate,
    Reorder,
    Delete,
    FlipBit,
    TruncateTail,
    Revoke,
    ClockJump,
}

const ALL: [Fault; 20] = [
    Fault::KillServer,
    Fault::KillCoordinator,
    Fault::KillStandby,
    Fault::KillWorker,
    Fault::KillEngine,
    Fault::StopWorker,
    Fault::StopCoordinator,
    Fault::CutWorker,
    Fault::CutCoordinator,
    Fault::SlowLink,
    Fault::Stall,
    Fault::Break,
    Fault::FullDisk,
    Fault::Duplicate,
    Fault::Reorder,
    Fault::Delete,
    Fault::FlipBit,
    Fault::TruncateTail,
    Fault::Revoke,
    Fault::ClockJump,
];

/// The streams of which a record may be damaged and made again.
const MADE_AGAIN: [&str; 2] = ["FARM_TASKS", "FARM_DONE"];
/// The streams whose newest records may be lost.
const STREAMS: [&str; 4] = ["FARM_TASKS", "FARM_DONE", "KV_farm-jobs", "OBJ_farm-media"];

/// Returns the deeds of a run in their order, with their times from the run's start.
pub(crate) fn schedule(seed: u64) -> Vec<(Duration, Deed)> {
    let mut rng = Rng::with_seed(seed);
    let mut faults = ALL;
    rng.shuffle(&mut faults);
    let mut deeds: Vec<(Duration, Deed)> = Vec::new();
    for fault in &faults[..FAULTS] {
        let begin = rng.u64(0..WINDOW_MS);
        for (after, deed) in deeds_of(*fault, &mut rng) {
            deeds.push((Duration::from_millis(begin + after), deed));
        }
    }
    deeds.sort_by_key(|(at, _)| *at);
    deeds
}

/// Returns the deeds of a fault, with milliseconds from its beginning.
fn deeds_of(fault: Fault, rng: &mut Rng) -> Vec<(u64, Deed)> {
    let worker = WORKERS[rng.usize(..WORKERS.len())];
    let coordinator = COORDINATORS[rng.usize(..COORDINATORS.len())];
    // Some are shorter than the time after which a worker counts as lost (10 s) and a lease ends (15 s), some longer.
    let long = rng.u64(2_000..25_000);
    let short = rng.u64(100..6_000);
    match fault {
        Fault::KillServer => vec![(0, Deed::Kill(SERVER)), (short, Deed::Revive(SERVER))],
        Fault::KillCoordinator => vec![
            (0, Deed::Kill(COORDINATORS[0])),
            (long, Deed::Revive(COORDINATORS[0])),
        ],
        Fault::KillStandby => vec![
            (0, Deed::Kill(COORDINATORS[1])),
            (short, Deed::Revive(COORDINATORS[1])),
        ],
        Fault::KillWorker => vec![(0, Deed::Kill(worker)), (long, Deed::Revive(worker))],
        Fault::KillEngine => vec![
            (0, Deed::KillEngine(worker)),
            (short, Deed::KillEngine(WORKERS[0])),
        ],
        Fault::StopWorker => vec![(0, Deed::Stop(worker)), (long, Deed::Continue(worker))],
        Fault::StopCoordinator => vec![
            (0, Deed::Stop(COORDINATORS[0])),
            (long, Deed::Continue(COORDINATORS[0])),
        ],
        Fault::CutWorker => vec![(0, Deed::Cut(worker)), (long, Deed::Join(worker))],
        Fault::CutCoordinator => vec![(0, Deed::Cut(coordinator)), (long, Deed::Join(coordinator))],
        Fault::SlowLink => {
            let who = [worker, coordinator, SERVER][rng.usize(..3)];
            vec![(0, Deed::Slow(who, rng.u32(64..2_000))), (long, Deed::Fast(who))]
        }
        Fault::Stall => vec![(0, Deed::Stall), (long, Deed::Flow)],
        Fault::Break => vec![(0, Deed::Break), (short, Deed::Break), (2 * short, Deed::Break)],
        Fault::FullDisk => vec![(0, Deed::FillDisk), (short, Deed::FreeDisk)],
        Fault::Duplicate => tampered(Tampering::Duplicate, short),
        Fault::Reorder => tampered(Tampering::Reorder, short),
        Fault::Delete => tampered(Tampering::Delete, short),
        Fault::FlipBit => {
            let stream = MADE_AGAIN[rng.usize(..MADE_AGAIN.len())];
            vec![(0, Deed::Hurt(Damage::FlipBit, stream))]
        }
        Fault::TruncateTail => {
            let stream = STREAMS[rng.usize(..STREAMS.len())];
            vec![(0, Deed::Hurt(Damage::TruncateTail, stream))]
        }
        Fault::Revoke => vec![(0, Deed::Revoke)],
        Fault::ClockJump => {
            let who = [worker, coordinator][rng.usize(..2)];
            let jump = rng.i64(-100_000..100_000);
            vec![(0, Deed::Shift(who, jump)), (long, Deed::Shift(who, 0))]
        }
    }
}

fn tampered(what: Tampering, again: u64) -> Vec<(u64, Deed)> {
    vec![
        (0, Deed::Tamper(what)),
        (again, Deed::Tamper(what)),
        (2 * again, Deed::Tamper(what)),
    ]
}
