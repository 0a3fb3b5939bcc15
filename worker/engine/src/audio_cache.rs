//! A cache of encoded audio windows, so that neighbouring chunks of a job do not encode them again.

use candle_core::Tensor;
use latentfarm_common::digest::Digest;
use latentfarm_common::time::WINDOW_FRAMES;
use latentfarm_common::wire::engine::{AudioRequest, WindowRequest};
use latentfarm_common::wire::job::AudioWindows;

use super::silence::replace_silent_rows;
use latentsync::{AudioFeatures, ModelError, gather_rows};

/// Number of windows that the cache holds. A chunk of 480 frames at 25 fps spans at most three windows and
/// may need one of silence; the other two are for a worker that alternates between jobs. A window of Whisper
/// tiny takes about 8 MiB.
const KEPT_WINDOWS: usize = 6;

/// Encoded audio windows by track, layout and number; the least recently used one is evicted first.
#[derive(Default)]
pub(super) struct AudioCache {
    /// The least recently used window comes first.
    windows: Vec<(WindowKey, AudioFeatures)>,
}

/// Track, layout of the track's windows, and number of a window.
type WindowKey = (Digest, AudioWindows, u32);

impl AudioCache {
    pub(super) fn clear(&mut self) {
        self.windows.clear();
    }

    /// Marks a window as the most recently used and returns true if it is cached. A chunk requests all
    /// windows that it needs before it begins, and none of them may be evicted for another.
    pub(super) fn touch(&mut self, track: Digest, layout: AudioWindows, window: u32) -> bool {
        let key = (track, layout, window);
        let Some(place) = self.windows.iter().position(|(cached, _)| *cached == key) else {
            return false;
        };
        self.windows[place..].rotate_left(1);
        true
    }

    /// Adds the window that `request` encoded; a full cache evicts its least recently used window.
    pub(super) fn insert(&mut self, request: &AudioRequest, features: AudioFeatures) {
        if self.windows.len() == KEPT_WINDOWS {
            self.windows.remove(0);
        }
        let key = (request.track, request.layout, request.window);
        self.windows.push((key, features));
    }

    /// Returns the audio rows of a window's 16 frames, `(16, tokens, width)`. Frames past the track's end
    /// repeat its last rows, as LatentSync's own pipeline clamps.
    ///
    /// # Errors
    /// Fails with [`ModelError::AudioMissing`] if a window that the frames need is not cached.
    pub(super) fn rows(&self, request: &WindowRequest) -> Result<Tensor, ModelError> {
        let find = |window| self.find((request.track, request.layout, window));
        let rows = gather_rows(request, WINDOW_FRAMES, find)?;
        let Some(silent) = request.silence.filter(|silent| silent.frames != 0) else {
            return Ok(rows);
        };
        let features = self
            .find((silent.track, request.layout, 0))
            .ok_or(ModelError::AudioMissing { window: 0 })?;
        replace_silent_rows(request, silent, &rows, features)
    }

    fn find(&self, key: WindowKey) -> Option<&AudioFeatures> {
        let window = self.windows.iter().find(|(cached, _)| *cached == key);
        window.map(|(_, features)| features)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{DType, Device};

    #[test]
    fn a_window_that_was_just_used_is_not_evicted_next() {
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
