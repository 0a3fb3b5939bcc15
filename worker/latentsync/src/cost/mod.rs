//! What running the networks costs, by memory plan and kind of device.
//!
//! The networks are described once, by the [`walk`] over their operations, which a test holds to the operations that the
//! real networks announce. Everything else is read off it:
//!
//! - [`prediction`]: the memory that a task needs, for planning and for `weights describe`;
//! - the charges of a simulated GPU, which are a prediction's stages;
//! - [`flops`]: the arithmetic of a pass, for benchmarks.
//!
//! [`op`] says what one operation takes, on each kind of device, and [`plan`] what each memory plan changes.

pub mod compute;
pub mod flops;
pub mod op;
pub mod plan;
pub mod prediction;
pub mod shape;
pub mod walk;
