//! Disks that are full, or fill up while a render writes to them.

use std::fs;

use farm_tests::{Finished, Material, Render, SmallDisk, fill_disk};

#[track_caller]
fn assert_resumed(finished: &Finished) {
    let chunks = finished.report["resumed_chunks"].as_u64();
    assert!(chunks.is_some_and(|chunks| chunks > 0), "{}", finished.report);
}

#[test]
fn a_disk_that_fills_up_ends_the_render_with_that_cause_and_it_resumes() {
    let material = Material::seconds("2", "2");
    let work = material.path("work");
    fs::create_dir(&work).unwrap();
    let Some(disk) = SmallDisk::mount(&work, "120m") else {
        return;
    };
    let render = || {
        let farm = ["--workers", "1", "--chunk-frames", "16", "--steps", "40"];
        let render = material
            .render("out.mp4")
            .args(farm)
            .arg("--work-dir")
            .arg(work.join("job"));
        disk.with(render)
    };
    let mut running = render().spawn();
    while running.wait_for("chunk_done")["work"] != "render" {}
    let filler = disk.path("filler");
    fill_disk(&filler);
    let ended = running.finish();
    assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("no space left in"), "{}", ended.stderr);
    assert!(ended.stderr.contains(work.to_str().unwrap()), "{}", ended.stderr);
    fs::remove_file(filler).unwrap();
    assert_resumed(&render().run().complete());
}

#[test]
fn a_disk_of_the_output_that_fills_up_costs_no_chunk() {
    let material = Material::seconds("2", "2");
    let folder = material.path("open");
    fs::create_dir(&folder).unwrap();
    let Some(disk) = SmallDisk::mount(&folder, "40m") else {
        return;
    };
    let Material {
        video,
        audio,
        weights,
        ..
    } = &material;
    let render = || {
        let render = Render::new(video, audio, &folder.join("out.mp4"), weights);
        let farm = ["--workers", "1", "--chunk-frames", "16", "--steps", "10"];
        disk.with(render.args(farm).arg("--work-dir").arg(material.path("work")))
    };
    let mut running = render().spawn();
    while running.wait_for("chunk_done")["work"] != "render" {}
    let filler = disk.path("filler");
    fill_disk(&filler);
    let ended = running.finish();
    assert_eq!(ended.code(), Some(1), "{}", ended.stderr);
    for part in ["open/", "No space left", "give the same command again"] {
        assert!(ended.stderr.contains(part), "`{part}`: {}", ended.stderr);
    }
    let names = || {
        fs::read_dir(disk.path(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
    };
    assert_eq!(
        names().collect::<Vec<_>>(),
        ["filler"],
        "no part of an output is left"
    );
    fs::remove_file(filler).unwrap();
    let finished = render().run().complete();
    assert_resumed(&finished);
    let started = finished.event("chunk_started");
    assert!(started.is_none(), "nothing is rendered again: {started:?}");
}
