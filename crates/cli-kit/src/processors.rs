use std::time::Duration;

/// How long the other programs are watched.
const WATCH: Duration = Duration::from_millis(200);

/// Processors of this machine, as Linux reports them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Processors {
    /// Those of the machine.
    pub of_machine: usize,
    /// Those that this process may use: its affinity and its control group's quota are counted in.
    pub usable: usize,
    /// Mean number of processors that other programs kept busy while this was measured; `None` if it is not known.
    pub busy: Option<f64>,
}

impl Processors {
    /// Those of this machine, now. Takes a fifth of a second, in which the process should do nothing else.
    pub fn here() -> Self {
        let usable = std::thread::available_parallelism().map_or(1, usize::from);
        let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
        let of_machine = count(online.trim()).unwrap_or(usable);
        // Not the load average, which for minutes counts what has ended, such as the compilers that made this program.
        let before = Ticks::now();
        std::thread::sleep(WATCH);
        let share = before.zip(Ticks::now()).and_then(|(before, after)| after.busy_since(before));
        Self { of_machine, usable, busy: share.map(|share| share * of_machine as f64) }
    }

    /// What slows down a program with so many threads that starts now, one sentence each.
    ///
    /// - n_threads: those that compute, of all processes of the program
    pub fn notes(&self, n_threads: usize) -> Vec<String> {
        let Self { of_machine, usable, busy } = *self;
        let mut notes = Vec::new();
        if usable < of_machine {
            notes.push(format!(
                "this process may use {usable} of the machine's {of_machine} processors (affinity or the control group's quota)"
            ));
        }
        if n_threads > usable {
            notes.push(format!(
                "{n_threads} threads share {usable} processors, which is slower than one thread each"
            ));
        }
        // Of the whole machine, also where only some of its processors may be used.
        if let Some(busy) = busy
            && busy + n_threads.min(usable) as f64 > of_machine as f64 + 0.5
        {
            notes.push(format!(
                "other programs keep about {busy:.1} of {of_machine} processors busy, so that work takes longer than its figures say"
            ));
        }
        notes
    }
}

/// Time of all processors since the machine started, in clock ticks.
#[derive(Debug, Clone, Copy)]
struct Ticks {
    busy: u64,
    all: u64,
}

impl Ticks {
    fn now() -> Option<Self> {
        Self::of(&std::fs::read_to_string("/proc/stat").ok()?)
    }

    /// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, steal, and two parts of the first two.
    fn of(stat: &str) -> Option<Self> {
        let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(8);
        let ticks = fields.map(str::parse).collect::<Result<Vec<u64>, _>>().ok()?;
        let idle = ticks.get(3)? + ticks.get(4)?;
        let all: u64 = ticks.iter().sum();
        Some(Self { busy: all - idle, all })
    }

    /// Share of the time since then in which a processor was busy.
    fn busy_since(self, before: Self) -> Option<f64> {
        let all = self.all.checked_sub(before.all).filter(|&ticks| ticks > 0)?;
        Some(self.busy.saturating_sub(before.busy) as f64 / all as f64)
    }
}

/// Number of processors in a list such as `0-3,8`.
fn count(list: &str) -> Option<usize> {
    list.split(',').try_fold(0, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        Some(sum + (last + 1).checked_sub(first)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        assert_eq!([count("0-3,8"), count("0"), count(""), count("3-1")], [Some(5), Some(1), None, None]);
        let here = Processors::here();
        assert!(here.usable >= 1 && here.of_machine >= 1);
    }

    #[test]
    fn ticks_by_hand() {
        let at = |text| Ticks::of(text).unwrap();
        let before = at("cpu  100 10 20 800 50 1 2 3 0 0\ncpu0 1 2 3");
        let after = at("cpu  110 10 25 815 55 1 2 8 0 0\n");
        assert_eq!(after.busy_since(before), Some(0.5));
        assert_eq!(before.busy_since(before), None);
        assert!(Ticks::of("intr 1 2").is_none() && Ticks::of("cpu 1 2").is_none());
    }

    #[test]
    fn notes_by_hand() {
        let idle = Processors { of_machine: 2, usable: 2, busy: Some(0.1) };
        assert!(idle.notes(2).is_empty());
        let busy = Processors { busy: Some(1.4), ..idle };
        assert!(matches!(&busy.notes(2)[..], [one] if one.contains("about 1.4 of 2")));
        assert!(busy.notes(1).is_empty());
        assert!(matches!(&idle.notes(4)[..], [one] if one.contains("4 threads share 2 processors")));
        let container = Processors { of_machine: 64, usable: 2, busy: Some(10.0) };
        assert!(matches!(&container.notes(2)[..], [one] if one.contains("2 of the machine's 64")));
        assert!(Processors { busy: None, ..idle }.notes(2).is_empty());
    }
}
