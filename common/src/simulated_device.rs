//! A device that does not exist: a text file says how much memory it has and how much of that others use.
//!
//! The file is read anew at every question, so that a test, or a visitor, can be the other tenant by writing to it:
//!
//! ```text
//! # a small card
//! total_mib = 8192
//! tenant_mib = 0
//! cost_percent = 100
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::FileError;

/// Text form of a simulated device: this, then the file's path.
pub const PREFIX: &str = "sim:";

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Figures {
    total_mib: u64,
    tenant_mib: u64,
    cost_percent: u64,
}

/// A simulated device; two processes that open the same file share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimulatedDevice {
    path: PathBuf,
}

/// A file that describes no device.
#[derive(Debug, thiserror::Error)]
pub enum SimulatedError {
    #[error(transparent)]
    Read(#[from] FileError),
    #[error(
        "`{}` describes no device: `{line}` is none of `total_mib = N`, `tenant_mib = N`, `cost_percent = N`",
        path.display()
    )]
    Line { path: PathBuf, line: String },
    #[error("`{}` describes no device: it has no line `total_mib = N`", path.display())]
    NoTotal { path: PathBuf },
}

impl SimulatedDevice {
    /// # Errors
    /// Where the file cannot be read, or says something else than a device's figures.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, SimulatedError> {
        let device = Self { path: path.into() };
        device.read()?;
        Ok(device)
    }

    /// The device of a text form such as `sim:/tmp/card.txt`; `None` where the text is not of this form.
    pub fn of_text(text: &str) -> Option<Result<Self, SimulatedError>> {
        text.strip_prefix(PREFIX).map(Self::open)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// MiB of the device in all. 0 where the file has become unreadable: nothing fits on what is not there.
    pub fn total_mib(&self) -> u64 {
        self.read().map_or(0, |figures| figures.total_mib)
    }

    /// MiB that other processes use; 0 where the file does not say.
    pub fn tenant_mib(&self) -> u64 {
        self.read().map_or(0, |figures| figures.tenant_mib)
    }

    /// What the model really takes, in percent of what the walk over its operations says; 100 where the file does
    /// not say.
    pub fn cost_percent(&self) -> u64 {
        self.read().map_or(100, |figures| figures.cost_percent)
    }

    fn read(&self) -> Result<Figures, SimulatedError> {
        let text = fs::read_to_string(&self.path);
        let text = text.map_err(FileError::at("read the simulated device", &self.path))?;
        let (mut total_mib, mut tenant_mib, mut cost_percent) = (None, 0, 100);
        let lines = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or("").trim());
        for line in lines.filter(|line| !line.is_empty()) {
            let unknown = || SimulatedError::Line {
                path: self.path.clone(),
                line: line.to_owned(),
            };
            let (key, value) = line.split_once('=').ok_or_else(unknown)?;
            let value: u64 = value.trim().parse().map_err(|_| unknown())?;
            match key.trim() {
                "total_mib" => total_mib = Some(value),
                "tenant_mib" => tenant_mib = value,
                "cost_percent" => cost_percent = value,
                _ => return Err(unknown()),
            }
        }
        let total_mib = total_mib.ok_or_else(|| SimulatedError::NoTotal {
            path: self.path.clone(),
        })?;
        Ok(Figures {
            total_mib,
            tenant_mib,
            cost_percent,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_anew_at_every_question() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("card");
        fs::write(&path, "# a card\n total_mib = 8192 # GiB\n\n").unwrap();
        let text = format!("sim:{}", path.display());
        let device = SimulatedDevice::of_text(&text).unwrap().unwrap();
        let figures =
            |device: &SimulatedDevice| (device.total_mib(), device.tenant_mib(), device.cost_percent());
        assert_eq!(figures(&device), (8192, 0, 100));
        fs::write(&path, "total_mib=8192\ntenant_mib = 500\ncost_percent = 130\n").unwrap();
        assert_eq!(figures(&device), (8192, 500, 130));
        fs::remove_file(&path).unwrap();
        assert_eq!(device.total_mib(), 0);
    }

    #[test]
    fn what_describes_no_device_is_refused_by_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("card");
        for (text, expected) in [
            ("total_mib = many\n", "total_mib = many"),
            ("total = 5\n", "total = 5"),
            ("tenant_mib = 5\n", "no line `total_mib = N`"),
        ] {
            fs::write(&path, text).unwrap();
            let error = SimulatedDevice::open(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(SimulatedDevice::open(dir.path().join("none")).is_err());
        assert!(SimulatedDevice::of_text("cuda:0").is_none());
    }
}
