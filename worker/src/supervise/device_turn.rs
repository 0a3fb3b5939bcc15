//! A worker's turns on a GPU that it shares with other workers of this host, of which one has an engine there at a
//! time. The warm engine asks before each pull whether the device is this worker's.

use std::fs::File;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::settings::RunnerSettings;
use crate::machine::device_lock::DeviceLock;
use crate::machine::probe::Device;

/// The lock of the device, and what decides when this worker waits for it and gives it up.
#[derive(Debug)]
pub(super) struct DeviceTurn {
    lock: DeviceLock,
    device: String,
    /// How long a turn lasts if another worker waits.
    limit: Duration,
    /// Whether tasks that need the device were announced since the last pull that brought none.
    is_needed: bool,
    /// When the first engine of this turn was started.
    began: Option<Instant>,
    /// Whether the operator knows that the lock cannot be used.
    is_reported: bool,
}

impl DeviceTurn {
    /// Returns `None` for the CPU, which any number of workers may share.
    pub(super) fn new(settings: &RunnerSettings, worker: &str) -> Option<Self> {
        let device = &settings.device;
        (*device != Device::Cpu).then(|| Self {
            lock: DeviceLock::new(&settings.reservations_dir, &device.key(), worker),
            device: device.to_string(),
            limit: settings.device_turn,
            is_needed: false,
            began: None,
            is_reported: false,
        })
    }

    /// Notes whether there are tasks that need the device: without one this worker waits for no turn.
    pub(super) fn set_needed(&mut self, is_needed: bool) {
        self.is_needed = is_needed;
    }

    /// Takes the device if it is free and nobody else's turn. Returns whether this worker has it.
    pub(super) fn take(&mut self) -> bool {
        match self.lock.try_take(self.is_needed) {
            Ok(is_held) => is_held,
            Err(error) => {
                if !std::mem::replace(&mut self.is_reported, true) {
                    tracing::warn!(device = self.device, %error, "cannot lock the GPU: other workers of this host may start an engine on it too");
                }
                true
            }
        }
    }

    /// Whether this worker has the device and has to give it up before its next task: another worker waits, and
    /// this turn has lasted long enough, or no engine runs.
    pub(super) fn is_over(&self) -> bool {
        let has_lasted = self.began.is_none_or(|began| began.elapsed() >= self.limit);
        has_lasted && self.is_contended()
    }

    /// Whether this worker has the device and another one waits for it.
    pub(super) fn is_contended(&self) -> bool {
        self.lock.is_held() && self.lock.is_wanted_by_others()
    }

    /// Notes that an engine is being started, and returns the file that it has to inherit.
    pub(super) fn begin_engine(&mut self) -> Option<&File> {
        self.began.get_or_insert_with(Instant::now);
        self.lock.file()
    }

    /// Gives the device up. Its engine must have been ended.
    pub(super) fn release(&mut self) {
        self.lock.release();
        self.began = None;
    }

    /// Describes who has the device.
    pub(super) fn describe_user(&self) -> String {
        let user = self.lock.other_owner();
        let user =
            user.unwrap_or_else(|| "other workers of this machine, which are first in the queue".to_owned());
        format!("`{}` is used by {user}", self.device)
    }

    /// Returns a future that ends when [`DeviceTurn::take`] or [`DeviceTurn::is_over`] may have another answer.
    pub(super) fn changed(&self) -> BoxFuture<'static, ()> {
        self.lock.changed().boxed()
    }
}
