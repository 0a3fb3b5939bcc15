//! The engine process: loads a checkpoint once, keeps encoded audio, and renders one window at a time.
//!
//! It reads [`EngineRequest`]s from standard input and answers on standard output; its log goes to standard
//! error. It ends when its input ends. Everything that it computes is a function of the request alone, so that
//! a window comes out the same whatever was rendered before it.
//!
//! Memory: a request that fails, is stopped or panics leaves nothing behind, see [`guard`](crate::memory::guard), and
//! the engine goes on. Only a device that is past use ends it, with [`EXIT_POISONED`].

mod audio_cache;
pub mod bench;
pub mod check;
mod classify;
pub mod made_up;
pub mod memory;
mod numeric;
mod requests;
mod settings;
mod silence;
mod steps;
mod watch;

use std::io::{Read, Write};
use std::mem::ManuallyDrop;

use latentfarm_common::wire::engine::{EngineReply, EngineRequest};
use latentfarm_common::wire::pipe::{self, PipeError};

use latentsync::Stopped;

pub use classify::is_out_of_memory;
pub use numeric::numerics_fingerprint;
pub use requests::Engine;
pub use settings::{EngineSettings, Precision};
pub use steps::Tell;

/// Exit code of an engine whose device is past use in this process: a fresh engine may find it sound.
pub const EXIT_POISONED: u8 = 4;

/// Environment of an engine that computes with `threads` threads.
///
/// Its allocator keeps freed memory for a second before the kernel gets it back: one step frees and asks for the same
/// large tensors again and again, and faulting them anew costs about a seventh of its time.
///
/// Errors carry no backtrace whatever the user's `RUST_BACKTRACE` is: printing the first one loads the program's debug
/// information, some 65 MiB that a process never gives back.
pub fn environment(threads: usize) -> [(&'static str, String); 4] {
    [
        ("RAYON_NUM_THREADS", threads.to_string()),
        ("CANDLE_NUM_THREADS", threads.to_string()),
        ("MIMALLOC_PURGE_DELAY", "1000".to_owned()),
        ("RUST_LIB_BACKTRACE", "0".to_owned()),
    ]
}

/// Why an engine ends before its input does.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot talk to the supervisor")]
    Pipe(#[from] PipeError),
    #[error("the device is past use in this process; a fresh engine may find it sound")]
    Poisoned,
}

/// Serves requests until the input ends.
///
/// # Errors
/// Where the pipe breaks, or the device is past use. Its tensors are not dropped then: freeing them would fail.
pub fn serve(
    settings: EngineSettings,
    mut input: impl Read,
    mut output: impl Write,
) -> Result<(), ServeError> {
    let mut engine = ManuallyDrop::new(Engine::new(settings));
    while let Some(request) = pipe::read::<EngineRequest>(&mut input)? {
        let mut broken = None;
        let reply = engine.answer(request, &mut |stage, memory| {
            let progress = EngineReply::Progress { stage, memory };
            pipe::write(&mut output, &progress).map_err(|error| {
                broken = Some(error);
                Stopped
            })
        });
        if let Some(error) = broken {
            // Nobody is listening any more.
            return Err(error.into());
        }
        pipe::write(&mut output, &reply)?;
        if engine.is_poisoned() {
            return Err(ServeError::Poisoned);
        }
    }
    drop(ManuallyDrop::into_inner(engine));
    Ok(())
}
