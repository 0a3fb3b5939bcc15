//! Decodes one audio track to its end and lays it on the timeline. The packets are copied on the way, in case they fit the
//! output as they are.

use std::fs::File;
use std::path::{Path, PathBuf};

use ffmpeg_next::codec::packet::side_data::Type;
use ffmpeg_next::format::context::Input;
use ffmpeg_next::{Error, Packet, Rational, decoder, frame};

use super::carry::{not_taken, reason_to_encode};
use super::convert::Converter;
use super::copy::CopiedTrack;
use super::damage::Damage;
use super::line::{FrameSamples, Line, as_values};
use super::origin::{Origin, samples};
use super::pcm::{Pcm, PcmForm, PcmWriter};
use super::place::{Irregularities, Piece, Placer};
use super::request::SoundRequest;
use super::source::{TrackStart, presented};
use super::write::CopyWriter;
use crate::media::MediaError;
use crate::media::container::{audio_decoder, is_again_or_eof, portable_parameters};
use crate::media::probe::open_input;

/// MPEG transport and program streams, whose clock starts anew where recordings are joined.
const CLOCKS_THAT_JUMP: [&str; 2] = ["mpegts", "mpeg"];
/// A decoder returns its first samples after fewer packets.
const MOST_WAITING: usize = 1000;
/// Files of bare packets. FFmpeg makes up their time stamps, wrongly if the rate changes.
const WITHOUT_STAMPS: [&str; 8] = ["aac", "mp3", "ac3", "eac3", "dts", "flac", "truehd", "loas"];

/// A decoded track.
pub(super) struct Decoded {
    pub(super) pcm: Pcm,
    /// The track's packets in the output's container, or the reason why the sound must be encoded.
    pub(super) copy: Result<File, String>,
    pub(super) irregularities: Irregularities,
    pub(super) damage: Damage,
    /// Number of values that were no numbers.
    pub(super) damaged_values: u64,
}

/// Decodes the track with index `track` of the file `readable`, which is the user's file or a repaired copy of it.
pub(super) fn decode_track(
    request: &SoundRequest<'_>,
    readable: &Path,
    track: usize,
) -> Result<Decoded, MediaError> {
    let mut input = open_input(readable).map_err(|error| error.about(request.path))?;
    let (parameters, time_base) = match input.stream(track) {
        Some(stream) => (stream.parameters(), stream.time_base()),
        None => return Err(MediaError::bad_input(request.path, "it has no audio track")),
    };
    let decoder = audio_decoder(parameters.clone(), time_base, request.path)
        .map_err(|error| MediaError::bad_input(request.path, crate::error::one_line(&error)))?;
    let copied = CopiedTrack {
        parameters: portable_parameters(&parameters, None),
        time_base,
        rate_hz: decoder.rate(),
        start: TrackStart {
            first_pts: 0,
            skip: 0,
        },
    };
    let reason = if request.exact {
        Some("the audio is cut at the exact sample".to_owned())
    } else {
        reason_to_encode(request.container, copied.parameters.id(), copied.rate_hz, 0)
    };
    let decoding = TrackDecoder {
        request: *request,
        time_base,
        origin: Origin::find(request, &input, track),
        has_stamps: !WITHOUT_STAMPS.contains(&input.format().name()),
        jumps: CLOCKS_THAT_JUMP.contains(&input.format().name()),
        decoder,
        line: None,
        copying: match reason {
            Some(reason) => Copying::No(reason),
            None => Copying::Waiting(copied, Vec::new()),
        },
        consumed: 0,
        packets: 0,
        failed_packets: 0,
        damage: Damage::default(),
        path: request.path.to_owned(),
    };
    decoding.run(&mut input, track)
}

/// The copy of the packets.
enum Copying {
    /// The packets before the first samples are kept until it is known how many samples a decoder drops.
    Waiting(CopiedTrack, Vec<Packet>),
    Running(Box<CopyWriter>),
    /// The sound has to be encoded, for this reason.
    No(String),
}

struct TrackDecoder<'a> {
    request: SoundRequest<'a>,
    path: PathBuf,
    time_base: Rational,
    origin: Origin,
    /// Whether the container has time stamps of its own.
    has_stamps: bool,
    /// Whether the container's clock may jump.
    jumps: bool,
    decoder: decoder::Audio,
    line: Option<Line>,
    copying: Copying,
    /// Total duration of the packets so far, in ticks.
    consumed: i64,
    /// Numbers of all packets and of those that could not be decoded.
    packets: u64,
    failed_packets: u64,
    damage: Damage,
}

impl TrackDecoder<'_> {
    fn run(mut self, input: &mut Input, track: usize) -> Result<Decoded, MediaError> {
        loop {
            let mut packet = Packet::empty();
            match packet.read(input) {
                Ok(()) if packet.stream() != track || packet.size() == 0 => {}
                Ok(()) => self.take_packet(&packet)?,
                Err(Error::Eof) => break,
                Err(error @ Error::Other { .. }) => {
                    return Err(MediaError::ffmpeg("read", &self.path)(error));
                }
                Err(_) => {
                    self.damage.ends_at(self.seconds(None));
                    break;
                }
            }
        }
        match self.decoder.send_eof() {
            Err(error) if is_out_of_memory(error) => return Err(self.failed(error)),
            _ => {}
        }
        self.receive()?;
        self.finish()
    }

    fn failed(&self, error: Error) -> MediaError {
        MediaError::ffmpeg("decode the sound of", &self.path)(error)
    }

    /// Returns the time of a time stamp, or of what is decoded next, in seconds for a message.
    fn seconds(&self, pts: Option<i64>) -> f64 {
        let Some(line) = &self.line else { return 0.0 };
        let rate_hz = line.writer.form().rate_hz;
        let stated = pts.map(|pts| {
            samples(pts, self.time_base, rate_hz)
                .saturating_add(line.shift)
                .max(0) as f64
        });
        stated.unwrap_or(line.placer.end() as f64) / f64::from(rate_hz)
    }

    fn take_packet(&mut self, packet: &Packet) -> Result<(), MediaError> {
        if packet.side_data().any(|data| data.kind() == Type::EncryptionInfo) {
            return Err(MediaError::bad_input(
                &self.path,
                "its sound is encrypted: give a file without copy protection",
            ));
        }
        self.consumed = self.consumed.saturating_add(packet.duration());
        self.packets += 1;
        match &mut self.copying {
            Copying::Waiting(track, packets) => {
                if packets.is_empty() {
                    track.start.first_pts = packet.pts().unwrap_or(0);
                }
                packets.push(packet.clone());
                if packets.len() > MOST_WAITING {
                    self.copying = Copying::No("its first packets cannot be decoded".to_owned());
                }
            }
            Copying::Running(copy) => {
                if let Err(error) = copy.write(packet) {
                    self.copying = Copying::No(not_taken(self.request.container, &error));
                }
            }
            Copying::No(_) => {}
        }
        match self.decoder.send_packet(packet) {
            Ok(()) => {}
            Err(error) if is_out_of_memory(error) => return Err(self.failed(error)),
            Err(_) => self.add_damage(packet.pts()),
        }
        self.receive()
    }

    fn add_damage(&mut self, pts: Option<i64>) {
        self.failed_packets += 1;
        self.damage.at(self.seconds(pts));
    }

    /// Takes what the decoder has ready.
    fn receive(&mut self) -> Result<(), MediaError> {
        loop {
            let mut samples = frame::Audio::empty();
            match self.decoder.receive_frame(&mut samples) {
                Ok(()) if samples.samples() > 0 && samples.rate() > 0 && samples.channels() > 0 => {
                    self.take_samples(&samples)?;
                }
                Ok(()) => {}
                Err(error) if is_again_or_eof(error) => return Ok(()),
                Err(error) if is_out_of_memory(error) => return Err(self.failed(error)),
                Err(_) => {
                    self.add_damage(None);
                    return Ok(());
                }
            }
        }
    }

    fn take_samples(&mut self, samples: &frame::Audio) -> Result<(), MediaError> {
        self.start(samples)?;
        let Some(line) = &mut self.line else { return Ok(()) };
        let time_base = self.time_base;
        let form = line.writer.form();
        let converted = line.converter.convert(samples).map_err(|error| {
            let at = line.placer.end() as f64 / f64::from(form.rate_hz);
            let cause = format!(
                "its sound changes to {} Hz with {} channels at {at:.2} s, which cannot be converted ({error}); convert it \
                 first: ffmpeg -i IN -vn -ac 2 OUT.wav",
                samples.rate(),
                samples.channels()
            );
            MediaError::bad_input(&self.path, cause)
        })?;
        for (values, is_own) in converted {
            let length = (values.len() / form.channels) as u64;
            let stated = samples.pts().filter(|_| is_own && self.has_stamps);
            let stated =
                stated.map(|pts| self::samples(pts, time_base, form.rate_hz).saturating_add(line.shift));
            let presented = presented(samples, time_base).min(length);
            if length > 0 {
                line.placer.push(Piece {
                    stated,
                    length,
                    sound: FrameSamples { values, presented },
                });
            }
        }
        line.drain(false, &self.path)
    }

    /// Makes the timeline, and begins to copy the packets, when the first samples come.
    fn start(&mut self, first: &frame::Audio) -> Result<(), MediaError> {
        if self.line.is_some() {
            return Ok(());
        }
        let form = PcmForm::of(first);
        let scratch = self.request.scratch;
        let writer =
            PcmWriter::create(scratch, form).map_err(MediaError::io("make a scratch file in", scratch))?;
        let origin = first
            .pts()
            .map_or(0, |pts| self.origin.sample(pts, self.time_base, form.rate_hz));
        let offset = samples(
            self.request.offset.microseconds(),
            Rational(1, 1_000_000),
            form.rate_hz,
        );
        let tick = samples(1, self.time_base, form.rate_hz);
        let mut placer = Placer::new(form.rate_hz, tick, self.jumps);
        if first.pts().is_none() || !self.has_stamps {
            placer.begin_at(offset);
        }
        self.line = Some(Line {
            placer,
            writer,
            converter: Converter::new(form),
            shift: offset.saturating_sub(origin),
            scratch: scratch.to_owned(),
        });
        if let Copying::Waiting(track, _) = &mut self.copying {
            track.start = TrackStart::measure(
                track.start.first_pts,
                self.consumed,
                first,
                self.time_base,
                track.rate_hz,
            );
            let (codec, rate_hz, skip) = (track.parameters.id(), track.rate_hz, track.start.skip);
            if let Some(reason) = reason_to_encode(self.request.container, codec, rate_hz, skip) {
                self.copying = Copying::No(reason);
            }
        }
        let begin = |track, packets: &[Packet]| {
            let mut copy = CopyWriter::create(track, self.request.container, scratch)?;
            packets.iter().try_for_each(|packet| copy.write(packet))?;
            Ok(Copying::Running(Box::new(copy)))
        };
        self.copying = match std::mem::replace(&mut self.copying, Copying::No(String::new())) {
            Copying::Waiting(track, packets) => match begin(track, &packets) {
                Ok(running) => running,
                Err(error) => Copying::No(not_taken(self.request.container, &error)),
            },
            other => other,
        };
        Ok(())
    }

    fn finish(mut self) -> Result<Decoded, MediaError> {
        let nothing = || {
            let cause = if self.damage.is_none() {
                "its audio has zero length"
            } else {
                "no sound of its audio track can be decoded: it is damaged, encrypted or empty"
            };
            MediaError::bad_input(&self.path, cause)
        };
        let Some(mut line) = self.line.take() else {
            return Err(nothing());
        };
        if 2 * self.failed_packets > self.packets {
            let cause = format!(
                "more than half of its sound cannot be decoded: it is damaged {}",
                self.damage.times()
            );
            return Err(MediaError::bad_input(&self.path, cause));
        }
        let form = line.writer.form();
        let rest = line.converter.finish().map_err(|error| self.failed(error))?;
        if rest.is_empty() {
            if let Some(last) = line.placer.last() {
                let cut = last.length - last.sound.presented;
                last.sound
                    .values
                    .truncate(last.sound.values.len() - as_values(cut, form.channels));
                line.placer.shorten_last(cut);
            }
        } else {
            let length = (rest.len() / form.channels) as u64;
            let sound = FrameSamples {
                values: rest,
                presented: length,
            };
            line.placer.push(Piece {
                stated: None,
                length,
                sound,
            });
        }
        line.drain(true, &self.path)?;
        self.damage
            .settle_end(line.placer.end() as f64 / f64::from(form.rate_hz));
        if line.placer.end() == 0 {
            return Err(MediaError::bad_input(
                &self.path,
                "all of its sound lies before the first picture; --audio-offset moves it",
            ));
        }
        let irregularities = line.placer.irregularities().clone();
        let damaged_values = line.writer.damaged_values();
        let is_damaged = !self.damage.is_none() || damaged_values > 0;
        let reason = if is_damaged {
            Some("parts of it are damaged")
        } else if line.converter.was_used() {
            Some("its rate or its channels change")
        } else if irregularities != Irregularities::default() {
            Some("its time stamps are not regular from 0 on")
        } else {
            None
        };
        let length_ms = line.placer.end() * 1000 / u64::from(form.rate_hz);
        let copy = match (self.copying, reason) {
            (Copying::No(reason), _) => Err(reason),
            (_, Some(reason)) => Err(reason.to_owned()),
            (Copying::Running(copy), None) => copy
                .finish(length_ms)
                .map_err(|error| not_taken(self.request.container, &error)),
            (Copying::Waiting(..), None) => Err("its first packets cannot be decoded".to_owned()),
        };
        let pcm = line
            .writer
            .finish()
            .map_err(MediaError::io("write the decoded sound to", self.request.scratch))?;
        Ok(Decoded {
            pcm,
            copy,
            irregularities,
            damage: self.damage,
            damaged_values,
        })
    }
}

fn is_out_of_memory(error: Error) -> bool {
    error
        == Error::Other {
            errno: ffmpeg_next::error::ENOMEM,
        }
}
