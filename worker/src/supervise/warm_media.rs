//! The media children of a runner. One stays running between tasks; a second one works ahead for the next task, or
//! finishes the one before, if the host has the memory. Analyze and render tasks borrow them.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use latentfarm_common::error::one_line;
use latentfarm_common::wire::outcome::Failure;
use tokio::sync::Notify;

use super::child::Child;
use super::device_monitor::DeviceMonitor;
use super::settings::RunnerSettings;
use super::task_reservations::ReservedMemory;
use crate::machine::admission;

/// The media child, if one runs. Clones share it.
#[derive(Clone)]
pub(super) struct WarmMedia {
    pub(super) settings: Arc<RunnerSettings>,
    pub(super) monitor: DeviceMonitor,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    idle: Mutex<Option<Child>>,
    /// Children that tasks have.
    lent: AtomicUsize,
    /// A task has given its child back or lost it.
    returned: Notify,
}

/// A media child that a task has. It is killed if it is dropped instead of being kept.
pub(super) struct MediaChild {
    child: Child,
    pool: WarmMedia,
    _lent: Lent,
}

/// Counts a child as lent until it is dropped.
struct Lent(Arc<Shared>);

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.lent.fetch_sub(1, Ordering::SeqCst);
        self.0.returned.notify_waiters();
    }
}

impl WarmMedia {
    /// No child is started before the first task needs one.
    pub(super) fn new(settings: Arc<RunnerSettings>, monitor: DeviceMonitor) -> Self {
        Self {
            settings,
            monitor,
            shared: Arc::default(),
        }
    }

    /// Returns the idle media child, or a new one if there is none. The caller gives it back with
    /// [`MediaChild::keep`] if it has sent its final reply; a child in the middle of a request is dropped and
    /// thereby killed.
    pub(super) fn take(&self) -> Result<MediaChild, Failure> {
        let idle = self.idle().take();
        let child = if let Some(child) = idle.and_then(|mut child| child.is_alive().then_some(child)) {
            child.clear_log();
            child
        } else {
            let child = Child::spawn(&self.settings.media).map_err(|error| Failure::WorkerUnfit {
                message: one_line(&error),
            })?;
            self.monitor.add_media_pid(child.pid());
            child
        };
        self.shared.lent.fetch_add(1, Ordering::SeqCst);
        Ok(MediaChild {
            child,
            pool: self.clone(),
            _lent: Lent(Arc::clone(&self.shared)),
        })
    }

    /// Waits until not more than one child is at work, and returns a further one; `None` if the host has too little
    /// memory for it.
    pub(super) async fn take_beside(&self) -> Result<Option<MediaChild>, Failure> {
        loop {
            let returned = self.shared.returned.notified();
            if self.shared.lent.load(Ordering::SeqCst) <= 1 {
                break;
            }
            returned.await;
        }
        let status = self.monitor.read(ReservedMemory::default()).await;
        let outstanding_mib = self.monitor.outstanding_mib();
        if admission::second_media_fits(&status.snapshot, &self.settings.limits, outstanding_mib) {
            self.take().map(Some)
        } else {
            Ok(None)
        }
    }

    /// Ends the idle media child, so that it gives its memory back.
    pub(super) async fn free_memory(&self) {
        let idle = self.idle().take();
        if let Some(child) = idle {
            child.close().await;
        }
    }

    fn idle(&self) -> MutexGuard<'_, Option<Child>> {
        self.shared.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MediaChild {
    /// Keeps the child for the next task. One is kept; a second one ends.
    pub(super) fn keep(self) {
        let surplus = self.pool.idle().replace(self.child);
        if let Some(child) = surplus {
            tokio::spawn(child.close());
        }
    }
}

impl Deref for MediaChild {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.child
    }
}

impl DerefMut for MediaChild {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.child
    }
}
