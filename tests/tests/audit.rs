//! `latentfarm audit` finds what does not hold together, and nothing where all does.

use farm_tests::Stage;
use latentfarm_common::blob::Store;
use latentfarm_common::ids::{ChunkId, JobId, WorkKind};
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::done::DoneLog;
use latentfarm_common::nats::subjects::Subject;
use latentfarm_common::queues::{Queue, ResourceClass};

async fn publish(connection: &Connection, subject: String, payload: &'static str) {
    let published = connection.context.publish(subject, payload.into()).await;
    published.expect("a publish").await.expect("an acknowledgement");
}

fn render(job: JobId, index: u32) -> ChunkId {
    let work = WorkKind::Render;
    ChunkId { job, work, index }
}

/// Removes the record of a job's first rendered chunk, and the pictures of its second.
async fn lose(connection: &Connection, job: JobId) {
    let log = DoneLog::new(connection);
    let record_of = async |index| {
        let entry = log.get(render(job, index)).await.expect("the done log");
        entry.expect("a record")
    };
    let first = record_of(0).await;
    let retracted = log.retract(first.chunk, first.sequence).await;
    assert!(retracted.expect("a retraction"));
    let lost = record_of(1).await.record.expect("a record").artifact.digest;
    let store = Store::open_existing("nats://farm-media", Some(&connection.client)).expect("a store");
    for object in store.objects().await.expect("objects") {
        if object.digest == lost {
            assert!(store.remove(&object).await.expect("a removal"));
        }
    }
}

#[test]
fn what_the_store_has_lost_of_a_complete_job_is_rendered_again_when_it_is_submitted_or_retried() {
    let stage = Stage::open();
    let coordinator = stage.coordinator();
    let job = stage.submit("a.mp4", "1", &[]);
    let complete = || assert_eq!(stage.about("status", &job, &["--wait"])["phase"], "complete");
    complete();
    let id: JobId = job["job"].as_str().expect("a job").parse().expect("a job");
    let path = stage.material.path("a.mp4");
    let path = path.to_str().expect("a path");
    for again in ["submit", "retry"] {
        stage
            .server
            .connected("coordinator", async |connection| lose(&connection, id).await);
        let refused = stage.server.operate(["fetch", &id.to_string(), "-o", path]);
        assert_eq!(refused.code, Some(2), "{refused:?}");
        for part in [
            "no longer has all",
            "latentfarm retry",
            "submitting the job again",
        ] {
            assert!(refused.stderr.contains(part), "{part}: {refused:?}");
        }
        let reopened = match again {
            "submit" => stage.submit("a.mp4", "1", &[]),
            command => stage.about(command, &job, &[]),
        };
        assert_ne!(reopened["phase"], "complete", "{again}");
        complete();
        let begun = coordinator.log();
        let count = |chunk| begun.matches(&format!("began {}", render(id, chunk))).count();
        assert_eq!(count(2), 1, "what was there is not rendered again: {begun}");
    }
    // A complete job that is there as it was stays complete.
    assert_eq!(stage.submit("a.mp4", "1", &[])["phase"], "complete");
    let fetched = stage.server.operate(["fetch", &id.to_string(), "-o", path]);
    stage.assert_like_a_render("a.mp4", "1", &fetched.written()["frames_digest"]);
    stage.close(coordinator);
}

#[test]
fn an_audit_finds_each_hurt_and_nothing_on_a_sound_farm() {
    let stage = Stage::open();
    let coordinator = stage.coordinator();
    let job = stage.submit("a.mp4", "1", &[]);
    assert_eq!(stage.about("status", &job, &["--wait"])["phase"], "complete");
    let sound = stage.server.operate(["audit", "--verify"]).last();
    assert_eq!(sound["findings"], serde_json::json!([]), "{sound}");
    assert_eq!(sound["jobs"], 1);
    assert!(
        sound["done_records"].as_u64() > Some(2) && sound["blobs"].as_u64() > Some(4),
        "{sound}"
    );

    // A coordinator would mend some of this.
    assert_eq!(coordinator.interrupt(), Some(0));
    let id: JobId = job["job"].as_str().expect("a job").parse().expect("a job");
    let other: JobId = "0123456789abcdef".parse().expect("a job");
    stage.server.connected("coordinator", async |connection| {
        lose(&connection, id).await;
        publish(&connection, format!("$KV.farm-jobs.{id}.order"), "no order").await;
        publish(
            &connection,
            Subject::Done(render(other, 3)).to_string(),
            "no record",
        )
        .await;
        let stray = Subject::Task {
            // The worker has no GPU, and leaves it alone.
            queue: Queue::any(ResourceClass::Gpu(512), 1),
            chunk: render(other, 4),
        };
        publish(&connection, stray.to_string(), "no task").await;
    });
    let hurt = stage.server.operate(["audit"]);
    assert_eq!(hurt.code, Some(3), "{hurt:?}");
    let findings = hurt.lines[0]["findings"].as_array().expect("findings").clone();
    let text: Vec<&str> = findings.iter().filter_map(|finding| finding.as_str()).collect();
    let text = text.join("\n");
    for part in [
        &format!("{} is not done, and its job is complete", render(id, 0)),
        "it is not in the store",
        "order` cannot be read",
        "has a record and no order",
        &format!("{} is done, and no job has it", render(other, 3)),
        "is queued, and no job has it",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(findings.len(), 6, "{text}");
    let coordinator = stage.coordinator();
    stage.close(coordinator);
}
