//! Tables of the groups of a split's expressions: by flavour, number of distractors, and words of place.

use std::collections::{BTreeMap, BTreeSet};

use run_files::ExpressionLine;

use crate::measures::MEASURES;
use crate::summary::{MeanSd, Summary, interval};
use crate::table::{Cell, Table, TableFormat};

/// Groups that are left out: sizes of targets, which depend on the resolution, and expressions without anything to confuse.
fn is_shown(group: &str) -> bool {
    !group.starts_with("area ") && group != "distractors 0"
}

impl Summary {
    /// The table by group as text: for each group of expressions a row per line, with every measure and its difference to the
    /// baseline.
    pub fn format_groups(&self, format: TableFormat) -> String {
        self.groups_table().format(format)
    }

    pub(crate) fn groups_table(&self) -> Table {
        let mut headings = vec![format!("{} (%)", self.split), "row".to_owned(), "expressions".to_owned()];
        for measure in MEASURES {
            headings.push(measure.heading.to_owned());
            headings.extend(self.baseline.as_ref().map(|_| "difference [95 %]".to_owned()));
        }
        let groups: BTreeSet<&String> = self.lines.iter().flat_map(|line| line.groups.keys()).collect();
        let mut rows = Vec::new();
        for group in groups.into_iter().filter(|group| is_shown(group)) {
            for line in &self.lines {
                let Some(found) = line.groups.get(group) else { continue };
                let mut row = vec![Cell::new(group), Cell::new(&line.group), Cell::new(found.n.to_string())];
                for measure in MEASURES {
                    let mean = found.means.get(measure.key);
                    row.push(Cell::new(mean.map_or_else(|| "-".to_owned(), MeanSd::to_string)));
                    if self.baseline.is_some() {
                        row.push(Cell::new(interval(found.differences.get(measure.key).copied())));
                    }
                }
                rows.push(row);
            }
        }
        Table { headings, rows }
    }
}

/// The expressions of one group.
pub(crate) fn of_group<'a>(
    expressions: &BTreeMap<(i64, i64), &'a ExpressionLine>,
    group: Option<&str>,
) -> BTreeMap<(i64, i64), &'a ExpressionLine> {
    let is_in = |line: &&ExpressionLine| match group {
        Some(group) => line.evaluated.groups().iter().any(|name| name == group),
        None => true,
    };
    expressions.iter().filter(|(_, line)| is_in(line)).map(|(&key, &line)| (key, line)).collect()
}
