//! Where a track could not be decoded, in seconds, for a note to the user.

/// Ranges that are nearer than this are reported as one, in seconds.
const JOINED_S: f64 = 1.0;
/// So many ranges are listed.
const LISTED: usize = 4;

/// The parts of a track that could not be decoded.
#[derive(Debug, Default)]
pub(super) struct Damage {
    ranges: Vec<(f64, f64)>,
    /// Where the file can be read no further, although it goes on.
    ends_at: Option<f64>,
}

impl Damage {
    /// Adds damage at a time.
    pub(super) fn at(&mut self, seconds: f64) {
        match self.ranges.last_mut() {
            Some((_, end)) if seconds - *end < JOINED_S => *end = end.max(seconds),
            _ => self.ranges.push((seconds, seconds)),
        }
    }

    /// Adds that nothing after this time can be read.
    pub(super) fn ends_at(&mut self, seconds: f64) {
        self.ends_at = Some(seconds);
    }

    /// Corrects that time, if there is one: the decoder may have had more to give when reading ended.
    pub(super) fn settle_end(&mut self, seconds: f64) {
        self.ends_at = self.ends_at.map(|_before| seconds);
    }

    pub(super) fn is_none(&self) -> bool {
        self.ranges.is_empty() && self.ends_at.is_none()
    }

    /// Lists the times, such as `at 1.20 s, from 3.00 to 4.50 s, from 9.00 s to its end`.
    pub(super) fn times(&self) -> String {
        let one = |&(start, end): &(f64, f64)| {
            if end - start < 0.005 {
                format!("at {start:.2} s")
            } else {
                format!("from {start:.2} to {end:.2} s")
            }
        };
        let mut parts: Vec<String> = self.ranges.iter().take(LISTED).map(one).collect();
        if self.ranges.len() > LISTED {
            parts.push(format!("and {} times more", self.ranges.len() - LISTED));
        }
        parts.extend(
            self.ends_at
                .map(|seconds| format!("from {seconds:.2} s to its end")),
        );
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_damage_is_one_range_and_a_long_list_is_cut() {
        let mut damage = Damage::default();
        assert!(damage.is_none());
        for seconds in [1.2, 3.0, 3.5, 4.2, 8.0, 10.0, 12.0, 14.0] {
            damage.at(seconds);
        }
        let expected = "at 1.20 s, from 3.00 to 4.20 s, at 8.00 s, at 10.00 s, and 2 times more";
        assert_eq!(damage.times(), expected);
        damage.ends_at(15.0);
        assert!(
            damage
                .times()
                .ends_with("and 2 times more, from 15.00 s to its end")
        );
    }
}
