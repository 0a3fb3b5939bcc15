//! The orderly end of a process: the first signal drains the process, a second one stops it, and `main` waits
//! until all work has ended. The coordinator and the worker set it up before they start anything else.

use std::io;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::suspend;

/// How urgently the process should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// The process works as usual.
    Running,
    /// The process finishes the work in flight and begins nothing new.
    Draining,
    /// The process gives back the work in flight and ends.
    Stopping,
}

/// Moves the process to a later phase, and never to an earlier one. Dropping the trigger changes nothing.
#[derive(Clone, Debug)]
pub struct Trigger {
    phase: watch::Sender<Phase>,
}

impl Trigger {
    /// Begins to drain, unless the process is stopping.
    pub fn drain(&self) {
        self.advance(Phase::Draining);
    }

    /// Begins to stop, whatever the phase.
    pub fn stop(&self) {
        self.advance(Phase::Stopping);
    }

    /// Moves to the next phase, as a signal does: from running to draining, from draining to stopping.
    pub fn escalate(&self) {
        let next = match *self.phase.borrow() {
            Phase::Running => Phase::Draining,
            Phase::Draining | Phase::Stopping => Phase::Stopping,
        };
        self.advance(next);
    }

    fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let higher = to > *phase;
            *phase = (*phase).max(to);
            higher
        });
    }
}

/// A handle for everything that has to end. Clones share one phase.
#[derive(Clone, Debug)]
pub struct Shutdown {
    phase: watch::Receiver<Phase>,
    /// This keeps the channel open, so that the phase stays "running" if every other trigger is dropped.
    _trigger: Trigger,
    permits: mpsc::Sender<()>,
}

impl Shutdown {
    /// Returns the phase of the process.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Whether neither a drain nor a stop has begun.
    pub fn is_running(&self) -> bool {
        self.phase() == Phase::Running
    }

    /// Waits until `phase` or a later one has begun. Safe to drop and call again.
    pub async fn reached(&mut self, phase: Phase) {
        // The sender lives in `self`, so this cannot fail.
        let _ = self.phase.wait_for(|now| *now >= phase).await;
    }

    /// Returns a permit, which marks work as in flight until it is dropped.
    pub fn permit(&self) -> Permit {
        Permit {
            _permit: self.permits.clone(),
        }
    }
}

/// A mark of work in flight, for which [`Drain::finished`] waits.
#[must_use = "dropping the permit marks the work as finished"]
#[derive(Debug)]
pub struct Permit {
    _permit: mpsc::Sender<()>,
}

/// The wait for the end of everything that has a [`Shutdown`] or a [`Permit`].
#[derive(Debug)]
pub struct Drain {
    permits: mpsc::Receiver<()>,
}

impl Drain {
    /// Waits until every [`Shutdown`] and [`Permit`] is dropped. Returns false if `limit` passed before that.
    pub async fn finished(mut self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.permits.recv()).await.is_ok()
    }
}

/// Makes a trigger, the handle that it acts on, and the wait for the end.
pub fn channel() -> (Trigger, Shutdown, Drain) {
    let (sender, phase) = watch::channel(Phase::Running);
    let (permits, permit_receiver) = mpsc::channel(1);
    let trigger = Trigger { phase: sender };
    let shutdown = Shutdown {
        phase,
        _trigger: trigger.clone(),
        permits,
    };
    let drain = Drain {
        permits: permit_receiver,
    };
    (trigger, shutdown, drain)
}

/// Makes SIGINT, SIGTERM and SIGHUP (the terminal was closed) move the process to the next phase: the first drains it,
/// the second stops it. Under `nohup`, SIGHUP is ignored. SIGTSTP stops the children with the process.
///
/// # Errors
/// If the handlers cannot be installed. It must be called in a tokio runtime.
pub fn on_signals(trigger: Trigger) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = if suspend::is_ignored(Signal::SIGHUP) {
        None
    } else {
        Some(signal(SignalKind::hangup())?)
    };
    suspend::on_signal()?;
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
                Some(()) = async { hang_up.as_mut()?.recv().await } => "SIGHUP",
            };
            trigger.escalate();
            let phase = *trigger.phase.borrow();
            tracing::info!(signal = name, ?phase, "received a signal to end");
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_signal_stops() {
        let (trigger, mut shutdown, _drain) = channel();
        assert!(shutdown.is_running());
        trigger.escalate();
        shutdown.reached(Phase::Draining).await;
        assert_eq!(shutdown.phase(), Phase::Draining);
        trigger.escalate();
        shutdown.reached(Phase::Stopping).await;
        trigger.drain();
        assert_eq!(
            shutdown.phase(),
            Phase::Stopping,
            "a drain does not take a stop back"
        );
    }

    #[tokio::test]
    async fn a_lost_trigger_is_no_end() {
        let (trigger, mut shutdown, _drain) = channel();
        drop(trigger);
        let waited = tokio::time::timeout(Duration::from_millis(20), shutdown.reached(Phase::Draining)).await;
        assert!(waited.is_err());
        assert!(shutdown.is_running());
    }

    #[tokio::test]
    async fn draining_waits_for_every_permit() {
        let (_trigger, shutdown, drain) = channel();
        let permit = shutdown.permit();
        drop(shutdown);
        let finished = tokio::spawn(drain.finished(Duration::from_secs(10)));
        assert!(!finished.is_finished());
        drop(permit);
        assert!(finished.await.unwrap());
    }

    #[tokio::test]
    async fn work_that_does_not_end_is_not_waited_for_forever() {
        let (_trigger, shutdown, drain) = channel();
        let _permit = shutdown.permit();
        assert!(!drain.finished(Duration::from_millis(20)).await);
    }
}
