//! Target `pipe`: what a child process writes to the supervisor, and the supervisor to a child.

use std::fmt::Debug;

use latentfarm_common::wire::Message;
use latentfarm_common::wire::engine::{EngineReply, EngineRequest};
use latentfarm_common::wire::media::{MediaReply, MediaRequest};
use latentfarm_common::wire::pipe;

use crate::check::Check;
use crate::input::{as_piece, choice, piece};
use crate::samples;
use crate::wire::sealed;

const CHECKS: [Check; 4] = [
    read_all::<EngineReply>,
    read_all::<EngineRequest>,
    read_all::<MediaReply>,
    read_all::<MediaRequest>,
];

/// What a frame of the input is made into.
const SEALED: u8 = 0;
const RAW: u8 = 1;

/// Reads a pipe of the message type that the first byte chooses.
pub fn check(data: &[u8]) {
    if let Some((kind, frames)) = choice(data, CHECKS.len()) {
        CHECKS[kind](frames);
    }
}

/// One message, some that follow each other, and bytes that are no message.
pub fn seeds() -> Vec<Vec<u8>> {
    let of = |messages: Vec<Vec<u8>>| {
        // The payload of a message is between the length with the envelope's header and the checksum.
        let payloads = messages.iter().map(|bytes| &bytes[12..bytes.len() - 4]);
        payloads
            .flat_map(|payload| [vec![SEALED], as_piece(payload)].concat())
            .collect()
    };
    vec![
        [vec![0], of(samples::engine_replies().map(encoded).into())].concat(),
        [vec![1], of(samples::engine_requests().map(encoded).into())].concat(),
        [vec![2], of(samples::media_replies().map(encoded).into())].concat(),
        [vec![3], of(samples::media_requests().map(encoded).into())].concat(),
        [&[0, RAW], &as_piece(&[1, 0, 0, 0, 7])[..]].concat(),
    ]
}

#[expect(clippy::needless_pass_by_value, reason = "it is passed to `map` of arrays")]
fn encoded<M: Message + Debug>(message: M) -> Vec<u8> {
    pipe::encode(&message).unwrap_or_else(|error| panic!("{message:?} cannot be sent: {error}"))
}

/// Reads all messages of a pipe. One that is read can be sent on, and arrives as it was.
fn read_all<M: Message + Debug>(frames: &[u8]) {
    let (bytes, count) = written::<M>(frames);
    let mut pipe = &bytes[..];
    let mut messages = 0;
    while let Ok(Some(message)) = pipe::read::<M>(&mut pipe) {
        messages += 1;
        let sent = encoded(message);
        let arrived = pipe::read::<M>(&sent[..]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(
            arrived.map(encoded),
            Some(sent),
            "a message changes when it is sent on"
        );
    }
    assert!(
        messages <= count + bytes.len() / 16,
        "more messages than there is room for"
    );
}

/// Returns the bytes that stand in the pipe, and the number of messages that were put there.
fn written<M: Message>(mut frames: &[u8]) -> (Vec<u8>, usize) {
    let (mut bytes, mut count) = (Vec::new(), 0);
    while let Some((kind, rest)) = choice(frames, 2) {
        let Some((content, rest)) = piece(rest) else { break };
        frames = rest;
        if kind == usize::from(RAW) {
            bytes.extend_from_slice(content);
        } else {
            let message = sealed::<M>(content);
            bytes.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_le_bytes());
            bytes.extend_from_slice(&message);
            count += 1;
        }
    }
    (bytes, count)
}
