//! What the networks tell at every layer boundary, and under which levers they work.
//!
//! Both hold for one thread, the one that runs a network, from [`enter`] until its guard is dropped: every layer
//! would have to pass them on otherwise, to no reader's use. The threads that share the work inside an operation
//! do not ask.

use std::cell::RefCell;
use std::rc::Rc;

use candle_core::{Error, Result, Tensor};

use super::levers::Levers;
use super::slices::{Attention, Convolution};

/// One operation of a network with the sizes that decide what memory it takes; batch and frames are in `images`,
/// `rows` or `outer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// `(rows, input)` to `(rows, output)`.
    Linear {
        rows: usize,
        input: usize,
        output: usize,
    },
    /// `(images, input, h x stride, w x stride)` to `(images, output, h, w)`.
    Conv2d { sizes: Convolution, stride: usize },
    /// `rows` independent attentions over all heads side by side in `width`.
    Attention { sizes: Attention, width: usize },
    /// `(images, channels, area)`, statistics over `together` images.
    GroupNorm {
        images: usize,
        together: usize,
        channels: usize,
        area: usize,
    },
    /// `(rows, width)`.
    LayerNorm { rows: usize, width: usize },
    /// `(rows, 2 x width)` to `(rows, width)`.
    Geglu { rows: usize, width: usize },
    /// Anything that gives `elements` values and takes nothing else: a transposition, an upsampling, a join, a padding, a
    /// sum that no layer includes.
    Copy { elements: usize },
}

impl Op {
    /// Values of the result.
    pub fn output_elements(self) -> usize {
        match self {
            Self::Linear { rows, output, .. } => rows * output,
            Self::Conv2d { sizes, .. } => sizes.images * sizes.output * sizes.height * sizes.width,
            Self::Attention { sizes, width } => sizes.rows * sizes.queries * width,
            Self::GroupNorm {
                images,
                channels,
                area,
                ..
            } => images * channels * area,
            Self::LayerNorm { rows, width } | Self::Geglu { rows, width } => rows * width,
            Self::Copy { elements } => elements,
        }
    }
}

/// Hears of every operation before it runs.
pub trait Observer {
    /// `x` is the operation's main operand.
    ///
    /// # Errors
    /// Any error keeps the operation from running: the network's pass ends with it.
    fn before(&mut self, op: Op, x: &Tensor) -> Result<()>;

    /// A pass failed, what it had is dropped, and its inputs are unchanged: whether it is to be tried again.
    fn retry(&mut self, _error: &Error) -> bool {
        false
    }
}

/// What holds for the networks that run on this thread.
#[derive(Clone)]
struct Scope {
    levers: Levers,
    observer: Option<Rc<RefCell<dyn Observer>>>,
}

thread_local! {
    static SCOPE: RefCell<Option<Scope>> = const { RefCell::new(None) };
}

/// Ends a scope where it is dropped; the one before holds again.
#[must_use = "the scope ends where the guard is dropped"]
pub struct Entered {
    before: Option<Scope>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        SCOPE.with(|scope| *scope.borrow_mut() = self.before.take());
    }
}

/// Networks on this thread work under `levers` and tell `observer` from here on.
pub fn enter(levers: Levers, observer: Option<Rc<RefCell<dyn Observer>>>) -> Entered {
    let scope = Scope { levers, observer };
    Entered {
        before: SCOPE.with(|current| current.borrow_mut().replace(scope)),
    }
}

/// Networks on this thread work under `levers` from here on, and tell whom they told before.
pub fn under(levers: Levers) -> Entered {
    enter(levers, observer())
}

/// The levers that hold now; those of the fastest plan outside every scope.
pub(crate) fn levers() -> Levers {
    SCOPE
        .with(|scope| scope.borrow().as_ref().map(|scope| scope.levers))
        .unwrap_or_default()
}

/// Tells of a copy of `x` into `elements` values.
pub(crate) fn before_copy(elements: usize, x: &Tensor) -> Result<()> {
    before(Op::Copy { elements }, x)
}

fn observer() -> Option<Rc<RefCell<dyn Observer>>> {
    SCOPE.with(|scope| scope.borrow().as_ref().and_then(|scope| scope.observer.clone()))
}

/// Runs a pass, and again for as long as it fails and the observer says so.
pub fn retried<T>(pass: impl Fn() -> Result<T>) -> Result<T> {
    loop {
        match pass() {
            Err(error) if observer().is_some_and(|observer| observer.borrow_mut().retry(&error)) => {}
            outcome => return outcome,
        }
    }
}

/// Tells the observer, if there is one.
pub(crate) fn before(op: Op, x: &Tensor) -> Result<()> {
    match observer() {
        Some(observer) => observer.borrow_mut().before(op, x),
        None => Ok(()),
    }
}
