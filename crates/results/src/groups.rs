//! Tables of the groups of a split's expressions: by flavour, number of distractors, and words of place.

use std::collections::{BTreeMap, BTreeSet};

use crate::measures::MEASURES;
use crate::summary::{BySeed, COMPARED, MeanSd, Summary, interval};
use crate::table::{Cell, Table, TableFormat};

/// Groups that are left out: sizes of targets, which depend on the resolution, and expressions without anything to confuse.
fn is_shown(group: &str) -> bool {
    !group.starts_with("area ") && group != "distractors 0"
}

impl Summary {
    /// The table by group as text: for each group of expressions a row per line, with every measure and its difference to the
    /// baseline. Empty unless the summary was made with groups.
    pub fn format_groups(&self, format: TableFormat) -> String {
        self.groups_table().format(format)
    }

    pub(crate) fn groups_table(&self) -> Table {
        let mut headings = vec![format!("{} (%)", self.split), "row".to_owned(), "expressions".to_owned()];
        for measure in MEASURES {
            headings.push(measure.heading.to_owned());
            if self.baseline.is_some() && COMPARED.contains(&measure.key) {
                headings.push("difference [95 %]".to_owned());
            }
        }
        let groups: BTreeSet<&String> = self.lines.iter().flat_map(|line| line.groups.keys()).collect();
        let mut rows = Vec::new();
        for group in groups {
            for line in &self.lines {
                let Some(found) = line.groups.get(group) else { continue };
                let mut row = vec![Cell::new(group), Cell::new(&line.group), Cell::new(found.n.to_string())];
                for measure in MEASURES {
                    let mean = found.means.get(measure.key);
                    row.push(Cell::new(mean.map_or_else(|| "-".to_owned(), MeanSd::to_string)));
                    if self.baseline.is_some() && COMPARED.contains(&measure.key) {
                        row.push(Cell::new(interval(found.differences.get(measure.key).copied())));
                    }
                }
                rows.push(row);
            }
        }
        Table { headings, rows }
    }
}

/// The expressions of each group that is shown.
pub(crate) fn by_group<'a>(runs: &BySeed<'a>) -> BTreeMap<String, BySeed<'a>> {
    let mut groups: BTreeMap<String, BySeed<'a>> = BTreeMap::new();
    for (&seed, all) in runs {
        for (&id, &line) in all {
            for name in line.evaluated.groups().into_iter().filter(|name| is_shown(name)) {
                groups.entry(name).or_default().entry(seed).or_default().insert(id, line);
            }
        }
    }
    groups
}
