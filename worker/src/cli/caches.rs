//! The folder in which this user's workers keep what can be made again.

use std::path::PathBuf;

/// Returns the folder, which need not exist yet, or `None` if this user has none.
pub(super) fn user_caches() -> Option<PathBuf> {
    let variable = |name| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let caches = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    Some(caches?.join("latentfarm"))
}
