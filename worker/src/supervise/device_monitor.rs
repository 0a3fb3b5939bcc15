//! Reads the memory of the device, the host and this worker's processes: for the admission of tasks, for
//! warnings, and for the heartbeats. The runner makes one monitor; tasks report process ids, samples and
//! rendered frames to it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use latentfarm_common::wire::memory::{MEDIA_MIB, MemorySample};
use latentfarm_common::wire::outcome::GpuStatus;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::settings::RunnerSettings;
use super::task_reservations::ReservedMemory;
use super::throughput::Throughput;
use crate::consume::HeartbeatState;
use crate::machine::admission::{self, DeviceState, GpuState, HostState, MemoryLimits, Snapshot};
use crate::machine::idle_gate::IdleGate;
use crate::machine::probe::{Device, Probe, Reading};
use crate::machine::usage_thresholds::UsageThresholds;
use latentfarm_common::host;

/// How often the heartbeats' figures are read anew; as often as a heartbeat is sent.
const INTERVAL: Duration = Duration::from_secs(2);
const MIB: u64 = 1 << 20;
/// The host memory of an engine on a GPU: CUDA's libraries and the driver's context. On an H200 it was 770 to 855 MiB.
const CUDA_ENGINE_HOST_MIB: u64 = 850;

/// Monitors one worker's device. Clones share the state; the runner, the warm children and the refresher have
/// one each.
#[derive(Clone, Debug)]
pub(super) struct DeviceMonitor {
    shared: Arc<MonitorShared>,
}

#[derive(Debug)]
struct MonitorShared {
    device: Device,
    probe: Probe,
    limits: MemoryLimits,
    idle_gate: Option<IdleGate>,
    state: Mutex<MonitorState>,
}

#[derive(Debug)]
struct MonitorState {
    engine_pid: Option<u32>,
    media_pids: Vec<u32>,
    /// What the task that was admitted last needs of the device, and what other workers have reserved, in MiB.
    need_mib: u64,
    reserved_by_others: ReservedMemory,
    /// The memory of the device that heartbeats offer while another worker of this host has it; `None` if none has.
    offered_mib: Option<u64>,
    /// The memory of the device that the engine held at its last sample.
    engine_own_mib: u64,
    /// Why the device could not be read, as last logged; `None` if it could.
    read_error: Option<String>,
    thresholds: UsageThresholds,
    throughput: Throughput,
}

/// The memory of the device, the host and this worker's processes at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct MachineStatus {
    /// The part by which tasks are admitted.
    pub(super) snapshot: Snapshot,
    /// Free and total memory of the device, as heartbeats show them.
    free_mib: u64,
    total_mib: u64,
    /// The resident set of the supervisor and its children.
    host_rss_mib: u64,
    engine_rss_mib: u64,
    gpu_status: Option<GpuStatus>,
}

impl DeviceMonitor {
    pub(super) fn new(settings: &RunnerSettings, probe: Probe) -> Self {
        let state = MonitorState {
            engine_pid: None,
            media_pids: Vec::new(),
            need_mib: 0,
            reserved_by_others: ReservedMemory::default(),
            offered_mib: None,
            engine_own_mib: 0,
            read_error: None,
            thresholds: UsageThresholds::new(&settings.warn_gib),
            throughput: Throughput::new(Instant::now()),
        };
        Self {
            shared: Arc::new(MonitorShared {
                device: settings.device.clone(),
                probe,
                limits: settings.limits,
                idle_gate: settings.idle_gate.clone(),
                state: Mutex::new(state),
            }),
        }
    }

    pub(super) fn set_engine_pid(&self, pid: Option<u32>) {
        self.change(|state| {
            if state.engine_pid != pid {
                state.engine_own_mib = 0;
            }
            state.engine_pid = pid;
        });
    }

    pub(super) fn add_media_pid(&self, pid: Option<u32>) {
        self.change(|state| state.media_pids.extend(pid));
    }

    /// Records what an admitted task needs of the device, and what other workers have reserved.
    pub(super) fn record_admission(&self, need_mib: u64, reserved_by_others: ReservedMemory) {
        self.change(|state| {
            (state.need_mib, state.reserved_by_others) = (need_mib, reserved_by_others);
        });
    }

    /// Sets the memory of the device that heartbeats offer while another worker of this host has it, so that the
    /// coordinator keeps tasks for this worker's turn.
    pub(super) fn set_offered(&self, mib: Option<u64>) {
        self.change(|state| state.offered_mib = mib);
    }

    /// Returns the host memory that is still going to be taken, by the engine of this worker and by other workers.
    pub(super) fn outstanding_mib(&self) -> u64 {
        let is_on_host = self.shared.device == Device::Cpu;
        let (need_mib, others, engine_own_mib) =
            self.change(|state| (state.need_mib, state.reserved_by_others, state.engine_own_mib));
        if is_on_host {
            need_mib.saturating_sub(engine_own_mib) + others.device_mib
        } else {
            self.engine_growth_mib() + others.host_mib
        }
    }

    /// Returns the host memory that this worker's engine on a GPU and its media child are still going to take; 0
    /// for an engine on the host, whose need is that of its task.
    pub(super) fn host_growth_mib(&self) -> u64 {
        if self.shared.device == Device::Cpu {
            return 0;
        }
        let media = self.change(|state| state.media_pids.clone());
        let media_mib = media.into_iter().map(host::held_mib).max().unwrap_or(0);
        self.engine_growth_mib() + MEDIA_MIB.saturating_sub(media_mib)
    }

    fn engine_growth_mib(&self) -> u64 {
        match self.shared.device {
            Device::Cuda { .. } => {
                let engine = self.change(|state| state.engine_pid);
                CUDA_ENGINE_HOST_MIB.saturating_sub(engine.map_or(0, host::rss_mib))
            }
            Device::Cpu | Device::Simulated(_) => 0,
        }
    }

    /// Returns the memory of the device that the engine held at its last sample; 0 before the first.
    pub(super) fn engine_own_mib(&self) -> u64 {
        self.change(|state| state.engine_own_mib)
    }

    /// Records a memory sample of the engine, and warns if memory use crosses a threshold by it.
    pub(super) fn record_engine_sample(&self, sample: &MemorySample) {
        let own_mib = sample.own / MIB;
        let taken_mib = sample.total.saturating_sub(sample.free) / MIB;
        self.change(|state| state.engine_own_mib = own_mib);
        match self.shared.device {
            // The total of its samples is the engine's budget, where the thresholds are of the host's memory.
            Device::Cpu => self.warn_above_thresholds(own_mib, 0, 0),
            Device::Cuda { .. } | Device::Simulated(_) => {
                self.warn_above_thresholds(taken_mib, taken_mib, sample.total / MIB);
            }
        }
    }

    /// Counts rendered frames for the throughput.
    pub(super) fn add_rendered_frames(&self, frames: u32) {
        self.change(|state| state.throughput.add(Instant::now(), frames));
    }

    /// Reads the device and the host. `reserved_by_others` is what other workers have reserved and not taken yet.
    pub(super) async fn read(&self, reserved_by_others: ReservedMemory) -> MachineStatus {
        let own = self.clone();
        // A driver takes milliseconds to reply, a broken one longer.
        let status = tokio::task::spawn_blocking(move || own.read_blocking(reserved_by_others)).await;
        status.unwrap_or_else(|_panicked| MachineStatus::unknown(&self.shared.device))
    }

    fn read_blocking(&self, reserved_by_others: ReservedMemory) -> MachineStatus {
        let MonitorShared { device, probe, .. } = &*self.shared;
        let (engine, media, engine_own_mib) = self.change(|state| {
            // Those that have ended hold nothing.
            state.media_pids.retain(|pid| host::rss_mib(*pid) > 0);
            (state.engine_pid, state.media_pids.clone(), state.engine_own_mib)
        });
        let (engine_rss_mib, supervisor_mib) = (engine.map_or(0, host::rss_mib), host::own_rss_mib());
        let media_rss_mib: u64 = media.iter().map(|pid| host::rss_mib(*pid)).sum();
        // An engine that has died holds nothing.
        let engine_own_mib = if engine_rss_mib == 0 { 0 } else { engine_own_mib };
        let mut host = HostState {
            free_mib: host::available_mib(),
            total_mib: host::total_mib(),
            reserved_by_others_mib: reserved_by_others.host_mib,
            engine_mib: engine.map_or(0, host::held_mib),
            // The next task uses one of them again.
            media_mib: media.iter().map(|pid| host::held_mib(*pid)).max().unwrap_or(0),
            supervisor_mib,
            engine_growth_mib: self.engine_growth_mib(),
        };
        let mut status = MachineStatus {
            free_mib: host.free_mib,
            total_mib: host.total_mib,
            host_rss_mib: supervisor_mib + engine_rss_mib + media_rss_mib,
            engine_rss_mib,
            ..MachineStatus::unknown(device)
        };
        if *device == Device::Cpu {
            host.reserved_by_others_mib = reserved_by_others.device_mib;
        } else {
            let reading = probe.read(device);
            self.log_read_error(reading.as_ref().err());
            let reading = reading.ok();
            // The file of a simulated GPU does not count the engine's memory; a driver does.
            let engine_in_free = matches!(device, Device::Simulated(_));
            let gpu = reading.map(|reading: Reading| GpuState {
                free_mib: reading.free_mib,
                total_mib: reading.total_mib,
                reserved_by_others_mib: reserved_by_others.device_mib,
                engine_mib: if engine_in_free { 0 } else { engine_own_mib },
            });
            let uncounted_mib = if engine_in_free { engine_own_mib } else { 0 };
            status.free_mib = gpu.map_or(0, |gpu| gpu.free_mib.saturating_sub(uncounted_mib));
            status.total_mib = gpu.map_or(0, |gpu| gpu.total_mib);
            status.gpu_status = reading.map(|reading| reading.gpu_status);
            status.snapshot.device = DeviceState::Gpu(gpu);
        }
        status.snapshot.host = host;
        status
    }

    /// Logs that the GPU cannot be read, once for each reason, and once that it can be read again.
    fn log_read_error(&self, error: Option<&String>) {
        let device = &self.shared.device;
        self.change(|state| {
            if state.read_error.as_ref() == error {
                return;
            }
            if let Some(error) = error {
                tracing::warn!(%device, error, "cannot read the GPU, so that this worker takes no render tasks");
            } else {
                tracing::info!(%device, "the GPU can be read again");
            }
            state.read_error = error.cloned();
        });
    }

    fn warn_above_thresholds(&self, used_mib: u64, taken_mib: u64, total_mib: u64) {
        let device = &self.shared.device;
        for line in self.change(|state| state.thresholds.crossed(used_mib, taken_mib, total_mib)) {
            tracing::warn!(%device, "{line}");
        }
    }

    /// Writes a status into the state behind the heartbeats.
    pub(super) fn update_heartbeat(&self, status: &MachineStatus, heartbeat_state: &HeartbeatState) {
        let (frames_per_second, offered_mib) =
            self.change(|state| (state.throughput.per_second(Instant::now()), state.offered_mib));
        let capacity = admission::capacity(&status.snapshot, &self.shared.limits);
        let mut available = admission::available(&status.snapshot, &self.shared.limits);
        if offered_mib.is_some() {
            available.memory.device_mib = offered_mib;
        }
        let is_working = heartbeat_state.snapshot().task.is_some();
        // During a task the engine's own memory is not known exactly, and that of another worker here is no stranger's.
        if let (Some(gate), DeviceState::Gpu(Some(gpu))) = (&self.shared.idle_gate, status.snapshot.device)
            && !is_working
            && offered_mib.is_none()
        {
            let ours = gpu.free_mib + gpu.engine_mib;
            gate.note(gpu.total_mib.saturating_sub(ours), tokio::time::Instant::now());
        }
        heartbeat_state.update(|heartbeat| {
            heartbeat.device_free_mib = status.free_mib;
            heartbeat.device_total_mib = status.total_mib;
            heartbeat.host_rss_mib = status.host_rss_mib;
            heartbeat.capacity = capacity;
            heartbeat.available = available;
            heartbeat.gpu = status.gpu_status;
            heartbeat.frames_per_second = frames_per_second;
        });
    }

    /// Starts a task that reads the device for the heartbeats every [`INTERVAL`], until the returned set is
    /// dropped.
    pub(super) fn start_refresher(&self, heartbeat_state: &HeartbeatState) -> JoinSet<()> {
        let (monitor, heartbeat_state) = (self.clone(), heartbeat_state.clone());
        let refreshing = async move {
            let mut ticks = tokio::time::interval(INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let status = monitor.read(ReservedMemory::default()).await;
                monitor.update_heartbeat(&status, &heartbeat_state);
                let taken_mib = status.total_mib.saturating_sub(status.free_mib);
                let used_mib = match monitor.shared.device {
                    Device::Cpu => status.engine_rss_mib,
                    Device::Cuda { .. } | Device::Simulated(_) => taken_mib,
                };
                monitor.warn_above_thresholds(used_mib, taken_mib, status.total_mib);
            }
        };
        JoinSet::from_iter([refreshing])
    }

    fn change<T>(&self, change: impl FnOnce(&mut MonitorState) -> T) -> T {
        change(&mut self.shared.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl MachineStatus {
    /// A status in which nothing is known, so that no task fits.
    fn unknown(device: &Device) -> Self {
        Self {
            snapshot: Snapshot {
                host: HostState::default(),
                device: if *device == Device::Cpu {
                    DeviceState::Cpu
                } else {
                    DeviceState::Gpu(None)
                },
            },
            free_mib: 0,
            total_mib: 0,
            host_rss_mib: 0,
            engine_rss_mib: 0,
            gpu_status: None,
        }
    }
}
