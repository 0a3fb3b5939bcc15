//! What running the networks costs in memory, by memory plan and kind of device.

pub mod model;
pub mod op;
pub mod plan;
pub mod walk;
