//! Fuzz targets for everything in Rust that reads bytes from outside. `deploy/fuzz` runs them with libFuzzer,
//! and cargo-fuzz can.
//!
//! | target | input | reads it with |
//! |---|---|---|
//! | `wire` | a message type, then a payload, which is sealed in a valid envelope | `wire::decode` |
//! | `pipe` | frames of a child's pipe, sealed or not | `wire::pipe::read` |
//! | `text` | a type, then a text: a subject, a name, a rate, an offset | its `FromStr` |
//! | `sound_header` | a file's length, then its beginning | the repair of WAV, RF64, W64 and AIFF |
//! | `nal` | codec, extradata and a packet of H.264 or HEVC | the scanner of source videos |
//! | `weights` | one file of a folder of weights | `Checkpoint::open`, `weights verify`, the face networks |
//!
//! A check panics if it finds a fault. Without libFuzzer the programs run the files that they are given, and
//! the tests of this package run the seeds: the undamaged inputs with which a run begins.

mod check;
mod input;
mod samples;

pub mod nal;
pub mod pipe;
pub mod sound_header;
pub mod text;
pub mod weights;
pub mod wire;

use std::alloc::System;
use std::path::Path;
use std::{fs, io};

use cap::Cap;

pub use check::Check;

/// No input is longer than some KiB, and nothing that is read from it may take more memory than this. What is
/// above ends the process.
const MEMORY_BYTES: usize = 128 << 20;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, MEMORY_BYTES);

/// A target, with the inputs that a run begins with.
pub struct Target {
    /// The name of its program.
    pub name: &'static str,
    /// What it does with an input.
    pub check: Check,
    /// Makes undamaged inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: [Target; 6] = [
    Target {
        name: "wire",
        check: wire::check,
        seeds: wire::seeds,
    },
    Target {
        name: "pipe",
        check: pipe::check,
        seeds: pipe::seeds,
    },
    Target {
        name: "text",
        check: text::check,
        seeds: text::seeds,
    },
    Target {
        name: "sound_header",
        check: sound_header::check,
        seeds: sound_header::seeds,
    },
    Target {
        name: "nal",
        check: nal::check,
        seeds: nal::seeds,
    },
    Target {
        name: "weights",
        check: weights::check,
        seeds: weights::seeds,
    },
];

/// Defines the entry point of a target's program: libFuzzer's, or a `main` that runs the files it is given.
#[macro_export]
macro_rules! program {
    ($check:path) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|data: &[u8]| $check(data));

        #[cfg(not(fuzzing))]
        fn main() -> std::io::Result<()> {
            $crate::run_files($check, std::env::args_os().skip(1))
        }
    };
}

/// Runs a check on files, for a finding that is looked at in an ordinary build.
///
/// # Errors
/// Fails if a file cannot be read.
///
/// # Panics
/// Panics if a file shows a fault.
pub fn run_files(check: Check, paths: impl Iterator<Item = impl AsRef<Path>>) -> io::Result<()> {
    for path in paths {
        check(&fs::read(path)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_takes_its_seeds() {
        for target in TARGETS {
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{} has no seeds", target.name);
            for seed in seeds {
                (target.check)(&seed);
            }
        }
    }

    #[test]
    fn no_check_fails_on_the_beginning_of_a_seed() {
        for target in TARGETS {
            for seed in (target.seeds)() {
                for length in (0..seed.len()).step_by(seed.len() / 16 + 1) {
                    (target.check)(&seed[..length]);
                }
            }
        }
    }
}
