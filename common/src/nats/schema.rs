//! The mark in a farm's store by which another release is recognised before anything is decoded. Each stream names the wire
//! schema of its records in its metadata; `topology` writes the mark when it creates a stream, and whoever connects to a farm to
//! use its store looks at it first.

use std::collections::HashMap;

use async_nats::jetstream::stream::Info;

use crate::wire::SCHEMA;

/// Name of the mark in the metadata of a stream.
const MARK: &str = "latentfarm.schema";

/// The farm's store has records that another release wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the farm's store was written {}, and this program writes wire schema {SCHEMA}: let the release that wrote it finish the \
     farm's jobs and fetch their results, then start this one with a new folder for the server",
    described(*.found)
)]
pub struct OtherSchema {
    /// The schema that the store names; the first releases named none.
    pub found: Option<u16>,
}

fn described(found: Option<u16>) -> String {
    found.map_or_else(
        || "by a release that did not mark its wire schema".to_owned(),
        |schema| format!("with wire schema {schema}"),
    )
}

/// Returns the metadata of a stream whose records are of this release.
pub(super) fn mark() -> HashMap<String, String> {
    HashMap::from([(MARK.to_owned(), SCHEMA.to_string())])
}

/// Fails if this release cannot read the records in a stream. An empty stream can be used whatever its mark.
pub(super) fn check(stream: &Info) -> Result<(), OtherSchema> {
    if stream.state.messages == 0 {
        return Ok(());
    }
    let named = stream.config.metadata.get(MARK);
    let found = named.and_then(|schema| schema.parse().ok());
    if found == Some(SCHEMA) {
        Ok(())
    } else {
        Err(OtherSchema { found })
    }
}
