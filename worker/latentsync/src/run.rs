//! The context of one run of the networks, which every layer takes as its first argument. The threads that
//! share the work inside an operation do not need it.

use std::cell::RefCell;

use candle_core::{DType, Result, Tensor};

use super::hooks::{Hooks, Op};
use super::kernels::cuda;
use super::options::ExecutionOptions;
use super::trace::Trace;

/// The context of a run: its options, the hooks that the layers call before each operation, and a recorder of
/// the outputs of modules. The default is the fastest memory plan without hooks and without a recorder.
#[derive(Clone, Copy, Default)]
pub struct Run<'a> {
    pub(crate) options: ExecutionOptions,
    hooks: Option<&'a RefCell<dyn Hooks + 'a>>,
    trace: Option<&'a Trace>,
}

impl<'a> Run<'a> {
    /// Creates a run under `options`, which should be those that the networks were loaded with.
    pub fn new(options: ExecutionOptions) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// Returns the same run, in which the layers call `hooks`.
    #[must_use]
    pub fn with_hooks(self, hooks: &'a RefCell<dyn Hooks + 'a>) -> Self {
        Self {
            hooks: Some(hooks),
            ..self
        }
    }

    /// Returns the same run, in which `trace` records the outputs of modules.
    #[must_use]
    pub fn with_trace(self, trace: &'a Trace) -> Self {
        Self {
            trace: Some(trace),
            ..self
        }
    }

    /// Returns the same run under other options.
    pub(crate) fn with_options(self, options: ExecutionOptions) -> Self {
        Self { options, ..self }
    }

    /// Calls [`Hooks::before`] if the run has hooks. `x` is the main operand of `op`.
    pub(crate) fn before(&self, op: Op, x: &Tensor) -> Result<()> {
        match self.hooks {
            Some(hooks) => hooks.borrow_mut().before(op, x),
            None => Ok(()),
        }
    }

    /// Calls [`Hooks::before`] for an [`Op::Copy`] of `x` into `elements` values.
    pub(crate) fn before_copy(&self, elements: usize, x: &Tensor) -> Result<()> {
        self.before(Op::Copy { elements }, x)
    }

    /// Runs a pass, and repeats it while it fails and [`Hooks::retry`] returns `true`.
    pub fn retried<T>(&self, pass: impl Fn() -> Result<T>) -> Result<T> {
        loop {
            match pass() {
                Err(error) if self.hooks.is_some_and(|hooks| hooks.borrow_mut().retry(&error)) => {}
                outcome => return outcome,
            }
        }
    }

    /// Records the output of the module `path.name` if the run has a [`Trace`].
    pub(crate) fn put(&self, path: &str, name: &str, output: &Tensor) {
        if let Some(trace) = self.trace {
            trace.put(path, name, output);
        }
    }

    /// Records what `output` computes from the result of a fused operation, for example the result without
    /// the residual that the operation added. `output` is not called if there is no recorder.
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

    /// Returns whether `kernels/cpu` computes on `x`: it is `f32` on the CPU, and the options do not force
    /// the reference kernels.
    pub(crate) fn on_cpu(&self, x: &Tensor) -> bool {
        x.device().is_cpu() && x.dtype() == DType::F32 && !self.options.reference_kernels
    }

    /// Returns whether `kernels/cuda` computes on `x`: it is on a GPU, and the options do not force the
    /// reference kernels.
    pub(crate) fn on_cuda(&self, x: &Tensor) -> bool {
        !self.options.reference_kernels && cuda::supports(x)
    }
}
