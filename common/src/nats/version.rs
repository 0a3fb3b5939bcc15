//! Versions of nats-server.

use std::fmt;
use std::str::FromStr;

/// `major.minor.patch`; what follows (`-dev`, `-RC.1`) is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerVersion {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

impl ServerVersion {
    /// Oldest server that the farm works with: message TTLs and consumer limits are missing before.
    pub const MINIMUM: Self = Self {
        major: 2,
        minor: 12,
        patch: 0,
    };
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Text without a version in it.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` holds no server version")]
pub struct InvalidVersion(String);

impl FromStr for ServerVersion {
    type Err = InvalidVersion;

    /// Reads `2.15.1`, `v2.15.1` and `nats-server: v2.15.1`.
    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let invalid = || InvalidVersion(text.trim().to_owned());
        let word = text.split_whitespace().next_back().ok_or_else(invalid)?;
        let mut numbers = word.trim_start_matches('v').splitn(3, '.').map(|part| {
            let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u32>()
        });
        let mut next = || numbers.next().and_then(Result::ok).ok_or_else(invalid);
        Ok(Self {
            major: next()?,
            minor: next()?,
            patch: next()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        let of = |text: &str| text.parse::<ServerVersion>().unwrap();
        assert!(of("nats-server: v2.9.10\n") < ServerVersion::MINIMUM);
        assert!(of("2.12.0-RC.1") >= ServerVersion::MINIMUM);
        assert!(of("v2.15.1-dev") > of("2.15.0"));
        assert!("nats-server".parse::<ServerVersion>().is_err());
        assert!("".parse::<ServerVersion>().is_err());
    }
}
