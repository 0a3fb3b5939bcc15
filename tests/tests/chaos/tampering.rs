//! Tasks that are doubled, late or gone, and files of the server's store that are not as the server left them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use farm_tests::Access;
use fastrand::Rng;
use latentfarm_common::nats::Connection;
use latentfarm_common::nats::topology::TASKS;

use crate::schedule::{Damage, Tampering};

/// How many tasks are hurt at once, at most.
const TASKS_AT_ONCE: usize = 3;
/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// How many bytes are cut off a file, at most.
const TAIL: u64 = 400;

/// Does something to queued tasks, with the coordinator's key. Returns why nothing could be done.
pub(crate) fn tamper(access: &Access, what: Tampering, rng: &mut Rng) -> Result<(), String> {
    access.try_connected("coordinator", PATIENCE, async |connection| {
        change_tasks(&connection, what, rng).await
    })?
}

async fn change_tasks(connection: &Connection, what: Tampering, rng: &mut Rng) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let context = &connection.context;
    let stream = context.get_stream(TASKS).await.map_err(|error| failed(&error))?;
    let state = &stream.cached_info().state;
    let mut sequences: Vec<u64> = (state.first_sequence..=state.last_sequence).collect();
    rng.shuffle(&mut sequences);
    let mut changed = 0;
    for sequence in sequences {
        // Tasks between the first and the last may be gone.
        let Ok(message) = stream.get_raw_message(sequence).await else {
            continue;
        };
        if what != Tampering::Duplicate {
            stream
                .delete_message(sequence)
                .await
                .map_err(|error| failed(&error))?;
        }
        if what != Tampering::Delete {
            let published = context
                .publish(message.subject, message.payload)
                .await
                .map_err(|error| failed(&error))?;
            published.await.map_err(|error| failed(&error))?;
        }
        changed += 1;
        if changed == TASKS_AT_ONCE {
            break;
        }
    }
    if changed == 0 {
        return Err("no task is queued".to_owned());
    }
    Ok(())
}

/// Damages the newest file with messages of a stream. Returns why nothing could be done.
pub(crate) fn hurt(store: &Path, damage: Damage, stream: &str, rng: &mut Rng) -> Result<(), String> {
    let path = newest_block(&store.join(stream).join("msgs"))?;
    let mut bytes = fs::read(&path).map_err(|error| error.to_string())?;
    let length = bytes.len() as u64;
    if length == 0 {
        return Err(format!("{stream} is empty"));
    }
    match damage {
        Damage::FlipBit => {
            let at = usize::try_from(rng.u64(0..length)).expect("a place in memory");
            bytes[at] ^= 1 << rng.u8(0..8);
        }
        Damage::TruncateTail => {
            let left = length - rng.u64(1..=length.min(TAIL));
            bytes.truncate(usize::try_from(left).expect("a place in memory"));
        }
    }
    fs::write(&path, bytes).map_err(|error| error.to_string())
}

fn newest_block(dir: &Path) -> Result<PathBuf, String> {
    let entries = fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let number = |path: &PathBuf| -> Option<u64> {
        let name = path.file_name()?.to_str()?;
        name.strip_suffix(".blk")?.parse().ok()
    };
    entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| number(path).is_some())
        .max_by_key(number)
        .ok_or_else(|| "no file".to_owned())
}
