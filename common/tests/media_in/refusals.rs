//! Tests that files which cannot be used are refused with the reason.

use std::path::Path;
use std::process::Command;

use latentfarm_common::error::one_line;
use latentfarm_common::media::{SoundOrigin, probe_video};

use crate::support::{Clips, cut_video, refusal, sound};

#[test]
fn truncated_files_are_called_so() {
    let clips = Clips::new();
    clips.video("plain.mp4", 200, "-c:v libx264 -g 20");
    clips.video("fast.mp4", 200, "-c:v libx264 -g 20 -movflags +faststart");
    clips.video(
        "fragments.mp4",
        200,
        "-c:v libx264 -g 20 -movflags +frag_keyframe+empty_moov",
    );
    clips.video("film.mkv", 200, "-c:v libx264 -g 20");
    for name in ["plain.mp4", "fast.mp4", "fragments.mp4", "film.mkv"] {
        let path = clips.path(name);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() * 6 / 10]).unwrap();
        let out = clips.path("out");
        std::fs::create_dir_all(&out).unwrap();
        let result = probe_video(&path).and_then(|probe| cut_video(&path, &probe, &out));
        let message = refusal(result);
        assert!(message.contains("truncated"), "{name}: {message}");
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn unusable_videos_are_refused_with_the_reason() {
    let clips = Clips::new();
    let write = |name: &str, bytes: &[u8]| std::fs::write(clips.path(name), bytes).unwrap();
    write("empty.mp4", b"");
    write(
        "text.mp4",
        b"this is no video, whatever its name says, and it is not short either",
    );
    std::fs::create_dir(clips.path("folder")).unwrap();
    clips.make("sound.wav", "-f lavfi -i sine=d=1");
    clips.make("cover.png", "-f lavfi -i testsrc2=s=128x96 -frames:v 1");
    clips.make(
        "song.mp3",
        "-i IN:sound.wav -i IN:cover.png -map 0 -map 1 -c:v copy -disposition:v attached_pic",
    );
    clips.video("part2.mp4", 5, "-c:v mpeg4");
    clips.video("ts.ts", 5, "-c:v libx264");
    let odd = "-f lavfi -i testsrc2=s=129x96:r=25 -frames:v 5 -c:v libx264 -pix_fmt";
    clips.make(
        "deep.mp4",
        "-f lavfi -i testsrc2=s=128x96 -frames:v 5 -c:v libx264 -pix_fmt yuv420p10le",
    );
    clips.make(
        "wide.mp4",
        "-f lavfi -i testsrc2=s=128x96 -frames:v 5 -c:v libx264 -pix_fmt yuv422p",
    );
    clips.make("odd.mp4", &format!("{odd} yuv444p"));
    clips.make(
        "small.mp4",
        "-f lavfi -i testsrc2=s=62x96 -frames:v 5 -c:v libx264 -pix_fmt yuv420p",
    );
    clips.video("hdr.mp4", 5, "-c:v libx264 -colorspace bt2020nc");
    clips.video(
        "fields.mp4",
        5,
        "-c:v libx264 -flags +ildct+ilme -vf setfield=tff",
    );
    clips.video("upright.mp4", 5, "-c:v libx264");
    clips.make("turned.mp4", "-i IN:upright.mp4 -c copy -metadata:s:v rotate=90");
    clips.make("tone.wav", "-f lavfi -i sine=r=48000:d=0.4 -c:a pcm_s16le");
    let both = "-i IN:upright.mp4 -i IN:tone.wav";
    clips.make("old.avi", &format!("{both} -c:v copy -c:a libmp3lame"));
    clips.make("web.flv", &format!("{both} -c:v copy -c:a aac"));
    clips.make(
        "edit.mov",
        &format!("{both} -c:v prores_ks -profile:v 2 -c:a copy"),
    );
    clips.make(
        "odd.webm",
        &format!("{both} -vf scale=127:93 -c:v libvpx-vp9 -deadline realtime -c:a libopus"),
    );
    clips.make("anim.gif", "-i IN:upright.mp4 -vf scale=101:-1");
    clips.make(
        "phone.mov",
        "-i IN:upright.mp4 -vf format=yuv420p10le -c:v libx265 -x265-params \
         log-level=none:colorprim=bt2020:transfer=arib-std-b67:colormatrix=bt2020nc -tag:v hvc1 -color_primaries bt2020 \
         -color_trc arib-std-b67 -colorspace bt2020nc -movflags write_colr",
    );
    // Three faults at once: a turned, interlaced picture of odd width with a transfer curve of high dynamic range.
    clips.make("worst.mov", "-i IN:fields.mp4 -vf setfield=tff,scale=127:96:interl=1,format=yuv444p -color_trc smpte2084 -c:v libx264 -flags +ildct+ilme");
    clips.make("worse.mov", "-i IN:worst.mov -c copy -metadata:s:v rotate=90");
    let mut mended = 0;
    for (name, cause) in [
        ("missing.mp4", "no such file"),
        ("empty.mp4", "empty"),
        ("folder", "directory"),
        ("text.mp4", "not a media file"),
        ("sound.wav", "no video track"),
        ("song.mp3", "no video track"),
        ("cover.png", "png"),
        ("part2.mp4", "mpeg4"),
        ("ts.ts", "container"),
        ("deep.mp4", "yuv420p10le"),
        ("wide.mp4", "yuv422p"),
        ("odd.mp4", "yuv444p"),
        ("small.mp4", "62x96"),
        ("hdr.mp4", "colour matrix"),
        ("fields.mp4", "interlaced"),
        ("turned.mp4", "rotated"),
        ("old.avi", "container"),
        ("web.flv", "container"),
        ("edit.mov", "prores"),
        ("odd.webm", "vp9"),
        ("anim.gif", "gif"),
        ("phone.mov", "yuv420p10le"),
        ("worse.mov", "yuv444p"),
    ] {
        let message = refusal(probe_video(&clips.path(name)));
        assert!(message.contains(cause), "{name}: {message}");
        assert!(message.contains(name), "the file is named: {message}");
        if message.contains("ffmpeg") {
            mend(&clips, name, &message);
            mended += 1;
        }
    }
    assert_eq!(mended, 16);
}

#[test]
fn videos_whose_headers_cannot_be_right_are_refused() {
    let clips = Clips::new();
    clips.make(
        "large.mp4",
        "-f lavfi -i testsrc2=s=8194x64 -frames:v 2 -c:v libx264 -pix_fmt yuv420p",
    );
    let good = std::fs::read(clips.video("good.mp4", 5, "-c:v libx264")).unwrap();
    // The decoder's configuration is missing, and H.264 is declared as HEVC.
    for (name, old, new) in [("bare.mp4", b"avcC", b"free"), ("mistaken.mp4", b"avc1", b"hvc1")] {
        std::fs::write(clips.path(name), renamed(&good, *old, *new)).unwrap();
    }
    for (name, cause) in [
        ("large.mp4", "8194x64"),
        ("bare.mp4", "damaged"),
        ("mistaken.mp4", "damaged"),
    ] {
        let path = clips.path(name);
        let result = probe_video(&path).and_then(|probe| cut_video(&path, &probe, clips.0.path()));
        let message = refusal(result);
        assert!(message.contains(name) && message.contains(cause), "{message}");
    }
}

/// Returns an MP4 in which every box of type `old` has the type `new`.
fn renamed(file: &[u8], old: [u8; 4], new: [u8; 4]) -> Vec<u8> {
    let mut changed = file.to_vec();
    let at: Vec<usize> = (0..file.len() - 3)
        .filter(|&at| file[at..at + 4] == old)
        .collect();
    assert!(!at.is_empty());
    for at in at {
        changed[at..at + 4].copy_from_slice(&new);
    }
    changed
}

/// Runs the command that the message about a clip gives, and checks that its result is usable.
fn mend(clips: &Clips, name: &str, message: &str) {
    let (_, arguments) = message.split_once("ffmpeg ").unwrap();
    let quoted = |name: &str| format!("'{}'", clips.path(name).display());
    let arguments = arguments
        .replace("-i IN ", &format!("-i {} ", quoted(name)))
        .replace("OUT.mkv", &quoted("mended.mkv"));
    let command = format!("ffmpeg -nostdin -v error -y {arguments}");
    let done = Command::new("sh").args(["-c", &command]).output().unwrap();
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{name}: {command}: {errors}");
    let path = clips.path("mended.mkv");
    let probe = probe_video(&path).unwrap_or_else(|error| panic!("{name}: {command}: {}", one_line(&error)));
    let out = clips.path("mended");
    std::fs::create_dir_all(&out).unwrap();
    let cut = cut_video(&path, &probe, &out).unwrap();
    assert!(cut.defects.is_empty(), "{name}: {command}: {:?}", cut.defects);
    let is_moving = Path::new(name).extension().is_none_or(|kind| kind != "png");
    assert!(
        !is_moving || cut.pts.len() > 1,
        "{name}: {command} leaves {:?}",
        cut.pts
    );
}

/// The time stamps of a clip of 50 frames at 25 per second, rewritten by FFmpeg's filter `setts`.
#[test]
fn broken_time_stamps_are_refused_with_a_command_that_mends_them() {
    for (name, stamps, cause) in [
        ("same.mkv", "pts=0:dts=0", "same timestamp"),
        ("fast.mp4", "pts=0:dts=0", "50 frames in"),
        ("back.mkv", "pts=(50-N)*512:dts=N*512", "step back"),
        (
            "clamped.mkv",
            "ts=if(gte(N\\,25)\\,PTS-20000\\,PTS)",
            "same timestamp",
        ),
    ] {
        let clips = Clips::new();
        clips.video("even.mp4", 50, "-c:v libx264 -bf 0 -g 25");
        let keep = "-avoid_negative_ts disabled";
        let path = clips.make(
            name,
            &format!("-i IN:even.mp4 -c copy -bsf:v setts={stamps} {keep}"),
        );
        let out = clips.path("out");
        std::fs::create_dir(&out).unwrap();
        let message = refusal(probe_video(&path).and_then(|probe| cut_video(&path, &probe, &out)));
        assert!(
            message.contains(cause) && message.contains(name),
            "{name}: {message}"
        );
        mend(&clips, name, &message);
    }
}

#[test]
fn a_video_whose_edit_list_hides_every_frame_is_refused() {
    let clips = Clips::new();
    clips.video("even.mp4", 50, "-c:v libx264 -bf 0 -g 25");
    let stamps = "-bsf:v setts=ts=PTS-100000 -avoid_negative_ts disabled";
    let path = clips.make("none.mp4", &format!("-i IN:even.mp4 -c copy {stamps}"));
    let out = clips.path("out");
    std::fs::create_dir(&out).unwrap();
    let message = refusal(probe_video(&path).and_then(|probe| cut_video(&path, &probe, &out)));
    assert!(message.contains("none of its"), "{message}");
}

#[test]
fn unusable_sounds_are_refused_with_the_reason() {
    let clips = Clips::new();
    clips.video("mute.mp4", 5, "-c:v libx264");
    clips.make("none.wav", "-f lavfi -i anullsrc -frames:a 0");
    clips.make(
        "long.m4a",
        "-f lavfi -i anoisesrc=d=5 -c:a aac -movflags +faststart",
    );
    let path = clips.path("long.m4a");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    for (name, cause) in [
        ("missing.wav", "no such file"),
        ("mute.mp4", "no audio track"),
        ("none.wav", "zero length"),
        ("long.m4a", "truncated"),
    ] {
        let path = clips.path(name);
        let message = refusal(sound(&path, SoundOrigin::Container));
        assert!(message.contains(cause), "{name}: {message}");
    }
}
