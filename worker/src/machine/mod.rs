//! Facts about this machine that the supervisor decides by: which devices there are, what is free on them now, what
//! other workers of this machine have reserved, and which memory plan fits.

pub mod choice;
pub mod claims;
pub mod probe;
pub mod warn;
