//! Compares the geometry of whole-chain data with the reference: for every `e2e*_config.json` in the golden
//! folder whose file holds its video, the matrices from the landmarks, the crops, and the length of the
//! sound.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests are tests too"
)]

#[path = "../../tests/chain/mod.rs"]
mod chain;
mod picture;
#[path = "../../latentsync/tests/support/mod.rs"]
mod support;

use chain::{Chain, chains, held};
use latentfarm_common::align::Smoother;
use latentfarm_common::time::FrameRate;
use latentfarm_face::warp::crop;
use picture::{assert_matrices_close, frame, matrices, points, whole_pixels};
use support::{Compared, assert_bytes_close};

/// Computes matrices from the points, smoothed along the input video, and the crops that they cut. An output
/// frame takes both from the input frame that it shows.
#[test]
fn matrices_and_faces_of_the_chain_match_golden() {
    let mut compared = Compared::default();
    for chain in chains() {
        let golden = &chain.golden;
        if golden.find("video_frames_u8").is_none() {
            continue;
        }
        let resolution = u32::try_from(chain.side()).unwrap();
        let mut smoother = Smoother::default();
        let points = points(golden, "landmarks3");
        let ours: Vec<_> = points
            .iter()
            .map(|at| smoother.next(&whole_pixels(at), resolution))
            .collect();
        let sources = golden.integers("source_frame_index");
        let shown: Vec<_> = sources
            .iter()
            .map(|&at| ours[usize::try_from(at).unwrap()])
            .collect();
        let all = matrices(golden, "affine_matrices");
        assert_matrices_close("affine_matrices", &shown, &all);
        compared.add("matrices");
        let faces = golden.get("faces_u8");
        for number in held(&chain, faces, "faces_u8.index") {
            let output = usize::try_from(number).unwrap();
            let source = usize::try_from(sources[output]).unwrap();
            let video = frame(golden, "video_frames_u8", source);
            let crop = crop(&video, &all[output], chain.side());
            let want = chain.part("faces_u8", output, 1).flatten_all().unwrap();
            let want = want.to_vec1::<u8>().unwrap();
            assert_bytes_close(&format!("face {number}"), &crop, &want, 0.01);
            compared.add("faces");
        }
        let fps = chain.config["fps"].to_string();
        let rate = support::speech::rate_of_tag(&fps.replace(".0", "").replace('.', "p"));
        check_sound(&chain, rate, &mut compared);
    }
    compared.require(&["matrices", "faces", "sound"]);
}

/// Checks that the samples which the reference keeps are covered by as many frames as it renders.
fn check_sound(chain: &Chain, rate: FrameRate, compared: &mut Compared) {
    let golden = &chain.golden;
    for prefix in golden.before("audio_samples_kept") {
        let kept = golden.integers(&format!("{prefix}audio_samples_kept"))[0].unsigned_abs();
        let frames = chain.number("num_chunks") as u64;
        assert_eq!(
            rate.frames_covering(kept, 16_000),
            frames,
            "{prefix}{kept} samples"
        );
        compared.add("sound");
    }
}
