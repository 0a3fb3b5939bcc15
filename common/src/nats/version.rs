//! Versions of nats-server, which are checked before a server is started and after a connection is made.

use std::fmt;
use std::str::FromStr;

use crate::text::InvalidText;

/// A version `major.minor.patch`. A suffix such as `-dev` or `-RC.1` is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerVersion {
    /// First number, raised by incompatible changes.
    pub major: u32,
    /// Second number, raised by new features.
    pub minor: u32,
    /// Third number, raised by corrections.
    pub patch: u32,
}

impl ServerVersion {
    /// The oldest server that the farm works with; older ones lack message TTLs and consumer limits.
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

impl FromStr for ServerVersion {
    type Err = InvalidText;

    /// Reads `2.15.1`, `v2.15.1` and `nats-server: v2.15.1`.
    fn from_str(text: &str) -> Result<Self, InvalidText> {
        let invalid = || InvalidText::new("version of nats-server", text.trim());
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
