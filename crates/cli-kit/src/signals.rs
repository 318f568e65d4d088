/// Whether this process was started with a signal ignored, as `nohup` ignores SIGHUP; then no handler may be installed.
///
/// - signal: number of the signal, from 1
pub fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    (1..=64).contains(&signal) && mask & (1 << (signal - 1)) != 0
}

#[cfg(test)]
mod tests {
    #[test]
    fn nothing_is_ignored_here() {
        // Rust ignores SIGPIPE, whose number is 13, before `main`.
        assert!(super::is_ignored(13));
        assert!(!super::is_ignored(15) && !super::is_ignored(0) && !super::is_ignored(65));
    }
}
