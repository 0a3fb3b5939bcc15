//! A job that needs tags waits for a machine that has them, also over a restart of the coordinator, and no other machine
//! is given anything of it.

use std::path::Path;
use std::process::Command;

use farm_tests::{Coordinator, Material, ProcessTag, Server, Worker, eventually, program, transcode};
use serde_json::{Value, json};

#[test]
fn a_job_is_rendered_by_the_machine_that_was_invited_with_the_tags_that_it_needs() {
    let material = Material::seconds("2", "2");
    let dir = material.path("server");
    let server = Server::start(&dir, &["bare"]);
    let tag = ProcessTag::new();
    let mut coordinator = Coordinator::start(&server, &material.path("coordinator"), &tag);
    let log = |name: &str| material.path(&format!("{name}.log"));
    let bare = Worker::start(&server, "bare", &material.weights, &log("bare"), &tag);
    let path = |name: &str| material.path(name).to_str().unwrap().to_owned();
    // Of one video the analyses of another job would count.
    let other = material.path("other.mp4");
    transcode(&material.video, &["-t", "1", "-an"], other.clone());
    let submit = |video: &Path, output: &str, more: &[&str]| {
        let inputs = [video, &material.audio, &material.weights];
        let [video, audio, weights] = inputs.map(|path| path.to_str().unwrap());
        let output = path(output);
        let args = ["submit", video, audio, "-o", &output, "--weights", weights];
        let options = ["--chunk-frames", "16", "--steps", "2"];
        server.operate([&args, &options[..], more].concat())
    };
    let about = |command: &str, job: &Value, more: &[&str]| {
        let id = job["job"].as_str().unwrap();
        server.operate([&[command, id], more].concat()).last()
    };

    let job = submit(
        &material.video,
        "tagged.mp4",
        &["--need-tag", "nvenc", "--need-tag", "eu"],
    )
    .last();
    assert_eq!(job["needed_tags"], json!(["eu", "nvenc"]));
    // Whoever submits it again must not think that it goes elsewhere.
    let refused = submit(&material.video, "tagged.mp4", &[]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(
        refused.stderr.contains("workers with the tags eu, nvenc"),
        "{refused:?}"
    );
    let named = || {
        let waits_for = about("status", &job, &[])["waits_for"]
            .as_str()
            .map(str::to_owned)?;
        waits_for
            .contains("no live worker has the tags eu, nvenc")
            .then_some(())
    };
    eventually("the wait is named", named);
    // It keeps no other job from the workers.
    let other = submit(&other, "bare.mp4", &[]).last();
    assert_eq!(about("status", &other, &["--wait"])["phase"], "complete");
    coordinator.kill();
    let coordinator = Coordinator::start(&server, &material.path("coordinator"), &tag);
    eventually("the wait is named by the next coordinator too", named);

    let file = material.path("machine.join");
    let mut inviting = Command::new(program("latentfarm"));
    inviting.args([
        "invite",
        "machine",
        "--tag",
        "eu,nvenc",
        "--url",
        &server.url,
        "-o",
    ]);
    let invited = inviting.arg(&file).arg("--dir").arg(&dir).output().unwrap();
    assert_eq!(invited.status.code(), Some(0), "{invited:?}");
    let machine = Worker::join(&file, "cpu", &material.weights, &log("machine"), &tag);
    let complete = about("status", &job, &["--wait"]);
    assert_eq!(complete["phase"], "complete", "{complete}");
    let explained = server.operate(["explain", job["job"].as_str().unwrap(), "--nats", &server.url]);
    let history = explained.last().to_string();
    assert!(
        history.contains("\"machine\"") && !history.contains("\"bare\""),
        "{history}"
    );
    let top = server.operate(["top", "--nats", &server.url]).lines;
    let tags = |name: &str| {
        let worker = top.iter().find(|worker| worker["worker"] == name);
        worker.map(|worker| worker["tags"].clone())
    };
    assert_eq!(
        [tags("bare"), tags("machine")],
        [Some(json!([])), Some(json!(["eu", "nvenc"]))]
    );
    assert_eq!(bare.drain(), Some(0));
    assert_eq!(machine.drain(), Some(0));
    assert_eq!(coordinator.interrupt(), Some(0));
    tag.assert_nothing_left();
}

#[test]
fn a_render_on_this_machine_alone_has_no_workers_to_choose_from() {
    let material = Material::seconds("1", "1");
    let refused = material.render("out.mp4").args(["--need-tag", "eu"]).run();
    assert_eq!(refused.code(), Some(2));
    assert!(refused.stderr.contains("--nats"), "{}", refused.stderr);
    let workers = [
        "--worker",
        "name=bare,device=cpu",
        "--worker",
        "name=able,device=cpu,tag=eu",
    ];
    let done = material
        .render("out.mp4")
        .args(["--need-tag", "eu", "--steps", "2"])
        .args(workers)
        .run()
        .complete();
    let started = done
        .events
        .iter()
        .filter(|event| event["event"] == "chunk_started");
    let workers: Vec<&Value> = started.map(|event| &event["worker"]).collect();
    assert!(
        !workers.is_empty() && workers.iter().all(|worker| *worker == "able"),
        "{workers:?}"
    );
}
