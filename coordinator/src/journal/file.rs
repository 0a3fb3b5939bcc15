//! The file of a journal. Lines are appended without waiting for the disk, and the size is bounded.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use latentfarm_common::clock;
use latentfarm_common::time::milliseconds;

use super::{JournalEntry, JournalLine};

const NAME: &str = "journal.jsonl";
/// The file that holds the older lines once the journal was rotated.
const OLDER: &str = "journal.1.jsonl";
/// A file is rotated at this size. With about 300 bytes a line, the two files hold half a million lines.
const MAX_BYTES: u64 = 64 << 20;

/// Appends to the journal of a job folder. A journal that cannot be written is logged, and the job goes on
/// without it.
#[derive(Debug)]
pub struct Journal {
    folder: PathBuf,
    file: Option<File>,
    bytes: u64,
    max_bytes: u64,
    /// The time since 1970 at which the machine started, as the wall clock had it when the journal was opened. The wall
    /// clock is not read again, so that its steps do not show in the times of a run.
    booted_at: Duration,
}

impl Journal {
    pub fn open(folder: &Path) -> Self {
        Self::bounded(folder, MAX_BYTES)
    }

    fn bounded(folder: &Path, max_bytes: u64) -> Self {
        let path = folder.join(NAME);
        let opened = fs::create_dir_all(folder).and_then(|()| append_to(&path));
        let (file, bytes) = match opened {
            Ok((file, bytes)) => (Some(file), bytes),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot open the job's journal: none is written");
                (None, 0)
            }
        };
        Self {
            folder: folder.to_owned(),
            file,
            bytes,
            max_bytes,
            booted_at: clock::since_1970().saturating_sub(clock::since_boot()),
        }
    }

    /// Appends an entry with the current time.
    pub fn append(&mut self, entry: JournalEntry) {
        let Some(file) = &mut self.file else { return };
        let at_ms = milliseconds(self.booted_at + clock::since_boot());
        let Ok(mut text) = serde_json::to_string(&JournalLine { at_ms, entry }) else {
            return;
        };
        text.push('\n');
        if let Err(error) = file.write_all(text.as_bytes()) {
            tracing::warn!(%error, "cannot append to the job's journal: it is not continued");
            self.file = None;
            return;
        }
        self.bytes += text.len() as u64;
        if self.bytes > self.max_bytes {
            self.rotate();
        }
    }

    /// Begins a new file. The current file becomes the older one, which is deleted.
    fn rotate(&mut self) {
        let path = self.folder.join(NAME);
        let rotated = fs::rename(&path, self.folder.join(OLDER)).and_then(|()| append_to(&path));
        match rotated {
            Ok((file, bytes)) => (self.file, self.bytes) = (Some(file), bytes),
            Err(error) => {
                tracing::warn!(%error, "cannot rotate the job's journal: it is not continued");
                self.file = None;
            }
        }
    }
}

/// Opens a file for appending, and returns its size. A line that a crash cut short is ended first.
fn append_to(path: &Path) -> io::Result<(File, u64)> {
    let mut file = File::options().create(true).append(true).open(path)?;
    let bytes = file.metadata()?.len();
    if bytes > 0 {
        file.write_all(b"\n")?;
    }
    Ok((file, bytes))
}

/// Reads whole lines of the current file of a journal from a byte on, at most so many bytes of them. Returns the lines,
/// and the byte after them if there may be more. A missing journal is empty.
pub fn page(folder: &Path, offset: u64, max_bytes: usize) -> io::Result<(String, Option<u64>)> {
    let mut file = match File::open(folder.join(NAME)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((String::new(), None)),
        Err(error) => return Err(error),
    };
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    let _read = file.take(max_bytes as u64).read_to_end(&mut bytes)?;
    let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else {
        // What is left is a line that is being written.
        return Ok((String::new(), None));
    };
    bytes.truncate(end + 1);
    let next = offset + bytes.len() as u64;
    Ok((String::from_utf8_lossy(&bytes).into_owned(), Some(next)))
}

/// Returns the lines of a journal's text that can be decoded.
pub fn parse(text: &str) -> Vec<JournalLine> {
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// Reads all lines of the journal in a job folder, oldest first. Lines that cannot be decoded (because a
/// crash cut them short, or another release wrote them) are skipped. A missing journal counts as an empty
/// one.
pub fn read(folder: &Path) -> io::Result<Vec<JournalLine>> {
    let mut lines = Vec::new();
    for name in [OLDER, NAME] {
        let file = match File::open(folder.join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for text in BufReader::new(file).lines() {
            lines.extend(serde_json::from_str::<JournalLine>(&text?));
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::ids::{Attempt, ChunkName, WorkKind};

    fn entry(number: u32) -> JournalEntry {
        JournalEntry::Started {
            chunk: ChunkName {
                work: WorkKind::Render,
                index: number,
            },
            attempt: Attempt::default(),
            worker: "w1".parse().unwrap(),
        }
    }

    #[test]
    fn what_was_noted_is_read_across_restarts_and_a_broken_line_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()).unwrap(), []);
        Journal::open(folder.path()).append(entry(1));
        let mut file = File::options()
            .append(true)
            .open(folder.path().join(NAME))
            .unwrap();
        file.write_all(b"{\"at_ms\":1,\"entry\":\"star").unwrap();
        Journal::open(folder.path()).append(entry(2));
        let entries: Vec<JournalEntry> = read(folder.path())
            .unwrap()
            .into_iter()
            .map(|l| l.entry)
            .collect();
        assert_eq!(entries, [entry(1), entry(2)]);
    }

    #[test]
    fn pages_are_whole_lines_and_make_up_the_journal() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(page(folder.path(), 0, 100).unwrap(), (String::new(), None));
        let mut journal = Journal::open(folder.path());
        (0..50).for_each(|number| journal.append(entry(number)));
        let (mut text, mut offset, mut pages) = (String::new(), Some(0), 0);
        while let Some(from) = offset {
            let (lines, next) = page(folder.path(), from, 500).unwrap();
            assert!(lines.len() <= 500 && (lines.is_empty() || lines.ends_with('\n')));
            text.push_str(&lines);
            (offset, pages) = (next, pages + 1);
        }
        assert!(pages > 5, "{pages} pages");
        assert_eq!(parse(&text), read(folder.path()).unwrap());
        let mut file = File::options()
            .append(true)
            .open(folder.path().join(NAME))
            .unwrap();
        file.write_all(b"{\"at_ms\":1").unwrap();
        let whole = u64::try_from(text.len()).unwrap();
        assert_eq!(
            page(folder.path(), whole, 500).unwrap(),
            (String::new(), None),
            "it is being written"
        );
    }

    #[test]
    fn it_is_bounded_and_keeps_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = Journal::bounded(folder.path(), 1000);
        (0..200).for_each(|number| journal.append(entry(number)));
        let lines = read(folder.path()).unwrap();
        assert!(lines.len() < 50, "{}", lines.len());
        assert_eq!(lines.last().unwrap().entry, entry(199));
    }
}
