//! The engine process: it loads a checkpoint once, caches encoded audio, and renders one window at a time.
//!
//! A worker's supervisor starts one engine for each device and keeps it between tasks. The engine reads
//! [`EngineRequest`]s from standard input and writes [`EngineReply`]s to standard output; its log goes to
//! standard error. It ends when its input ends. Everything that it computes is a function of the request
//! alone, so that a window comes out the same whatever was rendered before it.
//!
//! A request that fails, is stopped or panics leaves no memory allocated, see
//! [`cleanup`](crate::memory::cleanup), and the engine serves the next one. Only a device that can no longer
//! be used ends it, with [`EXIT_POISONED`].

mod audio_cache;
pub mod bench;
pub mod check;
mod classify;
pub mod dummy_requests;
mod engine;
pub mod memory;
mod memory_monitor;
mod numerics;
mod settings;
mod silence;
mod window_stages;

use std::io::{Read, Write};
use std::mem::ManuallyDrop;

use latentfarm_common::wire::engine::{EngineReply, EngineRequest};
use latentfarm_common::wire::pipe::{self, PipeError};

use latentsync::Stopped;

pub use classify::is_out_of_memory;
pub use engine::Engine;
pub use numerics::numerics_fingerprint;
pub use settings::{EngineSettings, Precision};
pub use window_stages::ProgressFn;

/// Exit code of an engine whose device can no longer be used from this process. A new engine process can
/// often use it.
pub const EXIT_POISONED: u8 = 4;

/// Returns the environment variables that an engine with `threads` computing threads is started with.
///
/// The allocator keeps freed memory for a second before it returns it to the kernel: one step frees and
/// allocates the same large tensors again and again, and page faults for new ones cost about a seventh of its
/// time.
///
/// Errors carry no backtrace, whatever the user's `RUST_BACKTRACE` is: printing the first one loads the
/// program's debug information, some 65 MiB that the process keeps for good.
pub fn environment(threads: usize) -> [(&'static str, String); 4] {
    [
        ("RAYON_NUM_THREADS", threads.to_string()),
        ("CANDLE_NUM_THREADS", threads.to_string()),
        ("MIMALLOC_PURGE_DELAY", "1000".to_owned()),
        ("RUST_LIB_BACKTRACE", "0".to_owned()),
    ]
}

/// Why an engine ends before its input ends.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The supervisor closed the pipe, or a message on it is invalid.
    #[error("cannot exchange messages with the supervisor")]
    Pipe(#[from] PipeError),
    /// The device's context is broken until the process ends.
    #[error("the device can no longer be used from this process; a new engine process may be able to")]
    Poisoned,
}

/// Serves requests from `input`, with the replies on `output`, until the input ends.
///
/// # Errors
/// Fails if the pipe breaks or the device can no longer be used. The tensors are not dropped then: freeing
/// them would fail.
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
            // Nobody reads the replies any more.
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
