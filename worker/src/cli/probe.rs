//! `latentfarm-worker probe`: what this machine has, what is free of it, and which queues a worker would ask for.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use latentfarm_common::error::one_line;
use latentfarm_common::queues::{ResourceClass, fitting};
use latentfarm_common::wire::memory::DeviceKind;
use serde::Serialize;

use super::devices::{DeviceArgs, Engines};
use super::exit::{EXIT_UNFIT, refuse};
use crate::machine::choice::{self, GpuState, HostState, Limits, Snapshot, Target};
use crate::machine::claims::Claims;
use crate::machine::probe::{Device, Probe};
use latentfarm_common::host;

#[derive(clap::Args, Debug)]
pub(super) struct ProbeArgs {
    #[command(flatten)]
    devices: DeviceArgs,
    /// One JSON object in place of the text
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Clone, Debug, Serialize)]
struct Report {
    host: HostReport,
    /// Every usable GPU, or why there is none.
    gpus: Vec<GpuReport>,
    gpus_missing: Option<String>,
    /// The CUDA engine's program if it is there.
    cuda_engine: Option<String>,
    workers: Vec<WorkerReport>,
    /// Why no worker would start.
    refused: Option<String>,
    note: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct HostReport {
    free_mib: u64,
    total_mib: u64,
    pressure_percent: Option<f32>,
}

#[derive(Clone, Debug, Serialize)]
struct GpuReport {
    uuid: String,
    name: String,
    free_mib: Option<u64>,
    total_mib: Option<u64>,
    problem: Option<String>,
}

/// What a worker on one device would do.
#[derive(Clone, Debug, Serialize)]
struct WorkerReport {
    device: String,
    engine: String,
    free_mib: u64,
    claimed_by_others_mib: u64,
    reserve_mib: u64,
    /// For one task now, and were nothing else at work.
    room_mib: Option<u64>,
    reach_mib: Option<u64>,
    /// Classes of tasks, largest first.
    asks_for: Vec<String>,
    problem: Option<String>,
}

pub(super) fn main(args: &ProbeArgs) -> ExitCode {
    let engines = match args.devices.engines() {
        Ok(engines) => engines,
        Err(error) => return refuse(error.as_ref()),
    };
    let report = look(&args.devices, &engines);
    let text = if args.json {
        serde_json::to_string_pretty(&report).unwrap_or_default()
    } else {
        readable(&report)
    };
    let written = writeln!(std::io::stdout(), "{}", text.trim_end());
    if written.is_ok() && report.can_render() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(EXIT_UNFIT)
    }
}

impl Report {
    fn can_render(&self) -> bool {
        let renders = |class: &String| !matches!(class.parse(), Ok(ResourceClass::Analyze));
        self.workers
            .iter()
            .any(|worker| worker.asks_for.iter().any(renders))
    }
}

fn look(args: &DeviceArgs, engines: &Engines) -> Report {
    let probe = args.probe();
    let (chosen, inventory) = args.choose(&probe, engines);
    let limits = args.limits();
    let (workers, refused, note) = match chosen {
        Ok(chosen) => {
            let workers = chosen
                .devices
                .iter()
                .map(|device| worker(device, &probe, engines, &limits));
            (workers.collect(), None, chosen.note)
        }
        Err(error) => (Vec::new(), Some(one_line(error.as_ref())), None),
    };
    let gpus = inventory.gpus.iter().flatten().enumerate().map(|(ordinal, gpu)| {
        let device = Device::Cuda {
            ordinal,
            gpu: gpu.clone(),
        };
        let reading = probe.read(&device);
        GpuReport {
            uuid: gpu.uuid.clone(),
            name: device.to_string(),
            free_mib: reading.as_ref().ok().map(|reading| reading.free_mib),
            total_mib: reading.as_ref().ok().map(|reading| reading.total_mib),
            problem: reading.err(),
        }
    });
    Report {
        host: HostReport {
            free_mib: host::available_mib(),
            total_mib: host::total_mib(),
            pressure_percent: host::pressure_percent(),
        },
        gpus: gpus.collect(),
        gpus_missing: inventory.gpus.err(),
        cuda_engine: inventory.cuda_engine.ok().map(|path| path.display().to_string()),
        workers,
        refused,
        note,
    }
}

fn worker(device: &Device, probe: &Probe, engines: &Engines, limits: &Limits) -> WorkerReport {
    let claimed_mib = Claims::new(&Claims::usual_root(), &device.key(), "probe").others_mib();
    let reading = probe.read(device);
    let mut host_state = HostState {
        free_mib: host::available_mib(),
        total_mib: host::total_mib(),
        ..HostState::default()
    };
    let target = if device.kind() == DeviceKind::Cpu {
        host_state.claimed_mib = claimed_mib;
        Target::Cpu
    } else {
        Target::Gpu(reading.as_ref().ok().map(|reading| GpuState {
            free_mib: reading.free_mib,
            total_mib: reading.total_mib,
            claimed_mib,
            engine_mib: 0,
        }))
    };
    let snapshot = Snapshot {
        host: host_state,
        device: target,
    };
    let available = choice::available(&snapshot, limits);
    let queues = fitting(&available)
        .into_iter()
        .filter(|queue| queue.priority == 0);
    let (program, _, _) = engines.command(device);
    let missing = (!program.is_file()).then(|| format!("the engine `{}` is missing", program.display()));
    WorkerReport {
        device: device.to_string(),
        engine: program.display().to_string(),
        free_mib: reading.as_ref().map_or(0, |reading| reading.free_mib),
        claimed_by_others_mib: claimed_mib,
        reserve_mib: match device.kind() {
            DeviceKind::Cpu => limits.reserve_mib,
            DeviceKind::Cuda => limits.reserve_device_mib,
        },
        room_mib: available.memory.of(device.kind()),
        reach_mib: choice::capacity(&snapshot, limits).of(device.kind()),
        asks_for: queues.map(|queue| queue.class.to_string()).collect(),
        problem: reading.err().or(missing),
    }
}

fn readable(report: &Report) -> String {
    let mut text = String::new();
    let gib = |mib: u64| format!("{:.1}", mib as f64 / 1024.0);
    let mut line = |words: String| {
        // Writing to a string does not fail.
        let _always = writeln!(text, "{words}");
    };
    let host = &report.host;
    let pressure = host.pressure_percent.map_or_else(String::new, |percent| {
        format!("; tasks wait for memory {percent} % of the time")
    });
    line(format!(
        "host: {} GiB free of {}{pressure}",
        gib(host.free_mib),
        gib(host.total_mib)
    ));
    for gpu in &report.gpus {
        let memory = match (gpu.free_mib, gpu.total_mib) {
            (Some(free), Some(total)) => format!("{} GiB free of {}", gib(free), gib(total)),
            _ => gpu.problem.clone().unwrap_or_default(),
        };
        line(format!("{} ({}): {memory}", gpu.name, gpu.uuid));
    }
    if let Some(reason) = &report.gpus_missing {
        line(format!("GPUs: {reason}"));
    } else if report.cuda_engine.is_none() {
        line("GPUs: the CUDA engine is not installed".to_owned());
    }
    line(String::new());
    for worker in &report.workers {
        let asks = if worker.asks_for.is_empty() {
            "nothing".to_owned()
        } else {
            worker.asks_for.join(", ")
        };
        line(format!("a worker on {} asks for: {asks}", worker.device));
        let room = worker.room_mib.map_or("no".to_owned(), |mib| gib(mib) + " GiB");
        let reach = worker
            .reach_mib
            .map_or("unknown".to_owned(), |mib| gib(mib) + " GiB");
        line(format!(
            "  {room} for one task: {} GiB are free, {} MiB are reserved, {} MiB are about to be used by others; {reach} \
             at the most",
            gib(worker.free_mib),
            worker.reserve_mib,
            worker.claimed_by_others_mib
        ));
        if let Some(problem) = &worker.problem {
            line(format!("  {problem}"));
        }
    }
    // A note repeats why there are no GPUs.
    let note = report.note.iter().filter(|_| report.gpus_missing.is_none());
    for reason in report.refused.iter().chain(note) {
        line(reason.clone());
    }
    text
}
