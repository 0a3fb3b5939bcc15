//! The errors of reading, checking and writing a folder of weights.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::ConfigError;

/// An error of reading, checking or writing weights. Each variant names the file or the folder.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// A weight file is missing under all of its possible names.
    #[error(
        "no weights in `{}` ({wanted} is missing): run `latentfarm-worker weights pull`, or `latentfarm-worker \
         weights synth` for small random ones",
        dir.display()
    )]
    NotFound {
        /// The folder that was searched.
        dir: PathBuf,
        /// The usual name of the missing file.
        wanted: &'static str,
    },
    /// A weight file is not readable as safetensors or as a torch file.
    #[error("cannot read weights `{}`", path.display())]
    Read {
        /// The path of the weight file.
        path: PathBuf,
        /// The error of the reader.
        #[source]
        source: candle_core::Error,
    },
    /// A file cannot be read at all.
    #[error("cannot read `{}`", path.display())]
    Io {
        /// The path of the file.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A configuration is not valid JSON or not supported.
    #[error("cannot use the configuration `{}`", path.display())]
    Config {
        /// The path of the configuration file.
        path: PathBuf,
        /// The field that is not supported, or the error of the parser.
        #[source]
        source: ConfigError,
    },
    /// The tensors of a weight file do not match the configuration.
    #[error("weights `{}` do not match their configuration: {report}", path.display())]
    Mismatch {
        /// The path of the weight file.
        path: PathBuf,
        /// The missing, unexpected and misshaped tensors by name.
        report: String,
    },
    /// The audio encoder has another width than the UNet's cross-attention.
    #[error(
        "the audio encoder `{}` is {whisper} wide, but the UNet expects {unet} (`cross_attention_dim`): \
         Whisper tiny has 384, small has 768",
        path.display()
    )]
    Widths {
        /// The weight file of the audio encoder.
        path: PathBuf,
        /// The width of the audio encoder's states.
        whisper: usize,
        /// The width that the UNet expects.
        unet: usize,
    },
    /// A folder that a command would write to holds files of another origin.
    #[error(
        "`{}` holds something that this command did not make: name a new or an empty folder",
        dir.display()
    )]
    Foreign {
        /// The path of the folder.
        dir: PathBuf,
    },
    /// A folder cannot be created or listed.
    #[error("cannot use the folder `{}`", path.display())]
    Folder {
        /// The path of the folder.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The path of the file.
        path: PathBuf,
        /// The error of the operating system, or of computing what is written.
        #[source]
        source: candle_core::Error,
    },
}

/// Each of these adds the path to an error and is used with `map_err`.
impl WeightsError {
    pub(crate) fn read(path: &Path) -> impl Fn(candle_core::Error) -> Self + Copy {
        move |source| Self::Read {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn io(path: &Path) -> impl Fn(io::Error) -> Self + Copy {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn config(path: &Path) -> impl Fn(ConfigError) -> Self + Copy {
        move |source| Self::Config {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn folder(path: &Path) -> impl Fn(io::Error) -> Self + Copy {
        move |source| Self::Folder {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn write(path: &Path) -> impl Fn(candle_core::Error) -> Self + Copy {
        move |source| Self::Write {
            path: path.to_owned(),
            source,
        }
    }

    pub(crate) fn mismatch(path: &Path, report: String) -> Self {
        Self::Mismatch {
            path: path.to_owned(),
            report,
        }
    }
}
