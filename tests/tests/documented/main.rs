//! Every command that a page, a help text or a message prints is run as it is printed, or stands in a table
//! with the reason why it is not.

mod farm_table;
mod literals;
mod runner;
mod served_table;
mod sources;
mod table;

use std::collections::BTreeSet;
use std::process::Command;

use farm_tests::program;

use farm_table::{IN_A_FARM, WITHOUT_KEYS};
use runner::Runner;
use served_table::SERVED;
use sources::is_synopsis;
use table::{AT_LENGTH, How, MEASURING, NOT_RUN, ON_ONE_MACHINE, WHILE_RENDERING};

#[test]
fn every_printed_command_is_in_the_table() {
    let printed = sources::collect(&sources::help_texts());
    let stories = [
        ON_ONE_MACHINE,
        MEASURING,
        WHILE_RENDERING,
        IN_A_FARM,
        SERVED,
        WITHOUT_KEYS,
        AT_LENGTH,
    ];
    let rows = stories
        .into_iter()
        .flatten()
        .filter(|(_, how)| !matches!(how, How::Prepares | How::PreparesUntil(_)));
    let run = rows.map(|&(command, _)| command);
    let table: BTreeSet<&str> = run.chain(NOT_RUN.iter().map(|&(command, _)| command)).collect();
    let escaped: Vec<_> = printed
        .iter()
        // `common/tests/media_in` runs what a refusal of a file advises.
        .filter(|(command, _)| !is_synopsis(command) && !command.starts_with("ffmpeg "))
        .filter(|(command, _)| !table.contains(command.as_str()))
        .collect();
    assert!(escaped.is_empty(), "printed, but not in table.rs: {escaped:#?}");
    let stale: Vec<_> = table
        .iter()
        .filter(|&&command| !printed.contains_key(command))
        .collect();
    assert!(stale.is_empty(), "in table.rs, but printed nowhere: {stale:#?}");
}

#[test]
fn printed_options_and_scripts_exist() {
    let help = sources::help_texts();
    for (command, places) in sources::collect(&help) {
        for script in command
            .split(' ')
            .filter(|word| word.starts_with("deploy/") || word.starts_with(".ci/"))
        {
            assert!(
                sources::root().join(script).is_file(),
                "`{command}` in {places:?}"
            );
        }
        let Some(start) = command
            .find("latentfarm")
            .filter(|_| !command.starts_with("nats-server"))
        else {
            continue;
        };
        let mut name = String::new();
        for word in command[start..].split(' ') {
            let longer = format!("{name} {word}");
            let Some(known) = help.keys().find(|known| **known == longer.trim_start()) else {
                break;
            };
            known.clone_into(&mut name);
        }
        let Some(text) = help.get(&name) else { continue };
        for option in command
            .split([' ', '[', ']', '='])
            .filter(|word| word.starts_with("--"))
        {
            let listed = text.split([' ', ',', '\n']).any(|word| word == option);
            assert!(listed, "`{command}` in {places:?}: {name} has no {option}");
        }
    }
}

#[test]
fn commands_for_one_machine_work() {
    Runner::new().run(ON_ONE_MACHINE);
}

#[test]
fn measurements_work() {
    Runner::with_weights().run(MEASURING);
}

#[test]
fn a_running_render_can_be_watched() {
    Runner::with_weights().run(WHILE_RENDERING);
}

#[test]
fn commands_for_a_farm_work() {
    Runner::with_weights().run(IN_A_FARM);
}

#[test]
fn commands_for_a_farm_with_a_coordinator_work() {
    Runner::with_weights().run(SERVED);
}

#[test]
fn commands_for_a_farm_without_keys_work() {
    Runner::with_weights().run(WITHOUT_KEYS);
}

#[test]
#[ignore = "takes minutes, and 2.5 GiB of disk"]
fn commands_that_take_long_work() {
    Runner::with_weights().run(AT_LENGTH);
}

/// A bug report that quotes the line says what was run.
#[test]
fn version_names_the_program_its_version_and_its_commit() {
    let head = Command::new("git")
        .args(["rev-parse", "HEAD"])
        .current_dir(sources::root())
        .output();
    let head = head.ok().filter(|output| output.status.success());
    for name in ["latentfarm", "latentfarm-worker", "latentfarm-engine"] {
        let output = Command::new(program(name))
            .arg("--version")
            .output()
            .expect("run a program");
        let text = String::from_utf8(output.stdout).expect("text");
        let version = concat!(" ", env!("CARGO_PKG_VERSION"));
        let rest = text
            .trim_end()
            .strip_prefix(name)
            .and_then(|rest| rest.strip_prefix(version));
        let rest = rest.unwrap_or_else(|| panic!("{text}"));
        // Outside a repository there is no commit to name.
        let Some(head) = &head else {
            assert_eq!(rest, "");
            continue;
        };
        let commit = rest
            .strip_prefix(" (commit ")
            .and_then(|rest| rest.strip_suffix(')'));
        let commit = commit
            .unwrap_or_else(|| panic!("{text}"))
            .trim_end_matches("-dirty");
        let head = String::from_utf8_lossy(&head.stdout);
        assert!(
            commit.len() >= 10 && head.starts_with(commit),
            "{text} is not {head}"
        );
    }
}
