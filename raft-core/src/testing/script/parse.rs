//! The shape of a script file.

/// A piece of a script.
pub(super) enum Part {
    /// Comments and empty lines, kept as they are.
    Between(String),
    /// Commands; their first line's number.
    Step { number: usize, commands: Vec<String> },
}

/// Takes a script apart. Expected output is left out: it is compared as text.
pub(super) fn parts(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut lines = (1..).zip(text.lines()).peekable();
    while let Some((number, line)) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            parts.push(Part::Between(format!("{line}\n")));
            continue;
        }
        let mut commands = vec![line.to_owned()];
        loop {
            match lines.next() {
                Some((_, "----")) => break,
                Some((_, command)) if !command.is_empty() => commands.push(command.to_owned()),
                _ => return Err(format!("line {number}: the commands do not end with ----")),
            }
        }
        while lines.next_if(|(_, line)| !line.is_empty()).is_some() {}
        parts.push(Part::Step { number, commands });
    }
    Ok(parts)
}
