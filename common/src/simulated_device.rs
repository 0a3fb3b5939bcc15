//! A simulated GPU, for tests and demonstrations without one: a text file states how much memory it has and
//! how much of that other processes use. The engine and the worker's device monitor open it where they would
//! open a real device.
//!
//! The file is read again at every query, so that a test or a user can take the part of another process by
//! writing to it:
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

/// The text form of a simulated device is this prefix and the file's path.
pub const PREFIX: &str = "sim:";

/// The content of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Figures {
    total_mib: u64,
    tenant_mib: u64,
    cost_percent: u64,
}

/// A simulated device, which all processes that open the same file share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimulatedDevice {
    path: PathBuf,
}

/// Why a file describes no device.
#[derive(Debug, thiserror::Error)]
pub enum SimulatedDeviceError {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] FileError),
    /// The file is not of the form in the module's documentation.
    #[error("`{}` describes no device: {problem}", path.display())]
    Invalid {
        /// Path of the file that was opened.
        path: PathBuf,
        /// The line that is wrong or missing.
        problem: String,
    },
}

impl SimulatedDevice {
    /// Opens the device that a file describes.
    ///
    /// # Errors
    /// If the file cannot be read, or is not of the form in the module's documentation.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, SimulatedDeviceError> {
        let device = Self { path: path.into() };
        device.read()?;
        Ok(device)
    }

    /// Opens the device of a text form such as `sim:/tmp/card.txt`. Returns `None` if the text is not of this
    /// form.
    pub fn of_text(text: &str) -> Option<Result<Self, SimulatedDeviceError>> {
        text.strip_prefix(PREFIX).map(Self::open)
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the device's memory in MiB, or 0 if the file can no longer be read, so that nothing fits.
    pub fn total_mib(&self) -> u64 {
        self.read().map_or(0, |figures| figures.total_mib)
    }

    /// Returns the memory that other processes use, in MiB; 0 if the file does not state it.
    pub fn tenant_mib(&self) -> u64 {
        self.read().map_or(0, |figures| figures.tenant_mib)
    }

    /// Returns what the model really uses, in percent of what the cost model computes; 100 if the file does
    /// not state it.
    pub fn cost_percent(&self) -> u64 {
        self.read().map_or(100, |figures| figures.cost_percent)
    }

    fn read(&self) -> Result<Figures, SimulatedDeviceError> {
        let text = fs::read_to_string(&self.path);
        let text = text.map_err(FileError::at("read the simulated device", &self.path))?;
        let invalid = |problem| SimulatedDeviceError::Invalid {
            path: self.path.clone(),
            problem,
        };
        let (mut total_mib, mut tenant_mib, mut cost_percent) = (None, 0, 100);
        let lines = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or("").trim());
        for line in lines.filter(|line| !line.is_empty()) {
            let unknown = || {
                let keys = "`total_mib = N`, `tenant_mib = N`, `cost_percent = N`";
                invalid(format!("`{line}` is none of {keys}"))
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
        let total_mib = total_mib.ok_or_else(|| invalid("it has no line `total_mib = N`".to_owned()))?;
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
    fn the_file_is_read_again_at_every_query() {
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
