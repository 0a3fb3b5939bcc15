//! One run: a farm with its jobs under faults, and then the calm in which everything has to come to an end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time::{Instant, sleep, sleep_until};

use super::faults::{self, Farm};
use super::jobs::StoredJob;
use super::random::seed_delays;
use super::world::World;
use crate::job::chunk::probe;

/// How long a job may take when there are no faults any more. Nothing that a job waits for takes longer.
const CALM_LIMIT: Duration = Duration::from_mins(45);
/// How long tasks of jobs that have ended may stay.
const CLEAR_LIMIT: Duration = Duration::from_mins(5);

/// What came of a run.
#[derive(Debug)]
pub(super) struct Report {
    /// What happened how often.
    pub(super) covered: BTreeMap<String, u64>,
    /// The invariant that does not hold, if one does not.
    pub(super) violation: Option<String>,
    /// The log; empty if none was asked for.
    pub(super) log: String,
}

/// Runs the farm of a seed.
pub(super) fn run(seed: u64, is_logged: bool) -> Report {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    seed_delays(seed);
    probe::begin();
    runtime.block_on(async {
        let world = Arc::new(World::new(seed, is_logged));
        let _subscribed = world.with(|state| state.recorder.subscribe());
        let mut farm = Farm::new(&world);
        under_faults(&world, &mut farm).await;
        if !is_violated(&world) {
            farm.calm();
            to_the_end(&world, &mut farm).await;
        }
        drop(farm);
        world.with(|state| Report {
            covered: state.recorder.covered().clone(),
            violation: state.recorder.first_violation().map(str::to_owned),
            log: state.recorder.text(),
        })
    })
}

fn is_violated(world: &World) -> bool {
    world.with(|state| state.recorder.first_violation().is_some())
}

async fn under_faults(world: &World, farm: &mut Farm) {
    let (end, mut submissions) = world.with(|state| {
        let end = Instant::now() + state.random.ms(30_000, 150_000);
        let jobs = state.random.within(1, 3);
        let at = |state: &mut super::world::State| Instant::now() + state.random.ms(0, 40_000);
        let submissions: Vec<Instant> = (0..jobs).map(|_| at(state)).collect();
        (end, submissions)
    });
    submissions.sort_unstable();
    let mut next_fault = Instant::now() + world.with(faults::until_next);
    let mut number = 0;
    while Instant::now() < end && !is_violated(world) {
        let mend = farm.mend(false);
        let next_job = submissions.first().copied();
        let next = [Some(end), Some(next_fault), mend, next_job];
        // A worker may have ended meanwhile.
        let soon = Instant::now() + Duration::from_secs(5);
        sleep_until(next.into_iter().flatten().min().unwrap_or(end).min(soon)).await;
        let now = Instant::now();
        if next_job.is_some_and(|at| at <= now) {
            submissions.remove(0);
            number += 1;
            submit(world, number);
        }
        if next_fault <= now {
            next_fault = now + world.with(faults::until_next);
            let fault = world.with(|state| state.rates.clone().event(&mut state.random));
            if let Some(fault) = fault {
                farm.happen(fault);
            }
        }
    }
    for _ in submissions {
        number += 1;
        submit(world, number);
    }
}

fn submit(world: &World, number: u64) {
    world.with(|state| {
        let job = StoredJob::draw(&mut state.random, number);
        state.recorder.log(|| {
            let (id, frames, settings) = (job.spec.id, job.spec.frames, &job.settings);
            format!(
                "job {id} of {frames} frames is submitted: needs {:?}, {:?}, {:?}, tags {}, poisoned {:?}",
                settings.needs, settings.cpu_fallback, settings.one_kind, settings.needed_tags, job.poisoned
            )
        });
        state.jobs.insert(job.spec.id, job);
    });
}

/// Waits until all jobs have ended and their tasks are gone.
async fn to_the_end(world: &World, farm: &mut Farm) {
    let limit = Instant::now() + CALM_LIMIT;
    while world.with(|state| state.jobs.values().any(StoredJob::is_open)) {
        farm.mend(false);
        sleep(Duration::from_secs(1)).await;
        if is_violated(world) {
            return;
        }
        if Instant::now() >= limit {
            world.with(|state| {
                let open = state.jobs.values().filter(|job| job.is_open());
                let open: Vec<String> = open.map(|job| job.spec.id.to_string()).collect();
                let text = format!("jobs do not end: {}", open.join(", "));
                state.recorder.violation(text);
            });
            return;
        }
    }
    let limit = Instant::now() + CLEAR_LIMIT;
    while world.with(|state| !state.queue.entries.is_empty()) {
        farm.mend(false);
        sleep(Duration::from_secs(1)).await;
        if Instant::now() >= limit {
            world.with(|state| {
                let left = state.queue.entries.values();
                let left: Vec<String> = left
                    .map(|entry| format!("{} {}", entry.task.chunk, entry.queue))
                    .collect();
                let text = format!("all jobs have ended, and tasks are left: {}", left.join(", "));
                state.recorder.violation(text);
            });
            return;
        }
    }
}
