//! Tests of both blob stores: a directory, and the object store of a real server.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{Farm, blob, file_in};
use latentfarm_common::blob::{BlobError, Store};
use latentfarm_common::digest::Digest;
use latentfarm_common::nats::storage::{self, StorageLimit};
use latentfarm_common::nats::topology::Topology;
use latentfarm_common::wire::blob::BlobRef;

/// Makes content that takes two whole chunks of the object store and part of a third.
fn large() -> Vec<u8> {
    (0..(1_usize << 20) + 1234)
        .map(|at| (at * 7 % 251).to_le_bytes()[0])
        .collect()
}

/// Checks what both kinds of store must do.
async fn behaves(store: &Store, dir: &Path) {
    for content in [large(), Vec::new(), b"small".to_vec()] {
        let path = file_in(dir, "source", &content);
        let blob = store.put_file(&path).await.unwrap();
        assert_eq!(blob.digest, Digest::of(&content));
        assert_eq!(blob.bytes, content.len() as u64);
        assert_eq!(
            store.put_bytes(content.clone()).await.unwrap(),
            blob,
            "putting it twice is harmless"
        );
        store.check(&blob).await.unwrap();
        store.verify(&blob).await.unwrap();
        assert_eq!(store.get_bytes(&blob).await.unwrap(), content);
        let destination = dir.join("fetched");
        store.get_to_file(&blob, &destination).await.unwrap();
        assert_eq!(std::fs::read(&destination).unwrap(), content);
    }
    let missing = blob("never stored");
    for error in [
        store.check(&missing).await.unwrap_err(),
        store.get_bytes(&missing).await.unwrap_err(),
        store.get_to_file(&missing, &dir.join("never")).await.unwrap_err(),
    ] {
        assert!(matches!(error, BlobError::Missing { .. }), "{error:?}");
        assert!(error.to_string().contains(&missing.digest.to_string()), "{error}");
    }
    assert!(!dir.join("never").exists(), "a failed get leaves nothing");
    let small = store.put_bytes(b"small".to_vec()).await.unwrap();
    let wrong_size = BlobRef { bytes: 6, ..small };
    let error = store.check(&wrong_size).await.unwrap_err();
    assert!(
        matches!(error, BlobError::WrongSize { found_bytes: 5, .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_directory_keeps_blobs() {
    let dir = tempfile::tempdir().unwrap();
    let url = Store::file_url(&dir.path().join("blobs")).unwrap();
    let store = Store::open(&url, None).unwrap();
    behaves(&store, dir.path()).await;
    let blob = store.put_bytes(b"small".to_vec()).await.unwrap();
    let path = store.local_file(&blob, dir.path()).await.unwrap();
    assert_eq!(std::fs::read(path).unwrap(), b"small");
    let staged = std::fs::read_dir(dir.path().join("blobs")).unwrap().flatten();
    let left = staged
        .filter(|entry| entry.file_name().to_string_lossy().starts_with('.'))
        .count();
    assert_eq!(left, 0, "temporary files stay behind");
}

#[tokio::test]
async fn a_damaged_file_is_noticed_and_mended_by_the_next_put() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&Store::file_url(dir.path()).unwrap(), None).unwrap();
    let blob = store.put_bytes(b"content".to_vec()).await.unwrap();
    let path = store.local_file(&blob, dir.path()).await.unwrap();
    std::fs::write(path, b"CONTENT").unwrap();
    for error in [
        store.verify(&blob).await.unwrap_err(),
        store.get_bytes(&blob).await.unwrap_err(),
        store
            .get_to_file(&blob, &dir.path().join("fetched"))
            .await
            .unwrap_err(),
    ] {
        assert!(matches!(error, BlobError::Damaged { .. }), "{error:?}");
    }
    store.put_bytes(b"content".to_vec()).await.unwrap();
    store.verify(&blob).await.unwrap();
}

#[tokio::test]
async fn an_object_store_keeps_blobs() {
    let farm = Farm::start().await;
    let connection = farm.worker("w1").await;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open("nats://farm-media", Some(&connection.client)).unwrap();
    behaves(&store, dir.path()).await;
    let blob = store.put_bytes(b"small".to_vec()).await.unwrap();
    let copy = store.local_file(&blob, dir.path()).await.unwrap();
    assert_eq!(std::fs::read(&copy).unwrap(), b"small");
    // A copy of the right size is not fetched again, but a copy of another size is.
    std::fs::write(&copy, b"SMALL").unwrap();
    assert_eq!(store.local_file(&blob, dir.path()).await.unwrap(), copy);
    assert_eq!(std::fs::read(&copy).unwrap(), b"SMALL");
    std::fs::write(&copy, b"cut").unwrap();
    store.local_file(&blob, dir.path()).await.unwrap();
    assert_eq!(std::fs::read(&copy).unwrap(), b"small");
}

#[tokio::test]
async fn other_nats_clients_can_read_our_objects() {
    use tokio::io::AsyncReadExt as _;

    let farm = Farm::start().await;
    let store = Store::open("nats://farm-media", Some(&farm.coordinator.client)).unwrap();
    let content = large();
    let blob = store.put_bytes(content.clone()).await.unwrap();
    let theirs = farm
        .coordinator
        .context
        .get_object_store("farm-media")
        .await
        .unwrap();
    let mut read = Vec::new();
    theirs
        .get(blob.digest.to_string())
        .await
        .unwrap()
        .read_to_end(&mut read)
        .await
        .unwrap();
    assert_eq!(read, content);
}

#[tokio::test]
async fn a_lost_chunk_of_an_object_is_noticed_and_mended_by_the_next_put() {
    let farm = Farm::start().await;
    let store = Store::open("nats://farm-media", Some(&farm.coordinator.client)).unwrap();
    let blob = store.put_bytes(large()).await.unwrap();
    let stream = farm
        .coordinator
        .context
        .get_stream("OBJ_farm-media")
        .await
        .unwrap();
    assert!(stream.delete_message(2).await.unwrap());
    let error = store.get_bytes(&blob).await.unwrap_err();
    assert!(matches!(error, BlobError::Damaged { .. }), "{error:?}");
    store.put_bytes(large()).await.unwrap();
    assert_eq!(store.get_bytes(&blob).await.unwrap(), large());
}

#[tokio::test]
async fn an_object_that_is_longer_than_announced_is_not_read_to_its_end() {
    let farm = Farm::start().await;
    let store = Store::open("nats://farm-media", Some(&farm.coordinator.client)).unwrap();
    let blob = store.put_bytes(b"small".to_vec()).await.unwrap();
    let context = &farm.coordinator.context;
    let stream = context.get_stream("OBJ_farm-media").await.unwrap();
    let chunk = stream.get_raw_message(1).await.unwrap();
    let description = stream.get_raw_message(2).await.unwrap();
    for _ in 0..3 {
        let more = context.publish(chunk.subject.clone(), vec![0; 1000].into()).await;
        more.unwrap().await.unwrap();
    }
    let text = String::from_utf8(description.payload.to_vec()).unwrap();
    let longer = text.replace("\"chunks\":1", "\"chunks\":4");
    assert_ne!(longer, text);
    let description = context.publish(description.subject, longer.into()).await;
    description.unwrap().await.unwrap();
    let destination = farm.dir.path().join("fetched");
    let error = store.get_to_file(&blob, &destination).await.unwrap_err();
    assert!(
        matches!(
            error,
            BlobError::Damaged {
                found_bytes: 1005,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(!destination.exists());
    assert!(!store.has(&blob).await.unwrap());
    assert!(!store.has(&BlobRef { bytes: 6, ..blob }).await.unwrap());
    store.put_bytes(b"small".to_vec()).await.unwrap();
    assert!(store.has(&blob).await.unwrap());
}

#[tokio::test]
async fn other_urls_are_refused() {
    for url in [
        "",
        "/tmp/x",
        "file://relative",
        "nats://",
        "nats://a.b",
        "s3://bucket",
    ] {
        let error = Store::open(url, None).unwrap_err();
        assert!(matches!(error, BlobError::Url { .. }), "{url}: {error:?}");
    }
    let error = Store::open("nats://farm-media", None).unwrap_err();
    assert!(matches!(error, BlobError::NoClient { .. }), "{error:?}");
}

#[tokio::test]
async fn a_bucket_that_is_full_says_so_and_how_much_it_holds() {
    let farm = Farm::with(Topology {
        media_max_bytes: 1 << 20,
        ..Topology::default()
    })
    .await;
    let worker = farm.worker("w1").await;
    let store = Store::open("nats://farm-media", Some(&worker.client)).unwrap();
    store.put_bytes(vec![1; 700 << 10]).await.unwrap();
    let error = store.put_bytes(vec![2; 700 << 10]).await.unwrap_err();
    assert!(storage::is_full(&error), "{error:?}");
    let missing = store.get_bytes(&blob("nothing")).await.unwrap_err();
    assert!(!storage::is_full(&missing), "{missing:?}");
    let room = storage::media_room(&farm.coordinator.context)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (room.limited_by, room.limit_bytes),
        (StorageLimit::Bucket, 1 << 20)
    );
    assert!(
        room.used_bytes > 700 << 10 && room.free_bytes() < 324 << 10,
        "{room:?}"
    );
}

#[tokio::test]
async fn a_question_that_is_lost_with_the_link_is_asked_again() {
    let mut farm = Farm::start().await;
    let connection = farm.worker("w1").await;
    let store = Store::open("nats://farm-media", Some(&connection.client)).unwrap();
    let blob = store.put_bytes(b"small".to_vec()).await.unwrap();
    suspend(farm.server.id()).await;
    let asked = Instant::now();
    let check = store.check(&blob);
    tokio::pin!(check);
    let unanswered = tokio::time::timeout(Duration::from_secs(1), &mut check).await;
    assert!(unanswered.is_err(), "a stopped server answers nothing");
    farm.server.restart().await.unwrap();
    check.await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
}

/// Stops a process, and returns once every thread of it has stopped: until then it may still answer.
async fn suspend(pid: i32) {
    let id = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGSTOP).unwrap();
    let process = procfs::process::Process::new(pid).unwrap();
    let is_stopped = || {
        let states = process
            .tasks()
            .unwrap()
            .map(|task| task.unwrap().stat().unwrap().state);
        states.into_iter().all(|state| state == 'T')
    };
    while !is_stopped() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_nobody_has_put_again_is_removed_with_its_chunks() {
    let farm = Farm::start().await;
    let coordinator = &farm.coordinator;
    let store = Store::open("nats://farm-media", Some(&coordinator.client)).unwrap();
    let (gone, kept) = (large(), b"kept".to_vec());
    let (gone, kept) = (
        store.put_bytes(gone).await.unwrap(),
        store.put_bytes(kept).await.unwrap(),
    );
    let listed = store.objects().await.unwrap();
    let of = |blob: &BlobRef| listed.iter().find(|object| object.digest == blob.digest).unwrap();
    assert_eq!(listed.len(), 2);
    assert_eq!((of(&gone).bytes, of(&kept).bytes), (gone.bytes, kept.bytes));
    // One that is put again after it was listed stays, whole.
    store.put_bytes(b"kept".to_vec()).await.unwrap();
    assert!(!store.remove(of(&kept)).await.unwrap());
    assert_eq!(store.get_bytes(&kept).await.unwrap(), b"kept");
    assert!(store.remove(of(&gone)).await.unwrap());
    assert!(matches!(store.check(&gone).await, Err(BlobError::Missing { .. })));
    let bytes = async || {
        let stream = coordinator.context.get_stream("OBJ_farm-media").await.unwrap();
        stream.cached_info().state.bytes
    };
    assert!(bytes().await < 4096, "{} bytes are left", bytes().await);
    // It can be stored anew.
    assert_eq!(store.put_bytes(large()).await.unwrap(), gone);
    store.verify(&gone).await.unwrap();
    // Chunks without a description are those of a put that was interrupted.
    let lost = "$O.farm-media.C.lost".to_owned();
    coordinator
        .context
        .publish(lost, "chunk".into())
        .await
        .unwrap()
        .await
        .unwrap();
    let listed = store.objects().await.unwrap();
    assert_eq!(
        store
            .remove_leftovers(&listed, Duration::from_mins(1))
            .await
            .unwrap(),
        0,
        "it is young"
    );
    assert_eq!(store.remove_leftovers(&listed, Duration::ZERO).await.unwrap(), 1);
    store.verify(&gone).await.unwrap();
    assert_eq!(store.get_bytes(&kept).await.unwrap(), b"kept");
}
