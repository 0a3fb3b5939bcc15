//! What a worker reserves for the task that it admits, against the other workers of this host: memory of its
//! device, and if that is a GPU also memory of the host, for the engine's own part and the media child. The warm
//! engine writes them.

use super::settings::RunnerSettings;
use crate::machine::probe::Device;
use crate::machine::reservations::{AdmissionLock, Reservations};

/// The reservations of one worker.
#[derive(Debug)]
pub(super) struct TaskReservations {
    device: Reservations,
    /// `None` if the device is the host itself.
    host: Option<Reservations>,
}

/// Memory that is reserved and not taken yet, in MiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ReservedMemory {
    pub(super) device_mib: u64,
    /// Memory of the host; 0 for a worker whose device is the host.
    pub(super) host_mib: u64,
}

impl TaskReservations {
    pub(super) fn new(settings: &RunnerSettings, worker: &str) -> Self {
        let of = |device: &Device| Reservations::new(&settings.reservations_dir, &device.key(), worker);
        Self {
            device: of(&settings.device),
            host: (settings.device != Device::Cpu).then(|| of(&Device::Cpu)),
        }
    }

    /// Returns what other workers have reserved and not taken yet.
    pub(super) fn of_others(&self) -> ReservedMemory {
        ReservedMemory {
            device_mib: self.device.others_mib(),
            host_mib: self.host.as_ref().map_or(0, Reservations::others_mib),
        }
    }

    /// Waits until no other worker of the device, or of the host, is admitting a task.
    pub(super) async fn lock_admission(&self) -> [Option<AdmissionLock>; 2] {
        let device = self.device.lock_admission().await;
        // The host's lock is always the last one, so that no two workers wait for each other.
        match &self.host {
            Some(host) => [Some(device), Some(host.lock_admission().await)],
            None => [Some(device), None],
        }
    }

    /// Records what the task has not taken yet.
    pub(super) fn write(&mut self, outstanding: ReservedMemory) {
        self.device.write(outstanding.device_mib);
        if let Some(host) = &mut self.host {
            host.write(outstanding.host_mib);
        }
    }

    /// Removes the reservations, if there are any.
    pub(super) fn release(&mut self) {
        self.device.release();
        if let Some(host) = &mut self.host {
            host.release();
        }
    }
}
