//! Tensors without values: an account of what is alive while a network's operations pass by.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use latentfarm_common::wire::memory::DeviceKind;

use crate::Levers;
use crate::boundary::Op;
use crate::cost::op::{Account, Cost, Details, cost as cost_of};

/// What is alive, was alive at most, and ran.
pub(super) struct Tape {
    pub(super) account: Account,
    pub(super) levers: Levers,
    /// Bytes of a weight that is on the device while its layer works alone; 0 where weights stay.
    pub(super) streamed_bytes: Cell<usize>,
    state: Rc<RefCell<State>>,
}

#[derive(Default)]
struct State {
    live: u64,
    peak: u64,
    /// The operation that was running when `peak` was reached.
    at_peak: Option<Op>,
    ops: Vec<Op>,
}

/// A tensor's storage; clones share it, the last one gives it back.
#[derive(Clone)]
pub(super) struct Ghost {
    storage: Rc<Storage>,
    /// Rows and width, or images, channels, height and width: what the network makes of it.
    pub(super) shape: Vec<usize>,
}

struct Storage {
    bytes: u64,
    state: Rc<RefCell<State>>,
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.state.borrow_mut().live -= self.bytes;
    }
}

impl Ghost {
    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The same storage seen in another shape.
    pub(super) fn viewed(&self, shape: &[usize]) -> Self {
        Self {
            storage: Rc::clone(&self.storage),
            shape: shape.to_vec(),
        }
    }

    /// Sizes of a picture: images, channels, height, width.
    pub(super) fn picture(&self) -> (usize, usize, usize, usize) {
        match *self.shape {
            [images, channels, height, width] => (images, channels, height, width),
            _ => (1, 1, 1, self.elements()),
        }
    }
}

impl Tape {
    pub(super) fn new(account: Account, levers: Levers) -> Self {
        Self {
            account,
            levers,
            streamed_bytes: Cell::new(0),
            state: Rc::default(),
        }
    }

    pub(super) fn live(&self) -> u64 {
        self.state.borrow().live
    }

    /// The highest since the last call, which was in this operation.
    pub(super) fn take_peak(&self) -> (u64, Option<Op>) {
        let mut state = self.state.borrow_mut();
        let taken = (state.peak, state.at_peak.take());
        state.peak = state.live;
        taken
    }

    pub(super) fn into_ops(self) -> Vec<Op> {
        std::mem::take(&mut self.state.borrow_mut().ops)
    }

    /// Storage of so many bytes.
    pub(super) fn hold(&self, bytes: u64, shape: &[usize]) -> Ghost {
        let mut state = self.state.borrow_mut();
        state.live += bytes;
        if state.live > state.peak {
            state.peak = state.live;
            state.at_peak = None;
        }
        Ghost {
            storage: Rc::new(Storage {
                bytes,
                state: Rc::clone(&self.state),
            }),
            shape: shape.to_vec(),
        }
    }

    /// A tensor on the device, of values that take `each` bytes.
    pub(super) fn tensor(&self, each: usize, shape: &[usize]) -> Ghost {
        self.hold(shape.iter().product::<usize>() as u64 * each as u64, shape)
    }

    /// A tensor on the host: counted where the host's memory is the device's.
    pub(super) fn on_host(&self, each: usize, shape: &[usize]) -> Ghost {
        match self.account.kind {
            DeviceKind::Cpu => self.tensor(each, shape),
            DeviceKind::Cuda => self.hold(0, shape),
        }
    }

    /// Notes an operation that is charged by another one.
    pub(super) fn tell(&self, op: Op) {
        self.state.borrow_mut().ops.push(op);
    }

    /// Runs an operation.
    pub(super) fn run(&self, op: Op, details: Details, shape: &[usize]) -> Ghost {
        self.tell(op);
        let cost = cost_of(op, details, &self.account, self.levers.limits);
        self.charge(op, cost, weights(op), shape)
    }

    /// Charges an operation whose layers have so many weights.
    pub(super) fn charge(&self, op: Op, cost: Cost, weights: usize, shape: &[usize]) -> Ghost {
        {
            let streamed = weights as u64 * self.streamed_bytes.get() as u64;
            let mut state = self.state.borrow_mut();
            let high = (state.live + streamed).saturating_add(cost.peak.max(cost.kept));
            if high > state.peak {
                state.peak = high;
                state.at_peak = Some(op);
            }
        }
        self.hold_quietly(cost.kept, shape)
    }

    /// As [`Tape::hold`]: `charge` has looked at the peak.
    fn hold_quietly(&self, bytes: u64, shape: &[usize]) -> Ghost {
        self.state.borrow_mut().live += bytes;
        Ghost {
            storage: Rc::new(Storage {
                bytes,
                state: Rc::clone(&self.state),
            }),
            shape: shape.to_vec(),
        }
    }
}

/// Values in the weights of a layer.
fn weights(op: Op) -> usize {
    match op {
        Op::Linear { input, output, .. } => input * output,
        Op::Conv2d { sizes, .. } => sizes.input * sizes.output * sizes.kernel * sizes.kernel,
        _ => 0,
    }
}
