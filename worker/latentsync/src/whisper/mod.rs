//! The audio features that the UNet attends to: the states of every layer of Whisper's encoder. The engine
//! encodes each audio window once and gathers the rows of each output frame from the results.
//!
//! | tensor   | shape                          | meaning                                                     |
//! |----------|--------------------------------|-------------------------------------------------------------|
//! | `mel`    | `(1, 80, 3000)`                | normalised log-mel of one audio window, zeros past the end  |
//! | states   | `(1500, layers + 1, width)`    | of each row: the embedding, then the output of every block  |
//! | rows     | `(frames, 10 x (layers + 1), width)` | tokens of each output frame, by time, then layer      |

mod encoder;
mod features;

pub use encoder::WhisperEncoder;
pub use features::{AudioFeatures, gather_rows, mel_tensor, row_of_track};
