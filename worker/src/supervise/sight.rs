//! What a worker sees of its device, its host and its children: for decisions, and fresh in every heartbeat.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use latentfarm_common::wire::memory::MemorySample;
use latentfarm_common::wire::outcome::GpuStatus;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::rate::Rate;
use crate::consume::Vitals;
use crate::machine::choice::{self, GpuState, HostState, Limits, Snapshot, Target};
use crate::machine::probe::{Device, Probe, Reading};
use crate::machine::warn::Watch;
use latentfarm_common::host;

/// How often the vitals are made fresh; as often as a heartbeat is sent.
const INTERVAL: Duration = Duration::from_secs(2);
const MIB: u64 = 1 << 20;

/// Shared between the runner and the refresher. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    device: Device,
    probe: Probe,
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    engine: Option<u32>,
    media: Option<u32>,
    /// The engine's share of its device by its last sample.
    engine_own_mib: u64,
    /// Why the device could not be read, once told.
    blind: Option<String>,
    watch: Watch,
    rate: Rate,
}

/// One look at everything.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) snapshot: Snapshot,
    /// Of the device, as heartbeats show it.
    free_mib: u64,
    total_mib: u64,
    host_rss_mib: u64,
    engine_rss_mib: u64,
    vitals: Option<GpuStatus>,
}

impl Sight {
    pub(super) fn new(device: Device, probe: Probe, limits: Limits, warn_gib: &[u64]) -> Self {
        let state = State {
            engine: None,
            media: None,
            engine_own_mib: 0,
            blind: None,
            watch: Watch::new(warn_gib),
            rate: Rate::new(Instant::now()),
        };
        Self {
            shared: Arc::new(Shared {
                device,
                probe,
                limits,
                state: Mutex::new(state),
            }),
        }
    }

    pub(super) fn engine_is(&self, pid: Option<u32>) {
        self.change(|state| {
            if state.engine != pid {
                state.engine_own_mib = 0;
            }
            state.engine = pid;
        });
    }

    pub(super) fn media_is(&self, pid: Option<u32>) {
        self.change(|state| state.media = pid);
    }

    pub(super) fn media_pid(&self) -> Option<u32> {
        self.change(|state| state.media)
    }

    /// By the engine's last sample; 0 before the first.
    pub(super) fn engine_own_mib(&self) -> u64 {
        self.change(|state| state.engine_own_mib)
    }

    /// The engine told what it uses. Warns where that crosses a threshold.
    pub(super) fn engine_said(&self, sample: &MemorySample) {
        let own_mib = sample.own / MIB;
        let taken_mib = sample.total.saturating_sub(sample.free) / MIB;
        self.change(|state| state.engine_own_mib = own_mib);
        match self.shared.device {
            // Its total is the engine's budget, the refresher's the host's.
            Device::Cpu => self.watch(own_mib, 0, 0),
            Device::Cuda { .. } | Device::Simulated(_) => {
                self.watch(taken_mib, taken_mib, sample.total / MIB);
            }
        }
    }

    pub(super) fn rendered(&self, frames: u32) {
        self.change(|state| state.rate.add(Instant::now(), frames));
    }

    /// Looks at the device and the host. Others are about to take `claimed_mib` of the device.
    pub(super) async fn look(&self, claimed_mib: u64) -> Look {
        let own = self.clone();
        // A driver takes milliseconds to answer, a broken one longer.
        let looked = tokio::task::spawn_blocking(move || own.look_blocking(claimed_mib)).await;
        looked.unwrap_or_else(|_panicked| Look::blind(&self.shared.device))
    }

    fn look_blocking(&self, claimed_mib: u64) -> Look {
        let Shared { device, probe, .. } = &*self.shared;
        let (engine, media, engine_own_mib) =
            self.change(|state| (state.engine, state.media, state.engine_own_mib));
        let held = |pid: Option<u32>| pid.map_or(0, host::held_mib);
        let rss = |pid: Option<u32>| pid.map_or(0, host::rss_mib);
        let (engine_rss_mib, supervisor_mib) = (rss(engine), host::own_rss_mib());
        // An engine that has died holds nothing.
        let engine_own_mib = if engine_rss_mib == 0 { 0 } else { engine_own_mib };
        let mut host = HostState {
            free_mib: host::available_mib(),
            total_mib: host::total_mib(),
            claimed_mib: 0,
            engine_mib: held(engine),
            media_mib: held(media),
            supervisor_mib,
        };
        let mut look = Look {
            free_mib: host.free_mib,
            total_mib: host.total_mib,
            host_rss_mib: supervisor_mib + engine_rss_mib + rss(media),
            engine_rss_mib,
            ..Look::blind(device)
        };
        if *device == Device::Cpu {
            host.claimed_mib = claimed_mib;
        } else {
            let reading = probe.read(device);
            self.tell_blindness(reading.as_ref().err());
            let reading = reading.ok();
            let engine_in_free = matches!(device, Device::Simulated(_));
            let gpu = reading.map(|reading: Reading| GpuState {
                free_mib: reading.free_mib,
                total_mib: reading.total_mib,
                claimed_mib,
                engine_mib: if engine_in_free { 0 } else { engine_own_mib },
            });
            let unseen_mib = if engine_in_free { engine_own_mib } else { 0 };
            look.free_mib = gpu.map_or(0, |gpu| gpu.free_mib.saturating_sub(unseen_mib));
            look.total_mib = gpu.map_or(0, |gpu| gpu.total_mib);
            look.vitals = reading.map(|reading| reading.vitals);
            look.snapshot.device = Target::Gpu(gpu);
        }
        look.snapshot.host = host;
        look
    }

    /// Says once that a device cannot be read, and why, and once that it can be again.
    fn tell_blindness(&self, reason: Option<&String>) {
        let device = &self.shared.device;
        self.change(|state| {
            if state.blind.as_ref() == reason {
                return;
            }
            if let Some(reason) = reason {
                tracing::warn!(%device, "takes no tasks for the GPU: {reason}");
            } else {
                tracing::info!(%device, "the GPU can be read again");
            }
            state.blind = reason.cloned();
        });
    }

    fn watch(&self, used_mib: u64, taken_mib: u64, total_mib: u64) {
        let device = &self.shared.device;
        for line in self.change(|state| state.watch.on(used_mib, taken_mib, total_mib)) {
            tracing::warn!(%device, "{line}");
        }
    }

    /// Shows a look in the heartbeats.
    pub(super) fn show(&self, look: &Look, vitals: &Vitals) {
        let frames_per_second = self.change(|state| state.rate.per_second(Instant::now()));
        let capacity = choice::capacity(&look.snapshot, &self.shared.limits);
        vitals.update(|heartbeat| {
            heartbeat.device_free_mib = look.free_mib;
            heartbeat.device_total_mib = look.total_mib;
            heartbeat.host_rss_mib = look.host_rss_mib;
            heartbeat.capacity = capacity;
            heartbeat.gpu = look.vitals;
            heartbeat.frames_per_second = frames_per_second;
        });
    }

    /// Looks again and again until the set is dropped.
    pub(super) fn keep_fresh(&self, vitals: &Vitals) -> JoinSet<()> {
        let (sight, vitals) = (self.clone(), vitals.clone());
        let refreshing = async move {
            let mut ticks = tokio::time::interval(INTERVAL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let look = sight.look(0).await;
                sight.show(&look, &vitals);
                let taken_mib = look.total_mib.saturating_sub(look.free_mib);
                let used_mib = match sight.shared.device {
                    Device::Cpu => look.engine_rss_mib,
                    Device::Cuda { .. } | Device::Simulated(_) => taken_mib,
                };
                sight.watch(used_mib, taken_mib, look.total_mib);
            }
        };
        let mut refresher = JoinSet::new();
        refresher.spawn(refreshing);
        refresher
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.shared.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Look {
    /// Nothing is known, so nothing fits.
    fn blind(device: &Device) -> Self {
        Self {
            snapshot: Snapshot {
                host: HostState::default(),
                device: if *device == Device::Cpu {
                    Target::Cpu
                } else {
                    Target::Gpu(None)
                },
            },
            free_mib: 0,
            total_mib: 0,
            host_rss_mib: 0,
            engine_rss_mib: 0,
            vitals: None,
        }
    }
}
