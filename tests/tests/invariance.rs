//! Rendered frames do not depend on the length of the chunks or on the number of workers.

use farm_tests::{Finished, Material, decoded};
use latentfarm_common::frame::FrameHash;

#[test]
fn one_worker_with_small_chunks_equals_three_workers_with_large_ones() {
    // The video is shorter than the speech and bounces, so that source frames are shown backwards as well.
    let material = Material::seconds("3", "5");
    let render = |name: &str, workers: &str, chunk_frames: &str| -> (Finished, Vec<FrameHash>) {
        let args = ["--lossless", "--workers", workers, "--chunk-frames", chunk_frames];
        let finished = material.render(name).args(args).run().complete();
        (finished, decoded(&material.path(name)))
    };

    let (alone, alone_frames) = render("alone.mp4", "1", "16");
    let (farm, farm_frames) = render("farm.mp4", "3", "48");

    assert!(
        alone.report["synced"].as_u64().unwrap() > 0,
        "no face was rendered: {}",
        alone.report
    );
    assert_eq!(alone.report["synced"], farm.report["synced"]);
    assert_eq!(alone.frames_digest(), farm.frames_digest());
    assert_eq!(
        alone_frames.len() as u64,
        alone.report["frames"].as_u64().unwrap()
    );
    assert_eq!(alone_frames, farm_frames);
}
