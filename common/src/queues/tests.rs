use std::collections::BTreeSet;

use super::*;
use proptest::prelude::*;

fn names(available: &Available) -> Vec<String> {
    fitting(available, None, &Tags::NONE)
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn tags(list: &[&str]) -> Tags {
    Tags::new(list.iter().map(|text| text.parse().unwrap())).unwrap()
}

fn gpu(device_mib: u64) -> RenderMemory {
    RenderMemory {
        host_mib: None,
        device_mib: Some(device_mib),
    }
}

#[test]
fn queues_are_in_order_of_priority_then_of_size() {
    let available = Available {
        analyze: true,
        memory: gpu(2 * 1024 + 100),
    };
    let classes = ["g02", "g1536m", "g01", "g512m", "analyze"];
    let expected = (0..PRIORITIES).flat_map(|priority| classes.map(|class| format!("{class}-p{priority}")));
    assert_eq!(names(&available), expected.collect::<Vec<_>>());
}

#[test]
fn no_queue_fits_a_worker_without_free_memory() {
    assert_eq!(fitting(&Available::default(), None, &Tags::NONE), []);
    let too_small = Available {
        analyze: false,
        memory: RenderMemory {
            host_mib: Some(255),
            device_mib: Some(511),
        },
    };
    let kind = Some(NumericKind::of("some machine"));
    assert_eq!(fitting(&too_small, kind, &tags(&["eu"])), []);
}

#[test]
fn every_queue_is_read_from_its_own_text() {
    let everything = Available {
        analyze: true,
        memory: RenderMemory {
            host_mib: Some(u64::MAX),
            device_mib: Some(u64::MAX),
        },
    };
    // Some of these look like other parts of a name.
    let tags = tags(&["eu", "k00000001", "p1", "g04", "eu-k00000001-p1"]);
    let all = fitting(&everything, Some(NumericKind::of("some machine")), &tags);
    let lanes = 1 + 2 * (CPU_CLASSES_MIB.len() + GPU_CLASSES_MIB.len());
    assert_eq!(all.len(), 6 * lanes * usize::from(PRIORITIES));
    let names: BTreeSet<String> = all.iter().map(ToString::to_string).collect();
    assert_eq!(names.len(), all.len(), "each has a name of its own");
    for queue in all {
        assert_eq!(queue.to_string().parse::<Queue>().unwrap(), queue);
        assert_eq!(queue.lane.to_string().parse::<Lane>().unwrap(), queue.lane);
    }
}

#[test]
fn tasks_for_the_own_kind_come_before_others_of_their_class() {
    let kind = NumericKind::of("some machine");
    let available = Available {
        analyze: true,
        memory: gpu(1024),
    };
    let expected = [
        format!("g01-{kind}-p0"),
        "g01-p0".to_owned(),
        format!("g512m-{kind}-p0"),
        "g512m-p0".to_owned(),
        "analyze-p0".to_owned(),
    ];
    let queues = fitting(&available, Some(kind), &Tags::NONE);
    let queues: Vec<String> = queues[..5].iter().map(ToString::to_string).collect();
    assert_eq!(queues, expected);
}

#[test]
fn a_worker_pulls_from_the_queues_of_its_tags_before_those_of_all_workers() {
    let kind = NumericKind::of("some machine");
    let available = Available {
        analyze: true,
        memory: gpu(512),
    };
    let expected = [
        format!("g512m-{kind}+eu-p0"),
        "g512m+eu-p0".to_owned(),
        format!("g512m-{kind}+nvenc-p0"),
        "g512m+nvenc-p0".to_owned(),
        format!("g512m-{kind}-p0"),
        "g512m-p0".to_owned(),
        "analyze+eu-p0".to_owned(),
        "analyze+nvenc-p0".to_owned(),
        "analyze-p0".to_owned(),
    ];
    let queues = fitting(&available, Some(kind), &tags(&["nvenc", "eu"]));
    let queues: Vec<String> = queues[..9].iter().map(ToString::to_string).collect();
    assert_eq!(queues, expected);
}

#[test]
fn text_forms_are_padded_to_two_digits() {
    let texts = [
        (ResourceClass::Gpu(4096), "g04"),
        (ResourceClass::Gpu(141 * 1024), "g141"),
        (ResourceClass::Cpu(2048), "cpu02"),
        (ResourceClass::Cpu(512), "cpu512m"),
        (ResourceClass::Gpu(1536), "g1536m"),
    ];
    for (class, text) in texts {
        assert_eq!(class.to_string(), text);
    }
    let wrong = [
        "g4",
        "g05",
        "g004",
        "cpu2",
        "gpu04",
        "",
        "analyze-p1",
        "*",
        "cpu512",
        "cpu2048m",
        "g4m",
    ];
    for text in wrong {
        assert!(text.parse::<ResourceClass>().is_err(), "{text}");
    }
    for text in [
        "g04",
        "g04-p3",
        "g04-1",
        "g04-p01",
        "g05-p1",
        "g04-k12-p1",
        "g04-k0000000g-p1",
        "g04-k00000001-k00000001-p1",
        "g04+-p1",
        "g04+eu",
        "g04+EU-p1",
        "g04+eu+us-p1",
        "g04+eu.us-p1",
        "g04-+eu-p1",
        "+eu-p1",
    ] {
        assert!(text.parse::<Queue>().is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn the_class_of_a_need_is_asked_by_whoever_has_that_much_free(need_mib in 1_u64..141 * 1024) {
        let Some(class @ ResourceClass::Gpu(_)) = ResourceClass::gpu_for(need_mib) else {
            return Err(TestCaseError::fail("every need up to the largest class has one"));
        };
        prop_assert!(class.mib() >= need_mib);
        let available = Available { analyze: false, memory: gpu(class.mib()) };
        prop_assert_eq!(fitting(&available, None, &Tags::NONE)[0].lane.class, class);
    }
}

#[test]
fn small_needs_have_small_classes() {
    let cpu = |need_mib| ResourceClass::cpu_for(need_mib).unwrap().mib();
    assert_eq!([1, 130, 257, 1100, 1537].map(cpu), [256, 256, 512, 1536, 2048]);
    let small = Available {
        analyze: false,
        memory: RenderMemory {
            host_mib: Some(700),
            device_mib: None,
        },
    };
    assert_eq!(names(&small)[..2], ["cpu512m-p0", "cpu256m-p0"]);
}

#[test]
fn a_need_beyond_the_largest_class_has_none() {
    assert_eq!(ResourceClass::gpu_for(141 * 1024 + 1), None);
    assert_eq!(
        ResourceClass::cpu_for(64 * 1024),
        Some(ResourceClass::Cpu(64 * 1024))
    );
    assert_eq!(ResourceClass::cpu_for(64 * 1024 + 1), None);
}
