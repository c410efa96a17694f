//! What processes take of the machine, as the system counts it.

use std::fs;
use std::time::Duration;

/// What one or several processes took since they were started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time on processors, of user and system together.
    pub cpu: Duration,
    /// Memory that is resident now.
    pub resident_bytes: u64,
    /// Bytes that were to be written to a device.
    pub written_bytes: u64,
}

impl Usage {
    /// Of this process.
    ///
    /// # Errors
    /// Where the system does not tell, such as on one without `/proc`.
    pub fn own() -> Result<Self, String> {
        Self::of(&[std::process::id()])
    }

    /// Of these processes together.
    ///
    /// # Errors
    /// Where one of them is not there, or the system does not tell.
    pub fn of(processes: &[u32]) -> Result<Self, String> {
        let mut sum = Self::default();
        for id in processes {
            let read = |name: &str| {
                let path = format!("/proc/{id}/{name}");
                fs::read_to_string(&path).map_err(|error| format!("cannot read {path}: {error}"))
            };
            let strange = || format!("the system tells of process {id} in a way that is not known");
            sum.cpu += cpu(&read("stat")?).ok_or_else(strange)?;
            sum.resident_bytes += named(&read("status")?, "VmRSS:").ok_or_else(strange)? * 1024;
            sum.written_bytes += named(&read("io")?, "write_bytes:").ok_or_else(strange)?;
        }
        Ok(sum)
    }

    /// What was taken since `earlier`; the memory is that of now.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            resident_bytes: self.resident_bytes,
            written_bytes: self.written_bytes.saturating_sub(earlier.written_bytes),
        }
    }
}

/// Processes that are looked at again and again. One may end meanwhile: what it had taken by then goes on to count.
#[derive(Debug)]
pub struct Watch(Vec<Watched>);

#[derive(Debug)]
struct Watched {
    id: u32,
    seen: Usage,
    ended: bool,
}

impl Watch {
    /// Processes that run now.
    ///
    /// # Errors
    /// Where one of them is not there, or the system does not tell.
    pub fn new(processes: &[u32]) -> Result<Self, String> {
        let watched = |&id: &u32| match Usage::of(&[id]) {
            Ok(seen) => Ok(Watched { id, seen, ended: false }),
            Err(error) => Err(format!("process {id} cannot be watched: {error}")),
        };
        processes.iter().map(watched).collect::<Result<_, String>>().map(Self)
    }

    /// What all of them took so far.
    pub fn look(&mut self) -> Usage {
        let mut sum = Usage::default();
        for process in &mut self.0 {
            match Usage::of(&[process.id]) {
                Ok(usage) if !process.ended => process.seen = usage,
                // Another may have got its number.
                _ => (process.ended, process.seen.resident_bytes) = (true, 0),
            }
            sum.cpu += process.seen.cpu;
            sum.resident_bytes += process.seen.resident_bytes;
            sum.written_bytes += process.seen.written_bytes;
        }
        sum
    }

    /// How many have ended.
    pub fn ended(&self) -> usize {
        self.0.iter().filter(|process| process.ended).count()
    }
}

/// Linux counts processor time for users in hundredths of a second on every architecture.
const TICK: Duration = Duration::from_millis(10);

/// Processor time in `/proc/<id>/stat`. The second field, a name in parentheses, may hold anything.
fn cpu(text: &str) -> Option<Duration> {
    let fields: Vec<&str> = text.get(text.rfind(')')? + 1..)?.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    // Fields 14 and 15, counted from 1; the first after the name is the third.
    let ticks = number(11)? + number(12)?;
    Some(TICK * u32::try_from(ticks).ok()?)
}

/// The number behind a name at the start of a line.
fn named(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_anything_in_it_is_skipped() {
        let text = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 4 0 99 1000 77";
        assert_eq!(cpu(text), Some(Duration::from_secs(3)));
        assert_eq!(cpu("12 (a) S 1"), None);
        assert_eq!(named("rchar: 5\nwrite_bytes: 4096\n", "write_bytes:"), Some(4096));
        assert_eq!(named("VmRSS:\t   12 kB\n", "VmRSS:"), Some(12));
    }

    #[test]
    fn this_process_takes_something() {
        let before = Usage::own().unwrap();
        assert!(before.resident_bytes > 1 << 20);
        let mut spun = 0_u64;
        while Usage::own().unwrap().since(before).cpu < TICK {
            spun = std::hint::black_box(spun + 1);
        }
        assert!(Usage::of(&[u32::MAX]).is_err());
    }

    #[test]
    fn what_a_process_took_counts_on_after_its_end() {
        let mut shell = std::process::Command::new("sh");
        let mut child = shell.args(["-c", "read line"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        let mut watch = Watch::new(&[child.id(), std::process::id()]).unwrap();
        let before = watch.look();
        assert_eq!(watch.ended(), 0);
        drop(child.stdin.take());
        child.wait().unwrap();
        let after = watch.look();
        assert_eq!(watch.ended(), 1);
        assert!(after.cpu >= before.cpu && after.written_bytes >= before.written_bytes);
        assert!(Watch::new(&[child.id()]).unwrap_err().contains("cannot be watched"));
    }
}
