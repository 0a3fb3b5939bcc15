//! Workers that take tasks only in their hours.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use farm_tests::{Coordinator, Material, ProcessTag, Server, Worker};

/// Returns the time of the day in UTC, so many minutes from now, as `19:00`.
fn time_in(minutes: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    let of_day = (now.as_secs() / 60 + minutes) % (24 * 60);
    format!("{:02}:{:02}", of_day / 60, of_day % 60)
}

#[test]
fn a_job_waits_for_the_hours_of_its_workers_as_long_as_it_takes() {
    let material = Material::seconds("1", "1");
    let server = Server::start(&material.path("server"), &["night"]);
    let tag = ProcessTag::new();
    let coordinator = Coordinator::start(&server, &material.path("coordinator"), &tag);
    let clock = material.path("clock");
    let begin = time_in(120);
    let hours = format!("{begin}-{}", time_in(180));
    let log = material.path("night.log");
    let weights = &material.weights;
    let more = ["--hours", hours.as_str()];
    let worker = Worker::start_in_utc(&server, "night", weights, &log, &tag, &more, &clock);

    // It would be given up at once if the time counted.
    let (variable, key) = server.key("operator");
    let render = material
        .render("out.mp4")
        .args(["--nats", &server.url, "--unplaceable-wait", "1s"])
        .env(variable, &key);
    let mut running = render.spawn();
    let reason = loop {
        let wait = running.wait_for("waiting");
        let reason = wait["reason"].as_str().expect("a reason").to_owned();
        if reason.contains("rest") {
            break reason;
        }
    };
    assert!(
        reason.contains("night is outside its hours, which begin on") && reason.contains(&begin),
        "{reason}"
    );
    // Two hours and a half later.
    fs::write(&clock, "9000").expect("a file");
    let finished = running.finish().complete();
    assert_eq!(finished.report["given_up"], serde_json::json!([]));
    assert_eq!(worker.drain(), Some(0));
    assert_eq!(coordinator.interrupt(), Some(0));
    tag.assert_nothing_left();
}
