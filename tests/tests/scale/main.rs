//! How far one coordinator and one server go: many workers without engines, many jobs. The long tests print figures; what
//! they assert is that every chunk counts, and that memory does not grow with the number of chunks.

#![expect(clippy::unwrap_used, reason = "helpers of a test panic where it fails")]

mod usage;
mod workers;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use farm_tests::{
    Clips, Coordinator, Material, ProcessTag, Server, Worker, eventually, repeat, transcode, wait_until,
};
use latentfarm_common::console::tell;
use latentfarm_common::ids::{JobId, WorkerId};
use serde_json::{Value, json};

use self::usage::{cpu_time, resident_kib};
use self::workers::{Log, Machine, Recorded, Workers};

const FRAMES: u32 = 16;
const FPS: u32 = 25;
/// The seeds of urgent jobs begin here.
const URGENT: u32 = 1_000_000;

/// A farm whose jobs all show the same small video without a face.
struct Farm {
    material: Material,
    video: PathBuf,
    audio: PathBuf,
    server: Server,
    coordinator: Coordinator,
    tag: ProcessTag,
}

impl Farm {
    /// Starts a farm that admits so many machines, with inputs of about so many chunks a job.
    fn start(machines: usize, chunks: u32) -> Self {
        let material = Material::seconds("1", "1");
        let seconds = format!("{:.2}", f64::from(chunks * FRAMES) / f64::from(FPS));
        let clips = Clips::fetched();
        let shrink = ["-vf", "scale=-2:64,fps=25", "-an", "-g", "16"];
        let once = transcode(&clips.no_face(), &shrink, material.path("once.mp4"));
        let video = material.path("long.mp4");
        repeat(&once, &seconds, &video);
        let audio = material.path("long.wav");
        repeat(&clips.long_speech(), &seconds, &audio);
        let names: Vec<String> = (0..machines).map(|machine| format!("m{machine}")).collect();
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names.push("real");
        let server = Server::start(&material.path("server"), &names);
        let tag = ProcessTag::new();
        let coordinator = Coordinator::start(&server, &material.path("coordinator"), &tag);
        Self {
            material,
            video,
            audio,
            server,
            coordinator,
            tag,
        }
    }

    /// Renders one job with a real worker, and returns its results.
    fn record(&self) -> Recorded {
        let log = self.material.path("real.log");
        let worker = Worker::start(&self.server, "real", &self.material.weights, &log, &self.tag);
        let job = self.submit(&[0], 1);
        let id = job[0]["job"].as_str().unwrap();
        let ended = self.server.operate(["status", id, "--wait"]).last();
        assert_eq!(ended["phase"], "complete", "{ended}");
        assert_eq!(worker.drain(), Some(0));
        Recorded::of(&self.server, id.parse().unwrap())
    }

    /// Submits a job for each seed, and returns them.
    fn submit(&self, seeds: &[u32], priority: u32) -> Vec<Value> {
        let job = |seed: &u32| {
            json!({
                "video": self.video, "audio": self.audio, "output": format!("{seed}.mp4"), "seed": seed,
                "preset": "lean", "chunk_frames": FRAMES, "allow_no_face": true, "priority": priority,
            })
        };
        let jobs: Vec<Value> = seeds.iter().map(job).collect();
        let submitted = self.server.submit_batch(&self.material, &jobs);
        assert_eq!(submitted.code, Some(0), "{submitted:?}");
        let jobs = submitted.lines.into_iter();
        jobs.filter(|line| line["event"] == "job").collect()
    }

    /// Returns the jobs in one of these phases.
    fn jobs(&self, phases: &[&str]) -> Vec<Value> {
        let phases = phases.iter().flat_map(|phase| ["--phase", phase]);
        let listed = self
            .server
            .operate(["jobs", "--limit", "100000"].into_iter().chain(phases));
        assert_eq!(listed.code, Some(0), "{listed:?}");
        listed.lines
    }

    /// Returns the jobs that are not over.
    fn open(&self) -> Vec<Value> {
        self.jobs(&["queued", "running", "paused"])
    }

    fn coordinator_pid(&self) -> i32 {
        self.tag.matching("latentfarm serve")[0]
    }

    /// Ends the farm in order.
    fn close(self) {
        assert_eq!(self.coordinator.interrupt(), Some(0));
        self.tag.assert_nothing_left();
    }
}

fn machine(index: usize, memory_mib: u64, chunk_time: Duration) -> Machine {
    let key = format!("m{}", index / WorkerId::MACHINE_GPUS);
    let name: WorkerId = key.parse().unwrap();
    Machine {
        name: name.of_gpu(index % WorkerId::MACHINE_GPUS).unwrap(),
        key,
        memory_mib,
        chunk_time,
    }
}

/// What a run through many chunks came to.
#[derive(Debug)]
struct Figures {
    chunks: usize,
    seconds: f64,
    /// Seconds of cores that the coordinator with its children, the server and the workers have used.
    cores: [f64; 3],
    /// Memory of the coordinator in KiB, when a tenth of the chunks was rendered and when all were.
    resident_kib: [u64; 2],
    /// Seconds from the submission of urgent jobs to their first chunks, least first.
    begun_after: Vec<f64>,
}

impl Figures {
    /// Prints the figures.
    fn tell(&self) {
        let Self {
            chunks,
            seconds,
            cores: [coordinator, server, workers],
            resident_kib: [tenth, all],
            begun_after,
        } = self;
        tell(format_args!(
            "{chunks} chunks in {seconds:.1} s: {:.0} a second; cores: coordinator {:.2}, server {:.2}, workers {:.2}; \
             coordinator {tenth} KiB at a tenth, {all} KiB at the end",
            *chunks as f64 / seconds,
            coordinator / seconds,
            server / seconds,
            workers / seconds,
        ));
        if let (Some(median), Some(last)) = (begun_after.get(begun_after.len() / 2), begun_after.last()) {
            tell(format_args!(
                "first chunks of {} urgent jobs: median {median:.2} s, most {last:.2} s after the submission",
                begun_after.len()
            ));
        }
    }
}

/// Has so many workers render so many jobs, and urgent ones between them.
fn run(workers: usize, jobs: u32, chunks: u32, urgent: u32) -> Figures {
    let farm = Farm::start(workers.div_ceil(WorkerId::MACHINE_GPUS), chunks);
    let recorded = farm.record();
    let chunks = u32::try_from(recorded.chunks()).unwrap();
    let seeds: Vec<u32> = (1..=jobs).collect();
    let submitting = Instant::now();
    let submitted = farm.submit(&seeds, 1);
    assert_eq!(submitted.len(), seeds.len());
    let seconds = submitting.elapsed().as_secs_f64();
    tell(format_args!("{jobs} jobs were submitted in {seconds:.1} s"));
    let own = i32::try_from(std::process::id()).unwrap();
    let pids = [farm.coordinator_pid(), farm.server.pid(), own];
    let begun = Instant::now();
    let before = pids.map(cpu_time);
    let mut simulated = Workers::new(recorded, 0);
    for index in 0..workers {
        simulated.start(&farm.server, machine(index, 20_000, Duration::ZERO));
    }
    let seconds = begun.elapsed().as_secs_f64();
    tell(format_args!("{workers} workers joined in {seconds:.1} s"));
    let all = ((jobs + urgent) * chunks) as usize;
    let (log, farm_of_urgent) = (Arc::clone(&simulated.log), &farm);
    let (ended, resident_kib, begun_after) = std::thread::scope(|scope| {
        let urgent_ones = scope.spawn(move || submit_urgent(farm_of_urgent, &log, urgent));
        let (ended, resident) = watch(&farm, &simulated, begun, all, pids[0]);
        (ended, resident, urgent_ones.join().unwrap())
    });
    let after = pids.map(cpu_time);
    let cores = [0, 1, 2].map(|at| after[at].saturating_sub(before[at]).as_secs_f64());
    assert_eq!(farm.jobs(&["complete"]).len(), (1 + jobs + urgent) as usize);
    assert_eq!(simulated.leave(), all as u64);
    farm.close();
    Figures {
        chunks: all,
        seconds: (ended - begun).as_secs_f64(),
        cores,
        resident_kib,
        begun_after,
    }
}

/// Waits until all chunks are rendered and all jobs are complete. Returns when the last chunk was, and the memory of the
/// coordinator when a tenth was and at the end.
fn watch(
    farm: &Farm,
    simulated: &Workers,
    begun: Instant,
    all: usize,
    coordinator: i32,
) -> (Instant, [u64; 2]) {
    let mut resident = [0, 0];
    let mut look = Instant::now();
    let (mut rendered, mut changed) = (0, Instant::now());
    loop {
        look += Duration::from_secs(1);
        wait_until(look);
        let now = simulated.log.rendered();
        if now != rendered {
            (rendered, changed) = (now, Instant::now());
        }
        if rendered >= all / 10 && resident[0] == 0 {
            resident[0] = resident_kib(coordinator);
        }
        if begun.elapsed().as_secs().is_multiple_of(10) {
            let mib = resident_kib(coordinator) >> 10;
            let seconds = begun.elapsed().as_secs();
            tell(format_args!(
                "{seconds:4} s: {rendered} chunks, coordinator {mib} MiB"
            ));
        }
        if rendered >= all && farm.open().is_empty() {
            resident[1] = resident_kib(coordinator);
            return (changed, resident);
        }
        assert!(
            changed.elapsed() < Duration::from_mins(2),
            "{rendered} of {all} chunks; {:#?}",
            farm.open()
        );
    }
}

/// Submits urgent jobs one after the other. Returns the seconds that passed until the first chunk of each was begun.
fn submit_urgent(farm: &Farm, log: &Log, jobs: u32) -> Vec<f64> {
    let wait = |seed: u32| {
        let job = farm.submit(&[seed], 0);
        let submitted = Instant::now();
        let id: JobId = job[0]["job"].as_str().unwrap().parse().unwrap();
        let begun = eventually("the first chunk of an urgent job", || log.first_of(id));
        begun.saturating_duration_since(submitted).as_secs_f64()
    };
    let mut times: Vec<f64> = (0..jobs).map(|job| wait(URGENT + job)).collect();
    times.sort_by(f64::total_cmp);
    times
}

#[test]
fn a_hundred_workers_render_the_chunks_of_ten_jobs() {
    let figures = run(96, 8, 40, 2);
    figures.tell();
    assert!(figures.chunks >= 400);
}

/// One coordinator and one server, and as many workers and chunks as a large farm has. `LATENTFARM_SCALE` names other
/// numbers of workers, jobs, chunks of a job and urgent jobs.
#[test]
#[ignore = "a hundred thousand chunks, ten minutes"]
fn a_thousand_workers_render_a_hundred_thousand_chunks() {
    let named = std::env::var("LATENTFARM_SCALE").unwrap_or_else(|_unset| "1000,200,500,50".to_owned());
    let numbers: Vec<u32> = named.split(',').map(|number| number.parse().unwrap()).collect();
    let [workers, jobs, chunks, urgent] = numbers[..] else {
        panic!("LATENTFARM_SCALE is WORKERS,JOBS,CHUNKS,URGENT");
    };
    let figures = run(workers as usize, jobs, chunks, urgent);
    figures.tell();
    let [tenth, all] = figures.resident_kib;
    assert!(
        all < tenth + tenth / 20,
        "memory grows with chunks: {tenth} KiB, then {all} KiB"
    );
}

/// How much of what the workers' speeds allow a mixed farm does, one of whose workers dies, without and with chunks that
/// run out of memory once.
#[test]
#[ignore = "two farms of 32 workers, eight minutes"]
fn a_mixed_farm_wastes_little() {
    for out_of_memory_each in [0, 10] {
        let efficiency = mixed_farm(out_of_memory_each);
        tell(format_args!(
            "one chunk of {out_of_memory_each} out of memory: {:.1} % of the work that the speeds allow",
            efficiency * 100.0
        ));
    }
}

/// Returns the work of all chunks over what the workers could have done from the first begin to the last end.
fn mixed_farm(out_of_memory_each: u32) -> f64 {
    const MEMORY_GIB: [u64; 8] = [4, 8, 12, 16, 24, 40, 48, 80];
    const JOBS: u32 = 8;
    /// What a worker of speed 1 takes for a chunk.
    const CHUNK_TIME: Duration = Duration::from_secs(8);
    let speeds: Vec<u32> = (0..32).map(|index| index % 8 + 1).collect();
    let total: u32 = speeds.iter().sum();
    // Twenty chunks for the slowest, and more for the others.
    let chunks = 20 * total / JOBS;
    let farm = Farm::start(2, chunks);
    let recorded = farm.record();
    let chunks = u32::try_from(recorded.chunks()).unwrap();
    let mut simulated = Workers::new(recorded, out_of_memory_each);
    for (index, speed) in speeds.iter().enumerate() {
        // Memory does not go with speed.
        let memory = MEMORY_GIB[(index * 3 + index / 8) % MEMORY_GIB.len()] << 10;
        simulated.start(&farm.server, machine(index, memory, CHUNK_TIME / *speed));
    }
    let submitted = farm.submit(&(1..=JOBS).collect::<Vec<_>>(), 1);
    assert_eq!(submitted.len(), JOBS as usize);
    let half = (chunks * JOBS / 2) as usize;
    let log = Arc::clone(&simulated.log);
    let mut look = Instant::now();
    while log.rendered() < half {
        look += Duration::from_millis(100);
        wait_until(look);
    }
    let (dead, died) = (3, Instant::now());
    simulated.kill(dead);
    while !farm.open().is_empty() {
        look += Duration::from_secs(1);
        wait_until(look);
    }
    let (begun, ended) = log.span().unwrap();
    let seconds = (ended - begun).as_secs_f64();
    let possible =
        f64::from(total - speeds[dead]) * seconds + f64::from(speeds[dead]) * (died - begun).as_secs_f64();
    let work = f64::from(chunks * JOBS) * CHUNK_TIME.as_secs_f64();
    tell(format_args!("{} chunks in {seconds:.1} s", chunks * JOBS));
    let _ = simulated.leave();
    farm.close();
    work / possible
}
