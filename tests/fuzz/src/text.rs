//! Target `text`: what users and the server spell.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use latentfarm_common::digest::Digest;
use latentfarm_common::ids::{Attempt, ChunkId, ChunkName, JobId, WorkerId};
use latentfarm_common::media::{AudioOffset, TrackChoice};
use latentfarm_common::nats::ServerVersion;
use latentfarm_common::nats::subjects::Subject;
use latentfarm_common::nats::tasks::attempt_of;
use latentfarm_common::queues::{Queue, ResourceClass};
use latentfarm_common::tags::Tag;
use latentfarm_common::time::FrameRate;
use latentfarm_common::wire::memory::{DeviceKind, MemoryPlan, MemoryStage};

use crate::check::Check;
use crate::input::choice;

const CHECKS: [Check; 16] = [
    parse::<Subject>,
    parse::<ChunkId>,
    parse::<ChunkName>,
    parse::<JobId>,
    parse::<WorkerId>,
    parse::<Attempt>,
    parse::<Queue>,
    parse::<ResourceClass>,
    parse::<Tag>,
    parse::<Digest>,
    parse::<FrameRate>,
    parse::<AudioOffset>,
    parse::<MemoryPlan>,
    parse::<DeviceKind>,
    parse::<MemoryStage>,
    read_only,
];

/// Parses the text as the type that the first byte chooses.
pub fn check(data: &[u8]) {
    if let Some((kind, text)) = choice(data, CHECKS.len()) {
        CHECKS[kind](text);
    }
}

/// Every type with every text, right ones and those of the others.
pub fn seeds() -> Vec<Vec<u8>> {
    let digest = Digest::of(b"").to_string();
    let texts = [
        "farm.task.cpu04.p5.0123456789abcdef.r00003",
        "farm.done.0123456789abcdef.a00000",
        "farm.evt.w1.0123456789abcdef.oom",
        "farm.hb.w1",
        "farm.ctl.all",
        "farm.wake.g08",
        "0123456789abcdef.r00003",
        "30000/1001",
        "29.97",
        "-0.778667",
        "12.3",
        "cpu512m-p5",
        "g08-k00000001+eu-west_1-p1",
        "eu-west_1",
        "two-pass-norm",
        "VAE decode",
        "cuda",
        "2.12.1-rc.3",
        &digest,
    ];
    let kinds = 0..u8::try_from(CHECKS.len()).unwrap_or(u8::MAX);
    kinds
        .flat_map(|kind| texts.map(|text| [&[kind], text.as_bytes()].concat()))
        .collect()
}

/// What is parsed is printed in a form that is read as the same value.
fn parse<T>(bytes: &[u8])
where
    T: FromStr<Err: Display> + Display + PartialEq + Debug,
{
    match String::from_utf8_lossy(bytes).parse::<T>() {
        Ok(parsed) => {
            let again = parsed.to_string().parse::<T>();
            assert!(
                again.is_ok_and(|again| again == parsed),
                "{parsed:?} is read from its text `{parsed}` as another value"
            );
        }
        Err(error) => assert!(!error.to_string().is_empty(), "a refusal says nothing"),
    }
}

/// Types that are read but never printed.
fn read_only(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _refused = text.parse::<ServerVersion>();
    let _refused = text.parse::<TrackChoice>();
    let _refused = attempt_of(&text);
}
