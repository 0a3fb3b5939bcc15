//! Thresholds of memory use: a warning when one is crossed on the way up, and again only after use was well
//! below it. The device monitor checks them at every sample.

const MIB_PER_GIB: u64 = 1024;
/// A crossed threshold can be crossed again once use is below this share of it, in percent: use that swings
/// around it is one crossing.
const RESET_BELOW_PERCENT: u64 = 95;
/// The share of a device's memory above which a warning is logged, in percent.
const DEVICE_PERCENT: u64 = 90;

/// The thresholds of one worker, and which of them are crossed.
#[derive(Clone, Debug)]
pub struct UsageThresholds {
    gibibytes: Vec<Threshold>,
    share: Threshold,
}

#[derive(Clone, Debug)]
struct Threshold {
    /// The threshold in GiB, or in percent of the device.
    at: u64,
    is_crossed: bool,
}

impl Threshold {
    fn new(at: u64) -> Self {
        Self {
            at,
            is_crossed: false,
        }
    }

    /// Returns true if `used_mib` has just crossed `limit_mib`, which is this threshold in MiB.
    fn crosses(&mut self, used_mib: u64, limit_mib: u64) -> bool {
        if self.is_crossed {
            self.is_crossed = used_mib * 100 >= limit_mib * RESET_BELOW_PERCENT;
            return false;
        }
        self.is_crossed = used_mib > limit_mib;
        self.is_crossed
    }
}

impl UsageThresholds {
    /// Makes thresholds in GiB, and the one at 90 % of the device.
    pub fn new(gibibytes: &[u64]) -> Self {
        Self {
            gibibytes: gibibytes.iter().copied().map(Threshold::new).collect(),
            share: Threshold::new(DEVICE_PERCENT),
        }
    }

    /// Returns a line for each threshold that was just crossed. `used_mib` counts against those in GiB;
    /// `taken_mib` of `total_mib`, which includes the memory of other programs, against the share of the
    /// device.
    pub fn crossed(&mut self, used_mib: u64, taken_mib: u64, total_mib: u64) -> Vec<String> {
        let mut lines = Vec::new();
        for threshold in &mut self.gibibytes {
            if threshold.crosses(used_mib, threshold.at * MIB_PER_GIB) {
                lines.push(format!(
                    "memory use is above {} GiB: {}",
                    threshold.at,
                    gib(used_mib)
                ));
            }
        }
        if self.share.crosses(taken_mib, total_mib * self.share.at / 100) && total_mib > 0 {
            lines.push(format!(
                "more than {} % of the device's memory is in use: {} of {}",
                self.share.at,
                gib(taken_mib),
                gib(total_mib)
            ));
        }
        lines
    }
}

fn gib(mib: u64) -> String {
    format!("{:.1} GiB", mib as f64 / MIB_PER_GIB as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CARD: u64 = 80 * 1024;

    fn at(thresholds: &mut UsageThresholds, used_gib: u64) -> Vec<String> {
        thresholds.crossed(used_gib * 1024, used_gib * 1024, CARD)
    }

    #[test]
    fn a_threshold_warns_once_on_the_way_up_and_again_after_use_was_well_below() {
        let mut thresholds = UsageThresholds::new(&[15, 20]);
        assert_eq!(at(&mut thresholds, 15), Vec::<String>::new());
        assert_eq!(at(&mut thresholds, 16), ["memory use is above 15 GiB: 16.0 GiB"]);
        assert_eq!(at(&mut thresholds, 17), Vec::<String>::new());
        // Below 14.25 GiB the threshold can be crossed again.
        assert_eq!(thresholds.crossed(14_600, 14_600, CARD), Vec::<String>::new());
        assert_eq!(
            at(&mut thresholds, 16),
            Vec::<String>::new(),
            "use only swung around the threshold"
        );
        assert_eq!(thresholds.crossed(14_500, 14_500, CARD), Vec::<String>::new());
        assert_eq!(at(&mut thresholds, 21).len(), 2, "both are crossed at once");
    }

    #[test]
    fn the_share_counts_the_memory_of_all_programs_on_the_device() {
        let mut thresholds = UsageThresholds::new(&[15, 20]);
        assert_eq!(thresholds.crossed(1000, 7372, 8192), Vec::<String>::new());
        assert_eq!(
            thresholds.crossed(1000, 7400, 8192),
            ["more than 90 % of the device's memory is in use: 7.2 GiB of 8.0 GiB"]
        );
        assert_eq!(thresholds.crossed(1000, 8000, 8192), Vec::<String>::new());
        assert_eq!(
            UsageThresholds::new(&[]).crossed(5, 5, 0),
            Vec::<String>::new(),
            "a device of unknown size"
        );
    }
}
