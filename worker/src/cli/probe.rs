//! `latentfarm-worker probe` prints what this machine has, how much of it is free, and which classes of tasks
//! a worker on each device would pull now.

use std::fmt::Write as _;
use std::process::ExitCode;

use latentfarm_common::error::one_line;
use latentfarm_common::queues::{ResourceClass, fitting};
use latentfarm_common::tags::Tags;
use latentfarm_common::wire::memory::DeviceKind;
use serde::Serialize;

use super::device_args::DeviceArgs;
use super::engines::Engines;
use super::exit::{EXIT_CANNOT_WORK, print, usage_error};
use crate::machine::admission::{self, DeviceState, GpuState, HostState, MemoryLimits, Snapshot};
use crate::machine::probe::{Device, FailedDevice, Probe};
use crate::machine::reservations::Reservations;
use latentfarm_common::host;

#[derive(clap::Args, Debug)]
pub(super) struct ProbeArgs {
    #[command(flatten)]
    devices: DeviceArgs,
    /// Print one JSON object instead of the text
    #[arg(long)]
    json: bool,
}

/// Everything that `probe` found out; `--json` prints it as it is.
#[derive(Clone, Debug, Serialize)]
struct ProbeReport {
    host: HostReport,
    /// The GPUs that this process may use.
    gpus: Vec<GpuReport>,
    /// Why there is no usable GPU.
    gpus_missing: Option<String>,
    /// Path of the CUDA engine, if it is installed.
    cuda_engine: Option<String>,
    workers: Vec<WorkerReport>,
    /// Why `run` with these options would not start.
    refused: Option<String>,
    /// Why `--device auto` chose the CPU.
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

/// The memory and the tasks of a worker on one device.
#[derive(Clone, Debug, Serialize)]
struct WorkerReport {
    device: String,
    /// What names the device to `--device`.
    selector: String,
    engine: String,
    free_mib: u64,
    reserved_by_others_mib: u64,
    reserve_mib: u64,
    /// Memory for one task now; `None` if a task would not fit at all.
    available_mib: Option<u64>,
    /// Memory for one task if nothing else used the device; `None` if it is not known.
    capacity_mib: Option<u64>,
    /// Classes of the tasks that the worker would pull now, the largest first.
    resource_classes: Vec<String>,
    problem: Option<String>,
}

pub(super) fn main(args: &ProbeArgs) -> ExitCode {
    let mut engines = match args.devices.engines() {
        Ok(engines) => engines,
        Err(error) => return usage_error(error.as_ref()),
    };
    let report = gather(&args.devices, &mut engines);
    let text = if args.json {
        serde_json::to_string_pretty(&report).unwrap_or_default()
    } else {
        text(&report)
    };
    let code = if report.can_render() { 0 } else { EXIT_CANNOT_WORK };
    print(&text, ExitCode::from(code))
}

impl ProbeReport {
    fn can_render(&self) -> bool {
        let renders = |class: &String| !matches!(class.parse(), Ok(ResourceClass::Analyze));
        self.workers
            .iter()
            .any(|worker| worker.resource_classes.iter().any(renders))
    }
}

fn gather(args: &DeviceArgs, engines: &mut Engines) -> ProbeReport {
    let probe = args.probe();
    let (selected, inventory) = args.select(&probe, engines);
    let limits = args.limits();
    let (workers, refused, note) = match selected {
        Ok(selected) => {
            let workers = selected
                .devices
                .iter()
                .map(|device| worker(device, &probe, engines, &limits));
            let workers: Vec<WorkerReport> = workers.collect();
            let failed: Vec<String> = selected.failed.iter().map(FailedDevice::describe).collect();
            let refused = workers.is_empty().then(|| failed.join("; "));
            (workers, refused, selected.note())
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
            problem: inventory.failed.get(&gpu.uuid).cloned().or(reading.err()),
        }
    });
    ProbeReport {
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

fn worker(device: &Device, probe: &Probe, engines: &Engines, limits: &MemoryLimits) -> WorkerReport {
    let reserved_by_others_mib =
        Reservations::new(&Reservations::usual_root(), &device.key(), "probe").others_mib();
    let reading = probe.read(device);
    let mut host_state = HostState {
        free_mib: host::available_mib(),
        total_mib: host::total_mib(),
        ..HostState::default()
    };
    let target = if device.kind() == DeviceKind::Cpu {
        host_state.reserved_by_others_mib = reserved_by_others_mib;
        DeviceState::Cpu
    } else {
        DeviceState::Gpu(reading.as_ref().ok().map(|reading| GpuState {
            free_mib: reading.free_mib,
            total_mib: reading.total_mib,
            reserved_by_others_mib,
            engine_mib: 0,
        }))
    };
    let snapshot = Snapshot {
        host: host_state,
        device: target,
    };
    let available = admission::available(&snapshot, limits);
    let queues = fitting(&available, None, &Tags::NONE)
        .into_iter()
        .filter(|queue| queue.priority == 0);
    let (program, _, _) = engines.command(device);
    let missing = (!program.is_file()).then(|| format!("the engine `{}` is missing", program.display()));
    let reserve_mib = match target {
        DeviceState::Cpu => limits.reserve(host_state.total_mib),
        DeviceState::Gpu(gpu) => limits.reserve_device(gpu.map_or(0, |gpu| gpu.total_mib)),
    };
    WorkerReport {
        device: device.to_string(),
        selector: device.selector(),
        engine: program.display().to_string(),
        free_mib: reading.as_ref().map_or(0, |reading| reading.free_mib),
        reserved_by_others_mib,
        reserve_mib,
        available_mib: available.memory.of(device.kind()),
        capacity_mib: admission::capacity(&snapshot, limits).of(device.kind()),
        resource_classes: queues.map(|queue| queue.lane.to_string()).collect(),
        problem: reading.err().or(missing),
    }
}

fn text(report: &ProbeReport) -> String {
    let mut text = String::new();
    let gib = |mib: u64| format!("{:.1}", mib as f64 / 1024.0);
    let mut line = |line: String| {
        let _infallible = writeln!(text, "{line}");
    };
    let host = &report.host;
    let pressure = host.pressure_percent.map_or_else(String::new, |percent| {
        format!("; processes wait for memory {percent} % of the time")
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
        let tasks = if worker.resource_classes.is_empty() {
            "no tasks".to_owned()
        } else {
            format!("tasks of the classes {}", worker.resource_classes.join(", "))
        };
        line(format!("a worker on {} would pull {tasks}", worker.device));
        let available = worker
            .available_mib
            .map_or("nothing".to_owned(), |mib| gib(mib) + " GiB");
        let capacity = worker
            .capacity_mib
            .map_or("unknown".to_owned(), |mib| gib(mib) + " GiB");
        line(format!(
            "  available for one task: {available} ({} GiB are free, {} MiB stay in reserve, {} MiB are reserved by other \
             workers); at most: {capacity}",
            gib(worker.free_mib),
            worker.reserve_mib,
            worker.reserved_by_others_mib
        ));
        if let Some(problem) = &worker.problem {
            line(format!("  {problem}"));
        }
    }
    // If there are no GPUs, the note repeats why.
    let note = report.note.iter().filter(|_| report.gpus_missing.is_none());
    for reason in report.refused.iter().chain(note) {
        line(reason.clone());
    }
    text
}
