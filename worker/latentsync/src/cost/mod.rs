//! The memory and the arithmetic that running the networks takes, by memory plan and kind of device. The
//! worker predicts with it which plan fits a device, and the coordinator gets the prediction with the
//! weights' description.
//!
//! The networks are described once, by the `walk` over their operations. A test compares it with the
//! operations for which the real networks call their hooks. Everything else is computed from it:
//!
//! - [`prediction`]: the memory that a task needs, for choosing a plan and for `weights describe`;
//! - the charges of a simulated GPU, which are the stages of a prediction;
//! - [`flops`]: the arithmetic of a pass, for benchmarks.
//!
//! [`op`] gives the memory of one operation on each kind of device, and [`plan`] the plans that change the
//! bits of a result.

pub mod compute;
pub mod flops;
pub mod op;
pub mod plan;
pub mod prediction;
pub mod shape;
mod walk;
