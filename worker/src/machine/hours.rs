//! The hours of the week in which a worker takes tasks, by the clock of its machine's time zone.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use latentfarm_common::clock;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
const DAY_NAMES: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];
const DAY_MINUTES: u32 = 24 * 60;
const WEEK_MINUTES: u32 = 7 * DAY_MINUTES;

/// A minute of the week, in `0..WEEK_MINUTES`; 0 is the first of Monday.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Minute(u32);

impl Minute {
    /// Returns the present minute.
    pub fn now() -> Self {
        let seconds = i64::try_from(clock::since_1970().as_secs()).unwrap_or(i64::MAX);
        let now = Timestamp::from_second(seconds).unwrap_or_default();
        let now = now.to_zoned_datetime(TimeZone::system());
        let part = |value: i8| u32::from(value.unsigned_abs());
        let day = part(now.weekday().to_monday_zero_offset());
        Self(day * DAY_MINUTES + part(now.hour()) * 60 + part(now.minute()))
    }
}

impl fmt::Display for Minute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (day, minute) = (self.0 / DAY_MINUTES, self.0 % DAY_MINUTES);
        let name = DAY_NAMES[day as usize % DAY_NAMES.len()];
        write!(f, "{name} {:02}:{:02}", minute / 60, minute % 60)
    }
}

/// Some hours on some days, such as `mon-fri 19:00-07:00`, `sat,sun` or `08:00-17:30`. What begins on one day may end on
/// the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shift {
    /// The days on which it begins, from Monday on.
    days: [bool; 7],
    /// The minute of the day at which it begins, and how many minutes it has: 1 to 1440.
    begin: u32,
    minutes: u32,
}

/// The text names no hours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no hours: write `19:00-07:00`, `mon-fri 19:00-07:00` or `sat,sun`")]
pub struct InvalidShift(String);

impl Shift {
    fn contains(&self, minute: Minute) -> bool {
        let begins = (0..7).filter(|day| self.days[*day as usize]);
        let mut passed =
            begins.map(|day| (WEEK_MINUTES + minute.0 - day * DAY_MINUTES - self.begin) % WEEK_MINUTES);
        passed.any(|passed| passed < self.minutes)
    }
}

impl FromStr for Shift {
    type Err = InvalidShift;

    fn from_str(text: &str) -> Result<Self, InvalidShift> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let parsed = match words[..] {
            [days, hours] => days_of(days).zip(hours_of(hours)),
            [one] => hours_of(one)
                .map(|hours| ([true; 7], hours))
                .or_else(|| days_of(one).map(|days| (days, (0, DAY_MINUTES)))),
            _ => None,
        };
        let (days, (begin, minutes)) = parsed.ok_or_else(|| InvalidShift(text.to_owned()))?;
        Ok(Self { days, begin, minutes })
    }
}

/// Parses `mon`, `mon-fri` or `sat,sun`; a range may go on over the end of the week.
fn days_of(text: &str) -> Option<[bool; 7]> {
    let day = |name: &str| DAYS.iter().position(|day| name.eq_ignore_ascii_case(day));
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut at, last) = (day(first)?, day(last)?);
        days[at] = true;
        while at != last {
            at = (at + 1) % 7;
            days[at] = true;
        }
    }
    Some(days)
}

/// Parses `19:00-07:00` into the first minute of the day and the number of minutes. Hours that end when they begin are none.
fn hours_of(text: &str) -> Option<(u32, u32)> {
    let (begin, end) = text.split_once('-')?;
    let (begin, end) = (minute_of_day(begin)?, minute_of_day(end)?);
    if begin == end || begin == DAY_MINUTES {
        return None;
    }
    let minutes = if end > begin {
        end - begin
    } else {
        DAY_MINUTES - begin + end
    };
    Some((begin, minutes))
}

/// Parses `07:30`, up to `24:00`.
fn minute_of_day(text: &str) -> Option<u32> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| {
        let is_plain = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        is_plain.then(|| text.parse::<u32>().ok()).flatten()
    };
    let (hour, minute) = (number(hour)?, number(minute)?);
    let of_day = hour * 60 + minute;
    (minute < 60 && of_day <= DAY_MINUTES).then_some(of_day)
}

/// When the hours of some shifts begin next, as seen from a minute that none of them has.
///
/// Returns `None` if a shift has the minute, or if there is none.
pub fn next_begin(shifts: &[Shift], from: Minute) -> Option<Minute> {
    let on_duty = |minute: Minute| shifts.iter().any(|shift| shift.contains(minute));
    if on_duty(from) {
        return None;
    }
    let later = (1..WEEK_MINUTES).map(|minutes| Minute((from.0 + minutes) % WEEK_MINUTES));
    later.into_iter().find(|minute| on_duty(*minute))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shifts(texts: &[&str]) -> Vec<Shift> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn at(day: u32, hour: u32, minute: u32) -> Minute {
        Minute(day * DAY_MINUTES + hour * 60 + minute)
    }

    #[test]
    fn a_night_belongs_to_the_day_on_which_it_begins() {
        let nights = shifts(&["mon-fri 19:00-07:00"]);
        let next = |minute| next_begin(&nights, minute).map(|minute| minute.to_string());
        assert_eq!(next(at(0, 18, 59)).as_deref(), Some("Monday 19:00"));
        for on_duty in [
            at(0, 19, 0),
            at(0, 23, 59),
            at(1, 0, 0),
            at(1, 6, 59),
            at(5, 6, 59),
        ] {
            assert_eq!(next(on_duty), None, "{on_duty}");
        }
        assert_eq!(next(at(1, 7, 0)).as_deref(), Some("Tuesday 19:00"));
        assert_eq!(next(at(5, 7, 0)).as_deref(), Some("Monday 19:00"));
        assert_eq!(
            next(at(0, 6, 59)).as_deref(),
            Some("Monday 19:00"),
            "Sunday has no night"
        );
    }

    #[test]
    fn a_night_from_sunday_ends_on_monday_and_several_hours_add_up() {
        let hours = shifts(&["sun 22:00-06:00", "sat", "12:00-13:30"]);
        let on_duty = |minute| next_begin(&hours, minute).is_none();
        assert!(on_duty(at(6, 22, 0)) && on_duty(at(0, 5, 59)) && !on_duty(at(0, 6, 0)));
        assert!(on_duty(at(5, 0, 0)) && on_duty(at(5, 23, 59)) && !on_duty(at(6, 0, 0)));
        assert!(on_duty(at(3, 12, 0)) && on_duty(at(3, 13, 29)) && !on_duty(at(3, 13, 30)));
    }

    #[test]
    fn days_and_hours_have_several_forms() {
        let same = [
            ("mon-sun 00:00-24:00", "MON-SUN"),
            ("sat,sun 8:00-9:00", "sat-sun 08:00-09:00"),
            ("fri-mon", "fri,sat,sun,mon"),
            ("20:00-00:00", "20:00-24:00"),
        ];
        for (one, other) in same {
            let hours = shifts(&[one, other]);
            let duty = |shift: &Shift| {
                (0..WEEK_MINUTES)
                    .map(|minute| shift.contains(Minute(minute)))
                    .collect::<Vec<_>>()
            };
            assert_eq!(duty(&hours[0]), duty(&hours[1]), "{one} and {other}");
        }
    }

    #[test]
    fn what_is_no_hours_is_refused() {
        for text in [
            "",
            "mon-",
            "moon",
            "19-07",
            "19:00",
            "19:00-19:00",
            "24:00-07:00",
            "24:01-07:00",
            "19:60-07:00",
            "+9:00-10:00",
            "mon 19:00-07:00 x",
            "19:00 - 07:00",
            "mon,,tue",
        ] {
            assert!(text.parse::<Shift>().is_err(), "{text}");
        }
    }
}
