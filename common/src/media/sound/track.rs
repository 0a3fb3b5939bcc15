//! The audio tracks of a file, and the choice of one.

use std::convert::Infallible;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use ffmpeg_next::format::context::Input;
use ffmpeg_next::format::stream::Disposition;
use ffmpeg_next::{decoder, media};

use crate::media::{MediaError, ffi};

/// Which audio track of a file is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TrackChoice {
    /// The first track that is marked as default and can be decoded, else the first that can be decoded.
    #[default]
    Default,
    /// The one track with this number (counted from 1), language or title.
    Named(String),
}

impl FromStr for TrackChoice {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self::Named(text.to_owned()))
    }
}

/// An audio track of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AudioTrack {
    /// Index of the track among all tracks of the file.
    pub(super) index: usize,
    /// Number of the track among the audio tracks, from 1.
    pub(super) number: usize,
    language: Option<String>,
    title: Option<String>,
    codec: String,
    channels: u32,
    is_default: bool,
    /// Whether there is a decoder for it, and FFmpeg found out its rate and channels.
    pub(super) is_known: bool,
}

impl fmt::Display for AudioTrack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.number)?;
        if let Some(language) = &self.language {
            write!(f, " {language},")?;
        }
        if let Some(title) = &self.title {
            write!(f, " \"{title}\",")?;
        }
        let plural = if self.channels == 1 { "" } else { "s" };
        write!(f, " {}, {} channel{plural}", self.codec, self.channels)?;
        if self.is_default {
            f.write_str(", default")?;
        }
        if !self.is_known {
            f.write_str(", cannot be decoded")?;
        }
        Ok(())
    }
}

/// Returns the audio tracks of a file in their order.
pub(super) fn audio_tracks(input: &Input) -> Vec<AudioTrack> {
    let mut tracks = Vec::new();
    for stream in input.streams() {
        let parameters = stream.parameters();
        if parameters.medium() != media::Type::Audio {
            continue;
        }
        let (rate_hz, channels) = ffi::audio_facts(&stream);
        let metadata = stream.metadata();
        let tag = |key: &str| {
            let found = metadata.get(key).map(str::trim);
            found.filter(|text| !text.is_empty()).map(str::to_owned)
        };
        tracks.push(AudioTrack {
            index: stream.index(),
            number: tracks.len() + 1,
            language: tag("language").filter(|language| language != "und"),
            title: tag("title"),
            codec: parameters.id().name().to_owned(),
            channels,
            is_default: stream.disposition().contains(Disposition::DEFAULT),
            is_known: rate_hz > 0 && channels > 0 && decoder::find(parameters.id()).is_some(),
        });
    }
    tracks
}

/// Returns the tracks that may be used, in the order in which they are tried.
pub(super) fn candidates(
    tracks: &[AudioTrack],
    choice: &TrackChoice,
    path: &Path,
) -> Result<Vec<AudioTrack>, MediaError> {
    if tracks.is_empty() {
        return Err(MediaError::bad_input(path, "it has no audio track"));
    }
    let TrackChoice::Named(name) = choice else {
        let mut order: Vec<AudioTrack> = tracks.to_vec();
        order.sort_by_key(|track| (!track.is_known, !track.is_default));
        return Ok(order);
    };
    let numbered = |track: &&AudioTrack| name.parse() == Ok(track.number);
    let is = |text: &Option<String>| {
        text.as_ref()
            .is_some_and(|text| text.eq_ignore_ascii_case(name.trim()))
    };
    let named = |track: &&AudioTrack| is(&track.language) || is(&track.title);
    let mut found: Vec<AudioTrack> = tracks.iter().filter(numbered).cloned().collect();
    if found.is_empty() {
        found = tracks.iter().filter(named).cloned().collect();
    }
    let refuse = |what: &str| {
        let cause = format!("{what} is `{name}` (--audio-track); {}", listed(tracks));
        Err(MediaError::bad_input(path, cause))
    };
    match found.len() {
        0 => refuse("none of its audio tracks"),
        1 => Ok(found),
        _ => refuse("more than one of its audio tracks"),
    }
}

/// Lists the tracks for the user who has to choose one.
pub(super) fn listed(tracks: &[AudioTrack]) -> String {
    let list: Vec<String> = tracks.iter().map(ToString::to_string).collect();
    format!("it has {}", list.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(number: usize, language: &str, title: &str) -> AudioTrack {
        let tag = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        AudioTrack {
            index: number,
            number,
            language: tag(language),
            title: tag(title),
            codec: "aac".to_owned(),
            channels: 2,
            is_default: false,
            is_known: true,
        }
    }

    fn chosen(tracks: &[AudioTrack], choice: &TrackChoice) -> Result<Vec<usize>, String> {
        candidates(tracks, choice, Path::new("talk.mkv"))
            .map(|found| found.iter().map(|track| track.number).collect())
            .map_err(|error| crate::error::one_line(&error))
    }

    #[test]
    fn a_default_track_comes_first_and_one_without_a_decoder_last() {
        let mut tracks = [
            track(1, "", ""),
            track(2, "", ""),
            track(3, "", ""),
            track(4, "", ""),
        ];
        assert_eq!(chosen(&tracks, &TrackChoice::Default), Ok(vec![1, 2, 3, 4]));
        (tracks[1].is_default, tracks[1].is_known) = (true, false);
        tracks[2].is_default = true;
        assert_eq!(chosen(&tracks, &TrackChoice::Default), Ok(vec![3, 1, 4, 2]));
    }

    #[test]
    fn a_track_is_named_by_number_language_or_title_and_doubt_is_refused_with_a_list() {
        let tracks = [
            track(1, "eng", "Mix"),
            track(2, "deu", "Mix"),
            track(3, "deu", "2"),
            track(4, "", "7"),
        ];
        let named = |name: &str| chosen(&tracks, &name.parse().unwrap());
        for (name, number) in [("2", 2), ("ENG", 1), ("7", 4), ("4", 4)] {
            assert_eq!(named(name), Ok(vec![number]), "{name}");
        }
        for name in ["deu", "mix", "fra", "0", "9", ""] {
            let refused = named(name).unwrap_err();
            for part in [
                "talk.mkv",
                "--audio-track",
                "1: eng, \"Mix\", aac, 2 channels; 2: deu",
            ] {
                assert!(refused.contains(part), "{refused}");
            }
        }
    }
}
