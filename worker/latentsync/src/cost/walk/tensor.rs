//! Tensors without values ("meta tensors" in PyTorch), and the count of the memory that they would take.

use std::cell::RefCell;
use std::rc::Rc;

use crate::hooks::Op;

/// The memory that the walk's tensors take, and the operations that it recorded.
#[derive(Default)]
pub(super) struct TrackedMemory {
    /// The bytes of all tensors that exist now.
    pub(super) live: u64,
    /// The most bytes that were in use at once.
    pub(super) peak: u64,
    /// The operation during which `peak` was reached; `None` if that was between two operations.
    pub(super) at_peak: Option<Op>,
    /// The recorded operations in order.
    pub(super) ops: Vec<Op>,
}

/// A tensor without values, whose clones share its storage. The storage's bytes are no longer counted when
/// the last clone is dropped.
#[derive(Clone)]
pub(super) struct MetaTensor {
    storage: Rc<Storage>,
    /// The shape, which ends with the width for tokens and is `(images, channels, height, width)` for
    /// pictures.
    pub(super) shape: Vec<usize>,
}

struct Storage {
    bytes: u64,
    memory: Rc<RefCell<TrackedMemory>>,
}

impl Drop for Storage {
    fn drop(&mut self) {
        self.memory.borrow_mut().live -= self.bytes;
    }
}

impl MetaTensor {
    /// Creates a tensor of `bytes` bytes, which are counted from now on.
    pub(super) fn new(memory: &Rc<RefCell<TrackedMemory>>, bytes: u64, shape: &[usize]) -> Self {
        memory.borrow_mut().live += bytes;
        Self {
            storage: Rc::new(Storage {
                bytes,
                memory: Rc::clone(memory),
            }),
            shape: shape.to_vec(),
        }
    }

    /// Returns the number of values.
    pub(super) fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Returns a view of the same storage in another shape.
    pub(super) fn viewed(&self, shape: &[usize]) -> Self {
        Self {
            storage: Rc::clone(&self.storage),
            shape: shape.to_vec(),
        }
    }

    /// Returns the sizes of a picture: images, channels, height, width.
    pub(super) fn picture(&self) -> (usize, usize, usize, usize) {
        match *self.shape {
            [images, channels, height, width] => (images, channels, height, width),
            _ => (1, 1, 1, self.elements()),
        }
    }

    /// Returns the size of the last dimension.
    pub(super) fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Returns the product of all dimensions but the last.
    pub(super) fn rows(&self) -> usize {
        self.elements() / self.width().max(1)
    }
}
