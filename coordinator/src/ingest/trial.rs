//! Tries, before any chunk is rendered, to make an output of a picture or two with the job's real sound: what would fail at
//! the join fails here, and names the user's file.

use std::path::Path;

use latentfarm_common::error::one_line;
use latentfarm_common::frame::{Picture, PictureFormat};
use latentfarm_common::media::{
    self, AudioLength, Container, JoinRequest, MediaError, SegmentEncoder, verify_output,
};
use latentfarm_common::time::FrameRate;
use latentfarm_common::wire::job::EncoderSpec;

/// Number of pictures in the trial.
const FRAMES: u64 = 2;

/// The files and the form of the output that is tried.
pub(super) struct MuxTrial<'a> {
    /// The files that the user gave, for errors.
    pub(super) video: &'a Path,
    pub(super) audio: &'a Path,
    pub(super) picture: &'a PictureFormat,
    pub(super) rate: FrameRate,
    pub(super) container: Container,
    /// The sound that was made for the output.
    pub(super) sound: &'a Path,
    /// An existing directory for temporary files.
    pub(super) scratch: &'a Path,
}

impl MuxTrial<'_> {
    /// Encodes black pictures, joins them with the sound, and decodes the result.
    ///
    /// # Errors
    /// [`MediaError::BadInput`] about the user's video or audio; other errors if this machine fails.
    pub(super) fn run(&self) -> Result<(), MediaError> {
        let folder = tempfile::tempdir_in(self.scratch)
            .map_err(MediaError::io("make a scratch directory in", self.scratch))?;
        let segment = folder.path().join("trial.nut");
        self.encode(&segment).map_err(|error| {
            let remedy = "make them smaller first: ffmpeg -i IN -vf scale=1920:-2 OUT.mp4";
            blame(self.video, "its pictures cannot be encoded", remedy, error)
        })?;
        let output = folder.path().join("trial");
        let joined = media::join(
            &JoinRequest {
                segments: &[segment],
                picture: self.picture,
                rate: self.rate,
                frames: FRAMES,
                sound: self.sound,
                metadata: &[],
                output: &output,
                container: self.container,
            },
            &mut |_| {},
        );
        let verified =
            joined.and_then(|()| verify_output(&output, self.rate, FRAMES, AudioLength::MayEndEarly));
        verified.map(|_report| ()).map_err(|error| {
            let remedy = "convert it first: ffmpeg -i IN -vn -ac 2 -ar 48000 OUT.wav";
            blame(
                self.audio,
                "its sound cannot be joined with the video",
                remedy,
                error,
            )
        })
    }

    fn encode(&self, segment: &Path) -> Result<(), MediaError> {
        let spec = EncoderSpec {
            rate: self.rate,
            crf: Some(18),
            preset: "ultrafast".to_owned(),
        };
        let mut encoder = SegmentEncoder::create(segment, self.picture, &spec, 0)?;
        for _ in 0..FRAMES {
            encoder.push(&Picture::black(*self.picture))?;
        }
        encoder.finish().map(|_frames| ())
    }
}

/// Makes a failure of the trial an error about the user's file, unless this machine failed.
fn blame(path: &Path, what: &str, remedy: &str, error: MediaError) -> MediaError {
    if error.is_of_machine() {
        return error;
    }
    let cause = std::error::Error::source(&error).map_or_else(|| one_line(&error), one_line);
    MediaError::bad_input(path, format!("{what} ({cause}); {remedy}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::frame::Colour;

    #[test]
    fn sound_that_cannot_be_joined_is_refused_as_the_users_file() {
        let dir = tempfile::tempdir().unwrap();
        let sound = dir.path().join("blob");
        let wav = std::process::Command::new("ffmpeg")
            .args(["-v", "error", "-f", "lavfi", "-i", "sine=d=1", "-f", "wav"])
            .arg(&sound)
            .status();
        assert!(wav.unwrap().success());
        let picture = PictureFormat {
            width: 128,
            height: 96,
            colour: Colour::BT709,
            sample_aspect: (1, 1),
        };
        let trial = |container| MuxTrial {
            video: Path::new("talk.mp4"),
            audio: Path::new("voice.wav"),
            picture: &picture,
            rate: FrameRate::FPS_25,
            container,
            sound: &sound,
            scratch: dir.path(),
        };
        trial(Container::Matroska).run().unwrap();
        let refused = trial(Container::Mp4).run().unwrap_err();
        assert!(matches!(refused, MediaError::BadInput { .. }), "{refused:?}");
        let message = one_line(&refused);
        assert!(
            message.contains("voice.wav") && message.contains("ffmpeg -i IN") && !message.contains("blob"),
            "{message}"
        );
        std::fs::write(&sound, b"damaged").unwrap();
        assert!(matches!(
            trial(Container::Matroska).run().unwrap_err(),
            MediaError::BadInput { .. }
        ));
        let left = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 1, "the trial left something behind");
    }
}
