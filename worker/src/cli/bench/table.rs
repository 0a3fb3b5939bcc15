//! Prints a measurement of `bench` as a table, beside an earlier one if the user gave it.

use std::fmt::Write as _;

use latentfarm_engine::bench::{BenchReport, PartReport};

const MIB: f64 = 1_048_576.0;

/// Renders the report as text; `other` fills the columns that compare.
pub(super) fn render(report: &BenchReport, other: Option<&BenchReport>) -> String {
    let machine = &report.machine;
    let mut lines = vec![
        format!(
            "{} with {} cores, load average {:.1} at the start",
            machine.cpu, machine.cores, machine.load_average
        ),
        about(report),
        format!(
            "{}weights {}",
            report
                .weights
                .kind
                .mark()
                .map_or_else(String::new, |mark| format!("{mark}: ")),
            report.weights.identity
        ),
    ];
    if let Some(other) = other {
        lines.push(format!("compared with {}", about(other)));
        lines.extend(differences(report, other).map(|text| format!("NOT COMPARABLE: {text}")));
    }
    lines.push(String::new());
    lines.push(header(other.is_some()));
    lines.extend(report.parts.iter().map(|part| row(part, other)));
    lines.push(String::new());
    lines.extend(device_memory(report));
    lines.push("MiB: resident before the part ran (networks loaded, except for load and mel), and the peak on top of that.".to_owned());
    if report.parts.iter().any(|part| !part.peak_was_reset) {
        lines.push(
            "This kernel does not reset peaks: they are those of the whole process, loading included."
                .to_owned(),
        );
    }
    if other.is_some() {
        lines.push(
            "Ratio: the other report's median time divided by this one's; above 1, this run is faster."
                .to_owned(),
        );
    }
    lines.iter().fold(String::new(), |mut text, line| {
        let _infallible = writeln!(text, "{}", line.trim_end());
        text
    })
}

fn about(report: &BenchReport) -> String {
    let plan = match report.plan.as_str() {
        "" => String::new(),
        plan => format!(", memory plan {plan}"),
    };
    format!(
        "{}, {} threads, {} px, {} frames, {} steps{plan}",
        report.software, report.threads, report.resolution_px, report.frames, report.steps
    )
}

/// Lists the settings that differ although a fair comparison needs them equal.
fn differences(report: &BenchReport, other: &BenchReport) -> impl Iterator<Item = String> {
    [
        ("threads", report.threads, other.threads),
        ("px", report.resolution_px, other.resolution_px),
        ("frames", report.frames, other.frames),
        ("steps", report.steps as usize, other.steps as usize),
    ]
    .into_iter()
    .filter(|(_, ours, theirs)| ours != theirs)
    .map(|(what, ours, theirs)| format!("{ours} {what} here, {theirs} there"))
}

fn header(compared: bool) -> String {
    let mut text = format!(
        "{:<11}{:>10}{:>10}{:>10}{:>10}{:>9}{:>9}{:>10}",
        "part", "median s", "min s", "max s", "CPU s", "MiB", "+ MiB", "GFLOP/s"
    );
    if compared {
        let _infallible = write!(text, "{:>11}{:>9}{:>8}", "other s", "+ MiB", "ratio");
    }
    text
}

fn row(part: &PartReport, other: Option<&BenchReport>) -> String {
    let mut text = format!(
        "{:<11}{:>10}{:>10}{:>10}{:>10}{:>9.0}{:>9.0}{:>10}",
        part.part.name(),
        seconds(part.median()),
        seconds(part.min()),
        seconds(part.max()),
        part.cpu_seconds.map_or_else(String::new, seconds),
        part.baseline_bytes as f64 / MIB,
        part.extra_bytes() as f64 / MIB,
        part.gflop
            .map_or_else(String::new, |gflop| format!("{:.0}", gflop / part.median())),
    );
    let Some(other) = other else { return text };
    let _infallible = match other.part(part.part) {
        Some(other) => write!(
            text,
            "{:>11}{:>9.0}{:>8.2}",
            seconds(other.median()),
            other.extra_bytes() as f64 / MIB,
            other.median() / part.median()
        ),
        None => write!(text, "{:>11}", "-"),
    };
    text
}

/// Returns the table of the GPU's memory; nothing if the parts ran on the CPU.
fn device_memory(report: &BenchReport) -> Vec<String> {
    let measured = report.parts.iter().filter_map(|part| {
        let memory = part.device_memory.as_ref()?;
        Some((part.part.name(), memory))
    });
    let mib = |bytes: u64| format!("{:.0}", bytes as f64 / MIB);
    let mut lines: Vec<String> = measured
        .map(|(name, memory)| {
            format!(
                "{name:<11}{:>10}{:>10}{:>10}{:>12}{:>12}{:>12}",
                mib(memory.used_before),
                mib(memory.used_peak),
                mib(memory.reserved_peak),
                mib(memory.fragmented()),
                mib(memory.beside_pool),
                mib(memory.least_free),
            )
        })
        .collect();
    if lines.is_empty() {
        return lines;
    }
    let header = format!(
        "{:<11}{:>10}{:>10}{:>10}{:>12}{:>12}{:>12}",
        "GPU, MiB", "before", "in use", "reserved", "fragmented", "context", "least free"
    );
    lines.insert(0, header);
    lines.push(String::new());
    lines.push(
        "GPU: bytes in tensors before the part and at most, the most that the pool held, the difference of the two \
         peaks, what the context takes beside the pool, and the least that the driver had free."
            .to_owned(),
    );
    lines
}

/// Formats seconds with about four significant digits.
fn seconds(value: f64) -> String {
    let decimals = if value < 1.0 { 4 } else { 2 };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use latentfarm_common::wire::job::WeightsKind;
    use latentfarm_engine::bench::{DeviceMemoryUse, Part};

    fn report(seconds: f64) -> BenchReport {
        BenchReport {
            software: "software".to_owned(),
            threads: 2,
            parts: vec![PartReport {
                part: Part::Unet,
                seconds: vec![seconds],
                cpu_seconds: Some(3.0),
                baseline_bytes: 100 << 20,
                peak_bytes: 107 << 20,
                peak_was_reset: true,
                device_memory: None,
                gflop: Some(10.0),
            }],
            ..BenchReport::default()
        }
    }

    fn unet_row(text: &str) -> Vec<&str> {
        let line = text.lines().find(|line| line.starts_with("unet")).unwrap();
        line.split_whitespace().collect()
    }

    #[test]
    fn a_row_has_time_memory_and_rate() {
        let text = render(&report(2.0), None);
        assert_eq!(
            unet_row(&text),
            ["unet", "2.00", "2.00", "2.00", "3.00", "100", "7", "5"]
        );
        assert!(!text.contains("whole process"), "{text}");
    }

    #[test]
    fn the_memory_of_a_gpu_has_a_table_of_its_own() {
        let mut report = report(2.0);
        assert!(!render(&report, None).contains("fragmented"));
        report.parts[0].device_memory = Some(DeviceMemoryUse {
            used_before: 2600 << 20,
            used_peak: 3300 << 20,
            reserved_peak: 3904 << 20,
            beside_pool: 691 << 20,
            least_free: 138_000 << 20,
            total: 143_000 << 20,
        });
        let text = render(&report, None);
        let line = text
            .lines()
            .filter(|line| line.starts_with("unet"))
            .nth(1)
            .unwrap();
        let figures: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(figures, ["unet", "2600", "3300", "3904", "604", "691", "138000"]);
    }

    #[test]
    fn a_slower_other_gives_a_ratio_above_one() {
        let text = render(&report(2.0), Some(&report(3.0)));
        assert_eq!(unet_row(&text)[8..], ["3.00", "7", "1.50"]);
        assert!(!text.contains("NOT COMPARABLE"), "{text}");
    }

    #[test]
    fn reports_of_other_sizes_are_marked() {
        let other = BenchReport {
            threads: 4,
            parts: Vec::new(),
            ..report(3.0)
        };
        let text = render(&report(2.0), Some(&other));
        assert!(text.contains("NOT COMPARABLE: 2 threads here, 4 there"), "{text}");
        assert_eq!(unet_row(&text)[8..], ["-"]);
    }

    #[test]
    fn synthetic_weights_and_unreset_peaks_are_marked() {
        let mut report = report(2.0);
        report.weights.kind = WeightsKind::Synthetic;
        report.parts[0].peak_was_reset = false;
        let text = render(&report, None);
        assert!(
            text.contains("SYNTHETIC WEIGHTS") && text.contains("whole process"),
            "{text}"
        );
    }
}
