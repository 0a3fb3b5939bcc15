//! Tests that files which cannot be used are refused with the reason.

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
    ] {
        let message = refusal(probe_video(&clips.path(name)));
        assert!(message.contains(cause), "{name}: {message}");
        assert!(message.contains(name), "the file is named: {message}");
    }
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
