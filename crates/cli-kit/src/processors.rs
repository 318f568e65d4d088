/// Processors of this machine, as Linux reports them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Processors {
    /// Those of the machine.
    pub of_machine: usize,
    /// Those that this process may use: its affinity and its control group's quota are counted in.
    pub usable: usize,
    /// Mean number of threads of all programs that wanted a processor in the last minute; `None` if it is not known.
    pub load: Option<f64>,
}

impl Processors {
    /// Those of this machine, now.
    pub fn here() -> Self {
        let usable = std::thread::available_parallelism().map_or(1, usize::from);
        let online = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self {
            of_machine: count(online.trim()).unwrap_or(usable),
            usable,
            load: load.split_whitespace().next().and_then(|text| text.parse().ok()),
        }
    }

    /// What slows down a program with so many threads that starts now, one sentence each.
    ///
    /// - n_threads: those that compute, of all processes of the program
    pub fn notes(&self, n_threads: usize) -> Vec<String> {
        let Self { of_machine, usable, load } = *self;
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
        // The load is that of the whole machine, also where only some of its processors may be used.
        if let Some(load) = load
            && load + n_threads.min(usable) as f64 > of_machine as f64 + 0.5
        {
            notes.push(format!(
                "other programs keep about {load:.1} of {of_machine} processors busy (load average of the last minute), so that work \
                 takes longer than its figures say"
            ));
        }
        notes
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
    fn notes_by_hand() {
        let idle = Processors { of_machine: 2, usable: 2, load: Some(0.3) };
        assert!(idle.notes(2).is_empty());
        let busy = Processors { load: Some(1.4), ..idle };
        assert!(matches!(&busy.notes(2)[..], [one] if one.contains("about 1.4 of 2")));
        assert!(busy.notes(1).is_empty());
        assert!(matches!(&idle.notes(4)[..], [one] if one.contains("4 threads share 2 processors")));
        let container = Processors { of_machine: 64, usable: 2, load: Some(10.0) };
        assert!(matches!(&container.notes(2)[..], [one] if one.contains("2 of the machine's 64")));
        assert!(Processors { load: None, ..idle }.notes(2).is_empty());
    }
}
