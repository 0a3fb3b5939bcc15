//! A process that can be stopped and go on, as by SIGSTOP and SIGCONT: meanwhile nothing of it runs, and time passes.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use futures::future::BoxFuture;

use crate::job::chunk::probe;

/// Whether a process runs.
#[derive(Debug, Default)]
pub(super) struct Gate(Mutex<Stopped>);

#[derive(Debug, Default)]
struct Stopped {
    is_stopped: bool,
    waiting: Vec<Waker>,
}

impl Gate {
    pub(super) fn stop(&self) {
        self.0.lock().unwrap().is_stopped = true;
    }

    pub(super) fn go_on(&self) {
        let mut gate = self.0.lock().unwrap();
        gate.is_stopped = false;
        for waker in gate.waiting.drain(..) {
            waker.wake();
        }
    }
}

/// What a process does, as far as its gate lets it.
pub(super) struct Gated {
    gate: Arc<Gate>,
    running: BoxFuture<'static, ()>,
    /// Who it is, for the notes of the probe.
    is: Option<usize>,
}

impl Gated {
    pub(super) fn new(gate: &Arc<Gate>, running: impl Future<Output = ()> + Send + 'static) -> Self {
        Self {
            gate: Arc::clone(gate),
            running: Box::pin(running),
            is: None,
        }
    }

    /// The same, for the process of a coordinator.
    pub(super) fn of_coordinator(self, coordinator: usize) -> Self {
        let is = Some(coordinator);
        Self { is, ..self }
    }
}

impl Future for Gated {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        {
            let mut gate = self.gate.0.lock().unwrap();
            if gate.is_stopped {
                gate.waiting.push(context.waker().clone());
                return Poll::Pending;
            }
        }
        if let Some(coordinator) = self.is {
            probe::set_observer(coordinator);
        }
        self.running.as_mut().poll(context)
    }
}
