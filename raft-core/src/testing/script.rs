//! Scripts: text files that drive named nodes step by step and hold the expected output.
//!
//! A file is a sequence of steps. A step is one command a line, a line `----`, and the output that the commands must
//! give, up to an empty line. Lines that begin with `#` between steps are comments. The commands are listed in
//! `docs/testing.md`; the output has a line for each message sent, write begun, entry applied and event, in the order
//! in which they happened. The invariants of [`super::invariants`] are checked after every command.

mod commands;
mod parse;
mod stage;

use std::path::{Path, PathBuf};

use crate::engine::Planted;

/// The environment variable that rewrites the expected output to what comes out.
pub const REWRITE_VARIABLE: &str = "RAFT_REWRITE_SCRIPTS";

/// Runs every `.txt` file of a directory and its subdirectories, in order of their names. With
/// [`REWRITE_VARIABLE`] set, rewrites their expected output instead of comparing it. Returns how many there were.
///
/// # Errors
/// Names every file whose output differs, with the first line that does.
pub fn run_directory(directory: &Path) -> Result<usize, String> {
    let mut files = Vec::new();
    find(directory, &mut files).map_err(|e| format!("{}: {e}", directory.display()))?;
    files.sort();
    let rewrite = std::env::var_os(REWRITE_VARIABLE).is_some();
    let mut failures = Vec::new();
    for file in &files {
        let result = std::fs::read_to_string(file).map_err(|e| e.to_string()).and_then(|text| {
            let actual = run(&text)?;
            if rewrite && actual != text {
                return std::fs::write(file, actual).map_err(|e| e.to_string());
            }
            if rewrite { Ok(()) } else { compare(&text, &actual) }
        });
        if let Err(failure) = result {
            failures.push(format!("{}: {failure}", file.display()));
        }
    }
    if failures.is_empty() { Ok(files.len()) } else { Err(failures.join("\n")) }
}

/// Runs one script and gives it back with the output that came out.
///
/// # Errors
/// Where the text is no script. A broken invariant is not an error but shows in the output, where it ends the script.
pub fn run(text: &str) -> Result<String, String> {
    play(text, None)
}

/// The files of a directory and its subdirectories whose scripts end otherwise with a bug in every engine: those that
/// would catch it.
///
/// # Errors
/// Where a file cannot be read.
pub fn catching(directory: &Path, bug: Planted) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    find(directory, &mut files).map_err(|e| format!("{}: {e}", directory.display()))?;
    files.sort();
    let mut catching = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        if play(&text, Some(bug)).as_ref() != Ok(&text) {
            catching.push(file);
        }
    }
    Ok(catching)
}

fn play(text: &str, planted: Option<Planted>) -> Result<String, String> {
    let mut stage = stage::Stage::new(planted);
    let mut result = String::new();
    for part in parse::parts(text)? {
        match part {
            parse::Part::Between(lines) => result.push_str(&lines),
            parse::Part::Step { number, commands } => {
                for (offset, line) in commands.iter().enumerate() {
                    commands::run(line, &mut stage)
                        .map_err(|wrong| format!("line {}: {line}: {wrong}", number + offset))?;
                    result.push_str(line);
                    result.push('\n');
                }
                result.push_str("----\n");
                for line in stage.take_output() {
                    result.push_str(line.trim_end());
                    result.push('\n');
                }
            }
        }
    }
    Ok(result)
}

fn compare(expected: &str, actual: &str) -> Result<(), String> {
    for (number, (expected, actual)) in (1..).zip(pairs(expected, actual)) {
        if expected != actual {
            return Err(format!(
                "line {number} differs ({REWRITE_VARIABLE}=1 takes the new output)\n  expected: {}\n  actual:   {}",
                expected.unwrap_or("(the end)"),
                actual.unwrap_or("(the end)")
            ));
        }
    }
    Ok(())
}

fn pairs<'a>(a: &'a str, b: &'a str) -> impl Iterator<Item = (Option<&'a str>, Option<&'a str>)> {
    let (mut a, mut b) = (a.lines(), b.lines());
    std::iter::from_fn(move || match (a.next(), b.next()) {
        (None, None) => None,
        pair => Some(pair),
    })
}

fn find(directory: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "txt") {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_differing_line_is_named() {
        let wrong = compare("a\nb\nc\n", "a\nx\nc\n").unwrap_err();
        assert!(wrong.starts_with("line 2 differs"), "{wrong}");
        assert!(wrong.contains("expected: b") && wrong.contains("actual:   x"), "{wrong}");
        assert!(compare("a\n", "a\nb\n").is_err());
        assert!(compare("a\nb\n", "a\nb\n").is_ok());
    }

    #[test]
    fn an_unknown_command_is_named_with_its_line() {
        let wrong = run("# a script\n\ncluster 1\nfly 1\n----\n").unwrap_err();
        assert!(wrong.starts_with("line 4: fly 1: "), "{wrong}");
    }
}
