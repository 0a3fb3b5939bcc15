//! This module finds, identifies, verifies, converts and loads checkpoints, which are folders of weights as
//! they are published. The engine loads them; the `weights` commands of the worker call the rest.
//!
//! | part    | file, the first that exists                                                                   |
//! |---------|-----------------------------------------------------------------------------------------------|
//! | UNet    | `latentsync_unet.{pt,safetensors}`, configuration `unet_config.json` (published if missing)   |
//! | VAE     | `{vae,sd-vae-ft-mse,.}/diffusion_pytorch_model.{safetensors,bin}`, `config.json` beside it    |
//! | Whisper | `{whisper,.}/{tiny,small}.{pt,safetensors}`, as wide as the UNet's `cross_attention_dim`;     |
//! |         | its `dims` in `tiny.json` or `small.json` beside it, or inside the file                       |
//! | metadata | `latentfarm.json`, optional: see [`FolderMetadata`]                                         |

mod convert;
mod demo;
mod digest_cache;
mod files;
mod folder;
mod load;
mod metadata;
mod shapes;
pub mod synth;
mod text;
mod verify;

pub use convert::{StoredAs, convert, converted_bytes};
pub use demo::{cached_demo, write_demo};
pub use files::whisper_dims;
pub use folder::{BytesPerWeight, Checkpoint, ParameterCounts};
pub use load::{load_unet, load_vae, load_whisper};
pub use metadata::{FolderMetadata, METADATA_FILE, MadeBy, PublishedModel};
pub use shapes::{TensorShapes, unet_tensors, vae_tensors, whisper_tensors};
pub use verify::{DigestCheck, FileCheck, verify};
