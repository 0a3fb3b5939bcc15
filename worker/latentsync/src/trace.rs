//! Records the outputs of the modules of a network by their dotted names, so that a test can compare a
//! network with the reference block by block. Recording changes no operation of a network and no bit of its
//! result.

use std::cell::RefCell;

use candle_core::Tensor;

/// Records the outputs of modules; a test gives it to a run with [`Run::with_trace`](super::Run::with_trace).
#[derive(Default)]
pub struct Trace {
    records: RefCell<Vec<(String, Tensor)>>,
}

impl Trace {
    /// Returns the recorded outputs with their dotted module names, in the order in which they were computed.
    pub fn into_records(self) -> Vec<(String, Tensor)> {
        self.records.into_inner()
    }

    /// Records the output of the module `path.name`, or of `path` itself if `name` is empty.
    pub(super) fn put(&self, path: &str, name: &str, output: &Tensor) {
        let key = match (path, name) {
            (only, "") | ("", only) => only.to_owned(),
            (path, name) => format!("{path}.{name}"),
        };
        self.records.borrow_mut().push((key, output.clone()));
    }
}
