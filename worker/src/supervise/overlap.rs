//! Whose turn it is while the media child and the engine work side by side, and how long the engine waited.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The turn of a render: the media child owes the next word only while the engine does not compute.
#[derive(Debug)]
pub(super) struct Turn {
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    engine_busy: bool,
    /// A request to the engine has not been answered to its end.
    is_asked: bool,
    /// When the media child last spoke, or was last given something to do.
    media_since: Instant,
}

impl Turn {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                engine_busy: false,
                is_asked: false,
                media_since: Instant::now(),
            }),
        }
    }

    pub(super) fn engine(&self, busy: bool) {
        self.change(|state| {
            state.engine_busy = busy;
            state.media_since = Instant::now();
        });
    }

    /// A request goes to the engine, or its final answer has come.
    pub(super) fn asked(&self, is_asked: bool) {
        self.change(|state| state.is_asked = is_asked);
    }

    /// An engine in mid-computation is never talked to again; one that has answered, with a failure even, is.
    pub(super) fn engine_answered(&self) -> bool {
        self.change(|state| !state.is_asked)
    }

    pub(super) fn media_spoke(&self) {
        self.change(|state| state.media_since = Instant::now());
    }

    pub(super) fn engine_busy(&self) -> bool {
        self.change(|state| state.engine_busy)
    }

    /// How long the media child has owed a word.
    pub(super) fn media_silent_for(&self) -> Duration {
        self.change(|state| {
            if state.engine_busy {
                Duration::ZERO
            } else {
                state.media_since.elapsed()
            }
        })
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Where the engine's time went within a chunk.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EngineTime {
    /// Loading the model: once for many chunks, and nobody's wait.
    pub(super) load: Duration,
    pub(super) busy: Duration,
    pub(super) waiting: Duration,
}

/// Adds the time that `work` takes to `total`.
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
        let turn = Turn::new();
        let since = |turn: &Turn| turn.state.lock().unwrap().media_since;
        let begun = since(&turn);
        turn.engine(true);
        assert!(turn.engine_busy());
        assert_eq!(turn.media_silent_for(), Duration::ZERO);
        turn.engine(false);
        assert!(
            since(&turn) > begun,
            "its time begins anew with the engine's answer"
        );
        let answered = since(&turn);
        turn.media_spoke();
        assert!(since(&turn) > answered);
    }
}
