//! Machines that round differently render one video: the report counts and measures where their results meet, and a job
//! can be kept to one kind. Results are confirmed by other machines of their kind.

use std::collections::BTreeSet;

use farm_tests::{Coordinator, Finished, Material, ProcessTag, Render, Server, Worker};
use serde_json::json;

/// The worker of each chunk that was rendered.
fn renderers(finished: &Finished) -> Vec<&str> {
    let done = finished
        .events
        .iter()
        .filter(|event| event["event"] == "chunk_done");
    let rendered = done.filter(|event| event["work"] == "render");
    rendered.filter_map(|event| event["worker"].as_str()).collect()
}

#[test]
fn borders_of_two_kinds_are_measured_and_one_kind_has_none() {
    let material = Material::seconds("6", "6");
    let server = Server::start(&material.path("server"), &["full", "full-too", "half"]);
    let (variable, key) = server.key("operator");
    let tag = ProcessTag::new();
    let coordinator = Coordinator::checking(&server, &material.path("coordinator"), &tag);
    // On the CPU the other precision is slower, which serves this test.
    let start = |name: &str, precision: &str| {
        let log = material.path(&format!("{name}.log"));
        let more = ["--precision", precision];
        Worker::start_with(&server, name, &material.weights, &log, &tag, &more)
    };
    let full = [start("full", "f32"), start("full-too", "f32")];
    let half = start("half", "f16");
    let render = |output: &str, seed: &str, more: &[&str]| -> Render {
        let options = ["--chunk-frames", "16", "--steps", "4", "--seed", seed];
        let render = material.render(output).args(["--nats", &server.url]);
        render.args(options).args(more).env(variable, &key)
    };
    // The seed differs, so that no result is taken over.
    let mixed = render("mixed.mp4", "1", &[]).run().complete();
    let all: BTreeSet<&str> = renderers(&mixed).into_iter().collect();
    assert!(
        all.contains("half") && all.len() > 1,
        "both kinds rendered: {all:?}"
    );
    let [borders] = mixed.report["borders"].as_array().unwrap().as_slice() else {
        panic!("{}", mixed.report["borders"]);
    };
    assert!(borders["visible"].as_u64() > Some(0), "{borders}");
    assert!(borders["not_measured"].is_null(), "{borders}");
    let measured = borders["measured"].as_array().unwrap();
    assert!(!measured.is_empty(), "{borders}");
    for border in measured {
        let psnr = border["psnr_db"].as_f64().unwrap_or(f64::INFINITY);
        println!("{border}");
        assert!(psnr > 35.0, "half precision is that close to full: {border}");
        assert_eq!(border["frame"].as_u64().unwrap() % 16, 0, "{border}");
    }

    // There is one machine of the other kind, which nobody can confirm.
    let by_half = renderers(&mixed).iter().filter(|name| **name == "half").count();
    let checks = |agreed: usize, not_compared: usize| json!({ "agreed": agreed, "not_compared": not_compared, "disagreements": [] });
    assert_eq!(mixed.report["spot_checks"], checks(10 - by_half, by_half));

    let kept = render("kept.mp4", "2", &["--one-kind"]).run().complete();
    assert!(!renderers(&kept).contains(&"half"));
    assert_eq!(kept.report["spot_checks"], checks(10, 0));
    assert_eq!(kept.report["borders"].as_array().unwrap().len(), 0);
    assert_eq!(kept.report["numerics_fingerprints"].as_array().unwrap().len(), 1);

    for full in full {
        assert_eq!(full.drain(), Some(0));
    }
    assert_eq!(half.drain(), Some(0));
    assert_eq!(coordinator.interrupt(), Some(0));
    tag.assert_nothing_left();
}
