//! Accounting of the memory that an engine holds, on its device and on the host; cleanup after each window;
//! fault injection.

pub mod cleanup;
pub mod counting;
pub mod device;
pub mod fault_injection;
