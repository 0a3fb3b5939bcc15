//! Encoded audio windows, kept so that neighbouring chunks of a job do not encode them again.

use candle_core::Tensor;
use latentfarm_common::digest::Digest;
use latentfarm_common::time::WINDOW_FRAMES;
use latentfarm_common::wire::engine::{AudioRequest, WindowRequest};
use latentfarm_common::wire::job::AudioWindows;

use crate::latentsync::{AudioFeatures, ModelError, gather_rows};

/// A chunk of 480 frames at 25 fps spans at most three windows; a few more serve a worker that alternates
/// between jobs. A window of Whisper tiny is about 8 MB.
const KEPT_WINDOWS: usize = 6;

#[derive(Default)]
pub(super) struct AudioCache {
    /// Oldest first.
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

    pub(super) fn contains(&self, track: Digest, layout: AudioWindows, window: u32) -> bool {
        self.find((track, layout, window)).is_some()
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
        gather_rows(request, WINDOW_FRAMES, find)
    }

    fn find(&self, key: Key) -> Option<&AudioFeatures> {
        self.entries
            .iter()
            .find(|entry| entry.key == key)
            .map(|entry| &entry.features)
    }
}
