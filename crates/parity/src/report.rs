use std::fmt;

use serde_json::{Value, json};

/// Allowed absolute error of a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tolerance {
    /// No error.
    Exact,
    /// This error.
    Absolute(f64),
    /// This factor times the larger of 1 and the largest recorded entry.
    Scaled(f64),
    /// This factor times the largest recorded entry.
    OfLargest(f64),
}

impl Tolerance {
    /// The bound for values whose largest recorded entry is `largest`.
    pub fn bound(self, largest: f64) -> f64 {
        match self {
            Self::Exact => 0.0,
            Self::Absolute(bound) => bound,
            Self::Scaled(factor) => factor * largest.max(1.0),
            Self::OfLargest(factor) => factor * largest,
        }
    }
}

impl fmt::Display for Tolerance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact => write!(f, "exact"),
            Self::Absolute(bound) => write!(f, "{bound:.1e}"),
            Self::Scaled(factor) => write!(f, "{factor:.1e} x max(1, largest)"),
            Self::OfLargest(factor) => write!(f, "{factor:.1e} x largest"),
        }
    }
}

/// One value compared.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// What was compared.
    pub name: String,
    /// Largest absolute error; infinite when shapes differ or a value is not finite.
    pub max_abs: f64,
    /// Largest absolute error divided by the largest recorded entry.
    pub max_rel: f64,
    /// Allowed error.
    pub tolerance: Tolerance,
    /// Error divided by its bound; the comparison fails above 1.
    pub used: f64,
}

impl Comparison {
    /// Compares an error with its bound.
    ///
    /// - max_abs: largest absolute error; largest: largest recorded entry
    pub fn new(name: &str, max_abs: f64, largest: f64, tolerance: Tolerance) -> Self {
        let bound = tolerance.bound(largest);
        let used = match max_abs {
            0.0 => 0.0,
            error if error.is_nan() || bound == 0.0 => f64::INFINITY,
            error => error / bound,
        };
        let max_rel = if max_abs == 0.0 { 0.0 } else { max_abs / largest.max(f64::MIN_POSITIVE) };
        Self { name: name.to_owned(), max_abs, max_rel, tolerance, used }
    }

    /// Whether the error is within the bound.
    pub fn passes(&self) -> bool {
        self.used <= 1.0
    }
}

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Everything agrees.
    Pass,
    /// Something does not agree, or was not compared.
    Fail,
    /// The case was not run, as requested.
    Skipped,
    /// The case could not be run because its data were not given.
    NotRun,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::Skipped => "skipped",
            Self::NotRun => "not run",
        })
    }
}

/// Result of one case.
#[derive(Debug, Clone)]
pub struct CaseReport {
    /// Name of the case.
    pub name: String,
    /// How the case ended.
    pub verdict: Verdict,
    /// All comparisons of the case.
    pub comparisons: Vec<Comparison>,
    /// Problems other than failed comparisons, or why the case was not run.
    pub notes: Vec<String>,
}

impl CaseReport {
    pub(crate) fn finished(name: &str, comparisons: Vec<Comparison>, mut notes: Vec<String>) -> Self {
        if comparisons.is_empty() && notes.is_empty() {
            notes.push("nothing was compared".to_owned());
        }
        let passes = notes.is_empty() && comparisons.iter().all(Comparison::passes);
        let verdict = if passes { Verdict::Pass } else { Verdict::Fail };
        Self { name: name.to_owned(), verdict, comparisons, notes }
    }

    pub(crate) fn failed(name: &str, why: &str) -> Self {
        Self::finished(name, vec![], vec![why.to_owned()])
    }

    pub(crate) fn skipped(name: &str, why: &str) -> Self {
        let notes = vec![why.to_owned()];
        Self { name: name.to_owned(), verdict: Verdict::Skipped, comparisons: vec![], notes }
    }

    pub(crate) fn not_run(name: &str, why: &str) -> Self {
        Self { verdict: Verdict::NotRun, ..Self::skipped(name, why) }
    }

    /// The same report under another name.
    pub(crate) fn named(self, name: String) -> Self {
        Self { name, ..self }
    }

    /// The comparison that came closest to its bound, or went furthest beyond it.
    pub fn worst(&self) -> Option<&Comparison> {
        self.comparisons.iter().max_by(|a, b| a.used.total_cmp(&b.used))
    }

    fn largest(&self, of: impl Fn(&Comparison) -> f64) -> f64 {
        self.comparisons.iter().map(of).fold(0.0, f64::max)
    }
}

impl fmt::Display for CaseReport {
    /// One line of the table, and the failures below it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let worst = self.worst().map(|worst| (worst.tolerance.to_string(), worst.name.as_str()));
        let (tolerance, closest) = worst.unwrap_or_default();
        write!(
            f,
            "{:34}{:>8}{:>11.1e}{:>11.1e}  {:28}{:8}{closest}",
            self.name,
            self.comparisons.len(),
            self.largest(|comparison| comparison.max_abs),
            self.largest(|comparison| comparison.max_rel),
            tolerance,
            self.verdict.to_string(),
        )?;
        for note in &self.notes {
            write!(f, "\n    {note}")?;
        }
        for failed in self.comparisons.iter().filter(|comparison| !comparison.passes()).take(8) {
            write!(f, "\n    {}: error {:.2e}, allowed {}", failed.name, failed.max_abs, failed.tolerance)?;
        }
        Ok(())
    }
}

/// Results of all cases.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Results in the order in which the cases were run.
    pub cases: Vec<CaseReport>,
}

impl Report {
    /// Heading of the table whose lines are the cases.
    pub fn heading() -> String {
        format!(
            "{:34}{:>8}{:>11}{:>11}  {:28}{:8}{}",
            "case", "tensors", "max abs", "max rel", "tolerance of the closest", "verdict", "closest"
        )
    }

    /// Number of cases with this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.cases.iter().filter(|case| case.verdict == verdict).count()
    }

    /// 1 if a case failed, otherwise 2 if one could not be run, otherwise 0.
    pub fn exit_code(&self) -> u8 {
        match (self.count(Verdict::Fail), self.count(Verdict::NotRun)) {
            (0, 0) => 0,
            (0, _) => 2,
            _ => 1,
        }
    }

    /// The report as one JSON document.
    pub fn to_json(&self) -> Value {
        // JSON has no infinity.
        let number = |value: f64| if value.is_finite() { json!(value) } else { json!(value.to_string()) };
        let comparison = |comparison: &Comparison| {
            json!({
                "name": comparison.name,
                "max_abs": number(comparison.max_abs),
                "max_rel": number(comparison.max_rel),
                "tolerance": comparison.tolerance.to_string(),
                "passes": comparison.passes(),
            })
        };
        let case = |case: &CaseReport| {
            json!({
                "case": case.name,
                "verdict": case.verdict.to_string().to_lowercase(),
                "tensors": case.comparisons.len(),
                "max_abs": number(case.largest(|comparison| comparison.max_abs)),
                "max_rel": number(case.largest(|comparison| comparison.max_rel)),
                "tolerance": case.worst().map(|worst| worst.tolerance.to_string()),
                "closest": case.worst().map(|worst| worst.name.clone()),
                "notes": case.notes,
                "comparisons": case.comparisons.iter().map(comparison).collect::<Vec<_>>(),
            })
        };
        json!({
            "passes": self.exit_code() == 0,
            "passed": self.count(Verdict::Pass),
            "failed": self.count(Verdict::Fail),
            "skipped": self.count(Verdict::Skipped),
            "not_run": self.count(Verdict::NotRun),
            "cases": self.cases.iter().map(case).collect::<Vec<_>>(),
        })
    }
}
