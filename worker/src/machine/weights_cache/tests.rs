//! Tests of the folder of fetched weights.

use std::time::Duration;

use super::*;

const MIB: u64 = 1 << 20;

fn digest(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

/// Keeps weights of one MiB, which were last used so many seconds ago.
fn keep(cache: &WeightsCache, name: &str, seconds_ago: u64) {
    let right = cache.try_lock().unwrap().unwrap();
    let folder = cache.begin(&right, digest(name), MIB).unwrap();
    fs::write(folder.join("unet.pt"), vec![0; 1 << 20]).unwrap();
    drop(cache.finish(&right, digest(name)).unwrap());
    let lock = open_lock(&cache.dir.join(digest(name).to_string()).with_extension(LOCK)).unwrap();
    let used = UNIX_EPOCH + since_1970() - Duration::from_secs(seconds_ago);
    lock.set_modified(used).unwrap();
}

fn has(cache: &WeightsCache, name: &str) -> bool {
    cache.open(digest(name)).unwrap().is_some()
}

#[test]
fn what_was_not_used_for_longest_goes_first_and_what_is_in_use_never() {
    let dir = tempfile::tempdir().unwrap();
    let cache = WeightsCache::new(dir.path().join("weights"), 3 * MIB);
    for (name, seconds_ago) in [("a", 300), ("b", 200), ("c", 100)] {
        keep(&cache, name, seconds_ago);
    }
    let in_use = cache.open(digest("b")).unwrap().unwrap();
    keep(&cache, "d", 50);
    assert_eq!(
        ["a", "b", "c", "d"].map(|name| has(&cache, name)),
        [false, true, true, true]
    );
    let right = cache.try_lock().unwrap().unwrap();
    let refused = cache.begin(&right, digest("e"), 3 * MIB).unwrap_err().to_string();
    assert!(
        refused.contains("3 MiB") && refused.contains("--weights-cache-limit"),
        "{refused}"
    );
    assert!(in_use.path.join("unet.pt").is_file());
    drop(in_use);
    cache.begin(&right, digest("e"), 3 * MIB).unwrap();
    assert!(!has(&cache, "b"));
    let refused = cache.begin(&right, digest("f"), 4 * MIB);
    assert!(matches!(refused, Err(CacheError::NoRoom { .. })), "{refused:?}");
}

#[test]
fn one_worker_fetches_at_a_time_and_the_next_goes_on_with_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let cache = WeightsCache::new(dir.path().join("weights"), 3 * MIB);
    let right = cache.try_lock().unwrap().unwrap();
    assert!(cache.try_lock().unwrap().is_none());
    let folder = cache.begin(&right, digest("a"), MIB).unwrap();
    fs::write(folder.join("unet.pt"), "whole").unwrap();
    assert!(!has(&cache, "a"), "it is not complete");
    drop(right);
    let right = cache.try_lock().unwrap().unwrap();
    let folder = cache.begin(&right, digest("a"), MIB).unwrap();
    assert_eq!(fs::read(folder.join("unet.pt")).unwrap(), b"whole");
    let in_use = cache.finish(&right, digest("a")).unwrap();
    assert!(in_use.path.join("unet.pt").is_file());
    assert!(has(&cache, "a"));
}

#[test]
fn what_an_interrupted_fetch_was_writing_does_not_become_part_of_the_weights() {
    let dir = tempfile::tempdir().unwrap();
    let cache = WeightsCache::new(dir.path().join("weights"), 3 * MIB);
    let right = cache.try_lock().unwrap().unwrap();
    let folder = cache.begin(&right, digest("a"), MIB).unwrap();
    fs::create_dir(folder.join("vae")).unwrap();
    for name in ["vae/.staged-1", "vae/config.json", ".latentfarm-digests.json"] {
        fs::write(folder.join(name), "x").unwrap();
    }
    assert_eq!(cache.arrived_bytes(), 3);
    cache.begin(&right, digest("a"), MIB).unwrap();
    assert_eq!(cache.arrived_bytes(), 1);
    let weights = cache.finish(&right, digest("a")).unwrap();
    assert_eq!(fs::read(weights.path.join("vae/config.json")).unwrap(), b"x");
    assert_eq!(cache.arrived_bytes(), 0);
}

#[test]
fn weights_for_which_the_disk_has_no_room_are_refused_and_cost_no_others() {
    let dir = tempfile::tempdir().unwrap();
    let cache = WeightsCache::new(dir.path().join("weights"), u64::MAX);
    keep(&cache, "a", 100);
    let right = cache.try_lock().unwrap().unwrap();
    let refused = cache.begin(&right, digest("b"), 1 << 60).unwrap_err();
    assert!(matches!(refused, CacheError::DiskFull { .. }), "{refused:?}");
    assert!(has(&cache, "a"));
    assert_eq!(
        fs::read_dir(&cache.dir).unwrap().count(),
        3,
        "nothing was made for them"
    );
}
