//! Which channels are mixed to the mono speech of the model. [`super::pcm`] measures the channels while it writes the
//! decoded sound.

/// A stretch of sound over which the mix is compared with its channels, in parts of a second.
const BLOCKS_PER_SECOND: u32 = 2;
/// The mix cancels where its energy is below this share of what unrelated channels would give.
const CANCELLED: f64 = 0.05;
/// One side is taken if this share of the energy cancels in the mix.
const CANCELLED_SHARE: f64 = 0.1;
/// A channel is silent if it has less than this share of the loudest one's energy (60 dB below it).
const SILENT: f64 = 1e-6;

/// The channels that are mixed to mono.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MonoMix {
    /// All, with the shares that their layout gives them.
    Layout,
    /// The mean of these, because the layout says nothing about them.
    Mean(Vec<usize>),
    /// This one alone, because the channels cancel each other in a mix.
    Single(usize),
}

/// Measures the energy of each channel and of their mix, as interleaved samples pass.
#[derive(Debug)]
pub(super) struct ChannelMeter {
    channels: usize,
    block_samples: u32,
    /// Number of samples in the block that is not full yet.
    filled: u32,
    /// Energy of each channel in that block.
    block: Vec<f64>,
    /// Energy of the sum of all channels in that block.
    block_sum: f64,
    totals: Vec<f64>,
    /// Energy of the blocks in which the mix cancels.
    cancelled: f64,
}

impl ChannelMeter {
    pub(super) fn new(rate_hz: u32, channels: usize) -> Self {
        Self {
            channels: channels.max(1),
            block_samples: (rate_hz / BLOCKS_PER_SECOND).max(1),
            filled: 0,
            block: vec![0.0; channels],
            block_sum: 0.0,
            totals: vec![0.0; channels],
            cancelled: 0.0,
        }
    }

    /// Takes interleaved samples.
    pub(super) fn push(&mut self, samples: &[f32]) {
        for instant in samples.chunks_exact(self.channels) {
            let mut sum = 0.0;
            for (energy, &sample) in self.block.iter_mut().zip(instant) {
                let sample = f64::from(sample);
                *energy += sample * sample;
                sum += sample;
            }
            self.block_sum += sum * sum;
            self.filled += 1;
            if self.filled == self.block_samples {
                self.close_block();
            }
        }
    }

    fn close_block(&mut self) {
        let energy: f64 = self.block.iter().sum();
        if self.channels > 1 && self.block_sum < CANCELLED * energy {
            self.cancelled += energy;
        }
        for (total, part) in self.totals.iter_mut().zip(&mut self.block) {
            *total += std::mem::take(part);
        }
        (self.block_sum, self.filled) = (0.0, 0);
    }

    /// Returns the mix for channels with a known or an unknown layout.
    pub(super) fn finish(mut self, layout_is_known: bool) -> MonoMix {
        self.close_block();
        let energy: f64 = self.totals.iter().sum();
        let loudest = (0..self.totals.len()).max_by(|&a, &b| {
            let by_energy = self.totals[a].total_cmp(&self.totals[b]);
            by_energy.then(b.cmp(&a))
        });
        let loudest = loudest.unwrap_or(0);
        if energy > 0.0 && self.cancelled > CANCELLED_SHARE * energy {
            return MonoMix::Single(loudest);
        }
        if layout_is_known {
            return MonoMix::Layout;
        }
        let floor = self.totals.get(loudest).map_or(0.0, |most| most * SILENT);
        let heard = (0..self.totals.len()).filter(|&channel| self.totals[channel] > floor);
        let heard: Vec<usize> = heard.collect();
        MonoMix::Mean(if heard.is_empty() { vec![loudest] } else { heard })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mixes two seconds of a tone whose share in each channel is `share(second, channel)`.
    fn mix(channels: usize, known: bool, share: impl Fn(usize, usize) -> f32) -> MonoMix {
        let mut meter = ChannelMeter::new(1000, channels);
        for instant in 0..2000_u16 {
            let tone = (f32::from(instant) * 0.7).sin();
            let second = usize::from(instant / 1000);
            let samples: Vec<f32> = (0..channels)
                .map(|channel| tone * share(second, channel))
                .collect();
            meter.push(&samples);
        }
        meter.finish(known)
    }

    #[test]
    fn sides_that_cancel_are_heard_from_the_louder_one() {
        assert_eq!(mix(2, true, |_, side| [0.5, -0.5][side]), MonoMix::Single(0));
        assert_eq!(mix(2, true, |_, side| [0.5, -0.6][side]), MonoMix::Single(1));
        let only_later = |second, side: usize| if second == 0 { 0.5 } else { [0.5, -0.5][side] };
        assert_eq!(mix(2, true, only_later), MonoMix::Single(0));
        assert_eq!(
            mix(6, true, |_, side| [0.5, -0.5, 0.0, 0.0, 0.0, 0.0][side]),
            MonoMix::Single(0)
        );
    }

    #[test]
    fn sides_that_do_not_cancel_are_mixed_as_their_layout_says() {
        assert_eq!(mix(1, true, |_, _| 0.5), MonoMix::Layout);
        assert_eq!(mix(2, true, |_, _| 0.5), MonoMix::Layout);
        assert_eq!(
            mix(2, true, |second, side| if second == side { 0.5 } else { 0.0 }),
            MonoMix::Layout
        );
        assert_eq!(mix(2, true, |_, _| 0.0), MonoMix::Layout);
        assert_eq!(mix(2, true, |_, side| [0.5, -0.1][side]), MonoMix::Layout);
    }

    #[test]
    fn of_channels_without_a_layout_those_with_sound_are_heard() {
        let heard = mix(
            64,
            false,
            |_, channel| if channel == 3 || channel == 63 { 0.3 } else { 0.0 },
        );
        assert_eq!(heard, MonoMix::Mean(vec![3, 63]));
        assert_eq!(mix(3, false, |_, _| 0.0), MonoMix::Mean(vec![0]));
    }
}
