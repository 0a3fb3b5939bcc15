//! Runs the seeds. The usual test run has 500 of them, in two parts; see [the module](super) for more of them, and for one.

use std::collections::BTreeMap;
use std::env;
use std::io::Write as _;

use super::rates::Rates;
use super::run::{Report, run};

/// The seeds of the usual test run.
const SEEDS: u64 = 500;
/// The lines of the log that a failure shows.
const LAST_LINES: usize = 60;

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap())
}

/// Runs every second seed from `offset` on.
fn run_half(offset: u64) {
    if number("LATENTFARM_SIMULATION_SEED").is_some() {
        return;
    }
    let first = number("LATENTFARM_SIMULATION_FIRST").unwrap_or(0);
    let seeds = number("LATENTFARM_SIMULATION_SEEDS").unwrap_or(SEEDS);
    let mut failed = Vec::new();
    for seed in (first + offset..first + seeds).step_by(2) {
        if let Some(violation) = run(seed, false).violation {
            failed.push((seed, violation));
            if failed.len() == 20 {
                break;
            }
        }
    }
    let Some((seed, violation)) = failed.first() else {
        return;
    };
    let Report { log, .. } = run(*seed, true);
    let lines: Vec<&str> = log.lines().collect();
    let last = lines[lines.len().saturating_sub(LAST_LINES)..].join("\n");
    panic!(
        "seed {seed}: {violation}\n{last}\nother seeds: {:?}\nrun it again with LATENTFARM_SIMULATION_SEED={seed}",
        &failed[1..]
    );
}

#[test]
fn simulation_of_even_seeds() {
    run_half(0);
}

#[test]
fn simulation_of_odd_seeds() {
    run_half(1);
}

#[test]
fn simulation_of_one_seed_is_the_same_each_time() {
    let seed = number("LATENTFARM_SIMULATION_SEED");
    let first = run(seed.unwrap_or(7), true);
    if seed.is_some() {
        writeln!(std::io::stdout(), "{}\n{:?}", first.log, first.violation).unwrap();
    }
    let again = run(seed.unwrap_or(7), true);
    // Whether the product logs depends on what other threads do with its log.
    let own = |log: &str| -> Vec<String> {
        let is_products = |line: &&str| {
            ["WARN:", "INFO:", "DEBUG:"]
                .iter()
                .any(|level| line.contains(level))
        };
        log.lines()
            .filter(|line| !is_products(line))
            .map(str::to_owned)
            .collect()
    };
    let (one, other) = (own(&first.log), own(&again.log));
    for (line, (one, other)) in one.iter().zip(&other).enumerate() {
        assert_eq!(one, other, "line {line}");
    }
    assert_eq!(one.len(), other.len());
    assert_eq!(first.violation, None);
}

/// Seeds that found faults of the dispatcher, which were mended.
const FOUND: [(u64, &str); 6] = [
    (
        63,
        "a chunk that has failed on all CPU workers is never given to a GPU, nor given up",
    ),
    (
        232,
        "a coordinator that was stopped removes records before it looks at its lease",
    ),
    (
        1069,
        "workers count as able to run a chunk that the placement never gives it to",
    ),
    (
        2105,
        "a late report of a backup that is over is taken for one of an attempt that never was",
    ),
    (
        2368,
        "a result that looks wrong confirms itself if its record comes twice",
    ),
    (
        5287,
        "a chunk that is delayed while a larger worker joins is not placed again, and given up",
    ),
];

#[test]
fn simulation_of_seeds_that_found_faults() {
    for (seed, found) in FOUND {
        assert_eq!(run(seed, false).violation, None, "seed {seed}: {found}");
    }
}

/// The moves of chunks, by event and phases, and the ends of jobs and coordinators that the seeds have to come to.
const MOVES: [&str; 42] = [
    "Blocked: Backlog to Quarantined",
    "Blocked: Waiting to Quarantined",
    "DoneSeen: Backlog to Done",
    "DoneSeen: Queued to Done",
    "DoneSeen: Running to Done",
    "DoneSeen: Waiting to Done",
    "Enqueued: Backlog to Queued",
    "Failed is ignored",
    "Failed: Queued to Backlog",
    "Failed: Running to Backlog",
    "Forged: Queued to Backlog",
    "Forged: Running to Backlog",
    "QueueLost: Queued to Backlog",
    "Reassigned: Queued to Backlog",
    "Released: Waiting to Backlog",
    "Retracted: Backlog to Backlog",
    "Retracted: Queued to Backlog",
    "Retracted: Running to Backlog",
    "Retracted: Waiting to Waiting",
    "Returned is ignored",
    "Returned: Running to Queued",
    "Started is ignored",
    "Started: Backlog to Running",
    "Started: Queued to Running",
    "Started: Running to Running",
    "WorkerLost: Running to Backlog",
    "a chunk is given up after failures",
    "a chunk is given up for want of its analysis",
    "a chunk is given up for want of memory",
    "a coordinator has ended",
    "a coordinator has failed",
    "a coordinator has lost its lease",
    "a job could not begin",
    "a job has failed",
    "a job has no worker",
    "a job is complete",
    "a job is incomplete",
    "a job is interrupted",
    "a job is over as it was cancelled",
    "a publish is a repeat",
    "a result comes second",
    "memory runs out",
];

#[test]
fn simulation_covers_every_fault_and_every_move() {
    if number("LATENTFARM_SIMULATION_SEED").is_some() {
        return;
    }
    let mut covered: BTreeMap<String, u64> = BTreeMap::new();
    for seed in 0..SEEDS {
        for (name, count) in run(seed, false).covered {
            *covered.entry(name).or_default() += count;
        }
    }
    writeln!(std::io::stdout(), "{covered:#?}").unwrap();
    let wanted = Rates::names().chain(MOVES);
    let missing: Vec<&str> = wanted.filter(|name| !covered.contains_key(*name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
