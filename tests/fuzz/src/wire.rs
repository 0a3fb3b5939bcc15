//! Target `wire`: every message that comes from the server or over a child's pipe.

use std::fmt::Debug;

use latentfarm_common::wire::engine::{EngineReply, EngineRequest};
use latentfarm_common::wire::job::{CutRecord, JobSpec, Timeline};
use latentfarm_common::wire::media::{MediaReply, MediaRequest};
use latentfarm_common::wire::outcome::{
    DoneRecord, Event, FaceObservations, Heartbeat, LearnedNeeds, WorkerCommand,
};
use latentfarm_common::wire::task::{AnalyzeInput, RenderInput, Task};
use latentfarm_common::wire::weights::SharedWeights;
use latentfarm_common::wire::{self, Message, SCHEMA};

use crate::check::Check;
use crate::input::choice;
use crate::samples;

/// Bytes of the envelope before and after the payload.
const ENVELOPE: (usize, usize) = (8, 4);

const CHECKS: [Check; 17] = [
    decode::<Task>,
    decode::<DoneRecord>,
    decode::<Event>,
    decode::<Heartbeat>,
    decode::<WorkerCommand>,
    decode::<LearnedNeeds>,
    decode::<JobSpec>,
    decode::<Timeline>,
    decode::<FaceObservations>,
    decode::<AnalyzeInput>,
    decode::<RenderInput>,
    decode::<EngineRequest>,
    decode::<EngineReply>,
    decode::<MediaRequest>,
    decode::<MediaReply>,
    decode::<CutRecord>,
    decode::<SharedWeights>,
];

/// Decodes the input as the payload of the message that its first byte chooses.
pub fn check(data: &[u8]) {
    if let Some((kind, payload)) = choice(data, CHECKS.len()) {
        CHECKS[kind](payload);
    }
}

/// Real messages.
///
/// # Panics
/// Panics if a message cannot be encoded.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let mut add = |kind: u8, sealed: Vec<u8>| {
        let payload = &sealed[ENVELOPE.0..sealed.len() - ENVELOPE.1];
        seeds.push([&[kind], payload].concat());
    };
    macro_rules! messages {
        ($($kind:literal => $messages:expr),* $(,)?) => {
            $(for message in $messages {
                add($kind, encode(&message));
            })*
        };
    }
    messages! {
        0 => samples::tasks(),
        1 => samples::done_records(),
        2 => samples::events(),
        3 => samples::heartbeats(),
        4 => samples::commands(),
        5 => [samples::learned_needs()],
        6 => [samples::job_spec()],
        7 => [samples::timeline()],
        8 => [samples::observations()],
        9 => [samples::analyze_input()],
        10 => [samples::render_input()],
        11 => samples::engine_requests(),
        12 => samples::engine_replies(),
        13 => samples::media_requests(),
        14 => samples::media_replies(),
        15 => samples::cut_records(),
        16 => [samples::shared_weights()],
    }
    seeds
}

/// Puts a payload into a valid envelope, so that a decoder comes to see it.
pub(crate) fn sealed<M: Message>(payload: &[u8]) -> Vec<u8> {
    let header = [&b"FARM"[..], &SCHEMA.to_le_bytes(), &[1, M::KIND]].concat();
    let mut bytes = [&header, payload].concat();
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

fn decode<M: Message + Debug>(payload: &[u8]) {
    // The payload itself may look like a whole message.
    let _refused = wire::decode::<M>(payload);
    if let Ok(message) = wire::decode::<M>(&sealed::<M>(payload)) {
        // A decoded message can be sent on, and arrives as it was.
        let sent = encode(&message);
        let arrived = wire::decode::<M>(&sent).unwrap_or_else(|error| panic!("{message:?}: {error}"));
        assert_eq!(encode(&arrived), sent, "{message:?} changes when it is sent on");
    }
}

fn encode<M: Message + Debug>(message: &M) -> Vec<u8> {
    wire::encode(message).unwrap_or_else(|error| panic!("{message:?} cannot be sent: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_messages_of_every_type() {
        let seeds = seeds();
        for kind in 0..CHECKS.len() {
            assert!(
                seeds.iter().any(|seed| usize::from(seed[0]) == kind),
                "type {kind} has no seed"
            );
        }
        let task = seeds.iter().find(|seed| seed[0] == 0).unwrap();
        assert!(wire::decode::<Task>(&sealed::<Task>(&task[1..])).is_ok());
    }
}
