//! Encoded audio windows, kept so that neighbouring chunks of a job do not encode them again.

use candle_core::Tensor;
use latentfarm_common::digest::Digest;
use latentfarm_common::time::WINDOW_FRAMES;
use latentfarm_common::wire::engine::{AudioRequest, WindowRequest};
use latentfarm_common::wire::job::AudioWindows;

use super::silence::hear_silence;
use latentsync::{AudioFeatures, ModelError, gather_rows};

/// A chunk of 480 frames at 25 fps spans at most three windows, and may need one of silence; a few more serve a
/// worker that alternates between jobs. A window of Whisper tiny is about 8 MiB.
const KEPT_WINDOWS: usize = 6;

#[derive(Default)]
pub(super) struct AudioCache {
    /// The one that was asked for longest ago first.
    entries: Vec<Entry>,
}

struct Entry {
    key: Key,
    features: AudioFeatures,
}

type Key = (Digest, AudioWindows, u32);

impl AudioCache {
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Whether the window is here. It then outlives the others: a chunk asks for all that it needs before it
    /// begins, and none of those may go for another.
    pub(super) fn touch(&mut self, track: Digest, layout: AudioWindows, window: u32) -> bool {
        let key = (track, layout, window);
        let Some(place) = self.entries.iter().position(|entry| entry.key == key) else {
            return false;
        };
        self.entries[place..].rotate_left(1);
        true
    }

    pub(super) fn insert(&mut self, request: &AudioRequest, features: AudioFeatures) {
        if self.entries.len() == KEPT_WINDOWS {
            self.entries.remove(0);
        }
        self.entries.push(Entry {
            key: (request.track, request.layout, request.window),
            features,
        });
    }

    /// Audio context of a window's 16 frames: `(16, tokens, width)`. Frames past the track's end repeat its
    /// last rows, as the reference clamps.
    pub(super) fn rows(&self, request: &WindowRequest) -> Result<Tensor, ModelError> {
        let find = |window| self.find((request.track, request.layout, window));
        let rows = gather_rows(request, WINDOW_FRAMES, find)?;
        let Some(silent) = request.silence.filter(|silent| silent.frames != 0) else {
            return Ok(rows);
        };
        let features = self
            .find((silent.track, request.layout, 0))
            .ok_or(ModelError::AudioMissing { window: 0 })?;
        hear_silence(request, silent, &rows, features)
    }

    fn find(&self, key: Key) -> Option<&AudioFeatures> {
        self.entries
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.features)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn a_window_that_was_asked_for_is_not_the_next_to_go() {
        let request = |window| AudioRequest {
            track: Digest::of(b"track"),
            track_samples: 1,
            layout: AudioWindows::Overlapping,
            log_mel_max: 0.0,
            window,
            pcm: Vec::new(),
        };
        let features = || AudioFeatures {
            first_row: 0,
            states: Tensor::zeros((1, 1, 1), DType::F32, &Device::Cpu).unwrap(),
        };
        let mut cache = AudioCache::default();
        for window in 0..6 {
            cache.insert(&request(window), features());
        }
        let mut touch = |window| cache.touch(Digest::of(b"track"), AudioWindows::Overlapping, window);
        assert!(touch(0));
        cache.insert(&request(6), features());
        let mut touch = |window| cache.touch(Digest::of(b"track"), AudioWindows::Overlapping, window);
        assert!(touch(0) && !touch(1) && touch(6));
    }
}
