//! What `docs/writing-a-transport.md` shows is what is compiled.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

const PAGE: &str = include_str!("../../docs/writing-a-transport.md");

const SOURCES: [&str; 4] = [
    include_str!("../src/transports/tcp.rs"),
    include_str!("../src/transports/tcp/frames.rs"),
    include_str!("../src/transports/tls.rs"),
    include_str!("tcp.rs"),
];

#[test]
fn every_excerpt_is_in_the_sources() {
    let mut blocks = 0;
    for block in PAGE.split("```rust\n").skip(1) {
        let excerpt = block.split("```").next().unwrap();
        assert!(SOURCES.iter().any(|source| source.contains(excerpt)), "in no source:\n{excerpt}");
        blocks += 1;
    }
    assert!(blocks >= 8, "only {blocks} excerpts were found");
}

/// Each `cargo run` of the page names its program, or means the one that the manifest names.
#[test]
fn the_commands_of_the_readme_name_a_program_that_is_there() {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let cargo = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--no-deps", "--format-version", "1", "--manifest-path", manifest])
        .output()
        .unwrap();
    assert!(cargo.status.success(), "{cargo:?}");
    let metadata: serde_json::Value = serde_json::from_slice(&cargo.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == "raft-bench").unwrap();
    let mut commands = 0;
    for command in include_str!("../README.md").split('`').filter(|text| text.starts_with("cargo run")) {
        let words: Vec<&str> = command.split(' ').collect();
        let after = |flag: &str| Some(words[words.iter().position(|word| *word == flag)? + 1]);
        if after("-p") != Some("raft-bench") {
            continue;
        }
        let program = after("--bin").or(package["default_run"].as_str());
        let program = program.unwrap_or_else(|| panic!("cargo does not know which one to run: {command}"));
        let targets = package["targets"].as_array().unwrap();
        let target = targets.iter().find(|t| t["name"] == program && t["kind"][0] == "bin").unwrap();
        for needed in target["required-features"].as_array().into_iter().flatten() {
            assert_eq!(after("--features"), needed.as_str(), "{command}");
        }
        commands += 1;
    }
    assert!(commands >= 4, "only {commands} commands were found");
}

/// The lines of code in the first program of a page: no blank lines, and none with a comment only.
fn program(page: &str) -> Vec<&str> {
    let block = page.split("```rust\n").nth(1).unwrap().split("```").next().unwrap();
    block.lines().filter(|line| !line.trim().is_empty() && !line.trim().starts_with("//")).collect()
}

/// It is compiled and run as a documentation test of this crate.
#[test]
fn the_durable_program_of_the_readme_is_short() {
    let lines = program(include_str!("../../README.md"));
    for part in ["RedbLogStore", "QuicTransport", "impl Machine", "propose", "read", "shutdown", "1..=3"] {
        assert!(lines.iter().any(|line| line.contains(part)), "{part}");
    }
    assert!(lines.len() <= 35, "{} lines", lines.len());
    assert!(lines.iter().all(|line| line.chars().count() <= 130), "a line holds too much");
}

/// It is compiled and run as a documentation test of raft-core.
#[test]
fn the_program_in_one_process_is_short() {
    let lines = program(include_str!("../../raft-core/README.md"));
    let main = lines.iter().position(|line| line.contains("fn main")).unwrap();
    let body = &lines[main + 1..lines.len() - 1];
    for part in ["1..=3", "bootstrap", "propose", "read"] {
        assert!(body.iter().any(|line| line.contains(part)), "{part}");
    }
    assert!(body.len() <= 12, "{} lines", body.len());
}
