//! Workers without a folder of weights fetch those of their tasks from the farm's store.

use std::fs;
use std::path::Path;

use async_nats::jetstream;
use farm_tests::{Access, Coordinator, Material, ProcessTag, Running, Server, Worker};
use latentfarm_common::digest::Digest;
use latentfarm_common::nats::Connection;

/// Runs `share-weights` with the key of `user`. Returns its exit code, and what it printed.
fn share(server: &Access, user: &str, weights: &Path) -> (Option<i32>, String) {
    server.run_as(user, ["share-weights".as_ref(), weights.as_os_str()])
}

/// Does something to the stream of the shared weights, with the coordinator's key.
fn tamper<T>(server: &Access, deed: impl AsyncFnOnce(Connection, jetstream::stream::Stream) -> T) -> T {
    server.connected("coordinator", async |connection| {
        let stream = connection.context.get_stream("OBJ_farm-weights").await;
        deed(connection, stream.expect("the bucket of the weights")).await
    })
}

/// Flips a byte of the first stored file. Its chunks are stored once more, so that their order stays.
fn flip_a_byte(server: &Access) {
    tamper(server, async |connection, stream| {
        let mut chunks = Vec::new();
        for sequence in 1..=stream.cached_info().state.last_sequence {
            let message = stream.get_raw_message(sequence).await.expect("a message");
            // The description of the file follows its chunks.
            if message.subject.contains(".M.") {
                break;
            }
            chunks.push(message);
        }
        let subject = chunks[0].subject.clone();
        let purged = stream.purge().filter(subject.as_str()).await.expect("a purge");
        assert_eq!(purged.purged, chunks.len() as u64);
        for (number, chunk) in chunks.iter().enumerate() {
            let mut payload = chunk.payload.to_vec();
            if number == 0 {
                payload[1000] ^= 1;
            }
            let published = connection.context.publish(subject.clone(), payload.into()).await;
            published.expect("a publish").await.expect("an acknowledgement");
        }
    });
}

/// Waits until a worker is set aside, and returns the reason.
fn reason_of(running: &mut Running, worker: &str) -> String {
    loop {
        let event = running.wait_for("worker_set_aside");
        if event["worker"] == worker {
            return event["reason"].as_str().expect("a reason").to_owned();
        }
    }
}

fn names(cache: &Path) -> Vec<String> {
    let entries = fs::read_dir(cache).expect("a cache");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    names.map(|name| name.to_string_lossy().into_owned()).collect()
}

#[test]
fn weights_are_fetched_once_a_machine_and_refused_if_they_are_missing_or_damaged_in_the_store() {
    let material = Material::seconds("2", "2");
    let tag = ProcessTag::new();
    let server = Server::start(&material.path("nats"), &["w0", "w1", "w2"]);
    let coordinator = Coordinator::start(&server, &material.path("coordinator"), &tag);
    let cache = material.path("cache");
    let more = ["--weights-cache", cache.to_str().expect("a path in UTF-8")];
    let log = |name: &str| material.path(&format!("{name}.log"));
    let start = |name: &str| Worker::start_with(&server, name, Path::new("auto"), &log(name), &tag, &more);
    let (variable, key) = server.key("operator");
    let render = |output: &str, steps: &str| {
        let farm = ["--nats", &server.url, "--chunk-frames", "16", "--steps", steps];
        material.render(output).args(farm).env(variable, &key).spawn()
    };

    // Nobody has shared anything.
    let first = start("w0");
    let mut running = render("out.mp4", "2");
    let reason = reason_of(&mut running, "w0");
    assert!(
        reason.contains("has no weights") && reason.contains("latentfarm share-weights DIR"),
        "{reason}"
    );
    assert_eq!(first.drain(), Some(0));

    let (code, printed) = share(&server, "worker-w0", &material.weights);
    assert_eq!(code, Some(1), "{printed}");
    let (code, printed) = share(&server, "coordinator", &material.weights);
    assert_eq!(code, Some(0), "{printed}");
    let is_digest = |word: &&str| word.parse::<Digest>().is_ok();
    let identity = printed.split(' ').find(is_digest).expect("a digest").to_owned();
    let (code, printed) = share(&server, "coordinator", &material.weights);
    assert!(code == Some(0) && printed.contains("already"), "{printed}");
    assert!(!printed.contains("storing"), "{printed}");

    flip_a_byte(&server);
    let first = start("w1");
    let reason = reason_of(&mut running, "w1");
    assert!(
        reason.contains("is damaged") && reason.contains("latentfarm share-weights DIR"),
        "{reason}"
    );
    assert!(
        !names(&cache).contains(&identity),
        "what is damaged is not kept as whole"
    );
    let (code, printed) = share(&server, "coordinator", &material.weights);
    assert!(
        code == Some(0) && printed.matches("storing").count() == 1 && printed.contains("(1 of "),
        "only the damaged file is stored again: {printed}"
    );

    // The worker that was unfit tries again.
    assert_eq!(
        running.finish().complete().report["given_up"],
        serde_json::json!([])
    );
    assert_eq!(first.drain(), Some(0));
    let second = start("w2");
    let finished = render("again.mp4", "3").finish().complete();
    let workers = finished.report["workers"].as_object().expect("workers");
    assert!(workers.contains_key("w2"), "{workers:?}");
    assert_eq!(second.drain(), Some(0));
    let said = ["w1", "w2"].map(|name| fs::read_to_string(log(name)).expect("a log"));
    let fetched = said
        .each_ref()
        .map(|log| log.matches("the weights are here").count());
    assert_eq!(fetched, [1, 0], "{said:#?}");
    assert!(!said[1].contains("fetching"), "{}", said[1]);
    let names = names(&cache);
    assert!(names.contains(&identity), "{names:?}");
    assert!(!names.iter().any(|name| name.contains(".part")), "{names:?}");
    assert_eq!(coordinator.interrupt(), Some(0));
    tag.assert_nothing_left();
}
