//! Decides where each piece of decoded sound stands on the one timeline of the model's speech and the output's sound.
//! [`super::decode`] pushes the pieces as the decoder returns them, with the places that their time stamps state.
//!
//! | a piece that begins | is |
//! |---|---|
//! | where the last one ended, or within the tolerance (10 ms, or the container's rounding) | appended |
//! | up to 100 ms away from there, with the pieces of the next half second back in step | appended: jitter |
//! | later | put there; silence fills the gap |
//! | up to 100 ms earlier | cut at its start: what is already there stays |
//! | over 100 ms earlier, or over 10 s later in a container whose clock may jump | appended: joined recordings play one after the other |
//!
//! The first piece has no tolerance: what lies before time 0 is cut off, and a late start is kept.

use std::collections::VecDeque;

/// A container whose clock may jump, such as MPEG-TS, has started anew if it jumps ahead by more than this.
const CLOCK_JUMP_S: u64 = 10;
/// A longer gap is taken for damage.
const MAX_GAP_S: u64 = 600;

/// A piece of decoded sound that has no place yet.
pub(super) struct Piece<T> {
    /// The place that its time stamp states, in samples from time 0.
    pub(super) stated: Option<i64>,
    /// Its number of samples (of one channel), at least 1.
    pub(super) length: u64,
    pub(super) sound: T,
}

/// A piece and what comes before it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Placed<T> {
    /// Number of samples of silence before the piece.
    pub(super) silence: u64,
    /// Number of samples that are cut from the start of the piece.
    pub(super) skip: u64,
    /// Length of the piece, with the samples that are cut.
    pub(super) length: u64,
    pub(super) sound: T,
}

/// A gap that is too long for silence.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LongGap {
    /// The sample at which the gap begins.
    pub(super) at: u64,
    /// Length of the gap in samples.
    pub(super) length: u64,
}

/// What the time stamps showed; places and lengths are in samples.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Irregularities {
    /// How late the sound begins, or, if negative, how much of it lies before time 0.
    pub(super) lead: i64,
    /// Places and lengths of the gaps after the start.
    pub(super) gaps: Vec<(u64, u64)>,
    /// Places and lengths of what was cut because it overlapped.
    pub(super) overlaps: Vec<(u64, u64)>,
    /// Places at which the time stamps start anew.
    pub(super) restarts: Vec<u64>,
}

enum Decision {
    Append,
    Silence(u64),
    Cut(u64),
    Restart,
}

/// Places the pieces of one track.
pub(super) struct Placer<T> {
    rate_hz: u64,
    /// Smaller steps are rounding or jitter, in samples.
    tolerance: i64,
    /// Whether the container's clock may jump.
    jumps: bool,
    waiting: VecDeque<Piece<T>>,
    /// Number of samples in `waiting`.
    waiting_samples: u64,
    /// Number of samples that have been placed.
    end: u64,
    /// What is added to a stated place since the time stamps started anew.
    shift: i64,
    /// Where a first piece without a time stamp begins, in samples.
    begin: i64,
    found: Irregularities,
}

impl<T> Placer<T> {
    /// Makes the placer of a track of `rate_hz`, whose time stamps are rounded to `tick` samples.
    pub(super) fn new(rate_hz: u32, tick: i64, jumps: bool) -> Self {
        Self {
            rate_hz: u64::from(rate_hz),
            tolerance: i64::from(rate_hz / 100).max(tick.saturating_mul(2)),
            jumps,
            waiting: VecDeque::new(),
            waiting_samples: 0,
            end: 0,
            shift: 0,
            begin: 0,
            found: Irregularities::default(),
        }
    }

    /// Takes the next piece.
    pub(super) fn push(&mut self, piece: Piece<T>) {
        self.waiting_samples += piece.length;
        self.waiting.push_back(piece);
    }

    /// Gives the caller the last piece that was pushed, when the track has ended.
    pub(super) fn last(&mut self) -> Option<&mut Piece<T>> {
        self.waiting.back_mut()
    }

    /// Takes `samples` off the last piece, which ends with padding.
    pub(super) fn shorten_last(&mut self, samples: u64) {
        if let Some(last) = self.waiting.back_mut() {
            let cut = samples.min(last.length);
            last.length -= cut;
            self.waiting_samples -= cut;
        }
    }

    /// Puts the first piece of a track without time stamps at `place`.
    pub(super) fn begin_at(&mut self, place: i64) {
        self.begin = place;
    }

    /// Returns the number of samples that have been placed.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Returns what the time stamps showed.
    pub(super) fn irregularities(&self) -> &Irregularities {
        &self.found
    }

    /// Returns the next piece with its place; `None` if more pieces must be known first. `ended` says that there
    /// are no more.
    pub(super) fn next(&mut self, ended: bool) -> Result<Option<Placed<T>>, LongGap> {
        loop {
            let Some(front) = self.waiting.front() else {
                return Ok(None);
            };
            let behind = self.waiting_samples.saturating_sub(front.length);
            if !ended && (self.waiting.len() < 2 || behind < self.rate_hz / 2) {
                return Ok(None);
            }
            let (length, deviation) = (front.length, self.deviation(front, self.end));
            let (silence, skip) = match self.decide(deviation)? {
                Decision::Append => (0, 0),
                Decision::Silence(samples) => (samples, 0),
                Decision::Cut(samples) => (0, samples.min(length)),
                Decision::Restart => {
                    self.shift = self.shift.saturating_sub(deviation);
                    self.found.restarts.push(self.end);
                    (0, 0)
                }
            };
            self.note(silence, skip);
            let Some(piece) = self.waiting.pop_front() else {
                return Ok(None);
            };
            self.waiting_samples -= piece.length.min(self.waiting_samples);
            if skip < length {
                self.end += silence + length - skip;
                let sound = piece.sound;
                return Ok(Some(Placed {
                    silence,
                    skip,
                    length,
                    sound,
                }));
            }
        }
    }

    /// Returns by how much a piece begins after `end`, in samples; 0 if it has no time stamp.
    fn deviation(&self, piece: &Piece<T>, end: u64) -> i64 {
        let end = i64::try_from(end).unwrap_or(i64::MAX);
        let place = |stated: i64| stated.saturating_add(self.shift).saturating_sub(end);
        match piece.stated {
            Some(stated) => place(stated),
            // What was cut from the start so far counts as heard.
            None if self.end == 0 => self.begin.saturating_sub(self.found.lead),
            None => 0,
        }
    }

    fn decide(&self, deviation: i64) -> Result<Decision, LongGap> {
        let size = deviation.unsigned_abs();
        let is_late = deviation > 0;
        let starting = self.end == 0;
        let small = !starting && size < self.rate_hz / 10;
        if deviation == 0 || !starting && deviation.abs() <= self.tolerance || small && !self.lasts(is_late) {
            return Ok(Decision::Append);
        }
        if is_late {
            if self.jumps && !starting && size > CLOCK_JUMP_S * self.rate_hz {
                return Ok(Decision::Restart);
            }
            if size > MAX_GAP_S * self.rate_hz {
                return Err(LongGap {
                    at: self.end,
                    length: size,
                });
            }
            return Ok(Decision::Silence(size));
        }
        Ok(if starting || small {
            Decision::Cut(size)
        } else {
            Decision::Restart
        })
    }

    /// Whether the pieces after the front one are out of step too, in the same direction.
    fn lasts(&self, is_late: bool) -> bool {
        let mut end = self.end;
        let mut seen = false;
        for (index, piece) in self.waiting.iter().enumerate() {
            if index > 0 && piece.stated.is_some() {
                let deviation = self.deviation(piece, end);
                seen = true;
                if deviation.abs() <= self.tolerance || (deviation > 0) != is_late {
                    return false;
                }
            }
            end += piece.length;
        }
        seen
    }

    fn note(&mut self, silence: u64, skip: u64) {
        let signed = |samples: u64| i64::try_from(samples).unwrap_or(i64::MAX);
        if self.end == 0 {
            self.found.lead += signed(silence) - signed(skip);
        } else if silence > 0 {
            self.found.gaps.push((self.end, silence));
        } else if skip > 0 {
            self.found.overlaps.push((self.end, skip));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Places pieces of 20 ms at 1 kHz that begin at `stated`; returns each piece's place and number, and what was found.
    fn place(stated: &[i64], jumps: bool) -> Result<(Vec<(u64, usize)>, Irregularities), LongGap> {
        let mut placer = Placer::new(1000, 1, jumps);
        let mut found = Vec::new();
        let mut end = 0;
        let mut take = |placer: &mut Placer<usize>, ended| -> Result<(), LongGap> {
            while let Some(placed) = placer.next(ended)? {
                found.push((end + placed.silence, placed.sound));
                end += placed.silence + placed.length - placed.skip;
                assert_eq!(end, placer.end());
            }
            Ok(())
        };
        for (number, &stated) in stated.iter().enumerate() {
            placer.push(Piece {
                stated: Some(stated),
                length: 20,
                sound: number,
            });
            take(&mut placer, false)?;
        }
        take(&mut placer, true)?;
        Ok((found, placer.irregularities().clone()))
    }

    fn run(from: i64, pieces: i64) -> impl Iterator<Item = i64> {
        (0..pieces).map(move |piece| from + 20 * piece)
    }

    #[test]
    fn jitter_and_rounding_leave_the_sound_whole() {
        let mut stated: Vec<i64> = run(0, 100).collect();
        for (at, by) in [(10, 30), (20, -15), (30, 90), (31, 60), (40, -90), (60, 9)] {
            stated[at] += by;
        }
        let (places, found) = place(&stated, false).unwrap();
        assert_eq!(found, Irregularities::default());
        assert_eq!(places[99], (1980, 99));
    }

    #[test]
    fn a_gap_is_silent_and_what_follows_keeps_its_place() {
        for gap in [15, 50, 400, 30_000] {
            let stated: Vec<i64> = run(0, 30).chain(run(600 + gap, 60)).collect();
            let (places, found) = place(&stated, false).unwrap();
            let gap = u64::try_from(gap).unwrap();
            assert_eq!(found.gaps, [(600, gap)]);
            assert_eq!(places[30], (600 + gap, 30));
        }
        let stated: Vec<i64> = run(0, 30).chain(run(700_000, 60)).collect();
        let expected = LongGap {
            at: 600,
            length: 699_400,
        };
        assert_eq!(place(&stated, false), Err(expected));
    }

    #[test]
    fn an_overlap_is_cut_and_a_restart_plays_on() {
        let stated: Vec<i64> = run(0, 30).chain(run(550, 60)).collect();
        let (places, found) = place(&stated, false).unwrap();
        assert_eq!(found.overlaps, [(600, 20), (600, 20)]);
        assert_eq!(
            places[30],
            (600, 32),
            "the pieces at 550 and 570 were heard already"
        );

        let stated: Vec<i64> = run(0, 30).chain(run(0, 60)).chain(run(5, 10)).collect();
        let (places, found) = place(&stated, false).unwrap();
        assert_eq!(found.restarts, [600, 1800]);
        assert_eq!((places.len(), places[99]), (100, (1980, 99)));

        let stated: Vec<i64> = run(0, 30).chain(run(3_600_000, 60)).collect();
        let (places, found) = place(&stated, true).unwrap();
        assert_eq!((found.restarts, places[89]), (vec![600], (1780, 89)));
    }

    #[test]
    fn a_late_start_is_kept_and_an_early_one_is_cut_to_the_sample() {
        let (places, found) = place(&run(7, 30).collect::<Vec<_>>(), false).unwrap();
        assert_eq!((places[0], found.lead), ((7, 0), 7));
        let (places, found) = place(&run(-47, 30).collect::<Vec<_>>(), false).unwrap();
        assert_eq!((places[0], places[1], found.lead), ((0, 2), (13, 3), -47));
        assert_eq!(found.gaps, []);
    }
}
