//! A farm shows its use of memory live in `latentfarm top`, and afterwards in `latentfarm explain` and in the
//! report.

use std::path::Path;
use std::process::{Command, Output};

use farm_tests::{Card, Material, program, tiny_weights_as};
use serde_json::Value;

fn latentfarm(args: &[&str], job: &Path) -> Output {
    let command = Command::new(program("latentfarm")).args(args).arg(job).output();
    command.expect("run latentfarm")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn top_shows_working_workers_and_explain_names_the_reasons_of_moved_chunks() {
    let mut material = Material::seconds("4", "4");
    material.weights = tiny_weights_as(&material.path("."), "1.5");
    // Everything uses half as much memory again as was predicted, so the first plan runs out of memory.
    let card = Card::new(&material.path("."), "card", 4 << 10, 150);
    let out = material.path("out.mp4");
    let mut running = material
        .render("out.mp4")
        .args([
            "--chunk-frames",
            "16",
            "--steps",
            "8",
            "--guidance",
            "1.5",
            "--keep",
        ])
        .args([
            "--worker",
            &format!("name=only,threads=1,device={}", card.device()),
        ])
        .spawn();
    while running.wait_for("chunk_done")["work"] != "render" {}

    let top = latentfarm(&["top", "--json"], &out);
    assert!(top.status.success(), "{}", text(&top.stderr));
    let rows: Vec<Value> = text(&top.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("a JSON object a line"))
        .collect();
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!(rows[0]["worker"], "only");
    assert_eq!(rows[0]["device_total_mib"], 4 << 10);
    assert!(rows[0]["device_free_mib"].as_u64() < Some(4 << 10), "{}", rows[0]);
    let finished = running.finish().complete();

    let table = text(&latentfarm(&["top", "--once"], &out).stderr);
    assert!(
        table.contains("error"),
        "top must fail after the farm has ended: {table}"
    );

    let ooms = finished.report["memory"]["out_of_memory"]
        .as_array()
        .expect("a list");
    assert!(!ooms.is_empty(), "{}", finished.report);
    let explained = latentfarm(&["explain", "--json"], &out);
    assert!(explained.status.success(), "{}", text(&explained.stderr));
    let explained: Value = serde_json::from_slice(&explained.stdout).expect("one JSON object");
    let chunks = explained["chunks"].as_array().expect("chunks");
    let counted: u64 = chunks
        .iter()
        .filter_map(|chunk| chunk["out_of_memory"].as_u64())
        .sum();
    assert_eq!(counted, ooms.len() as u64, "{explained}");
    let moved = chunks.iter().find(|chunk| chunk["out_of_memory"] != 0);
    let moved = moved.expect("a chunk that ran out of memory")["chunk"]
        .as_str()
        .expect("its name");

    let mut command = Command::new(program("latentfarm"));
    let history = command
        .arg("explain")
        .arg(&out)
        .arg(moved)
        .output()
        .expect("run latentfarm");
    let history = text(&history.stdout);
    for part in ["out of memory", "only", "done"] {
        assert!(history.contains(part), "no `{part}` in\n{history}");
    }
    println!("{history}");
}
