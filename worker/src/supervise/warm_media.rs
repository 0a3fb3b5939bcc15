//! The media child that a runner keeps running between tasks. Analyze and render tasks borrow it from the
//! runner.

use std::sync::Arc;

use latentfarm_common::error::one_line;
use latentfarm_common::wire::outcome::Failure;

use super::child::Child;
use super::device_monitor::DeviceMonitor;
use super::settings::RunnerSettings;

/// The media child, if one runs.
pub(super) struct WarmMedia {
    pub(super) settings: Arc<RunnerSettings>,
    pub(super) monitor: DeviceMonitor,
    idle: Option<Child>,
}

impl WarmMedia {
    /// No child is started before the first task needs one.
    pub(super) fn new(settings: Arc<RunnerSettings>, monitor: DeviceMonitor) -> Self {
        Self {
            settings,
            monitor,
            idle: None,
        }
    }

    /// Returns the idle media child, or a new one if there is none. The caller returns it with
    /// [`WarmMedia::keep`] if it has sent its final reply; a child in the middle of a request is dropped and
    /// thereby killed.
    pub(super) fn take(&mut self) -> Result<Child, Failure> {
        if let Some(mut child) = self.idle.take()
            && child.is_alive()
        {
            child.clear_log();
            return Ok(child);
        }
        let child = Child::spawn(&self.settings.media).map_err(|error| Failure::WorkerUnfit {
            message: one_line(&error),
        })?;
        self.monitor.set_media_pid(child.pid());
        Ok(child)
    }

    /// Keeps a media child for the next task.
    pub(super) fn keep(&mut self, child: Child) {
        self.idle = Some(child);
    }

    /// Ends the idle media child, so that it gives its memory back.
    pub(super) async fn free_memory(&mut self) {
        if let Some(child) = self.idle.take() {
            self.monitor.set_media_pid(None);
            child.close().await;
        }
    }

    /// Ends the idle media child.
    pub(super) async fn close(mut self) {
        self.free_memory().await;
    }
}
