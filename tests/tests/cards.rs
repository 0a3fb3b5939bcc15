//! Renders on the cards of one machine: one worker and one engine for each card, two renders that share a card, and
//! the CPU beside a card.

#![expect(clippy::unwrap_used, reason = "helpers of a test panic where it fails")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use farm_tests::{Card, Finished, Material, Render, Running, program};

/// Options of jobs whose chunks take about a second each.
const SMALL_CHUNKS: [&str; 5] = ["--lossless", "--chunk-frames", "16", "--steps", "20"];

/// Returns the workers that have rendered chunks.
fn renderers(finished: &Finished) -> BTreeSet<&str> {
    let done = finished
        .events
        .iter()
        .filter(|event| event["event"] == "chunk_done" && event["work"] == "render");
    done.filter_map(|event| event["worker"].as_str()).collect()
}

/// Makes a program that starts an engine, unless one that it has started lives: then it writes a line to `second` in
/// the folder and fails. It writes a line with its parent's process id to `starts`.
fn only_engine(folder: &Path) -> PathBuf {
    let path = folder.join("only-engine");
    let script = format!(
        "#!/bin/sh\n\
         exec 9>>'{folder}/only-engine.lock'\n\
         flock --nonblock 9 || {{ echo $PPID >> '{folder}/second'; exit 1; }}\n\
         echo $PPID >> '{folder}/starts'\n\
         exec '{engine}' \"$@\"\n",
        folder = folder.display(),
        engine = program("latentfarm-engine").display(),
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn two_renders_that_start_together_take_turns_on_a_card() {
    let material = Material::seconds("2", "2");
    let card = Card::new(&material.path("."), "card", 24 << 10, 100);
    let engine = only_engine(&material.path("."));
    let spec = format!(
        "threads=1,device={},engine={},device-turn=0",
        card.device(),
        engine.display()
    );
    let start = |name: &str| -> Running {
        let render: Render = material.render(name);
        render.args(SMALL_CHUNKS).args(["--worker", &spec]).spawn()
    };
    let running = ["first.mp4", "second.mp4"].map(start);
    let [first, second] = running.map(|running| running.finish().complete());
    assert_eq!(first.frames_digest(), second.frames_digest());
    let second_engines = fs::read_to_string(material.path("second")).unwrap_or_default();
    assert_eq!(second_engines, "", "an engine was started beside another one");
    let starts = fs::read_to_string(material.path("starts")).unwrap();
    let workers: BTreeSet<&str> = starts.lines().collect();
    assert_eq!(workers.len(), 2, "both workers had the card: {starts}");
}

/// Returns the number of engines that compute on a card.
fn engines_on(running: &Running, card: &Card) -> usize {
    let processes = running.tag().processes();
    let is_engine =
        |command: &str| command.contains("latentfarm-engine ") && command.contains(&card.device());
    processes.iter().filter(|(_, command)| is_engine(command)).count()
}

#[test]
fn each_card_of_a_list_has_one_worker_with_one_engine() {
    let material = Material::seconds("5", "5");
    let cards = ["left", "right"].map(|name| Card::new(&material.path("."), name, 24 << 10, 100));
    let devices = cards.each_ref().map(Card::device).join(",");
    let render = material.render("out.mp4").args(SMALL_CHUNKS);
    let mut running = render.args(["--device", &devices]).spawn();
    let mut at_work = BTreeSet::new();
    while at_work.len() < 2 {
        let event = running.wait_for("chunk_done");
        if event["work"] != "render" {
            continue;
        }
        let worker = event["worker"].as_str().unwrap().to_owned();
        if at_work.insert(worker.clone()) {
            // Its engine waits for the next chunk, or has it.
            let card = &cards[usize::from(worker == "w2")];
            assert_eq!(engines_on(&running, card), 1, "{worker}");
        }
    }
    let finished = running.finish().complete();
    assert_eq!(renderers(&finished), BTreeSet::from(["w1", "w2"]));
}

#[test]
fn the_cpu_beside_a_card_renders_only_what_the_card_cannot_hold() {
    let material = Material::seconds("1", "1");
    let card = Card::new(&material.path("."), "card", 24 << 10, 100);
    let devices = format!("{},cpu", card.device());
    let render = |name: &str| {
        let render = material.render(name).args(SMALL_CHUNKS);
        render.args(["--device", &devices]).run().complete()
    };
    let free = render("free.mp4");
    assert_eq!(renderers(&free), BTreeSet::from(["w1"]), "the card holds all");
    card.set_tenant((24 << 10) - 100);
    let full = render("full.mp4");
    assert_eq!(
        renderers(&full),
        BTreeSet::from(["cpu"]),
        "another program has the card"
    );
    assert_eq!(free.frames_digest(), full.frames_digest());
}
