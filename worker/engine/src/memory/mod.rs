//! Accounting of the memory that an engine holds: on its device, on the host, and what a window leaves behind.

pub mod counting;
pub mod device;
pub mod fault;
pub mod guard;
