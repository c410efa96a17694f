//! What happened, as a hash always and as text where it is wanted.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use crate::testing::random::mix;

#[derive(Default)]
pub(super) struct Trace {
    pub(super) hash: u64,
    pub(super) counters: BTreeMap<&'static str, u64>,
    lines: VecDeque<String>,
    keep_lines: usize,
    print: bool,
}

impl Trace {
    pub(super) fn new(keep_lines: usize, print: bool) -> Self {
        Self { keep_lines, print, ..Self::default() }
    }

    /// Something happened; `numbers` say what, so that two runs that differ differ in their hash.
    pub(super) fn mark(&mut self, numbers: [u64; 4]) {
        for number in numbers {
            self.hash = mix(self.hash.rotate_left(7) ^ number);
        }
    }

    pub(super) fn count(&mut self, name: &'static str) {
        *self.counters.entry(name).or_default() += 1;
    }

    pub(super) const fn wants_lines(&self) -> bool {
        self.print || self.keep_lines > 0
    }

    /// A line in fixed columns: the event's number, the time in milliseconds, the node, what, and of what.
    pub(super) fn line(&mut self, event: u64, now: u64, node: usize, what: &str, detail: impl fmt::Display) {
        if !self.wants_lines() {
            return;
        }
        let node = if node == usize::MAX { "-".to_owned() } else { (node + 1).to_string() };
        let (ms, us) = (now / 1000, now % 1000);
        let line = format!("{event:>7} {ms:>8}.{us:03} {node:>2} {what:<9} {detail}");
        if self.print {
            #[expect(clippy::print_stdout, reason = "this is what was asked for")]
            {
                println!("{line}");
            }
        }
        if self.lines.len() >= self.keep_lines.max(1) {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    pub(super) fn take_lines(&mut self) -> Vec<String> {
        if self.keep_lines == 0 { Vec::new() } else { std::mem::take(&mut self.lines).into() }
    }
}
