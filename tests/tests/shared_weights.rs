//! Workers without a folder of weights fetch those of their tasks from the farm's store.

use std::fs;

use farm_tests::{Coordinator, Material, ProcessTag, Server, Worker, program};
use std::path::Path;
use std::process::{Command, Output};

fn share(server: &Server, user: &str, weights: &Path) -> Output {
    let (variable, key) = server.key(user);
    Command::new(program("latentfarm"))
        .args(["share-weights", "--nats", &server.url])
        .arg(weights)
        .env(variable, key)
        .output()
        .expect("run latentfarm")
}

#[test]
fn workers_fetch_the_weights_of_their_tasks_once_and_share_them() {
    let material = Material::seconds("2", "2");
    let tag = ProcessTag::new();
    let server = Server::start(&material.path("nats"), &["w1", "w2"]);
    let coordinator = Coordinator::start(&server, &material.path("coordinator"), &tag);
    let refused = share(&server, "worker-w1", &material.weights);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let shared = share(&server, "coordinator", &material.weights);
    assert_eq!(shared.status.code(), Some(0), "{shared:?}");
    let printed = String::from_utf8_lossy(&shared.stdout).into_owned();
    let identity = printed.split(' ').nth(1).expect("a digest").to_owned();
    // What is there already is found.
    let again = share(&server, "coordinator", &material.weights);
    assert_eq!(String::from_utf8_lossy(&again.stdout), printed, "{again:?}");

    let cache = material.path("cache");
    let cache_arg = cache.to_str().expect("a path in UTF-8");
    let more = ["--weights-cache", cache_arg];
    let logs = ["w1", "w2"].map(|name| material.path(&format!("{name}.log")));
    let auto = Path::new("auto");
    let workers: Vec<Worker> = ["w1", "w2"]
        .iter()
        .zip(&logs)
        .map(|(name, log)| Worker::start_with(&server, name, auto, log, &tag, &more))
        .collect();
    let (variable, key) = server.key("operator");
    let finished = material
        .render("out.mp4")
        .args(["--nats", &server.url, "--chunk-frames", "16", "--steps", "2"])
        .env(variable, &key)
        .spawn()
        .finish()
        .complete();
    assert!(!finished.events.is_empty());
    for worker in workers {
        assert_eq!(worker.drain(), Some(0));
    }
    let said: Vec<String> = logs
        .iter()
        .map(|log| fs::read_to_string(log).expect("a log"))
        .collect();
    let fetched = said
        .iter()
        .filter(|log| log.contains("the weights are here"))
        .count();
    assert_eq!(fetched, 1, "{said:#?}");
    let names: Vec<String> = fs::read_dir(&cache)
        .expect("a cache")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    assert!(names.contains(&identity), "{names:?}");
    assert!(!names.iter().any(|name| name.contains(".part")), "{names:?}");
    assert_eq!(coordinator.interrupt(), Some(0));
    tag.assert_nothing_left();
}
