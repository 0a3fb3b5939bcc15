//! Target `wire`: everything that is read from the server or from a child's pipe.
//!
//! An input is the payload of one message type, sealed in a valid envelope so that the decoder sees it, or a
//! subject or identifier as text. Inputs whose outcome looks new (the message or the error, with its numbers
//! left out) are kept and damaged further.

use std::any::type_name;
use std::collections::HashSet;
use std::fmt::{Debug, Display};
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;

use anyhow::{Context as _, ensure};
use latentfarm_common::digest::Digest;
use latentfarm_common::ids::{Attempt, ChunkId, ChunkName, JobId, WorkerId};
use latentfarm_common::nats::subjects::Subject;
use latentfarm_common::queues::{Queue, ResourceClass};
use latentfarm_common::time::FrameRate;
use latentfarm_common::wire::engine::{EngineReply, EngineRequest};
use latentfarm_common::wire::job::{JobSpec, Timeline};
use latentfarm_common::wire::media::{MediaReply, MediaRequest};
use latentfarm_common::wire::outcome::{
    DoneRecord, Event, FaceObservations, Heartbeat, LearnedNeeds, WorkerCommand,
};
use latentfarm_common::wire::task::{AnalyzeInput, RenderInput, Task};
use latentfarm_common::wire::{self, Message, SCHEMA, pipe};

use crate::mutate::{Random, mutate};

/// Inputs of one batch: it takes some seconds, and is run again as a whole to find its input that aborts.
pub(crate) const BATCH: u64 = 200_000;
/// Kept inputs of one decoder.
const CORPUS: usize = 1_000;

/// Decodes bytes, checks what holds for every outcome, and returns what the outcome looks like.
type Check = fn(&[u8]) -> anyhow::Result<String>;

struct Decoder {
    name: &'static str,
    check: Check,
    corpus: Vec<Vec<u8>>,
}

fn decoders() -> Vec<Decoder> {
    let spelled = [
        "farm.task.cpu04.p5.0123456789abcdef.r00003",
        "farm.done.0123456789abcdef.a00000",
        "farm.evt.w1.0123456789abcdef.oom",
        "farm.hb.w1",
        "farm.ctl.all",
        "farm.wake.g08",
        "0123456789abcdef.r00003",
        "30000/1001",
        "12.3",
        "cpu04-p5",
    ];
    let lines: Vec<Vec<u8>> = spelled.iter().map(|text| text.as_bytes().to_vec()).collect();
    // A type's fields are all absent, zero or empty in one of these.
    let zeros: Vec<Vec<u8>> = (0..200).step_by(8).map(|length| vec![0; length]).collect();
    let of_message = |name, check| Decoder {
        name,
        check,
        corpus: zeros.clone(),
    };
    let of_text = |name, check| Decoder {
        name,
        check,
        corpus: lines.clone(),
    };
    macro_rules! all {
        ($make:ident, $check:ident: $($type:ty),*) => { [$($make(type_name::<$type>(), $check::<$type> as Check)),*] };
    }
    let mut all = Vec::new();
    all.extend(all!(of_message, decode: Task, DoneRecord, Event, Heartbeat, WorkerCommand, LearnedNeeds, JobSpec, Timeline,
        FaceObservations, AnalyzeInput, RenderInput, EngineRequest, EngineReply, MediaRequest, MediaReply));
    all.extend(
        all!(of_text, parse: Subject, ChunkId, ChunkName, JobId, WorkerId, Attempt, Queue, ResourceClass, Digest,
        FrameRate),
    );
    all
}

/// Runs one batch. A check that fails or panics ends it with an error that holds the input.
pub(crate) fn run(seed: u64, batch: u64) -> anyhow::Result<()> {
    let mut random = Random::new(seed, batch);
    let mut decoders = decoders();
    let mut outcomes = HashSet::new();
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    let traced = std::env::var_os("FUZZ_TRACE");
    for _ in 0..BATCH {
        let at = random.below(decoders.len());
        let Decoder { name, check, corpus } = &mut decoders[at];
        let mut bytes = random.pick(corpus).clone();
        let other = random.pick(corpus).clone();
        mutate(&mut bytes, &other, 8, &mut random);
        if let Some(path) = &traced {
            std::fs::write(path, format!("{name} {bytes:?}"))?;
        }
        let looks = catch_unwind(AssertUnwindSafe(|| check(&bytes)));
        let looks = looks.unwrap_or_else(|_| Err(anyhow::anyhow!("it panics")));
        let looks = looks.with_context(|| format!("{name} {bytes:?}"))?;
        let looks: String = looks
            .chars()
            .filter(|char| !char.is_ascii_digit())
            .take(4096)
            .collect();
        if outcomes.insert(hasher.hash_one((at, looks))) && corpus.len() < CORPUS {
            corpus.push(bytes);
        }
    }
    let kept: usize = decoders.iter().map(|decoder| decoder.corpus.len()).sum();
    crate::say(&format!(
        "{BATCH} inputs, {} outcomes, {kept} kept",
        outcomes.len()
    ));
    Ok(())
}

/// Decodes a payload in a valid envelope, and the payload as a whole message.
fn decode<M: Message + Debug>(payload: &[u8]) -> anyhow::Result<String> {
    let _refused = wire::decode::<M>(payload);
    let _refused = pipe::read::<M>(payload);
    let header = [&b"FARM"[..], &SCHEMA.to_le_bytes(), &[1, M::KIND]].concat();
    let mut sealed = [&header, payload].concat();
    sealed.extend_from_slice(&crc32c::crc32c(&sealed).to_le_bytes());
    match wire::decode::<M>(&sealed) {
        Ok(message) => {
            // A decoded message is one that can be sent, and arrives as it was.
            let sent = wire::encode(&message)?;
            let arrived = wire::decode::<M>(&sent)?;
            ensure!(wire::encode(&arrived)? == sent, "it changes when it is sent on");
            Ok(format!("{message:?}"))
        }
        Err(error) => Ok(format!("{error:?}")),
    }
}

/// Parses a text; what is parsed prints as the same text, if it is no other spelling of it.
fn parse<T: FromStr + Display + PartialEq + Debug>(bytes: &[u8]) -> anyhow::Result<String>
where
    T::Err: Debug + Send + Sync + std::error::Error + 'static,
{
    let text = String::from_utf8_lossy(bytes);
    match text.parse::<T>() {
        Ok(parsed) => {
            ensure!(
                parsed.to_string().parse::<T>()? == parsed,
                "its text is read as another value"
            );
            Ok(format!("{parsed:?}"))
        }
        Err(_) => Ok(format!("refused at {} bytes", text.len())),
    }
}
