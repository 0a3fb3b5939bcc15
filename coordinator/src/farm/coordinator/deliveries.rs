//! Writes the outputs of complete jobs to files below the coordinator's output folder, for the jobs that ask for that.

use std::fs;
use std::path::{Component, Path, PathBuf};

use latentfarm_common::error::{FileError, one_line};
use latentfarm_common::ids::JobId;
use tokio::task::JoinError;

use super::{Coordinator, Delivered, now_ms};
use crate::farm::fetch::fetch;
use crate::farm::messages::Delivery;
use crate::render::Observer;
use crate::stitch::{OutputError, OutputTarget};

/// Why a name is none of a file below the output folder.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadName {
    #[error("this coordinator has no --output-root: fetch the output with `latentfarm fetch`")]
    NoFolder,
    #[error("`{name}` is not a relative path below the coordinator's output folder")]
    Outside { name: String },
    #[error("the output is a .{extension} file: give it such a name")]
    Extension { extension: String },
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Output(#[from] OutputError),
}

/// Checks a name before its job is rendered: it must stay below the folder, whatever that holds.
pub(super) fn check_name(root: Option<&Path>, name: &str, extension: &str) -> Result<PathBuf, BadName> {
    let root = root.ok_or(BadName::NoFolder)?;
    let relative = Path::new(name);
    let is_normal = |part: Component<'_>| matches!(part, Component::Normal(_));
    if name.is_empty() || !relative.components().all(is_normal) {
        let name = name.to_owned();
        return Err(BadName::Outside { name });
    }
    if relative.extension().is_none_or(|found| found != extension) {
        let extension = extension.to_owned();
        return Err(BadName::Extension { extension });
    }
    Ok(root.join(relative))
}

/// Makes the folders of a file below the output folder, and returns the file as a target. A link that leads out of the
/// folder is refused.
fn target(root: &Path, name: &str, extension: &str, may_replace: bool) -> Result<OutputTarget, BadName> {
    let path = check_name(Some(root), name, extension)?;
    let folder = path.parent().unwrap_or(root);
    let real_root = fs::canonicalize(root).map_err(FileError::at("resolve", root))?;
    // The deepest folder that exists decides where new ones are made.
    let existing = folder.ancestors().find(|folder| folder.exists()).unwrap_or(root);
    let real = fs::canonicalize(existing).map_err(FileError::at("resolve", existing))?;
    if !real.starts_with(&real_root) {
        let name = name.to_owned();
        return Err(BadName::Outside { name });
    }
    fs::create_dir_all(folder).map_err(FileError::at("create", folder))?;
    Ok(OutputTarget::check(&path, &[], may_replace)?)
}

impl Coordinator<'_> {
    /// Begins the next delivery that is due, unless one is under way.
    pub(super) fn deliver(&mut self) {
        let (Some(root), true) = (&self.output_root, self.deliveries.is_empty()) else {
            return;
        };
        if !self.lease.is_held() || !self.farm.connection.is_up() {
            return;
        }
        let Some((view, name, has_begun)) = self.registry.next_delivery(now_ms()) else {
            return;
        };
        let job = view.job;
        // One that an earlier coordinator has begun may have written the file.
        let target = match target(root, &name, &view.extension, has_begun) {
            Ok(target) => target,
            Err(error) => {
                let reason = one_line(&error);
                return self.set_delivery(job, Delivery::Failed { reason });
            }
        };
        self.set_delivery(job, Delivery::Begun);
        let farm = self.farm.clone();
        self.deliveries.spawn(async move {
            let (observer, _unread) = Observer::channel();
            let written = fetch(&farm, &view, &target, &observer).await;
            (job, written.map(|_written| ()).map_err(|error| one_line(&error)))
        });
    }

    pub(super) fn on_delivered(&mut self, delivered: Result<Delivered, JoinError>) {
        let (job, result) = match delivered {
            Ok(delivered) => delivered,
            Err(panicked) => {
                tracing::error!(error = one_line(&panicked), "a delivery failed");
                return;
            }
        };
        let delivery = match result {
            Ok(()) => Delivery::Done,
            Err(reason) => Delivery::Failed { reason },
        };
        self.set_delivery(job, delivery);
    }

    fn set_delivery(&mut self, job: JobId, delivery: Delivery) {
        if let Delivery::Failed { reason } = &delivery {
            tracing::warn!(%job, reason, "the output cannot be delivered");
        } else {
            tracing::info!(%job, ?delivery, "the output of a job");
        }
        if self.registry.set_delivery(job, delivery) {
            self.unsaved.insert(job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn names_cannot_leave_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        for folder in [&root, &outside] {
            fs::create_dir(folder).unwrap();
        }
        symlink(&outside, root.join("link")).unwrap();
        for name in [
            "",
            "/etc/out.mp4",
            "../out.mp4",
            "a/../../out.mp4",
            "./a.mp4",
            "a/..",
            "link/b/out.mp4",
            "link/out.mp4",
        ] {
            let refused = target(&root, name, "mp4", false);
            assert!(
                matches!(refused, Err(BadName::Outside { .. })),
                "{name}: {refused:?}"
            );
        }
        let found: Vec<_> = fs::read_dir(&outside).unwrap().collect();
        assert!(found.is_empty(), "{found:?}");
        assert!(matches!(
            target(&root, "a.mkv", "mp4", false),
            Err(BadName::Extension { .. })
        ));
        assert!(matches!(check_name(None, "a.mp4", "mp4"), Err(BadName::NoFolder)));
        let path = root.join("night/1/out.mp4");
        assert_eq!(
            target(&root, "night/1/out.mp4", "mp4", false).unwrap().path(),
            path
        );
        fs::write(&path, "of another job").unwrap();
        assert!(matches!(
            target(&root, "night/1/out.mp4", "mp4", false),
            Err(BadName::Output(_))
        ));
        assert!(
            target(&root, "night/1/out.mp4", "mp4", true).is_ok(),
            "it may be our own"
        );
    }
}
