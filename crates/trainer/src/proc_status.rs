//! Memory and open files of this process, as the system reports them in `/proc`.

/// Resident memory in MiB; `None` if the system does not report it.
pub(crate) fn rss_mib() -> Option<f64> {
    status_mib("VmRSS:")
}

/// Peak resident memory in MiB.
pub(crate) fn peak_rss_mib() -> Option<f64> {
    status_mib("VmHWM:")
}

/// Number of open file descriptors: files, sockets and others.
pub(crate) fn open_files() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count())
}

fn status_mib(field: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024.0)
}

/// Slope of the least-squares line through the second half of the points; the first half is the program's warm-up. `None` for
/// fewer than twenty points.
pub(crate) fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let points = &points[points.len() / 2..];
    if points.len() < 10 {
        return None;
    }
    let n = points.len() as f64;
    let (mean_x, mean_y) =
        (points.iter().map(|(x, _)| x).sum::<f64>() / n, points.iter().map(|(_, y)| y).sum::<f64>() / n);
    let (mut both, mut square) = (0.0, 0.0);
    for (x, y) in points {
        both += (x - mean_x) * (y - mean_y);
        square += (x - mean_x) * (x - mean_x);
    }
    (square > 0.0).then(|| both / square)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slope_by_hand() {
        let points: Vec<(f64, f64)> =
            (0..40).map(|x| (f64::from(x), 3.0 + 0.5 * f64::from(x.max(10)))).collect();
        assert!((slope(&points).unwrap() - 0.5).abs() < 1e-12);
        assert_eq!(slope(&points[..15]), None);
    }

    #[test]
    fn this_process_has_memory_and_files() {
        let _file = std::fs::File::open("/proc/self/status").unwrap();
        let now = rss_mib().unwrap();
        assert!(now > 1.0 && peak_rss_mib().unwrap() >= now && open_files().unwrap() >= 4);
    }
}
