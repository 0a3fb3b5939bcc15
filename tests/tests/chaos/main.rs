//! Chaos: batches of jobs on a farm of real processes, each on a host of its own, to which happens what a seed says:
//! programs are killed and stopped, hosts are cut off, lines are slow, stall and break, the server's disk is full, tasks are
//! doubled, reordered and lost, files of the store are damaged, a worker's key is revoked, clocks jump. Afterwards each
//! job has to be complete with the frames of an undisturbed render, and the farm's store has to hold together.
//!
//! `LATENTFARM_CHAOS_SEED` names the seed of the short test. The long one goes on where it was interrupted if
//! `LATENTFARM_CHAOS_DIR` names a folder for its results.

#![expect(clippy::unwrap_used, reason = "helpers of a test panic where it fails")]

mod farm;
mod network;
mod proxy;
mod schedule;
mod tampering;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use farm_tests::{Answer, Material, OPTIONS, wait_until};
use fastrand::Rng;
use latentfarm_common::console::tell;
use serde_json::{Value, json};

use self::farm::{Farm, log_of};
use self::network::is_inside;
use self::schedule::{COORDINATORS, SERVER, WORKERS, schedule};

/// The seeds of the long test.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=30;
/// The jobs of a batch, by their seeds.
const JOBS: [&str; 4] = ["1", "2", "3", "4"];
/// All jobs are complete so long after the last fault has ended.
const CALM: Duration = Duration::from_mins(4);
/// An operator submits the batch again if the jobs have not ended so long after the last fault, or if a part of a result is
/// gone: a store that has lost what was submitted has nobody else to get it from.
const SUBMITTED_AGAIN_AFTER: Duration = Duration::from_mins(2);

#[test]
fn a_batch_survives_what_happens_to_a_farm() {
    if !is_inside("a_batch_survives_what_happens_to_a_farm") {
        return;
    }
    let named = std::env::var("LATENTFARM_CHAOS_SEED").ok();
    let seed = named.map_or(1, |text| text.parse().expect("LATENTFARM_CHAOS_SEED is a number"));
    let material = Material::seconds("2", "2");
    let expected = undisturbed(&material);
    run(&material, &expected, seed).unwrap();
}

#[test]
#[ignore = "30 runs, three quarters of an hour"]
fn thirty_batches_survive_what_happens_to_a_farm() {
    if !is_inside("thirty_batches_survive_what_happens_to_a_farm") {
        return;
    }
    let folder = std::env::var_os("LATENTFARM_CHAOS_DIR").map(PathBuf::from);
    let result_of = |seed: u64| {
        folder
            .as_ref()
            .map(|folder| folder.join(format!("seed-{seed}.json")))
    };
    if let Some(folder) = &folder {
        fs::create_dir_all(folder).unwrap();
    }
    let material = Material::seconds("2", "2");
    let expected = undisturbed(&material);
    let mut failed = Vec::new();
    for seed in SEEDS {
        let path = result_of(seed);
        if path.as_ref().is_some_and(|path| path.exists()) {
            continue;
        }
        match run(&material, &expected, seed) {
            Err(fault) => failed.push(fault),
            Ok(result) => {
                if let Some(path) = path {
                    fs::write(path, result.to_string()).unwrap();
                }
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// Returns the digests of the frames of all jobs, rendered on this machine alone.
fn undisturbed(material: &Material) -> BTreeMap<&'static str, String> {
    let digest = |seed| {
        let alone = material.render(&format!("alone-{seed}.mp4")).args(&OPTIONS[2..]);
        let alone = alone.args(["--seed", seed, "--workers", "2"]).run().complete();
        alone.frames_digest()
    };
    JOBS.into_iter().map(|seed| (seed, digest(seed))).collect()
}

/// Runs a batch on a farm to which happens what the seed says. Returns what happened, or what is wrong afterwards.
fn run(material: &Material, expected: &BTreeMap<&'static str, String>, seed: u64) -> Result<Value, String> {
    let spot_check = if seed.is_multiple_of(3) { "4" } else { "1000000" };
    let mut farm = Farm::start(material, spot_check);
    let submitted = submit(&farm, material);
    assert_eq!(submitted.code, Some(0), "{submitted:?}");
    let begun = Instant::now();
    let mut rng = Rng::with_seed(seed);
    let mut happened = Vec::new();
    for (at, deed) in schedule(seed) {
        supervise_until(&mut farm, begun + at);
        let done = farm.apply(deed, &mut rng);
        let failure = done
            .err()
            .map_or(String::new(), |why| format!(" (not possible: {why})"));
        let line = format!("{:5.1} s: {deed}{failure}", begun.elapsed().as_secs_f64());
        tell(format_args!("seed {seed}: {line}"));
        happened.push(line);
    }
    let calm = Instant::now();
    let mut submitted_again = false;
    loop {
        supervise_until(&mut farm, Instant::now() + Duration::from_secs(1));
        let open = open_jobs(&farm);
        let is_over = open.as_ref().is_some_and(Vec::is_empty);
        // Of a complete job, too, the damaged store may have lost something.
        if is_over && (submitted_again || is_sound(&farm.access.operate(["audit", "--verify"]))) {
            break;
        }
        if !submitted_again && (is_over || calm.elapsed() > SUBMITTED_AGAIN_AFTER) {
            submitted_again = submit(&farm, material).code == Some(0);
            tell(format_args!("seed {seed}: submitted again: {open:?}"));
            for job in farm.access.operate(["jobs", "--phase", "complete"]).lines {
                // What is still there and damaged is found when the job is looked at again.
                let _refused = farm
                    .access
                    .operate(["retry", job["job"].as_str().unwrap_or_default()]);
            }
        }
        if calm.elapsed() > CALM {
            break;
        }
    }
    let seconds = calm.elapsed().as_secs_f64();
    let faults = check(&mut farm, material, expected);
    if !faults.is_empty() {
        keep_logs(material, seed);
    }
    drop(farm);
    tidy(material);
    tell(format_args!(
        "seed {seed}: {seconds:.1} s after the last fault: {faults:#?}"
    ));
    if faults.is_empty() {
        Ok(json!({
            "seed": seed, "happened": happened, "calm_seconds": seconds, "submitted_again": submitted_again,
        }))
    } else {
        Err(format!("seed {seed}: {faults:#?}\n{happened:#?}"))
    }
}

/// Submits the batch.
fn submit(farm: &Farm, material: &Material) -> Answer {
    let jobs = JOBS.map(|seed| job(material, seed));
    farm.access.submit_batch(material, &jobs)
}

fn job(material: &Material, seed: &str) -> Value {
    let [_, preset, _, _, chunk_frames, _, steps] = OPTIONS;
    let number = |text: &str| text.parse::<u64>().unwrap();
    json!({
        "video": material.video, "audio": material.audio, "output": format!("{seed}.mp4"), "seed": number(seed),
        "preset": preset, "lossless": true, "chunk_frames": number(chunk_frames), "steps": number(steps),
        "priority": u8::from(seed != "4"),
    })
}

fn supervise_until(farm: &mut Farm, moment: Instant) {
    loop {
        farm.supervise();
        let now = Instant::now();
        if now >= moment {
            return;
        }
        wait_until(moment.min(now + Duration::from_millis(100)));
    }
}

/// Returns the jobs that are not complete, or nothing if no coordinator answers.
fn open_jobs(farm: &Farm) -> Option<Vec<Value>> {
    let listed = farm.access.operate(["jobs"]);
    if listed.code != Some(0) {
        return None;
    }
    // Jobs that the store has lost are not listed.
    let lost = JOBS.len().saturating_sub(listed.lines.len());
    let open = listed.lines.into_iter().filter(|job| job["phase"] != "complete");
    Some(open.chain((0..lost).map(|_| json!("lost"))).collect())
}

/// Whether an audit has seen all jobs, and found nothing.
fn is_sound(audit: &Answer) -> bool {
    let found = audit.lines.last();
    found.is_some_and(|found| found["findings"] == json!([]) && found["jobs"] == JOBS.len())
}

/// Returns what is not as it has to be on a farm whose jobs should be complete, and ends the farm.
fn check(farm: &mut Farm, material: &Material, expected: &BTreeMap<&'static str, String>) -> Vec<String> {
    let mut faults = match open_jobs(farm) {
        None => vec!["no coordinator answers".to_owned()],
        Some(open) => open.iter().map(|job| format!("not complete: {job}")).collect(),
    };
    let audit = farm.access.operate(["audit", "--verify"]);
    if !is_sound(&audit) {
        faults.push(format!("the audit: {audit:?}"));
    }
    for job in farm.access.operate(["jobs"]).lines {
        if job["frames_done"] != job["frames"] {
            faults.push(format!("not each chunk counts once: {job}"));
        }
        let name = job["name"].as_str().unwrap_or_default().to_owned();
        let seed = JOBS.into_iter().find(|seed| name.starts_with(*seed));
        let path = material.path("fetched.mp4");
        let id = job["job"].as_str().unwrap_or_default();
        let fetched = farm.access.operate(["fetch", id, "-o", path.to_str().unwrap()]);
        let digest = fetched.lines.iter().find(|line| line["event"] == "written");
        let digest = digest.map(|written| written["frames_digest"].clone());
        if digest != seed.map(|seed| expected[seed].as_str().into()) {
            faults.push(format!(
                "other frames than those of an undisturbed render: {job} {fetched:?}"
            ));
        }
        let _not_written = fs::remove_file(path);
    }
    for (name, code) in farm.end() {
        faults.push(format!("{name} ended with {code:?}"));
    }
    farm.tag.assert_nothing_left();
    faults
}

/// Removes what a run has left, for the next.
fn tidy(material: &Material) {
    fs::remove_dir_all(material.path("server")).unwrap();
    for name in COORDINATORS {
        fs::remove_dir_all(material.path(name)).unwrap();
    }
    for name in [&[SERVER], &COORDINATORS[..], &WORKERS[..]].concat() {
        fs::remove_file(log_of(material, name)).unwrap();
    }
}

/// Keeps the programs' logs of a run that failed, in the folder of results or in that of temporary files.
fn keep_logs(material: &Material, seed: u64) {
    let named = std::env::var_os("LATENTFARM_CHAOS_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = named.join(format!("chaos-{seed}-logs"));
    fs::create_dir_all(&folder).unwrap();
    for name in [&[SERVER], &COORDINATORS[..], &WORKERS[..]].concat() {
        let from: &Path = &log_of(material, name);
        let _not_there = fs::copy(from, folder.join(format!("{name}.log")));
    }
    tell(format_args!("the logs are in {}", folder.display()));
}
