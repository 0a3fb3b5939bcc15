//! Keeps the workers of this process off duty outside their hours.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::machine::hours::{Minute, Shift, next_begin};

/// How often the clock is looked at. It may be set, and the machine may be suspended.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why a worker is off duty, as it changes; `None` while it is not.
pub(super) type Reason = watch::Receiver<Option<String>>;

/// Follows the hours of some shifts until the returned set is dropped. Without shifts there is nothing to follow.
pub(super) fn follow(shifts: Vec<Shift>) -> (Option<Reason>, JoinSet<()>) {
    let mut watcher = JoinSet::new();
    if shifts.is_empty() {
        return (None, watcher);
    }
    let (sender, receiver) = watch::channel(reason(&shifts));
    watcher.spawn(async move {
        loop {
            sleep(LOOK_EVERY).await;
            let reason = reason(&shifts);
            sender.send_if_modified(|known| {
                let is_new = *known != reason;
                *known = reason;
                is_new
            });
        }
    });
    (Some(receiver), watcher)
}

fn reason(shifts: &[Shift]) -> Option<String> {
    let begin = next_begin(shifts, Minute::now())?;
    Some(format!("outside its hours, which begin on {begin}"))
}
