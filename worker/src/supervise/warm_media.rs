//! The media child that a runner keeps warm between tasks, whatever they are.

use std::sync::Arc;

use latentfarm_common::error::one_line;
use latentfarm_common::wire::outcome::Failure;

use super::child::Child;
use super::settings::RunnerSettings;
use super::sight::Sight;

/// The media child, if one runs.
pub(super) struct WarmMedia {
    pub(super) settings: Arc<RunnerSettings>,
    pub(super) sight: Sight,
    idle: Option<Child>,
}

impl WarmMedia {
    /// A media child that is started by the first task.
    pub(super) fn new(settings: Arc<RunnerSettings>, sight: Sight) -> Self {
        Self {
            settings,
            sight,
            idle: None,
        }
    }

    /// The warm media child, or a fresh one. The caller gives it to [`WarmMedia::keep`] if the conversation has ended
    /// well.
    pub(super) fn take(&mut self) -> Result<Child, Failure> {
        if let Some(mut child) = self.idle.take()
            && child.is_alive()
        {
            child.forget_words();
            return Ok(child);
        }
        let child = Child::spawn(&self.settings.media).map_err(|error| Failure::WorkerUnfit {
            message: one_line(&error),
        })?;
        self.sight.media_is(child.pid());
        Ok(child)
    }

    /// Keeps a media child for the next task.
    pub(super) fn keep(&mut self, child: Child) {
        self.idle = Some(child);
    }

    /// Ends the warm media child.
    pub(super) async fn close(self) {
        if let Some(child) = self.idle {
            child.close().await;
        }
    }
}
