//! What holds for one run of the networks: the options, who is asked before each operation, and what is recorded.
//!
//! Every layer is given it. The threads that share the work inside an operation do not need it.

use std::cell::RefCell;

use candle_core::{DType, Result, Tensor};

use super::boundary::{Observer, Op};
use super::kernels::cuda;
use super::levers::Levers;
use super::trace::Trace;

/// The context of a run. The default is the fastest plan, without an observer and without a record.
#[derive(Clone, Copy, Default)]
pub struct Run<'a> {
    pub(crate) options: Levers,
    observer: Option<&'a RefCell<dyn Observer + 'a>>,
    trace: Option<&'a Trace>,
}

impl<'a> Run<'a> {
    /// A run under `options`.
    pub fn new(options: Levers) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// The same run, in which `observer` is asked before each operation.
    #[must_use]
    pub fn observed(self, observer: &'a RefCell<dyn Observer + 'a>) -> Self {
        Self {
            observer: Some(observer),
            ..self
        }
    }

    /// The same run, in which `trace` records the outputs of modules.
    #[must_use]
    pub fn recorded(self, trace: &'a Trace) -> Self {
        Self {
            trace: Some(trace),
            ..self
        }
    }

    /// The same run under other options.
    pub(crate) fn under(self, options: Levers) -> Self {
        Self { options, ..self }
    }

    /// Asks the observer, if there is one.
    pub(crate) fn before(&self, op: Op, x: &Tensor) -> Result<()> {
        match self.observer {
            Some(observer) => observer.borrow_mut().before(op, x),
            None => Ok(()),
        }
    }

    /// Asks the observer about a copy of `x` into `elements` values.
    pub(crate) fn before_copy(&self, elements: usize, x: &Tensor) -> Result<()> {
        self.before(Op::Copy { elements }, x)
    }

    /// Runs a pass, and again for as long as it fails and the observer says so.
    pub fn retried<T>(&self, pass: impl Fn() -> Result<T>) -> Result<T> {
        loop {
            match pass() {
                Err(error)
                    if self
                        .observer
                        .is_some_and(|observer| observer.borrow_mut().retry(&error)) => {}
                outcome => return outcome,
            }
        }
    }

    /// Records the output of the module `path.name`; see [`Trace`].
    pub(crate) fn put(&self, path: &str, name: &str, output: &Tensor) {
        if let Some(trace) = self.trace {
            trace.put(path, name, output);
        }
    }

    /// Records what `output` computes from the result of a fused operation, for example the result without the residual
    /// that the operation added. Without a record nothing is computed.
    pub(crate) fn put_derived(
        &self,
        path: &str,
        name: &str,
        output: impl FnOnce() -> Result<Tensor>,
    ) -> Result<()> {
        if let Some(trace) = self.trace {
            trace.put(path, name, &output()?);
        }
        Ok(())
    }

    /// Whether the operations that were written for the CPU in `f32` work on `x`, and not the reference backend.
    pub(crate) fn on_own_ops(&self, x: &Tensor) -> bool {
        x.device().is_cpu() && x.dtype() == DType::F32 && !self.options.composed
    }

    /// Whether the kernels that were written for CUDA work on `x`, and not the reference backend.
    pub(crate) fn on_cuda(&self, x: &Tensor) -> bool {
        !self.options.composed && cuda::serves(x)
    }
}
