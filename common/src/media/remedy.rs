//! The command that makes a usable video of one that is refused. It mends everything that the probe can see
//! at once, so that its result is never refused for another reason. `IN` and `OUT.mkv` stand for the file and
//! its replacement; Matroska takes any sound as it is.

use std::fmt::Write as _;

use super::ffi::VideoFacts;

/// Transfer characteristics of high dynamic range, by their code points in ITU-T H.273, with the names that
/// FFmpeg's `setparams` has for them.
const HDR_TRANSFERS: [(i32, &str); 2] = [(16, "smpte2084"), (18, "arib-std-b67")];
/// "Unspecified" in the tables of ITU-T H.273.
const UNSPECIFIED: i32 = 2;
/// Tracks that are copied or converted: the video, and the sound if there is any.
const TRACKS: &str = "-map 0:v:0 -map '0:a?'";
/// Visually lossless video, and the sound as it is.
const CODECS: &str = "-c:v libx264 -crf 14 -c:a copy OUT.mkv";

/// Puts the same packets into another container.
pub(super) fn copy() -> String {
    format!("copy it into another container first: ffmpeg -i IN {TRACKS} -c copy OUT.mkv")
}

/// Gives the frames new time stamps, evenly `rate` a second.
pub(super) fn retime(rate: &str) -> String {
    format!(
        "give its frames even time stamps first, here {rate} a second: ffmpeg -i IN {TRACKS} \
         -vf 'setpts=N/({rate}*TB),format=yuv420p' -r {rate} {CODECS}"
    )
}

/// Converts a video of which only the container or the time stamps are known.
pub(super) fn convert_plain() -> String {
    format!("convert it first: ffmpeg -i IN {TRACKS} -vf format=yuv420p {CODECS}")
}

/// Converts a video with the properties `facts`. FFmpeg turns rotated pictures upright by itself.
pub(super) fn convert(facts: &VideoFacts) -> String {
    let mut filters = String::new();
    if facts.field_order > 1 {
        filters.push_str("bwdif,");
    }
    if facts.width % 2 == 1 || facts.height % 2 == 1 {
        filters.push_str("crop=trunc(iw/2)*2:trunc(ih/2)*2,");
    }
    let hdr = HDR_TRANSFERS.iter().find(|(code, _)| *code == facts.transfer);
    if let Some((_, name)) = hdr {
        let unstated = |code: i32, setting: &str| {
            if code == UNSPECIFIED {
                setting.to_owned()
            } else {
                String::new()
            }
        };
        let _infallible = write!(
            filters,
            "setparams=color_trc={name}{}{},zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=709,tonemap=hable,\
             zscale=t=709:m=709:r=limited,",
            unstated(facts.primaries, ":color_primaries=bt2020"),
            unstated(facts.matrix, ":colorspace=bt2020nc"),
        );
    } else if !usable_colours(facts) {
        filters.push_str(
            "scale=out_color_matrix=bt709:out_range=tv,\
             setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv,",
        );
    }
    format!("convert it first: ffmpeg -i IN {TRACKS} -vf '{filters}format=yuv420p' {CODECS}")
}

/// Whether matrix, primaries and transfer are those of standard dynamic range that the model knows.
pub(super) fn usable_colours(facts: &VideoFacts) -> bool {
    matches!(facts.matrix, 1 | 2 | 5 | 6) && facts.primaries != 9 && !matches!(facts.transfer, 14..=18)
}
