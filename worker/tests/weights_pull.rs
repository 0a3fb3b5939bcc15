//! Tests of `weights pull` against a local server that answers as the Hugging Face hub does.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod hub;
#[path = "../latentsync/tests/torch/mod.rs"]
mod torch;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use hub::{COMMIT, Fault, HubServer, Served};
use latentfarm_common::wire::job::WeightsKind;
use latentsync::Checkpoint;
use latentsync::checkpoint::FolderMetadata;
use latentsync::synth::{Size, synthesize};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use torch::{Around, TINY_WHISPER_DIMS, tensors_of};

const MODEL: &str = "ByteDance/LatentSync-1.6";
const VAE: &str = "stabilityai/sd-vae-ft-mse";

/// Starts a server with small files in place of the published ones, and makes a folder to pull into. The
/// `unet_config.json` in the folder describes the small network.
fn server_and_folder() -> (HubServer, tempfile::TempDir) {
    let (made, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let dir = made.path();
    synthesize(dir, Size::Tiny, 5).unwrap();
    torch::save(
        &dir.join("unet.pt"),
        &tensors_of(&dir.join("latentsync_unet.safetensors")),
        Around::Training,
    );
    torch::save(
        &dir.join("tiny.pt"),
        &tensors_of(&dir.join("whisper/tiny.safetensors")),
        Around::Whisper {
            dims: TINY_WHISPER_DIMS,
        },
    );
    let read = |name: &str| std::fs::read(dir.join(name)).unwrap();
    let server = HubServer::start();
    server.put(MODEL, "latentsync_unet.pt", read("unet.pt"));
    server.put(MODEL, "whisper/tiny.pt", read("tiny.pt"));
    let vae = "diffusion_pytorch_model.safetensors";
    server.put(VAE, vae, read(&format!("vae/{vae}")));
    server.put_as(VAE, "config.json", read("vae/config.json"), &"ab".repeat(20));
    std::fs::copy(dir.join("unet_config.json"), out.path().join("unet_config.json")).unwrap();
    (server, out)
}

fn command(endpoint: &str, out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_latentfarm-worker"));
    command
        .args(["weights", "pull", "--model", "1.6", "--out"])
        .arg(out)
        .env("HF_ENDPOINT", endpoint);
    for proxy in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(proxy).env_remove(proxy.to_ascii_lowercase());
    }
    for other in ["HF_TOKEN", "HF_HUB_OFFLINE"] {
        command.env_remove(other);
    }
    command
}

fn pull(server: &HubServer, out: &Path) -> Output {
    command(&server.endpoint, out).output().unwrap()
}

fn printed(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn assert_complete(output: &Output, out: &Path) {
    assert!(output.status.success(), "{}", printed(output));
    let checkpoint = Checkpoint::open(out).unwrap();
    checkpoint.check_tensors().unwrap();
    assert_eq!(checkpoint.resolution_px(), 512);
    assert_eq!(checkpoint.kind(), WeightsKind::Trained);
    assert!(!out.join(".pull").exists(), "unfinished downloads are removed");
}

fn size(out: &Path, name: &str) -> usize {
    usize::try_from(std::fs::metadata(out.join(name)).unwrap().len()).unwrap()
}

#[test]
fn pull_fetches_and_records_every_file_and_does_nothing_the_second_time() {
    let (server, out) = server_and_folder();
    let out = out.path();
    let output = pull(&server, out);
    assert_complete(&output, out);
    assert!(
        printed(&output).contains("LatentSync-1.6, 512 px"),
        "{}",
        printed(&output)
    );

    let note = FolderMetadata::read(out).unwrap().unwrap();
    assert_eq!(note.files.len(), 4);
    let unet = &note.files["latentsync_unet.pt"];
    assert_eq!(unet.source, format!("{MODEL}/latentsync_unet.pt at {COMMIT}"));
    assert_eq!(unet.bytes, size(out, "latentsync_unet.pt") as u64);

    let again = pull(&server, out);
    assert_complete(&again, out);
    assert_eq!(
        printed(&again).matches("already there").count(),
        4,
        "{}",
        printed(&again)
    );
    assert_eq!(server.served("latentsync_unet.pt").len(), 1, "fetched once");

    let verify = Command::new(env!("CARGO_BIN_EXE_latentfarm-worker"))
        .args(["weights", "verify"])
        .arg(out)
        .output()
        .unwrap();
    assert_eq!(
        printed(&verify).matches("good, digest as recorded").count(),
        3,
        "{}",
        printed(&verify)
    );
}

#[test]
fn broken_connection_is_resumed_where_it_broke() {
    let (server, out) = server_and_folder();
    let out = out.path();
    server.inject("latentsync_unet.pt", Fault::CutAfter(100_000));
    server.inject("latentsync_unet.pt", Fault::CutAfter(50_000));
    let output = pull(&server, out);
    assert_complete(&output, out);
    let total = size(out, "latentsync_unet.pt");
    let answers = server.served("latentsync_unet.pt");
    let parts: Vec<(usize, usize)> = answers.iter().map(|part| (part.from, part.bytes)).collect();
    assert_eq!(
        parts,
        [(0, 100_000), (100_000, 50_000), (150_000, total - 150_000)]
    );
    assert!(
        printed(&output).contains("resuming at 146.48 KiB"),
        "{}",
        printed(&output)
    );
}

#[test]
fn interrupted_pull_is_resumed_by_the_same_command() {
    let (server, out) = server_and_folder();
    let out = out.path();
    server.inject("latentsync_unet.pt", Fault::StallAfter(200_000));
    let mut child = command(&server.endpoint, out)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    server.wait_for_stall();
    let part = || -> Option<u64> {
        let blobs = out.join(".pull/models--ByteDance--LatentSync-1.6/blobs");
        let parts = std::fs::read_dir(blobs).ok()?.flatten();
        let part = parts
            .map(|entry| entry.path())
            .find(|path| path.extension().is_some_and(|e| e == "part"))?;
        Some(std::fs::metadata(part).ok()?.len())
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_mins(1);
    while part() != Some(200_000) {
        assert!(std::time::Instant::now() < deadline, "{:?} bytes arrived", part());
        std::thread::yield_now();
    }
    // Ctrl-C sends the same signal.
    kill(Pid::from_raw(i32::try_from(child.id()).unwrap()), Signal::SIGINT).unwrap();
    assert!(!child.wait().unwrap().success());
    assert!(!out.join("latentsync_unet.pt").exists());

    assert_complete(&pull(&server, out), out);
    let total = size(out, "latentsync_unet.pt");
    let expected = |from, bytes| Served {
        path: format!("/{MODEL}/resolve/main/latentsync_unet.pt"),
        from,
        bytes,
    };
    assert_eq!(
        server.served("latentsync_unet.pt"),
        [expected(0, 200_000), expected(200_000, total - 200_000)]
    );
    assert_eq!(
        server.served("tiny.pt").len(),
        1,
        "a complete file is not fetched again"
    );
}

#[test]
fn server_that_ignores_the_range_costs_a_second_start_and_no_wrong_file() {
    let (server, out) = server_and_folder();
    let out = out.path();
    server.inject("latentsync_unet.pt", Fault::CutAfter(100_000));
    server.inject("latentsync_unet.pt", Fault::IgnoresRange);
    let output = pull(&server, out);
    assert_complete(&output, out);
    assert!(
        printed(&output).contains("starting again"),
        "{}",
        printed(&output)
    );
}

#[test]
fn file_with_a_wrong_digest_is_refused_and_deleted() {
    let (server, out) = server_and_folder();
    let out = out.path();
    server.put_as(
        MODEL,
        "whisper/tiny.pt",
        b"something else".to_vec(),
        &"0".repeat(64),
    );
    let output = pull(&server, out);
    assert_eq!(output.status.code(), Some(1), "{}", printed(&output));
    for part in [
        "whisper/tiny.pt sent 14 B with the SHA-256",
        "0000, ",
        "nothing of it was kept",
    ] {
        let part = part.trim_end_matches(", ");
        assert!(
            printed(&output).contains(part),
            "`{part}` is not in: {}",
            printed(&output)
        );
    }
    assert!(!out.join("whisper/tiny.pt").exists());
    let blobs = out.join(".pull/models--ByteDance--LatentSync-1.6/blobs");
    let left = std::fs::read_dir(blobs).unwrap().flatten();
    let left: Vec<u64> = left
        .map(|entry| entry.metadata().unwrap().len())
        .filter(|len| *len > 0)
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn without_a_connection_it_lists_the_files_to_fetch_by_hand() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", unused.local_addr().unwrap());
    drop(unused);
    let dir = tempfile::tempdir().unwrap();
    let output = command(&endpoint, dir.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let vae = "diffusion_pytorch_model.safetensors";
    for part in [
        format!("cannot reach {endpoint}"),
        "refused".to_owned(),
        format!("{endpoint}/{MODEL}/resolve/main/latentsync_unet.pt"),
        format!("as {}", dir.path().join("latentsync_unet.pt").display()),
        format!("as {}", dir.path().join("whisper/tiny.pt").display()),
        format!("as {}", dir.path().join("vae").join(vae).display()),
        "HF_ENDPOINT".to_owned(),
        "{\"resolution_px\": 512}".to_owned(),
        "weights verify".to_owned(),
    ] {
        assert!(
            printed(&output).contains(&part),
            "`{part}` is not in: {}",
            printed(&output)
        );
    }
}

#[test]
fn offline_mode_sends_no_request() {
    let (server, out) = server_and_folder();
    let output = command(&server.endpoint, out.path())
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        printed(&output).contains("HF_HUB_OFFLINE is set"),
        "{}",
        printed(&output)
    );
    assert_eq!(server.requests(), 0);
}

#[test]
fn file_that_the_mirror_lacks_is_named() {
    let (server, out) = server_and_folder();
    let endpoint = format!("{}/elsewhere", server.endpoint);
    let output = command(&endpoint, out.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let expected = format!("{endpoint}/{VAE}/resolve/main/config.json answers with status 404");
    assert!(printed(&output).contains(&expected), "{}", printed(&output));
}

#[test]
fn other_weights_are_never_overwritten() {
    let (server, out) = server_and_folder();
    let out = out.path();
    std::fs::write(out.join("latentsync_unet.pt"), "my own training").unwrap();
    let output = pull(&server, out);
    assert_eq!(output.status.code(), Some(2), "{}", printed(&output));
    assert!(
        printed(&output).contains("is not the file that the hub has"),
        "{}",
        printed(&output)
    );
    assert_eq!(
        std::fs::read(out.join("latentsync_unet.pt")).unwrap(),
        b"my own training"
    );

    let synthetic = tempfile::tempdir().unwrap();
    synthesize(synthetic.path(), Size::Tiny, 5).unwrap();
    let output = pull(&server, synthetic.path());
    assert_eq!(output.status.code(), Some(2), "{}", printed(&output));
}
