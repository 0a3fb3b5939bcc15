//! Workers that take tasks only in their hours, or while nobody else uses their GPU.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use farm_tests::{Card, Coordinator, Material, ProcessTag, Running, Server, Worker};

/// Returns the time of the day in UTC, so many minutes from now, as `19:00`.
fn time_in(minutes: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    let of_day = (now.as_secs() / 60 + minutes) % (24 * 60);
    format!("{:02}:{:02}", of_day / 60, of_day % 60)
}

/// Starts a render on a farm that would be given up at once if the time without a worker counted.
fn impatient_render(material: &Material, server: &Server) -> Running {
    let (variable, key) = server.key("operator");
    let render = material.render("out.mp4");
    let render = render.args(["--nats", &server.url, "--unplaceable-wait", "1s"]);
    render.env(variable, &key).spawn()
}

/// Waits until a render waits for workers that rest, and returns why they do.
fn why_all_rest(running: &mut Running) -> String {
    loop {
        let wait = running.wait_for("waiting");
        let reason = wait["reason"].as_str().expect("a reason");
        if reason.contains("rest") {
            return reason.to_owned();
        }
    }
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

    let mut running = impatient_render(&material, &server);
    let reason = why_all_rest(&mut running);
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

#[test]
fn a_worker_leaves_its_gpu_to_other_programs_until_they_are_quiet() {
    let material = Material::seconds("1", "1");
    let server = Server::start(&material.path("server"), &["desk"]);
    let tag = ProcessTag::new();
    let coordinator = Coordinator::start(&server, &material.path("coordinator"), &tag);
    let card = Card::new(&material.path("."), "card", 16 << 10, 100);
    card.set_tenant(4 << 10);
    let device = card.device();
    let log = material.path("desk.log");
    let more = ["--device", &device, "--yield-above", "2048", "--quiet-for", "1"];
    let worker = Worker::start_with(&server, "desk", &material.weights, &log, &tag, &more);
    let mut running = impatient_render(&material, &server);
    let reason = why_all_rest(&mut running);
    assert!(
        reason.contains("desk is leaving its GPU to other programs, which hold 4096 MiB there"),
        "{reason}"
    );
    card.set_tenant(1 << 10);
    let finished = running.finish().complete();
    assert_eq!(finished.report["given_up"], serde_json::json!([]));
    assert_eq!(worker.drain(), Some(0));
    assert_eq!(coordinator.interrupt(), Some(0));
    tag.assert_nothing_left();
}
