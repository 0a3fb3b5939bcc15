//! Tensors without values, and the count of the memory that they hold.

use std::cell::RefCell;
use std::rc::Rc;

use crate::hooks::Op;

/// What is alive, what was alive at most, and what ran.
#[derive(Default)]
pub(super) struct MemoryUse {
    pub(super) live: u64,
    pub(super) peak: u64,
    /// The operation that was running when `peak` was reached.
    pub(super) at_peak: Option<Op>,
    pub(super) ops: Vec<Op>,
}

/// A tensor without values. Clones share its storage; the last one gives it back.
#[derive(Clone)]
pub(super) struct WalkedTensor {
    storage: Rc<Storage>,
    /// Rows and width, or images, channels, height and width: what the network makes of it.
    pub(super) shape: Vec<usize>,
}

struct Storage {
    bytes: u64,
    memory: Rc<RefCell<MemoryUse>>,
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.memory.borrow_mut().live -= self.bytes;
    }
}

impl WalkedTensor {
    /// A tensor of so many bytes, which are counted from here on.
    pub(super) fn new(memory: &Rc<RefCell<MemoryUse>>, bytes: u64, shape: &[usize]) -> Self {
        memory.borrow_mut().live += bytes;
        Self {
            storage: Rc::new(Storage {
                bytes,
                memory: Rc::clone(memory),
            }),
            shape: shape.to_vec(),
        }
    }

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

    /// The sizes of a picture: images, channels, height, width.
    pub(super) fn picture(&self) -> (usize, usize, usize, usize) {
        match *self.shape {
            [images, channels, height, width] => (images, channels, height, width),
            _ => (1, 1, 1, self.elements()),
        }
    }

    /// The size of the last dimension.
    pub(super) fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The product of all dimensions but the last.
    pub(super) fn rows(&self) -> usize {
        self.elements() / self.width().max(1)
    }
}
