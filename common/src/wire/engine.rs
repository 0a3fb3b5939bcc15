//! Requests of the supervisor to the engine on its standard input, and the engine's replies on its standard
//! output. There is one request at a time, and each ends with exactly one of `Loaded`, `AudioReady`, `Window`
//! and `Failed`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Message;
use super::job::{AudioWindows, ModelSpec};
use super::memory::{MemoryPlan, MemorySample, MemoryStage};
use crate::digest::Digest;
use crate::time::FrameRate;

/// A request to the engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum EngineRequest {
    /// Loads the checkpoint for the windows that follow. A second `Load` of the same weights is answered at
    /// once.
    Load {
        /// Path of the checkpoint's folder.
        weights_dir: String,
        /// Identity that the checkpoint must have; see [`ModelSpec::weights`].
        expected: Digest,
        /// Memory plan of the windows that follow.
        plan: MemoryPlan,
    },
    /// Encodes one audio window and keeps its features.
    Audio(AudioRequest),
    /// Renders one window of 16 frames.
    Window(WindowRequest),
}

impl Message for EngineRequest {
    const KIND: u8 = 11;
}

/// A request to encode one audio window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AudioRequest {
    /// Digest of the whole track.
    pub track: Digest,
    /// Length of the whole track in 16 kHz samples.
    pub track_samples: u64,
    /// How the track is cut into audio windows.
    pub layout: AudioWindows,
    /// Maximum of the whole track's log10 mel power; see [`AudioSpec::log_mel_max`](super::job::AudioSpec).
    pub log_mel_max: f32,
    /// Index of the audio window on the global grid.
    pub window: u32,
    /// 16 kHz mono PCM of the window with its margins. If it is empty, the request finds out whether the
    /// window is cached.
    pub pcm: Vec<i16>,
}

/// A request to render one window of frames.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WindowRequest {
    /// The checkpoint and its parameters.
    pub model: ModelSpec,
    /// Digest of the whole track.
    pub track: Digest,
    /// Length of the whole track in 16 kHz samples.
    pub track_samples: u64,
    /// How the track is cut into audio windows.
    pub layout: AudioWindows,
    /// Number of the window's first output frame, a multiple of 16.
    pub first_frame: u64,
    /// Frame rate of the output.
    pub rate: FrameRate,
    /// 16 aligned RGB crops, `16 x 3 x resolution x resolution`, planar. The caller pads a short window.
    pub faces: Vec<u8>,
    /// The frames to render from digital silence, if there are any.
    pub silence: Option<SilentFrames>,
    /// Memory plan of the window.
    pub plan: MemoryPlan,
}

/// The frames of a window that are rendered from digital silence instead of the speech.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SilentFrames {
    /// Track of the one audio window of silence, which was encoded before; see
    /// [`silent_track`](crate::audio::silence::silent_track).
    pub track: Digest,
    /// Bit `i` is set if frame `i` of the window is silent.
    pub frames: u16,
}

/// A reply of the engine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum EngineReply {
    /// The checkpoint is loaded and ready.
    Loaded {
        /// Fingerprint of the engine's arithmetic; see `DoneRecord::numerics_fingerprint`.
        numerics_fingerprint: String,
        /// Text form of the device: `cpu` or `cuda:0 NVIDIA L4`.
        device: String,
        /// Memory after the checkpoint was loaded.
        memory: MemorySample,
    },
    /// The features of an audio window are cached.
    AudioReady {
        /// Whether the features were cached before.
        cached: bool,
        /// Milliseconds that the encoding took.
        elapsed_ms: u64,
        /// Memory after the window was encoded.
        memory: MemorySample,
    },
    /// A step or stage advanced; the request goes on.
    Progress {
        /// The stage that has begun or advanced.
        stage: EngineStage,
        /// Memory as measured at this point.
        memory: MemorySample,
    },
    /// A window of frames is rendered.
    Window {
        /// The crops in the layout of the request, with the mouth region rendered and the rest as it was.
        faces: Vec<u8>,
        /// Time spent in each stage.
        timings: EngineTimings,
        /// Memory after the window's cleanup: the baseline, which must not grow from window to window.
        memory: MemorySample,
    },
    /// The request failed for the reason given.
    Failed(EngineFailure),
}

impl Message for EngineReply {
    const KIND: u8 = 12;
}

/// A stage of a request to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EngineStage {
    /// The engine loads the checkpoint.
    Loading,
    /// Whisper encodes an audio window.
    Audio,
    /// The VAE encodes a frame.
    VaeEncode {
        /// Number of the frame in its window, from 0.
        frame: u32,
    },
    /// The UNet predicts the noise of a window.
    Denoise {
        /// Number of the step, from 1.
        step: u32,
        /// Number of steps in all.
        of: u32,
    },
    /// The VAE decodes a frame.
    VaeDecode {
        /// Number of the frame in its window, from 0.
        frame: u32,
    },
}

impl EngineStage {
    /// Returns the stage under which memory is recorded.
    pub fn memory_stage(self) -> MemoryStage {
        match self {
            Self::Loading => MemoryStage::Load,
            Self::Audio => MemoryStage::Audio,
            Self::VaeEncode { .. } => MemoryStage::VaeEncode,
            Self::Denoise { .. } => MemoryStage::Denoise,
            Self::VaeDecode { .. } => MemoryStage::VaeDecode,
        }
    }
}

impl fmt::Display for EngineStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loading => f.write_str("loading the model"),
            Self::Audio => f.write_str("encoding speech"),
            Self::VaeEncode { frame } => write!(f, "VAE encode, frame {frame}"),
            Self::Denoise { step, of } => write!(f, "denoise, step {step} of {of}"),
            Self::VaeDecode { frame } => write!(f, "VAE decode, frame {frame}"),
        }
    }
}

/// Wall time of the engine in each stage of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineTimings {
    /// Milliseconds in the VAE's encoder.
    pub vae_encode_ms: u64,
    /// Milliseconds in the UNet, all steps included.
    pub denoise_ms: u64,
    /// Milliseconds in the VAE's decoder.
    pub vae_decode_ms: u64,
}

/// Why a request to the engine failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum EngineFailure {
    /// An allocation of device or host memory failed.
    OutOfMemory {
        /// The stage in which it failed.
        stage: MemoryStage,
        /// Lower bound of the requirement in MiB, if it is known.
        needed_at_least_mib: Option<u64>,
        /// What the engine could have used in all, in MiB, its own share included.
        free_before_mib: u64,
    },
    /// The weights are missing, have wrong shapes or are not the expected ones.
    Unfit {
        /// The error with its causes.
        message: String,
    },
    /// A `Window`, or an `Audio` without PCM, needs an audio window that is not cached, for instance because
    /// the engine was started again.
    AudioMissing {
        /// Index of the audio window on the global grid.
        window: u32,
    },
    /// The request failed for another reason.
    Other {
        /// The error with its causes.
        message: String,
    },
}
