//! Keeps the floors of `docs/architecture.md`: a file uses only what lies below it, and nothing below the runtime touches a
//! clock, a thread, a lock, a global random source, or an order that is not fixed.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

/// The floor of each module: a file, or a folder with all in it. A new module must be given its floor here.
const FLOORS: &[(&str, u8)] = &[
    ("types", 0),
    ("membership", 0),
    ("message", 0),
    ("session", 0),
    ("config", 0),
    ("codec", 0),
    ("random", 0),
    ("write", 0),
    ("log", 1),
    ("progress", 1),
    ("session_table", 1),
    ("engine", 2),
    ("log_store", 3),
    ("transport", 3),
    ("state_machine", 3),
    ("machine", 3),
    ("offline", 3),
    ("mem", 4),
    ("runtime", 4),
    ("raft", 5),
    ("client", 5),
    ("testing", 6),
];

/// The first floor on which time and tasks are real.
const RUNTIME: u8 = 4;

/// What would make a run depend on more than its inputs.
const NOT_BELOW_THE_RUNTIME: &[&str] = &[
    "Instant",
    "SystemTime",
    "thread",
    "Mutex",
    "RwLock",
    "Condvar",
    "Atomic",
    "OnceLock",
    "HashMap",
    "HashSet",
    "RandomState",
    "fastrand",
    "getrandom",
    "rand::",
    "tokio",
    "static mut",
];

fn floor(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|&(_, floor)| floor)
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn identifier(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    &text[..end]
}

/// The modules that a line of code names by `crate::`, also as `crate::{a, b}`.
fn used(line: &str) -> Vec<&str> {
    line.match_indices("crate::")
        .flat_map(|(at, name)| {
            let rest = &line[at + name.len()..];
            match rest.strip_prefix('{') {
                Some(list) => list.split(',').map(|item| identifier(item.trim())).collect(),
                None => vec![identifier(rest)],
            }
        })
        .collect()
}

fn faults(file: &str, floor_of_file: u8, source: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for (number, line) in source.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let place = format!("{file}:{}", number + 1);
        for module in used(code) {
            match floor(module) {
                None => faults.push(format!("{place}: crate::{module} is on no floor")),
                Some(above) if above > floor_of_file => {
                    faults.push(format!("{place}: floor {floor_of_file} uses {module} on floor {above}"));
                }
                Some(_) => {}
            }
        }
        if floor_of_file < RUNTIME {
            for word in NOT_BELOW_THE_RUNTIME.iter().filter(|word| code.contains(*word)) {
                faults.push(format!("{place}: {word} below the runtime"));
            }
        }
    }
    faults
}

#[test]
fn every_file_uses_only_what_lies_below_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 20, "only {} files found", files.len());
    let mut all = Vec::new();
    for path in files {
        let relative = path.strip_prefix(&root).unwrap();
        let first = relative.components().next().unwrap().as_os_str().to_str().unwrap();
        let module = first.trim_end_matches(".rs");
        if module == "lib" {
            continue;
        }
        let name = relative.display().to_string();
        match floor(module) {
            Some(floor) => all.extend(faults(&name, floor, &fs::read_to_string(&path).unwrap())),
            None => all.push(format!("{name} is on no floor")),
        }
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}

#[test]
fn the_keeper_sees_what_it_must() {
    assert_eq!(faults("log/x.rs", 1, "use crate::engine::Engine;").len(), 1);
    assert_eq!(faults("engine/x.rs", 2, "let now = std::time::Instant::now();").len(), 1);
    assert_eq!(faults("engine/x.rs", 2, "use crate::{log, runtime};").len(), 1);
    assert_eq!(faults("engine/x.rs", 2, "use std::collections::HashMap; // crate::raft").len(), 1);
    assert_eq!(faults("engine/x.rs", 2, "use crate::log::Log; // a thread").len(), 0);
    assert_eq!(faults("runtime/x.rs", 4, "use std::time::Instant; use crate::engine::Engine;").len(), 0);
    assert_eq!(faults("types.rs", 0, "use crate::Surprise;").len(), 1);
}
