//! Speech features: what every layer of Whisper's encoder makes of the log-mel spectrogram.
//!
//! | tensor   | shape                          | meaning                                                     |
//! |----------|--------------------------------|-------------------------------------------------------------|
//! | `mel`    | `(1, 80, 3000)`                | normalised log-mel of one audio window, zeros past the end  |
//! | states   | `(1500, layers + 1, width)`    | per row: the embedding, then every block's output           |
//! | rows     | `(frames, 10 x (layers + 1), width)` | tokens of each output frame, by time, then layer      |

mod encoder;
mod features;

pub use encoder::WhisperEncoder;
pub use features::{AudioFeatures, gather_rows, mel_tensor, row_of_track};
