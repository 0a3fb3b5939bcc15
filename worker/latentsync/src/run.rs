//! What holds for one run of the networks. It is the first argument of every layer; the threads that share the work inside
//! an operation do not need it.

use std::cell::RefCell;

use candle_core::{DType, Result, Tensor};

use super::hooks::{Hooks, Op};
use super::kernels::cuda;
use super::options::ExecutionOptions;
use super::trace::Trace;

/// The context of a run: its options, the hooks that are called before each operation, and a recorder of modules'
/// outputs. The default is the fastest plan without hooks and without a recorder.
#[derive(Clone, Copy, Default)]
pub struct Run<'a> {
    pub(crate) options: ExecutionOptions,
    hooks: Option<&'a RefCell<dyn Hooks + 'a>>,
    trace: Option<&'a Trace>,
}

impl<'a> Run<'a> {
    /// A run under `options`, which should be those that the networks were loaded for.
    pub fn new(options: ExecutionOptions) -> Self {
        Self {
            options,
            ..Self::default()
        }
    }

    /// The same run, in which `hooks` are called.
    #[must_use]
    pub fn with_hooks(self, hooks: &'a RefCell<dyn Hooks + 'a>) -> Self {
        Self {
            hooks: Some(hooks),
            ..self
        }
    }

    /// The same run, in which `trace` records the outputs of modules.
    #[must_use]
    pub fn with_trace(self, trace: &'a Trace) -> Self {
        Self {
            trace: Some(trace),
            ..self
        }
    }

    /// The same run under other options.
    pub(crate) fn with_options(self, options: ExecutionOptions) -> Self {
        Self { options, ..self }
    }

    /// Calls [`Hooks::before`], if there are hooks. `x` is the main operand of `op`.
    pub(crate) fn before(&self, op: Op, x: &Tensor) -> Result<()> {
        match self.hooks {
            Some(hooks) => hooks.borrow_mut().before(op, x),
            None => Ok(()),
        }
    }

    /// Calls [`Hooks::before`] for a copy of `x` into `elements` values.
    pub(crate) fn before_copy(&self, elements: usize, x: &Tensor) -> Result<()> {
        self.before(Op::Copy { elements }, x)
    }

    /// Runs a pass, and again for as long as it fails and [`Hooks::retry`] says so.
    pub fn retried<T>(&self, pass: impl Fn() -> Result<T>) -> Result<T> {
        loop {
            match pass() {
                Err(error) if self.hooks.is_some_and(|hooks| hooks.borrow_mut().retry(&error)) => {}
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
    /// that the operation added. Without a recorder nothing is computed.
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

    /// Whether `kernels/cpu` works on `x`: it is `f32` on the CPU, and the options do not force the reference kernels.
    pub(crate) fn on_cpu(&self, x: &Tensor) -> bool {
        x.device().is_cpu() && x.dtype() == DType::F32 && !self.options.reference_kernels
    }

    /// Whether `kernels/cuda` works on `x`: it is on a GPU, and the options do not force the reference kernels.
    pub(crate) fn on_cuda(&self, x: &Tensor) -> bool {
        !self.options.reference_kernels && cuda::serves(x)
    }
}
