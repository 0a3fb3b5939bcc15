//! A folder of weights as they are published, found, identified, checked and loaded.
//!
//! | part    | file, the first that exists                                                                   |
//! |---------|-----------------------------------------------------------------------------------------------|
//! | UNet    | `latentsync_unet.{pt,safetensors}`, configuration `unet_config.json` (published if missing)   |
//! | VAE     | `{vae,sd-vae-ft-mse,.}/diffusion_pytorch_model.{safetensors,bin}`, `config.json` beside it    |
//! | Whisper | `{whisper,.}/{tiny,small}.{pt,safetensors}`, as wide as the UNet's `cross_attention_dim`;     |
//! |         | its `dims` in `tiny.json` or `small.json` beside it, or inside the file                       |
//! | note    | `latentfarm.json`, optional: see [`Note`]                                                     |

mod convert;
mod digests;
mod find;
mod folder;
mod load;
mod note;
mod pickle_dims;
pub mod synth;
mod text;
mod verify;
mod wanted;

pub use convert::{StoredAs, convert, converted_bytes};
pub use find::whisper_dims;
pub use folder::{Checkpoint, HostBytes, Parameters};
pub use load::{load_unet, load_vae, load_whisper};
pub use note::{AccountAs, Maker, NOTE_FILE, Note};
pub use verify::{DigestVerdict, FileVerdict, verify};
pub use wanted::{TensorShapes, unet_tensors, vae_tensors, whisper_tensors};
