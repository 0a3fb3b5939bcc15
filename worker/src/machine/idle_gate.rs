//! Keeps a worker off a GPU that other programs use, by the memory that they hold there.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Decides whether other programs use a GPU. Clones share the decision.
#[derive(Clone, Debug)]
pub struct IdleGate(Arc<Mutex<GateState>>);

#[derive(Debug)]
struct GateState {
    limit_mib: u64,
    quiet_for: Duration,
    /// Since when they hold no more than the limit, while the gate is shut.
    quiet_since: Option<Instant>,
    /// Why the gate is shut, if it is.
    reason: watch::Sender<Option<String>>,
}

impl IdleGate {
    /// Makes a gate that is shut while other programs hold more than `limit_mib`, and until they have held less for
    /// `quiet_for`. Returns it with the reason why it is shut, if it is.
    pub fn new(limit_mib: u64, quiet_for: Duration) -> (Self, watch::Receiver<Option<String>>) {
        let (reason, receiver) = watch::channel(None);
        let state = GateState {
            limit_mib,
            quiet_for,
            quiet_since: None,
            reason,
        };
        (Self(Arc::new(Mutex::new(state))), receiver)
    }

    /// Records how much memory of the GPU other programs hold.
    pub fn note(&self, others_mib: u64, now: Instant) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_shut = state.reason.borrow().is_some();
        if others_mib > state.limit_mib {
            state.quiet_since = None;
            if !is_shut {
                let reason = format!(
                    "leaving its GPU to other programs, which hold {others_mib} MiB there (--yield-above {})",
                    state.limit_mib
                );
                state.reason.send_replace(Some(reason));
            }
        } else if is_shut {
            let since = *state.quiet_since.get_or_insert(now);
            if now - since >= state.quiet_for {
                state.quiet_since = None;
                state.reason.send_replace(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_opens_when_others_have_been_quiet_for_long_enough() {
        let (gate, reason) = IdleGate::new(2048, Duration::from_mins(1));
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let is_shut = || reason.borrow().is_some();
        gate.note(2048, start);
        assert!(!is_shut());
        gate.note(5000, after(1));
        assert!(reason.borrow().as_deref().unwrap().contains("5000 MiB"));
        gate.note(9000, after(2));
        assert!(
            reason.borrow().as_deref().unwrap().contains("5000 MiB"),
            "it is said once"
        );
        gate.note(100, after(10));
        gate.note(100, after(60));
        assert!(is_shut());
        // They come back in between.
        gate.note(3000, after(61));
        gate.note(100, after(62));
        gate.note(100, after(121));
        assert!(is_shut());
        gate.note(100, after(122));
        assert!(!is_shut());
        gate.note(3000, after(123));
        assert!(is_shut());
    }
}
