//! A farm that cannot go on says what it waits for within ten seconds, and ends with the cause and the mend.

use farm_tests::{Card, Coordinator, Finished, Material, ProcessTag, Server, tiny_weights_as};
use serde_json::Value;

/// Returns the first `waiting` event and checks that it came in time.
#[track_caller]
fn first_wait(finished: &Finished) -> &Value {
    let Some(wait) = finished.event("waiting") else {
        panic!("no wait was reported: {:#?}", finished.events)
    };
    // It may have waited for a worker for a moment before.
    let waited = wait["waited_seconds"].as_u64().expect("seconds");
    assert!(waited <= 11, "{wait}");
    wait
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().expect("a text")
}

#[test]
fn a_farm_without_any_worker_prints_the_command_that_starts_one_and_ends() {
    let material = Material::seconds("1", "1");
    let server = Server::start(&material.path("server"), &["first"]);
    let (variable, key) = server.key("operator");
    let tag = ProcessTag::new();
    let coordinator = Coordinator::start(&server, &material.path("coordinator"), &tag);
    let finished = material
        .render("out.mp4")
        .args(["--nats", &server.url, "--unplaceable-wait", "11s"])
        .env(variable, &key)
        .run();
    assert_eq!(finished.code(), Some(3), "{}", finished.stderr);
    let wait = first_wait(&finished);
    assert_eq!(text(wait, "for"), "worker");
    let command = format!(
        "latentfarm-worker run --nats {} --weights {}",
        server.url,
        material.weights.display()
    );
    assert!(text(wait, "mend").contains(&command), "{wait}");
    assert!(wait["given_up_in_seconds"].as_u64() <= Some(1), "{wait}");
    assert!(
        finished.stderr.contains("no worker has joined the farm"),
        "{}",
        finished.stderr
    );
    assert!(finished.stderr.contains(&command), "{}", finished.stderr);
    assert!(text(&finished.report, "no_worker").contains(&command));
    assert_eq!(coordinator.interrupt(), Some(0));
    tag.assert_nothing_left();
}

#[test]
fn memory_that_another_program_holds_is_named_and_not_waited_for_for_ever() {
    let mut material = Material::seconds("1", "1");
    material.weights = tiny_weights_as(&material.path("."), "1.5");
    let card = Card::new(&material.path("."), "card", 16 << 10, 100);
    // The program holds the memory before the worker starts, and keeps it.
    card.set_tenant(15 << 10);
    let finished = material
        .render("out.mp4")
        .args(["--cpu-fallback", "never", "--unplaceable-wait", "11s"])
        .args(["--worker", &format!("name=only,device={}", card.device())])
        .run();
    assert_eq!(finished.code(), Some(3), "{}", finished.stderr);
    let wait = first_wait(&finished);
    assert_eq!(text(wait, "for"), "memory");
    let reason = text(wait, "reason");
    assert!(
        reason.contains("other processes hold 15.0 GiB of the 15.8 GiB that only could offer"),
        "{reason}"
    );
    assert!(text(wait, "mend").contains("free that memory"), "{wait}");
    assert!(
        finished.stderr.contains("other processes hold 15.0 GiB"),
        "{}",
        finished.stderr
    );
}
