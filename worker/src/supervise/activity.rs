//! Records which of the two children is at work during a render, and how long the engine computed and waited.
//! `render.rs` makes one for each task and shares it between the loop that reads the media child and
//! the one that feeds the engine.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The activity of both children in one render. The media child owes a message only while the engine is idle:
/// with a window ready, it waits for the engine's result.
#[derive(Debug)]
pub(super) struct RenderActivity {
    state: Mutex<ActivityState>,
}

#[derive(Clone, Copy, Debug)]
struct ActivityState {
    engine_busy: bool,
    /// True while a request to the engine has no final reply.
    request_pending: bool,
    /// When the media child last sent a message, or was last given something to do.
    media_since: Instant,
}

impl RenderActivity {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(ActivityState {
                engine_busy: false,
                request_pending: false,
                media_since: Instant::now(),
            }),
        }
    }

    pub(super) fn set_engine_busy(&self, busy: bool) {
        self.change(|state| {
            state.engine_busy = busy;
            state.media_since = Instant::now();
        });
    }

    pub(super) fn engine_busy(&self) -> bool {
        self.change(|state| state.engine_busy)
    }

    /// Notes that a request goes to the engine, or that its final reply has come.
    pub(super) fn set_request_pending(&self, pending: bool) {
        self.change(|state| state.request_pending = pending);
    }

    /// True if the engine was left in the middle of a request. Such an engine gets no other one; an engine
    /// that has replied, even with a failure, does.
    pub(super) fn request_pending(&self) -> bool {
        self.change(|state| state.request_pending)
    }

    pub(super) fn media_replied(&self) {
        self.change(|state| state.media_since = Instant::now());
    }

    /// How long the media child has owed a message.
    pub(super) fn media_silence(&self) -> Duration {
        self.change(|state| {
            if state.engine_busy {
                Duration::ZERO
            } else {
                state.media_since.elapsed()
            }
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut ActivityState) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// How the time of a chunk is spread over the engine's work and waits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EngineTime {
    /// Time to encode audio and to render windows.
    pub(super) busy: Duration,
    /// Time in which the engine waited for crops.
    pub(super) waiting: Duration,
}

/// Awaits `work` and adds the time that it takes to `total`.
pub(super) async fn timed<T>(total: &mut Duration, work: impl Future<Output = T>) -> T {
    let started = Instant::now();
    let result = work.await;
    *total += started.elapsed();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_media_child_owes_nothing_while_the_engine_computes() {
        let activity = RenderActivity::new();
        let since = |activity: &RenderActivity| activity.state.lock().unwrap().media_since;
        let started = since(&activity);
        activity.set_engine_busy(true);
        assert!(activity.engine_busy());
        assert_eq!(activity.media_silence(), Duration::ZERO);
        activity.set_engine_busy(false);
        assert!(
            since(&activity) > started,
            "its silence is counted anew from the engine's reply"
        );
        let replied = since(&activity);
        activity.media_replied();
        assert!(since(&activity) > replied);
    }
}
