use super::*;

fn gpus(count: u32) -> Vec<Gpu> {
    let gpus = (0..count).map(|number| Gpu::for_tests(number, &format!("GPU-{number}")));
    gpus.collect()
}

fn inventory(gpus: Result<Vec<Gpu>, &str>, engine: bool) -> Inventory {
    let path = PathBuf::from("/opt/latentfarm-engine-cuda");
    Inventory {
        gpus: gpus.map_err(str::to_owned),
        cuda_engine: if engine { Ok(path) } else { Err(path) },
        failed: BTreeMap::new(),
    }
}

fn names(selectors: &str, inventory: &Inventory) -> Result<String, String> {
    let selectors: Vec<DeviceSelector> = selectors.split(',').map(|text| text.parse().unwrap()).collect();
    let chosen = resolve(&selectors, inventory).map_err(|error| error.to_string())?;
    let names: Vec<String> = chosen.devices.iter().map(ToString::to_string).collect();
    Ok(names.join(", ") + &chosen.note().map(|note| format!(" ({note})")).unwrap_or_default())
}

#[test]
fn auto_takes_every_gpu_and_the_cpu_only_where_there_is_none_or_it_is_asked_for() {
    let two = inventory(Ok(gpus(2)), true);
    assert_eq!(names("auto", &two).unwrap(), "cuda:0 NVIDIA L4, cuda:1 NVIDIA L4");
    assert_eq!(
        names("auto,cpu", &two).unwrap(),
        "cuda:0 NVIDIA L4, cuda:1 NVIDIA L4, cpu"
    );
    let none = inventory(Err("no NVIDIA driver on this machine"), true);
    assert_eq!(
        names("auto", &none).unwrap(),
        "cpu (no NVIDIA driver on this machine; renders on the CPU)"
    );
    assert_eq!(
        names("auto,cpu", &none).unwrap(),
        "cpu (no NVIDIA driver on this machine; renders on the CPU)"
    );
    let hidden = inventory(Ok(Vec::new()), true);
    assert_eq!(
        names("auto", &hidden).unwrap(),
        "cpu (no GPU is visible; renders on the CPU)"
    );
    let no_engine = inventory(Ok(gpus(1)), false);
    assert_eq!(
        names("auto", &no_engine).unwrap(),
        "cpu (there is a GPU (NVIDIA L4) but no CUDA engine `/opt/latentfarm-engine-cuda`; renders on the CPU)"
    );
}

#[test]
fn a_device_that_is_named_must_be_there_once() {
    let two = inventory(Ok(gpus(2)), true);
    assert_eq!(names("cuda:1", &two).unwrap(), "cuda:1 NVIDIA L4");
    assert_eq!(
        names("cuda:2", &two).unwrap_err(),
        "device `cuda:2` cannot be used: the visible GPUs are cuda:0 to cuda:1"
    );
    let none = inventory(Err("no NVIDIA driver on this machine"), true);
    assert_eq!(
        names("cuda:0", &none).unwrap_err(),
        "device `cuda:0` cannot be used: no NVIDIA driver on this machine"
    );
    assert_eq!(
        names("cuda:0,cuda:0", &two).unwrap_err(),
        "device `cuda:0 NVIDIA L4` is named twice"
    );
    assert_eq!(names("sim:/tmp/a.gpu,cpu", &none).unwrap(), "sim:a, cpu");
}

#[test]
fn a_gpu_that_failed_its_check_is_left_out_and_named() {
    let mut two = inventory(Ok(gpus(2)), true);
    two.failed
        .insert("GPU-1".to_owned(), "its driver hangs".to_owned());
    let select = |text: &str, inventory: &Inventory| {
        let selectors: Vec<DeviceSelector> = text.split(',').map(|text| text.parse().unwrap()).collect();
        let chosen = resolve(&selectors, inventory).unwrap();
        let devices: Vec<String> = chosen.devices.iter().map(ToString::to_string).collect();
        let failed: Vec<String> = chosen.failed.iter().map(FailedDevice::describe).collect();
        (devices.join(", "), failed.join(", "), chosen.note())
    };
    let hangs = "cuda:1 NVIDIA L4 cannot be used: its driver hangs".to_owned();
    let first = "cuda:0 NVIDIA L4".to_owned();
    assert_eq!(select("auto", &two), (first.clone(), hangs.clone(), None));
    assert_eq!(select("cuda:1,cuda:0", &two), (first, hangs.clone(), None));
    assert_eq!(select("cuda:1", &two), (String::new(), hangs.clone(), None));
    two.failed.insert("GPU-0".to_owned(), "it is full".to_owned());
    let full = "cuda:0 NVIDIA L4 cannot be used: it is full";
    assert_eq!(
        select("auto", &two),
        (
            "cpu".to_owned(),
            format!("{full}, {hangs}"),
            Some(format!("{full}; {hangs}; renders on the CPU"))
        )
    );
}

#[test]
fn a_gpu_or_a_partition_is_named_by_its_uuid_or_a_beginning_that_is_its_own() {
    let mut listed = gpus(2);
    listed[0].uuid = "GPU-5c1e-aa".to_owned();
    listed[1].uuid = "GPU-5c1f-bb".to_owned();
    listed.push(Gpu {
        uuid: "MIG-77".to_owned(),
        name: "NVIDIA H200 MIG 1g.18gb".to_owned(),
        number: 2,
        parent: Some("GPU-99".to_owned()),
        is_partitioned: false,
    });
    let three = inventory(Ok(listed), true);
    assert_eq!(names("GPU-5c1f-bb", &three).unwrap(), "cuda:1 NVIDIA L4");
    assert_eq!(names("GPU-5c1e", &three).unwrap(), "cuda:0 NVIDIA L4");
    assert_eq!(
        names("MIG-77,cpu", &three).unwrap(),
        "cuda:2 NVIDIA H200 MIG 1g.18gb, cpu"
    );
    assert_eq!(
        names("GPU-5c1", &three).unwrap_err(),
        "device `GPU-5c1` cannot be used: 2 GPUs have a UUID that begins so"
    );
    assert_eq!(
        names("GPU-99", &three).unwrap_err(),
        "device `GPU-99` cannot be used: the visible GPUs are GPU-5c1e-aa, GPU-5c1f-bb, MIG-77"
    );
    assert_eq!(
        names("GPU-5c1e,cuda:0", &three).unwrap_err(),
        "device `cuda:0 NVIDIA L4` is named twice"
    );
    let none = inventory(Err("no NVIDIA driver on this machine"), true);
    assert_eq!(
        names("GPU-5c1e", &none).unwrap_err(),
        "device `GPU-5c1e` cannot be used: no NVIDIA driver on this machine"
    );
}

#[test]
fn the_selector_of_a_device_names_it_again() {
    let two = inventory(Ok(gpus(2)), true);
    let list = ["cuda:1", "sim:/tmp/a.gpu", "cpu"].map(|text| text.parse().unwrap());
    let chosen = resolve(&list, &two).unwrap().devices;
    let selectors = chosen
        .iter()
        .map(|device| device.selector().parse::<DeviceSelector>().unwrap());
    let again = resolve(&selectors.collect::<Vec<_>>(), &two).unwrap().devices;
    assert_eq!(again, chosen);
}

#[test]
fn text_that_is_no_device_is_refused() {
    for text in [
        "", "gpu", "cuda", "cuda:", "cuda:x", "cuda:-1", "sim:", "cpu:0", "GPU-", "GPU-a b", "MIG",
    ] {
        assert!(text.parse::<DeviceSelector>().is_err(), "{text}");
    }
}
