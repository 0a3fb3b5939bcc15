//! Chooses the workers of a private farm: one for each GPU of this machine, and one on the CPU beside them for what
//! fits none. `settings` calls it once for `latentfarm render`.

use latentfarm_common::ids::WorkerId;

use super::args::RenderArgs;
use super::argument_error::ArgumentError;
use crate::dispatch::CpuFallback;
use crate::local::{LocalDevice, LocalDevices, WorkerOptions};

const MAX_WORKERS: usize = 64;

/// The workers to start, at least one, with sentences about them for the user.
#[derive(Debug, Default)]
pub(super) struct WorkerList {
    pub(super) workers: Vec<WorkerOptions>,
    pub(super) notes: Vec<String>,
}

impl WorkerList {
    /// Chooses the workers on a machine of so many cores. `find` returns the devices that a value of `--device`
    /// means here, or why they are not known; it is called only if the answer matters.
    pub(super) fn choose(
        args: &RenderArgs,
        cores: usize,
        find: impl FnOnce(Option<&str>) -> Result<LocalDevices, String>,
    ) -> Result<Self, ArgumentError> {
        let usual = if cores <= 2 { 1 } else { 2 };
        let count = args.workers.unwrap_or(usual);
        if !(1..=MAX_WORKERS).contains(&count.max(args.worker.len())) {
            return Err(ArgumentError::Workers(count.max(args.worker.len())));
        }
        if !args.worker.is_empty() {
            let workers = specified(args)?;
            return Ok(Self {
                workers,
                notes: Vec::new(),
            });
        }
        let mut notes = Vec::new();
        let devices = match args.device.as_deref() {
            // A farm has workers of its own.
            None if args.nats.is_some() => vec![cpu()],
            None => found(find(None), &mut notes).unwrap_or_else(|| vec![cpu()]),
            Some(list) => {
                let named = named(list);
                if named.iter().all(is_known) {
                    named
                } else {
                    found(find(Some(list)), &mut notes).unwrap_or(named)
                }
            }
        };
        let mut list = Self {
            workers: Vec::new(),
            notes,
        };
        let gpus = devices.iter().filter(|device| !device.is_cpu()).count();
        if gpus == 0 {
            list.alike(&[cpu()], count, args)?;
        } else if let Some(count) = args.workers {
            list.alike(&devices, count, args)?;
            if count > devices.len() {
                list.notes.push(format!(
                    "{count} workers share {} devices: one worker at a time has an engine on a GPU, so they take turns \
                     and are no faster than one worker for each device",
                    devices.len()
                ));
            }
        } else {
            list.one_each(devices, args)?;
        }
        Ok(list)
    }

    /// Adds `count` workers that use the devices in rotation.
    fn alike(
        &mut self,
        devices: &[LocalDevice],
        count: usize,
        args: &RenderArgs,
    ) -> Result<(), ArgumentError> {
        for (number, device) in (1..=count).zip(devices.iter().cycle()) {
            self.add(&format!("w{number}"), device, args)?;
        }
        Ok(())
    }

    /// Adds one worker for each device, and one on the CPU if it may render and the user named no devices.
    fn one_each(&mut self, mut devices: Vec<LocalDevice>, args: &RenderArgs) -> Result<(), ArgumentError> {
        if args.device.is_none() && args.job.cpu_fallback != CpuFallback::Never {
            devices.push(cpu());
        }
        let mut gpus = Vec::new();
        for device in &devices {
            if device.is_cpu() {
                self.add("cpu", device, args)?;
            } else {
                gpus.push(device.name.as_str());
                self.add(&format!("w{}", gpus.len()), device, args)?;
            }
        }
        let beside = match args.job.cpu_fallback {
            _ if gpus.len() == devices.len() => "",
            CpuFallback::Always => ", and on the CPU",
            CpuFallback::Last => "; the CPU renders what fits no GPU",
            CpuFallback::Never => "; the CPU finds faces only (--cpu-fallback never)",
        };
        self.notes.push(format!("renders on {}{beside}", gpus.join(", ")));
        // Otherwise the CPU would begin with chunks while the engines of the GPUs start.
        let is_spare = args.job.cpu_fallback != CpuFallback::Always;
        for (worker, device) in self.workers.iter_mut().zip(&devices) {
            worker.starts_last = device.is_cpu() && is_spare;
        }
        Ok(())
    }

    fn add(&mut self, name: &str, device: &LocalDevice, args: &RenderArgs) -> Result<(), ArgumentError> {
        let id = name.parse().map_err(|_| ArgumentError::Worker {
            spec: name.to_owned(),
        })?;
        let mut options = vec!["--device".to_owned(), device.selector.clone()];
        options.extend(
            args.reserve
                .iter()
                .flat_map(|mib| ["--reserve".to_owned(), mib.to_string()]),
        );
        self.workers.push(WorkerOptions {
            id,
            args: options,
            starts_last: false,
        });
        Ok(())
    }
}

fn cpu() -> LocalDevice {
    LocalDevice {
        selector: "cpu".to_owned(),
        name: "cpu".to_owned(),
    }
}

/// Returns the devices of a list as they are named there.
fn named(list: &str) -> Vec<LocalDevice> {
    let entries = list.split(',');
    let device = |entry: &str| LocalDevice {
        selector: entry.to_owned(),
        name: entry.to_owned(),
    };
    entries.map(device).collect()
}

/// Whether a device can be used without asking this machine for its GPUs.
fn is_known(device: &LocalDevice) -> bool {
    device.is_cpu() || device.selector.starts_with("sim:")
}

/// Returns the devices that were found; `None`, with a note, if there are none.
fn found(found: Result<LocalDevices, String>, notes: &mut Vec<String>) -> Option<Vec<LocalDevice>> {
    let why = match found {
        Ok(found) if !found.devices.is_empty() => {
            // A machine without a GPU is nothing to tell.
            notes.extend(found.note.filter(|_| found.gpus_missing.is_none()));
            return Some(found.devices);
        }
        Ok(found) => found
            .refused
            .unwrap_or_else(|| "the worker program names no device".to_owned()),
        Err(why) => why,
    };
    notes.push(format!("cannot use the GPUs of this machine: {why}"));
    None
}

/// Returns the workers of the `--worker` options: each has the common options of the command line and its own.
fn specified(args: &RenderArgs) -> Result<Vec<WorkerOptions>, ArgumentError> {
    let mut workers: Vec<WorkerOptions> = Vec::with_capacity(args.worker.len());
    for (index, spec) in args.worker.iter().enumerate() {
        let wrong = || ArgumentError::Worker { spec: spec.clone() };
        let mut name = format!("w{}", index + 1);
        let mut own = Vec::new();
        for part in spec.split(',').filter(|part| !part.is_empty()) {
            let (key, value) = part.split_once('=').ok_or_else(wrong)?;
            match key {
                "name" => value.clone_into(&mut name),
                // `--key=value`: the value may begin with a dash.
                _ => own.push(format!("--{key}={value}")),
            }
        }
        let id: WorkerId = name.parse().map_err(|_| wrong())?;
        if workers.iter().any(|other| other.id == id) {
            return Err(wrong());
        }
        let mut options = Vec::new();
        let reserve = args.reserve.map(|mib| mib.to_string());
        for (flag, common) in [("--device", args.device.clone()), ("--reserve", reserve)] {
            let is_own = own.iter().any(|option| option.starts_with(&format!("{flag}=")));
            if let (Some(value), false) = (common, is_own) {
                options.extend([flag.to_owned(), value]);
            }
        }
        options.append(&mut own);
        workers.push(WorkerOptions {
            id,
            args: options,
            starts_last: false,
        });
    }
    Ok(workers)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::args;

    const ONE_GPU: &str = r#"{"workers": [{"device": "cuda:0 NVIDIA L4", "selector": "cuda:0"}]}"#;
    const TWO_GPUS: &str = r#"{"workers": [{"device": "cuda:0 NVIDIA L4", "selector": "cuda:0"},
        {"device": "cuda:1 NVIDIA L4", "selector": "GPU-22"}], "gpus_missing": null}"#;
    const NO_GPU: &str = r#"{"workers": [{"device": "cpu", "selector": "cpu"}],
        "gpus_missing": "no NVIDIA driver", "note": "no NVIDIA driver; renders on the CPU"}"#;
    const BROKEN_GPU: &str = r#"{"workers": [{"device": "cpu", "selector": "cpu"}],
        "gpus_missing": null, "note": "cuda:0 failed its check; renders on the CPU"}"#;
    const REFUSED: &str = r#"{"workers": [], "refused": "device `cuda:7` cannot be used"}"#;

    /// Returns the workers as `name device`, those that start last in brackets, and the notes. The machine has four
    /// cores, and `probe` as the worker program's report; none may be needed if it is empty.
    fn chosen(options: &[&str], probe: &str) -> (Vec<String>, Vec<String>) {
        let list = try_choose(options, probe).unwrap();
        let describe = |worker: &WorkerOptions| {
            let [flag, device, ..] = worker.args.as_slice() else {
                panic!("no device: {:?}", worker.args)
            };
            assert_eq!(flag, "--device");
            let text = format!("{} {device}", worker.id);
            if worker.starts_last {
                format!("[{text}]")
            } else {
                text
            }
        };
        (list.workers.iter().map(describe).collect(), list.notes)
    }

    fn try_choose(options: &[&str], probe: &str) -> Result<WorkerList, ArgumentError> {
        let line = ["latentfarm", "render", "a.mp4", "b.wav", "-o", "c.mp4"];
        let args = args::Args::try_parse_from(line.iter().chain(options)).unwrap();
        let args::Command::Render(args) = args.command else {
            panic!("another command")
        };
        WorkerList::choose(&args, 4, |device| {
            assert!(!probe.is_empty(), "the probe is needless");
            assert_eq!(device, args.device.as_deref());
            serde_json::from_str(probe).map_err(|error| error.to_string())
        })
    }

    #[test]
    fn every_gpu_has_a_worker_and_the_cpu_helps_last() {
        let (workers, notes) = chosen(&[], TWO_GPUS);
        assert_eq!(workers, ["w1 cuda:0", "w2 GPU-22", "[cpu cpu]"]);
        assert_eq!(
            notes,
            ["renders on cuda:0 NVIDIA L4, cuda:1 NVIDIA L4; the CPU renders what fits no GPU"]
        );
        assert_eq!(chosen(&["--cpu-fallback", "never"], ONE_GPU).0, ["w1 cuda:0"]);
        assert_eq!(
            chosen(&["--cpu-fallback", "always"], ONE_GPU).0,
            ["w1 cuda:0", "cpu cpu"]
        );
        assert_eq!(chosen(&["--device", "auto"], ONE_GPU).0, ["w1 cuda:0"]);
        let with_cpu = r#"{"workers": [{"device": "cuda:0 NVIDIA L4", "selector": "cuda:0"},
            {"device": "cpu", "selector": "cpu"}]}"#;
        assert_eq!(
            chosen(&["--device", "auto,cpu"], with_cpu).0,
            ["w1 cuda:0", "[cpu cpu]"]
        );
    }

    #[test]
    fn a_machine_without_a_gpu_has_one_or_two_workers_on_the_cpu() {
        assert_eq!(
            chosen(&[], NO_GPU),
            (vec!["w1 cpu".to_owned(), "w2 cpu".to_owned()], Vec::new())
        );
        assert_eq!(
            chosen(&["--workers", "3"], NO_GPU).0,
            ["w1 cpu", "w2 cpu", "w3 cpu"]
        );
        let (workers, notes) = chosen(&[], BROKEN_GPU);
        assert_eq!(workers, ["w1 cpu", "w2 cpu"]);
        assert_eq!(notes, ["cuda:0 failed its check; renders on the CPU"]);
        assert_eq!(chosen(&["--nats", "nats://farm"], "").0.len(), 2);
    }

    #[test]
    fn a_list_of_known_devices_needs_no_probe_and_has_one_worker_each() {
        assert_eq!(chosen(&["--device", "cpu"], "").0, ["w1 cpu", "w2 cpu"]);
        assert_eq!(
            chosen(&["--device", "sim:/a,sim:/b"], "").0,
            ["w1 sim:/a", "w2 sim:/b"]
        );
        assert_eq!(
            chosen(&["--device", "sim:/a,cpu"], "").0,
            ["w1 sim:/a", "[cpu cpu]"]
        );
    }

    #[test]
    fn more_workers_than_devices_take_turns_and_the_user_is_told() {
        let (workers, notes) = chosen(&["--workers", "3"], TWO_GPUS);
        assert_eq!(workers, ["w1 cuda:0", "w2 GPU-22", "w3 cuda:0"]);
        assert!(notes[0].contains("take turns"), "{notes:?}");
        let (workers, notes) = chosen(&["--workers", "1"], TWO_GPUS);
        assert_eq!((workers.len(), notes.len()), (1, 0));
        for count in ["0", "65"] {
            let refused = try_choose(&["--workers", count], "");
            assert!(matches!(refused, Err(ArgumentError::Workers(_))), "{count}");
        }
    }

    #[test]
    fn without_a_report_the_cpu_renders_or_the_worker_says_what_is_wrong() {
        let (workers, notes) = chosen(&[], "no report");
        assert_eq!(workers, ["w1 cpu", "w2 cpu"]);
        assert!(
            notes[0].starts_with("cannot use the GPUs of this machine: "),
            "{notes:?}"
        );
        let (workers, notes) = chosen(&["--device", "cuda:7"], REFUSED);
        assert_eq!(workers, ["w1 cuda:7"]);
        assert!(notes[0].contains("`cuda:7` cannot be used"), "{notes:?}");
    }

    #[test]
    fn a_worker_has_the_common_options_and_its_own() {
        let options = |options: &[&str], probe: &str| {
            let list = try_choose(options, probe).unwrap();
            let of = |worker: WorkerOptions| (worker.id.to_string(), worker.args);
            list.workers.into_iter().map(of).collect::<Vec<_>>()
        };
        let alike = options(
            &["--workers", "2", "--device", "auto", "--reserve", "256"],
            NO_GPU,
        );
        assert_eq!(alike[1].0, "w2");
        assert_eq!(alike[1].1, ["--device", "cpu", "--reserve", "256"]);
        let mixed = options(
            &[
                "--worker",
                "name=small,device=sim:/tmp/small,engine-arg=--fault=oom@denoise",
                "--worker",
                "",
                "--device",
                "cpu",
            ],
            "",
        );
        assert_eq!(mixed[0].0, "small");
        assert_eq!(
            mixed[0].1,
            ["--device=sim:/tmp/small", "--engine-arg=--fault=oom@denoise"]
        );
        assert_eq!(mixed[1].0, "w2");
        assert_eq!(mixed[1].1, ["--device", "cpu"]);
        assert!(try_choose(&["--worker", "name=a", "--worker", "name=a"], "").is_err());
        assert!(try_choose(&["--worker", "fast"], "").is_err());
    }
}
