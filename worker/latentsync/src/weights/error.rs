//! What can be wrong with a folder of weights.

use std::io;
use std::path::PathBuf;

use crate::config::ConfigError;

#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    #[error(
        "no weights in `{}` ({wanted} is missing): run `latentfarm-worker weights pull`, or `latentfarm-worker \
         weights synth` for small random ones",
        dir.display()
    )]
    NotFound { dir: PathBuf, wanted: &'static str },
    #[error("cannot read weights `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: candle_core::Error,
    },
    #[error("cannot read `{}`", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot use the configuration `{}`", path.display())]
    Config {
        path: PathBuf,
        #[source]
        source: ConfigError,
    },
    /// The tensors that do not fit, by name.
    #[error("weights `{}` do not match their configuration: {report}", path.display())]
    Mismatch { path: PathBuf, report: String },
    #[error(
        "the audio encoder `{}` is {whisper} wide, but the UNet expects {unet} (`cross_attention_dim`): \
         Whisper tiny has 384, small has 768",
        path.display()
    )]
    Widths {
        path: PathBuf,
        whisper: usize,
        unet: usize,
    },
    #[error(
        "`{}` holds something that this command did not make: name a new or an empty folder",
        dir.display()
    )]
    Foreign { dir: PathBuf },
    #[error("cannot use the folder `{}`", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write `{}`", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: candle_core::Error,
    },
}
