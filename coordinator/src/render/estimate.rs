//! Estimates the time, disk and memory that a job needs, before any work starts.

use std::fmt;

use latentfarm_common::disk::written_bytes;
use latentfarm_common::wire::job::ModelSpec;
use latentfarm_common::wire::memory::{DeviceKind, MEDIA_MIB};

use super::room::{Place, Volume};
use super::settings::RenderSettings;
use super::weights::WeightsInfo;
use crate::ingest::ExaminedInputs;
use crate::placement::{JobNeeds, gib};

/// f32 operations per second of one core in the model's matrix products, as measured on a current server CPU.
const FLOPS_PER_THREAD: f64 = 5e10;
/// Time for ingest, for the start of the processes, for loading a small model, and for stitching.
const START_SECONDS: f64 = 3.0;
/// UNet operations for one frame, one step and one parameter at 256 px (0.253 TFLOP over 1.267e9 parameters).
const UNET_FLOP_PER_PARAMETER: f64 = 200.0;
/// Room for the state of the server, records, logs and scratch files.
const OVERHEAD_BYTES: u64 = 64 << 20;
/// VAE operations for one frame and one parameter at 256 px, two encodes and one decode.
const VAE_FLOP_PER_PARAMETER: f64 = 8_600.0;

/// An estimate for one job. Frames, chunks and disk are close; the time is right within a factor of about
/// three.
#[derive(Clone, Debug)]
pub struct Estimate {
    pub frames: u64,
    pub chunks: u64,
    /// Bytes that are written at all places together.
    pub disk_bytes: u64,
    /// Free bytes of the file system of the work folder.
    pub free_bytes: Option<u64>,
    /// The places that the job writes to.
    pub(super) places: Vec<Place>,
    /// Bytes of the blobs that the job stores, at its fullest moment.
    pub store_bytes: u64,
    /// Bytes of the rendered video, which are a part of them.
    pub result_bytes: u64,
    /// Host memory that a worker on the CPU needs under the leanest plan.
    pub worker_mib: u64,
    /// Device memory that a worker on a GPU needs under the leanest plan, if that is known.
    pub gpu_mib: Option<u64>,
    pub seconds: f64,
}

impl Estimate {
    pub(super) fn of(
        settings: &RenderSettings,
        examined: &ExaminedInputs,
        input: InputBytes,
        model: &ModelSpec,
        weights: &WeightsInfo,
        needs: &JobNeeds,
    ) -> Self {
        let (frames, picture_bytes) = (examined.frames(), picture_bytes(examined));
        let places = places(settings, examined, input);
        let disk_bytes = places.iter().map(|place| place.bytes).sum();
        let side = f64::from(weights.resolution_px) / 256.0;
        let passes = f64::from(model.steps) * if model.is_guided() { 2.0 } else { 1.0 };
        let unet = UNET_FLOP_PER_PARAMETER * weights.unet_parameters as f64 * passes;
        let vae = VAE_FLOP_PER_PARAMETER * weights.vae_parameters as f64;
        let model_flop = (unet + vae) * side * side * frames as f64;
        let leanest = |kind| {
            let needs_of_kind = needs.of(kind);
            needs_of_kind.map(|found| found.leanest() + needs.overhead_mib(kind))
        };
        let threads = settings.threads as f64;
        // On one thread, face analysis takes about 15 ms per frame; decoding, pasting and encoding take 60 ns
        // per byte of the picture.
        let media_seconds = frames as f64 * (0.015 + picture_bytes as f64 * 60e-9);
        Self {
            frames,
            chunks: frames.div_ceil(u64::from(settings.chunk_frames.get())),
            disk_bytes,
            free_bytes: Volume::of(
                settings
                    .work
                    .as_ref()
                    .map_or(settings.target.path(), |work| &work.path),
            )
            .map(|volume| volume.free_bytes),
            places,
            store_bytes: store_bytes(examined, input, result_bytes(settings, examined)),
            result_bytes: result_bytes(settings, examined),
            worker_mib: leanest(DeviceKind::Cpu).unwrap_or(0),
            gpu_mib: leanest(DeviceKind::Cuda),
            seconds: START_SECONDS + model_flop / (FLOPS_PER_THREAD * threads) + media_seconds / threads,
        }
    }
}

/// Sizes of the two input files.
#[derive(Clone, Copy, Debug)]
pub(super) struct InputBytes {
    pub(super) video: u64,
    pub(super) sound: u64,
}

/// Returns the bytes of the rendered video. A lossless frame has about half its raw size, and one at CRF 18
/// about a thirtieth.
fn result_bytes(settings: &RenderSettings, examined: &ExaminedInputs) -> u64 {
    let frame_bytes = picture_bytes(examined) / if settings.crf.is_none() { 2 } else { 30 };
    examined.frames() * frame_bytes
}

/// Returns the bytes of 16 kHz mono speech of 16 bits: the temporary folder has all of it, the store has it
/// as windows.
fn speech_bytes(examined: &ExaminedInputs) -> u64 {
    examined.speech_ms() * 32
}

fn store_bytes(examined: &ExaminedInputs, input: InputBytes, result_bytes: u64) -> u64 {
    input.video + input.sound + speech_bytes(examined) + result_bytes
}

/// Returns the places that the job writes to. The result is stored once as segments and once as the final
/// file. An unfinished job has written a part already.
fn places(settings: &RenderSettings, examined: &ExaminedInputs, input: InputBytes) -> Vec<Place> {
    let result_bytes = result_bytes(settings, examined);
    let speech_bytes = speech_bytes(examined);
    let stored_bytes = store_bytes(examined, input, result_bytes) + OVERHEAD_BYTES;
    // The video is cut into segments one after the other.
    let segment_frames = settings.ingest.limits.max_frames;
    let cut_bytes = input.video * segment_frames.min(examined.table.sources) / examined.table.sources.max(1);
    let work = settings.work.as_ref().map(|work| Place {
        name: "the work folder",
        path: work.path.clone(),
        bytes: stored_bytes.saturating_sub(written_bytes(&work.path)),
        chosen_by: "--work-dir",
    });
    let mut places = vec![
        Place {
            name: "the output",
            path: settings.target.path().to_owned(),
            bytes: result_bytes + input.sound,
            chosen_by: "-o",
        },
        Place {
            name: "the temporary folder",
            path: settings.ingest.scratch.clone(),
            bytes: speech_bytes + cut_bytes + input.sound,
            chosen_by: "TMPDIR",
        },
    ];
    places.extend(work);
    places
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} frames in {} chunks, about {}; disk {} MiB",
            self.frames,
            self.chunks,
            rough_time(self.seconds),
            self.disk_bytes >> 20
        )?;
        if let Some(free) = self.free_bytes {
            write!(f, " of {} free", free >> 20)?;
        }
        write!(f, "; memory {} per worker on the CPU", gib(self.worker_mib))?;
        match self.gpu_mib {
            Some(mib) => write!(f, ", {} on a GPU", gib(mib)),
            None => Ok(()),
        }
    }
}

/// Returns the memory that a window needs on each kind of device, as the worker program predicts it, and that
/// of the media child beside it.
pub(super) fn job_needs(weights: &WeightsInfo, guided: bool, picture_bytes: u64) -> JobNeeds {
    // The media child holds two windows of pictures and one as RGB. Workers always reserve MEDIA_MIB for it.
    let media_mib = ((64 * picture_bytes + (300 << 20)) >> 20).saturating_sub(MEDIA_MIB);
    JobNeeds {
        cpu: weights.needs(DeviceKind::Cpu, guided),
        cuda: weights.needs(DeviceKind::Cuda, guided),
        media_mib,
    }
}

/// Returns the size of one decoded frame in bytes.
pub(super) fn picture_bytes(examined: &ExaminedInputs) -> u64 {
    let picture = &examined.video.picture;
    u64::from(picture.width) * u64::from(picture.height) * 3 / 2
}

/// Formats a time as `40 s`, `12 min` or `3.5 h`.
fn rough_time(seconds: f64) -> String {
    match seconds {
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESCRIBED: &str = r#"{
        "identity": "00000000000000000000000000000000000000000000000000000000000000ff",
        "files": [],
        "kind": "synthetic", "resolution_px": 256, "unet_parameters": 1000, "vae_parameters": 10,
        "needs": [
            {"kind": "cpu", "dtype": "f32", "guided": false, "mib": [70, 60, 50, 40, 20, 10], "confirmed": true},
            {"kind": "cuda", "dtype": "f16", "guided": true, "mib": [7, 6, 5, 4, 2, 1], "confirmed": false}
        ]}"#;

    #[test]
    fn needs_are_read_by_device_and_guidance_and_the_media_child_is_counted_on_the_host() {
        let info: WeightsInfo = serde_json::from_str(DESCRIBED).unwrap();
        let plain = job_needs(&info, false, 1 << 20);
        assert_eq!(plain.of(DeviceKind::Cpu).unwrap().leanest(), 10);
        assert_eq!(plain.of(DeviceKind::Cuda), None);
        assert_eq!(
            (
                plain.overhead_mib(DeviceKind::Cpu),
                plain.overhead_mib(DeviceKind::Cuda)
            ),
            (108, 0)
        );
        assert_eq!(
            job_needs(&info, true, 0).of(DeviceKind::Cuda).unwrap().leanest(),
            1
        );
    }
}
