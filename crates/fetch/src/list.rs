//! `fetch list`: what there is to fetch, and what is there.

use cli_kit::outln;

use crate::error::megabytes;
use crate::place::{Fetcher, State};
use crate::table::{Item, Source, Table};

/// Prints a line for each item.
///
/// - names: the items; empty for all
pub(crate) fn list(table: &Table, names: &[&str], fetcher: &Fetcher) {
    let items = || table.items.iter().filter(|item| names.is_empty() || names.contains(&item.name.as_str()));
    let width = items().map(|item| item.name.len()).max().unwrap_or(0);
    for item in items() {
        let size: u64 = item.files.iter().map(Source::cap).sum();
        let exact = item.files.iter().all(|file| file.size.is_some());
        let size = format!("{}{}", if exact { "" } else { "up to " }, megabytes(size));
        outln!("{:width$}  {size:>14}  {:26}  {}", item.name, said(item, fetcher), item.about);
    }
    outln!(
        "`fetch NAME...`, or `fetch --for CONFIG` for all that a config reads; `--dry-run` prints addresses and licences."
    );
    outln!(
        "verified: with the published checksum. recorded: none is published, that of the first download counts from then on. unverified: it \
         did not come from here; fetching it checks what can be checked."
    );
}

/// Whether an item is there.
fn said(item: &Item, fetcher: &Fetcher) -> String {
    let states: Vec<State> = item.files.iter().map(|file| fetcher.state(file)).collect();
    let loaded: u64 =
        states.iter().map(|state| if let State::Part(bytes) = state { *bytes } else { 0 }).sum();
    let there = states.iter().filter(|state| !state.is_missing()).count();
    if there < states.len() {
        return match (there, loaded) {
            (0, 0) => "-".into(),
            (0, loaded) => format!("{} downloaded", megabytes(loaded)),
            (there, _) => format!("{there} of {} files", states.len()),
        };
    }
    // The least that is known of any file.
    let all = |wanted: &[State]| states.iter().all(|state| wanted.contains(state));
    match () {
        () if states.contains(&State::Damaged) => "there, damaged".into(),
        () if states.contains(&State::Elsewhere) => "there, at another place".into(),
        () if all(&[State::Published]) => "there, verified".into(),
        () if all(&[State::Published, State::Recorded]) => "there, recorded".into(),
        () => "there, unverified".into(),
    }
}
