//! The material, the server, the worker and the coordinator of a test with several jobs.

#![expect(clippy::unwrap_used, reason = "helpers of a test panic where it fails")]

use std::ffi::OsString;

use serde_json::Value;

use crate::{Coordinator, Material, ProcessTag, Server, Worker, decoded};

/// Options of the tests' jobs: several chunks of some seconds each.
pub const OPTIONS: [&str; 7] = [
    "--preset",
    "lean",
    "--lossless",
    "--chunk-frames",
    "16",
    "--steps",
    "10",
];

/// A server with one worker, and the folder of its coordinator.
pub struct Stage {
    /// The options of the jobs; [`OPTIONS`] unless a test needs others.
    pub options: [&'static str; 7],
    pub material: Material,
    pub server: Server,
    worker: Worker,
    pub tag: ProcessTag,
}

impl Stage {
    /// Starts the server and the worker `first`.
    pub fn open() -> Self {
        let material = Material::seconds("2", "2");
        let server = Server::start(&material.path("server"), &["first"]);
        let tag = ProcessTag::new();
        let log = material.path("first.log");
        let worker = Worker::start(&server, "first", &material.weights, &log, &tag);
        Self {
            options: OPTIONS,
            material,
            server,
            worker,
            tag,
        }
    }

    /// Starts the coordinator, or a further one.
    pub fn coordinator(&self) -> Coordinator {
        Coordinator::start(&self.server, &self.material.path("coordinator"), &self.tag)
    }

    /// The arguments that submit a job which differs from the others by its seed.
    pub fn submission(&self, output: &str, seed: &str, more: &[&str]) -> Vec<OsString> {
        let Material {
            video,
            audio,
            weights,
            ..
        } = &self.material;
        let mut args: Vec<OsString> = vec!["submit".into(), video.into(), audio.into(), "-o".into()];
        args.extend([
            self.material.path(output).into(),
            "--weights".into(),
            weights.into(),
        ]);
        args.extend(
            ["--seed", seed]
                .iter()
                .chain(&self.options)
                .chain(more)
                .map(OsString::from),
        );
        args
    }

    /// Submits a job, and returns it.
    #[track_caller]
    pub fn submit(&self, output: &str, seed: &str, more: &[&str]) -> Value {
        self.server.operate(self.submission(output, seed, more)).last()
    }

    /// Runs a command about a job, and returns the job.
    #[track_caller]
    pub fn about(&self, command: &str, job: &Value, more: &[&str]) -> Value {
        let id = job["job"].as_str().unwrap();
        self.server.operate([&[command, id], more].concat()).last()
    }

    /// Asserts that a job's output is that of a render on this machine alone.
    #[track_caller]
    pub fn assert_like_a_render(&self, output: &str, seed: &str, digest: &Value) {
        let name = format!("alone-{seed}.mp4");
        let alone = self
            .material
            .render(&name)
            .args(&self.options[2..])
            .args(["--seed", seed]);
        let alone = alone.args(["--workers", "1"]).run().complete();
        assert_eq!(digest, alone.frames_digest().as_str());
        assert_eq!(
            decoded(&self.material.path(output)),
            decoded(&self.material.path(&name))
        );
    }

    /// Ends the worker and the coordinator in order.
    #[track_caller]
    pub fn close(self, coordinator: Coordinator) {
        let _material = self.close_keeping(coordinator);
    }

    /// Ends the farm in order, and returns its material.
    #[track_caller]
    pub fn close_keeping(self, coordinator: Coordinator) -> Material {
        assert_eq!(coordinator.interrupt(), Some(0));
        assert_eq!(self.worker.drain(), Some(0));
        self.tag.assert_nothing_left();
        self.material
    }
}
