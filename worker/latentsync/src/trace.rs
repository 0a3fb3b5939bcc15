//! Records what the modules of a network give, by the dotted name of the module, so that a test can compare
//! block by block. A recorder sees the results of the operations that run without it too: recording changes no
//! operation of a network and no bit of its result.

use std::cell::RefCell;

use candle_core::Tensor;

/// A recorder; see [`Run::with_trace`](super::Run::with_trace).
#[derive(Default)]
pub struct Trace {
    records: RefCell<Vec<(String, Tensor)>>,
}

impl Trace {
    /// Everything recorded, by dotted module name, in the order of computing.
    pub fn into_records(self) -> Vec<(String, Tensor)> {
        self.records.into_inner()
    }

    /// Records the output of the module `path.name` (`path` itself where `name` is empty).
    pub(super) fn put(&self, path: &str, name: &str, output: &Tensor) {
        let key = match (path, name) {
            (only, "") | ("", only) => only.to_owned(),
            (path, name) => format!("{path}.{name}"),
        };
        self.records.borrow_mut().push((key, output.clone()));
    }
}
