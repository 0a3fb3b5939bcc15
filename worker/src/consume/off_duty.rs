//! Whether a worker's own settings keep it from taking tasks for now, as outside its hours.

use tokio::sync::watch;

/// Why a worker takes no task by its own settings, as it changes. The default is that it always takes tasks.
#[derive(Clone, Debug, Default)]
pub struct OffDuty(Option<watch::Receiver<Option<String>>>);

impl OffDuty {
    /// Follows a reason, in one line for people; `None` while the worker takes tasks.
    pub fn of(reason: watch::Receiver<Option<String>>) -> Self {
        Self(Some(reason))
    }

    /// Returns the reason, if the worker takes no task now.
    pub(super) fn reason(&self) -> Option<String> {
        self.0.as_ref()?.borrow().clone()
    }

    /// Waits until the reason is another one than `known`. Safe to drop and call again.
    pub(super) async fn changed(&self, known: Option<&str>) {
        let Some(mut reason) = self.0.clone() else {
            return std::future::pending().await;
        };
        let is_open = reason.wait_for(|reason| reason.as_deref() != known).await.is_ok();
        if !is_open {
            // Nobody changes it any more.
            std::future::pending::<()>().await;
        }
    }
}
