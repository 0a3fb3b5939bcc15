//! Filters the GPUs and partitions that the driver lists by `CUDA_VISIBLE_DEVICES`, as CUDA does.

use super::reading::Gpu;

/// Returns the GPUs that `CUDA_VISIBLE_DEVICES` names, in its order; all GPUs if it is not set. Its entries
/// are indices in the order of `nvidia-smi`, beginnings of UUIDs, or UUIDs of partitions. As in CUDA, the
/// first entry that names no GPU ends the list, and an empty variable hides every GPU. An entry for a GPU
/// that is divided into MIG partitions stands for all of them, as an engine can compute on a single partition
/// only.
pub(super) fn visible(listed: &[Gpu], variable: Option<&str>) -> Vec<Gpu> {
    let usable = |gpu: &&Gpu| !gpu.is_partitioned;
    let Some(variable) = variable else {
        return listed.iter().filter(usable).cloned().collect();
    };
    let mut chosen: Vec<Gpu> = Vec::new();
    for entry in variable.split(',').map(str::trim) {
        let named: Vec<&Gpu> = listed.iter().filter(|gpu| names(entry, gpu)).collect();
        if named.is_empty() {
            break;
        }
        for gpu in named.into_iter().filter(usable) {
            if chosen.iter().all(|other| other.uuid != gpu.uuid) {
                chosen.push(gpu.clone());
            }
        }
    }
    chosen
}

/// Returns true if an entry of the variable names this GPU, or the one that it is a partition of.
fn names(entry: &str, gpu: &Gpu) -> bool {
    if let Ok(number) = entry.parse::<u32>() {
        return number == gpu.number;
    }
    let begins = |uuid: &str| {
        let given = entry.to_ascii_lowercase();
        given.len() > "gpu-".len() && uuid.to_ascii_lowercase().starts_with(&given)
    };
    begins(&gpu.uuid) || gpu.parent.as_deref().is_some_and(begins)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(number: u32, parent: &str, uuid: &str) -> Gpu {
        Gpu {
            parent: Some(parent.to_owned()),
            ..Gpu::for_tests(number, uuid)
        }
    }

    fn machine() -> Vec<Gpu> {
        let whole = Gpu {
            is_partitioned: true,
            ..Gpu::for_tests(2, "GPU-cccc")
        };
        vec![
            Gpu::for_tests(0, "GPU-aaaa-1"),
            Gpu::for_tests(1, "GPU-bbbb-2"),
            whole,
            partition(2, "GPU-cccc", "MIG-dddd"),
            partition(2, "GPU-cccc", "MIG-eeee"),
        ]
    }

    #[test]
    fn the_variable_chooses_and_orders() {
        let cases: [(Option<&str>, &[&str]); 12] = [
            (None, &["GPU-aaaa-1", "GPU-bbbb-2", "MIG-dddd", "MIG-eeee"]),
            (Some(""), &[]),
            (Some("-1"), &[]),
            (Some("NoDevFiles"), &[]),
            (Some("1,0"), &["GPU-bbbb-2", "GPU-aaaa-1"]),
            (Some("GPU-bb"), &["GPU-bbbb-2"]),
            (Some("gpu-BBBB-2"), &["GPU-bbbb-2"]),
            (Some("GPU-"), &[]),
            (Some("MIG-eeee"), &["MIG-eeee"]),
            (Some("2"), &["MIG-dddd", "MIG-eeee"]),
            (Some("0,7,1"), &["GPU-aaaa-1"]),
            (Some("0,GPU-aaaa-1"), &["GPU-aaaa-1"]),
        ];
        for (variable, expected) in cases {
            let found: Vec<String> = visible(&machine(), variable)
                .into_iter()
                .map(|gpu| gpu.uuid)
                .collect();
            assert_eq!(found, expected, "{variable:?}");
        }
    }
}
