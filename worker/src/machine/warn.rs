//! Warnings when memory use crosses a threshold: once on the way up, again only after it has gone well below.

const MIB_PER_GIB: u64 = 1024;
/// A threshold is armed again when use is below this share of it, in percent: use that swings around it is one
/// crossing.
const ARMED_BELOW_PERCENT: u64 = 95;
/// Share of a device whose use is worth a warning.
const DEVICE_PERCENT: u64 = 90;

/// Thresholds that are warned of, and which of them use is above.
#[derive(Clone, Debug)]
pub struct Watch {
    gibibytes: Vec<Threshold>,
    share: Threshold,
}

#[derive(Clone, Debug)]
struct Threshold {
    /// In GiB, or percent of the device.
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

    /// Whether `used_mib` crosses `limit_mib` now.
    fn crosses(&mut self, used_mib: u64, limit_mib: u64) -> bool {
        if self.is_crossed {
            self.is_crossed = used_mib * 100 >= limit_mib * ARMED_BELOW_PERCENT;
            return false;
        }
        self.is_crossed = used_mib > limit_mib;
        self.is_crossed
    }
}

impl Watch {
    /// Watches thresholds in GiB, and 90 % of the device.
    pub fn new(gibibytes: &[u64]) -> Self {
        Self {
            gibibytes: gibibytes.iter().copied().map(Threshold::new).collect(),
            share: Threshold::new(DEVICE_PERCENT),
        }
    }

    /// Lines for people about the thresholds that were just crossed: `used_mib` counts against those in GiB,
    /// `taken_mib` of `total_mib` (by whomever) against the share.
    pub fn on(&mut self, used_mib: u64, taken_mib: u64, total_mib: u64) -> Vec<String> {
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
                "more than {} % of the device's memory is taken: {} of {}",
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

    fn crossed(watch: &mut Watch, used_gib: u64) -> Vec<String> {
        watch.on(used_gib * 1024, used_gib * 1024, CARD)
    }

    #[test]
    fn a_threshold_warns_once_on_the_way_up_and_again_after_it_was_left() {
        let mut watch = Watch::new(&[15, 20]);
        assert_eq!(crossed(&mut watch, 15), Vec::<String>::new());
        assert_eq!(crossed(&mut watch, 16), ["memory use is above 15 GiB: 16.0 GiB"]);
        assert_eq!(crossed(&mut watch, 17), Vec::<String>::new());
        // 14.25 GiB is the mark below which it counts as left.
        assert_eq!(watch.on(14_600, 14_600, CARD), Vec::<String>::new());
        assert_eq!(
            crossed(&mut watch, 16),
            Vec::<String>::new(),
            "it only swung around the threshold"
        );
        assert_eq!(watch.on(14_500, 14_500, CARD), Vec::<String>::new());
        assert_eq!(crossed(&mut watch, 21).len(), 2, "both are crossed at once");
    }

    #[test]
    fn the_share_is_of_what_anybody_took_and_knows_the_device() {
        let mut watch = Watch::new(&[15, 20]);
        assert_eq!(watch.on(1000, 7372, 8192), Vec::<String>::new());
        assert_eq!(
            watch.on(1000, 7400, 8192),
            ["more than 90 % of the device's memory is taken: 7.2 GiB of 8.0 GiB"]
        );
        assert_eq!(watch.on(1000, 8000, 8192), Vec::<String>::new());
        assert_eq!(
            Watch::new(&[]).on(5, 5, 0),
            Vec::<String>::new(),
            "a device that says nothing"
        );
    }
}
