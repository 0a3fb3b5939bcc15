//! The server of a farm with its own workers goes away, or has no room, and a render says so and loses
//! nothing.

#![expect(clippy::unwrap_used, reason = "helpers of a test panic where it fails")]

use std::fs;
use std::time::{Duration, Instant};

use farm_tests::{Coordinator, Material, ProcessTag, Server, Worker, decoded, wait_until};
use nix::sys::signal::Signal;

/// Longer than the coordinator's lease lasts.
const LEASE_LAPSES: Duration = Duration::from_secs(16);
const OPTIONS: [&str; 5] = ["--lossless", "--chunk-frames", "16", "--steps", "20"];

/// What makes the server of a farm stop answering, and answer again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Killed,
    /// Its machine is suspended, or the link to it swallows everything: nobody closes a connection.
    Stopped,
}

#[test]
fn a_server_that_is_away_for_longer_than_the_lease_lasts_costs_nothing_but_time() {
    ride_out(Fault::Killed);
}

#[test]
fn a_server_that_answers_nothing_for_longer_than_the_lease_lasts_costs_nothing_but_time() {
    ride_out(Fault::Stopped);
}

fn ride_out(fault: Fault) {
    let material = Material::seconds("2", "2");
    let mut server = Server::start(&material.path("server"), &["first"]);
    let (variable, key) = server.key("operator");
    let tag = ProcessTag::new();
    let coordinator = Coordinator::start(&server, &material.path("coordinator"), &tag);
    let log = material.path("first.log");
    let worker = Worker::start(&server, "first", &material.weights, &log, &tag);
    let mut running = material
        .render("out.mp4")
        .args(OPTIONS)
        .args(["--nats", &server.url])
        .env(variable, &key)
        .spawn();
    while running.wait_for("chunk_started")["work"] != "render" {}
    match fault {
        Fault::Killed => server.kill(),
        Fault::Stopped => server.signal(Signal::SIGSTOP),
    }
    let away_since = Instant::now();
    assert_eq!(running.wait_for("connection_lost")["server"], server.url.as_str());
    let wait = running.wait_for("waiting");
    assert_eq!(wait["for"], "server", "{wait}");
    assert!(
        wait["mend"].as_str().unwrap().contains("start it again"),
        "{wait}"
    );
    wait_until(away_since + LEASE_LAPSES);
    match fault {
        Fault::Killed => server.start_again(),
        Fault::Stopped => server.signal(Signal::SIGCONT),
    }
    running.wait_for("connection_back");
    let finished = running.finish().complete();
    let of_coordinator = coordinator.log();
    assert_eq!(coordinator.interrupt(), Some(0));
    assert_eq!(worker.drain(), Some(0));
    tag.assert_nothing_left();

    // The worker has finished what it held, and delivered it.
    for name in ["chunk_requeued", "worker_lost"] {
        let event = finished.event(name);
        assert!(event.is_none(), "{event:?}");
    }
    let count = |name: &str| {
        let events = finished.events.iter();
        events.filter(|event| event["event"] == name).count()
    };
    assert_eq!((count("connection_lost"), count("connection_back")), (1, 1));
    let log = fs::read_to_string(log).unwrap();
    for line in ["lost the connection to the NATS server", "again, after"] {
        assert_eq!(log.matches(line).count(), 1, "{line}: {log}");
    }
    // A request that a server swallows is repeated, and the log says so.
    let (repeated, of_coordinator) = match fault {
        Fault::Killed => (Some("incomplete"), Some(&of_coordinator)),
        // The coordinator's log has warnings too, those of its own requests among them.
        Fault::Stopped => (None, None),
    };
    for text in [&finished.stderr, &log].into_iter().chain(of_coordinator) {
        for line in ["cannot renew", "is tried again"].into_iter().chain(repeated) {
            assert!(!text.contains(line), "{line}: {text}");
        }
    }
    let undisturbed = material
        .render("undisturbed.mp4")
        .args(OPTIONS)
        .args(["--workers", "1"]);
    assert_eq!(
        finished.frames_digest(),
        undisturbed.run().complete().frames_digest()
    );
    assert_eq!(
        decoded(&material.path("out.mp4")),
        decoded(&material.path("undisturbed.mp4"))
    );
}

#[test]
fn a_farm_without_room_for_its_streams_is_refused_and_one_with_little_gets_small_ones() {
    let material = Material::seconds("0.5", "0.5");
    let mut server = Server::start(&material.path("server"), &["first"]);
    let limited = |text: String, limit: &str| {
        assert!(text.contains("    jetstream: enabled\n"), "{text}");
        let limit = format!("    jetstream {{ max_file: {limit} }}\n");
        text.replace("    jetstream: enabled\n", &limit)
    };
    server.reconfigure(|text| limited(text, "8MB"));
    let tag = ProcessTag::new();
    let (variable, key) = server.key("coordinator");
    let mut serving = server.operator(&tag);
    serving
        .env(variable, key)
        .args(["serve", "--dir"])
        .arg(material.path("refused"));
    let refused = serving.output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&refused.stderr);
    for part in ["676 MiB together", "allows 8 MiB", "max_file"] {
        assert!(stderr.contains(part), "`{part}` is not in: {stderr}");
    }
    // One that grants a part of what the streams ask for gets smaller ones.
    server.reconfigure(|text| text.replace("max_file: 8MB", "max_file: 3GB"));
    let coordinator = Coordinator::start(&server, &material.path("coordinator"), &tag);
    assert_eq!(coordinator.interrupt(), Some(0));
    tag.assert_nothing_left();
}
