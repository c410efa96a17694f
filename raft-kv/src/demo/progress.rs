//! What the demo tells on stderr while it works: a bar on a terminal, else a line now and then.

use std::io::{self, IsTerminal, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a line tells how far it is, where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(2);

/// The demo's voice.
#[derive(Debug)]
pub(super) struct Progress {
    began: Instant,
    terminal: bool,
    bar: Option<ProgressBar>,
    what: &'static str,
    total: u64,
    told: Instant,
}

impl Progress {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let terminal = io::stderr().is_terminal();
        Self { began: now, terminal, bar: None, what: "", total: 0, told: now }
    }

    /// Tells that something happened.
    pub(super) fn say(&self, what: &str) {
        let line = format!("[{:6.2} s] {what}", self.began.elapsed().as_secs_f64());
        match &self.bar {
            Some(bar) => bar.suspend(|| write_line(&line)),
            None => write_line(&line),
        }
    }

    /// Begins to count up to `total`.
    pub(super) fn begin(&mut self, what: &'static str, total: usize) {
        self.end();
        (self.what, self.total, self.told) = (what, total as u64, Instant::now());
        if self.terminal {
            let bar = ProgressBar::with_draw_target(Some(self.total), ProgressDrawTarget::stderr_with_hz(10));
            let style =
                ProgressStyle::with_template("{msg:>10} {wide_bar} {human_pos}/{human_len} {per_sec}");
            // The template is fixed; were it wrong, the usual bar would do.
            if let Ok(style) = style {
                bar.set_style(style);
            }
            bar.set_message(what);
            self.bar = Some(bar);
        }
    }

    /// Tells how far it is.
    pub(super) fn at(&mut self, count: usize) {
        if let Some(bar) = &self.bar {
            bar.set_position(count as u64);
        } else if self.told.elapsed() >= LINE_INTERVAL {
            self.told = Instant::now();
            self.say(&format!("{} {count} of {}", self.what, self.total));
        }
    }

    /// Takes the bar away.
    pub(super) fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

fn write_line(line: &str) {
    // If nobody can read it, the work goes on.
    let _ = writeln!(io::stderr(), "{line}");
}
