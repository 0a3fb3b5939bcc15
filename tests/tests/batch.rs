//! A batch of jobs, which one command submits to a farm from a table.

#![expect(clippy::unwrap_used, reason = "helpers of a test panic where it fails")]

use std::ffi::OsString;
use std::fs;

use farm_tests::{Material, Stage};
use serde_json::Value;

/// Asserts that a table with the options of `a.mp4` names the same job.
#[track_caller]
fn assert_like_a_table(stage: &Stage, job: &Value) {
    let Material {
        video,
        audio,
        weights,
        ..
    } = &stage.material;
    let table = format!(
        "video,audio,output,preset,lossless,chunk_frames,seed\n{},{},a.mp4,lean,true,16,1\n",
        video.display(),
        audio.display()
    );
    let path = stage.material.path("jobs.csv");
    fs::write(&path, table).unwrap();
    fs::remove_file(stage.material.path("a.mp4")).unwrap();
    let args: [OsString; 5] = [
        "submit".into(),
        "--batch".into(),
        path.into(),
        "--weights".into(),
        weights.into(),
    ];
    assert_eq!(&stage.server.operate(args).last()["job"], job);
}

#[test]
fn a_batch_is_checked_whole_before_any_job_is_queued() {
    let stage = Stage::open();
    let coordinator = stage.coordinator();
    let Material {
        video,
        audio,
        weights,
        ..
    } = &stage.material;
    let line = |output: &str, more: Value| {
        let mut line = serde_json::json!({
            "video": video, "audio": audio, "output": output,
            "preset": "lean", "lossless": true, "chunk_frames": 16,
        });
        line.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        line.to_string()
    };
    let right = [
        line("a.mp4", serde_json::json!({ "seed": 1 })),
        line(
            "b.mp4",
            serde_json::json!({ "seed": 2, "name": "talk b", "priority": 0, "after": "a.mp4" }),
        ),
    ];
    let wrong = [
        line("c.mp4", serde_json::json!({ "video": "missing.mp4" })),
        line("d.mp4", serde_json::json!({ "steps": 0 })),
        line("a.mp4", serde_json::json!({ "seed": 3 })),
        "{".to_owned(),
    ];
    let file = stage.material.path("jobs.jsonl");
    let batch = |lines: &[String], more: &[&str]| {
        fs::write(&file, lines.join("\n")).unwrap();
        let mut args: Vec<OsString> = vec!["submit".into(), "--batch".into(), file.clone().into()];
        args.extend(["--weights".into(), weights.into()]);
        args.extend(more.iter().map(OsString::from));
        stage.server.operate(args)
    };
    let all = [right.as_slice(), &wrong].concat();
    let refused = batch(&all, &[]);
    assert_eq!(refused.code, Some(2), "{refused:?}");
    let invalid: Vec<&Value> = refused
        .lines
        .iter()
        .filter(|line| line["event"] == "invalid")
        .collect();
    let numbers: Vec<u64> = invalid
        .iter()
        .map(|line| line["line"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, [3, 4, 5, 6], "{refused:?}");
    for (line, part) in invalid
        .iter()
        .zip(["missing.mp4", "steps", "line 1 has the same output", "JSON"])
    {
        assert!(line["reason"].as_str().unwrap().contains(part), "{line}");
    }
    assert_eq!(
        stage.server.operate(["jobs"]).lines.len(),
        0,
        "nothing was queued"
    );

    let partly = batch(&all, &["--skip-invalid"]);
    assert_eq!(partly.code, Some(3), "{partly:?}");
    let listed = stage.server.operate(["jobs"]).lines;
    let names: Vec<&Value> = listed.iter().map(|job| &job["name"]).collect();
    assert_eq!(names, ["talk b", "a.mp4"]);
    // The same lines are the same jobs.
    let waited = batch(&right, &["--wait"]);
    assert_eq!(waited.code, Some(0), "{waited:?}");
    let digests: Vec<&Value> = waited
        .lines
        .iter()
        .filter(|line| line["event"] == "written")
        .collect();
    assert_eq!(digests.len(), 2);
    assert_ne!(digests[0]["frames_digest"], digests[1]["frames_digest"]);
    assert!(stage.material.path("a.mp4").exists() && stage.material.path("b.mp4").exists());
    let listed = stage.server.operate(["jobs"]).lines;
    let [second, first] = listed.as_slice() else {
        panic!("{listed:#?}")
    };
    assert!(
        second["begun_ms"].as_u64() >= first["ended_ms"].as_u64(),
        "{listed:#?}"
    );
    assert!(listed.iter().all(|job| job["fetched_ms"].is_u64()), "{listed:#?}");
    assert_like_a_table(&stage, &first["job"]);
    stage.close(coordinator);
}
