//! Tests the dispatcher on a real server, with fake workers that follow a script.

#![allow(clippy::unwrap_used, reason = "a failed set-up is a failed test")]
#![allow(unreachable_pub, reason = "the modules are private to this test")]

mod doubtful;
mod endings;
mod faults;
mod hostile;
mod kinds;
mod many;
mod memory;
mod moves;
#[path = "../../examples/fuzz/mutate.rs"]
mod mutate;
mod signatures;
mod spot_checks;
mod succession;
mod support;
mod tags;
mod video;
mod waits;
