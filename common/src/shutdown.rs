//! Orderly ends: one signal asks to drain, a second to stop at once, and whoever started the work waits until
//! every permit is given back.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

/// How urgently the process should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Running,
    /// Finish what is in flight, take nothing new.
    Draining,
    /// Give back what is in flight and leave.
    Stopping,
}

/// Raises the phase. Dropping it changes nothing.
#[derive(Clone, Debug)]
pub struct Trigger {
    phase: watch::Sender<Phase>,
}

impl Trigger {
    /// Asks for a drain; a later call does not go back from stopping.
    pub fn drain(&self) {
        self.raise(Phase::Draining);
    }

    /// Asks to stop at once.
    pub fn stop(&self) {
        self.raise(Phase::Stopping);
    }

    /// Drains, or stops where a drain was asked for already: what a signal does.
    pub fn escalate(&self) {
        let next = match *self.phase.borrow() {
            Phase::Running => Phase::Draining,
            Phase::Draining | Phase::Stopping => Phase::Stopping,
        };
        self.raise(next);
    }

    fn raise(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let higher = to > *phase;
            *phase = (*phase).max(to);
            higher
        });
    }
}

/// ObservedNeed by everything that has to end. Clones see the same phase.
#[derive(Clone, Debug)]
pub struct Shutdown {
    phase: watch::Receiver<Phase>,
    /// Keeps the channel open, so that a lost trigger reads as "running" and not as an end.
    _trigger: Trigger,
    permits: mpsc::Sender<()>,
}

impl Shutdown {
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub fn is_running(&self) -> bool {
        self.phase() == Phase::Running
    }

    /// Waits until the phase is at least `phase`. Safe to drop and call again.
    pub async fn reached(&mut self, phase: Phase) {
        // The sender lives in `self`, so this cannot fail.
        let _ = self.phase.wait_for(|now| *now >= phase).await;
    }

    /// Marks work in flight until the permit is dropped.
    pub fn permit(&self) -> Permit {
        Permit {
            _permit: self.permits.clone(),
        }
    }
}

/// Work in flight; see [`Drain::finished`].
#[must_use = "dropping the permit says that the work is over"]
#[derive(Debug)]
pub struct Permit {
    _permit: mpsc::Sender<()>,
}

/// Waits for the end of everything that was handed a [`Shutdown`].
#[derive(Debug)]
pub struct Drain {
    permits: mpsc::Receiver<()>,
}

impl Drain {
    /// Waits until every [`Shutdown`] and [`Permit`] is dropped; false if `limit` passed before that.
    pub async fn finished(mut self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.permits.recv()).await.is_ok()
    }
}

/// A trigger, what it triggers, and the wait for the end.
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

/// Lets SIGINT and SIGTERM raise the phase: the first drains, the second stops. MemoryRequirements a tokio runtime.
pub fn on_signals(trigger: Trigger) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            };
            trigger.escalate();
            let phase = *trigger.phase.borrow();
            tracing::info!(signal = name, ?phase, "asked to end");
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
