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
mod classify;
pub mod memory;
mod numeric;
mod requests;
mod silence;
mod steps;
mod watch;

use std::io::{Read, Write};
use std::mem::ManuallyDrop;

use candle_core::{DType, Device};
use latentfarm_common::wire::engine::{EngineReply, EngineRequest};
use latentfarm_common::wire::pipe::{self, PipeError};

use crate::memory::device::EngineDevice;
use crate::memory::fault::Faults;
use crate::memory::guard::Cleanup;
use latentsync::Stopped;

pub use classify::is_out_of_memory;
pub use numeric::numeric_kind;
pub use requests::{Engine, Tell};

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

/// What the networks compute in. Latents and the sampler are `f32` whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// 32 bits: the reference, and the CPU's default.
    F32,
    /// 16 bits with a narrow range: the default on CUDA. On the CPU slower than f32, for comparing.
    F16,
    /// 16 bits with f32's range and eight bits of precision.
    Bf16,
}

impl Precision {
    /// The type that a device is used with unless told otherwise.
    pub fn usual_for(device: &Device) -> Self {
        if device.is_cpu() { Self::F32 } else { Self::F16 }
    }

    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }
}

impl std::fmt::Display for Precision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.dtype().as_str())
    }
}

/// Where and with what the engine computes, and how it keeps house.
pub struct EngineSettings {
    pub device: EngineDevice,
    pub dtype: DType,
    pub cleanup: Cleanup,
    pub faults: Faults,
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
