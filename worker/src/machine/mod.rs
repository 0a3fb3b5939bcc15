//! Facts about this machine by which the supervisor admits tasks: its devices, their free memory, the memory
//! that other workers of this machine have reserved, which worker has a GPU, the memory plans that fit,
//! the weights that it keeps, and when it works there.

pub mod admission;
pub mod device_check;
pub mod device_lock;
pub mod hours;
pub mod idle_gate;
pub mod probe;
pub mod reservations;
pub mod usage_thresholds;
pub mod weights_cache;
