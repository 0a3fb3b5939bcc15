//! Records what the modules of a network give, by the dotted name of the module, so that a test can compare
//! block by block. A recorder sees the results of the operations that run without it too: recording changes no
//! operation of a network and no bit of its result.

use std::cell::RefCell;

use candle_core::{Result, Tensor};

/// A recorder that is passed down a forward pass.
#[derive(Default)]
pub struct Trace {
    records: Option<RefCell<Vec<(String, Tensor)>>>,
}

impl Trace {
    /// Records nothing.
    pub fn off() -> Self {
        Self::default()
    }

    /// Keeps the output of every module.
    pub fn recording() -> Self {
        Self {
            records: Some(RefCell::default()),
        }
    }

    /// Everything recorded, by dotted module name, in the order of computing.
    pub fn into_records(self) -> Vec<(String, Tensor)> {
        self.records.map(RefCell::into_inner).unwrap_or_default()
    }

    /// Records the output of the module `path.name` (`path` itself where `name` is empty).
    pub(super) fn put(&self, path: &str, name: &str, output: &Tensor) {
        if let Some(records) = &self.records {
            let key = match (path, name) {
                (only, "") | ("", only) => only.to_owned(),
                (path, name) => format!("{path}.{name}"),
            };
            records.borrow_mut().push((key, output.clone()));
        }
    }

    /// Records what `output` computes from the result of a fused operation, for example the result without the residual
    /// that the operation added. Without a recorder nothing is computed.
    pub(super) fn put_derived(
        &self,
        path: &str,
        name: &str,
        output: impl FnOnce() -> Result<Tensor>,
    ) -> Result<()> {
        if self.records.is_some() {
            self.put(path, name, &output()?);
        }
        Ok(())
    }
}
