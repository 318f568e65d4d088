//! Every citation of the specification in the sources points to something that is there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Sources and Markdown below a folder, but for build outputs.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() && !path.ends_with("target") {
            sources(&path, found);
        } else if path
            .extension()
            .is_some_and(|extension| ["rs", "cpp", "h", "md"].iter().any(|known| extension == *known))
        {
            found.push(path);
        }
    }
}

/// A text as one line, without the marks of comments: citations may be wrapped.
fn prose(text: &str) -> String {
    let words = text.lines().flat_map(|line| {
        line.trim_start().trim_start_matches(['/', '!']).split_whitespace().collect::<Vec<_>>()
    });
    words.collect::<Vec<_>>().join(" ")
}

/// The numbers behind every occurrence of `mark`, such as `5.4`.
fn numbers_behind(text: &str, mark: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices(mark) {
        let rest = &text[at + mark.len()..];
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number = rest[..end].trim_end_matches('.');
        if !number.is_empty() {
            found.push(number.to_owned());
        }
    }
    found
}

#[test]
fn citations_point_to_headings() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let specification = std::fs::read_to_string(root.join("docs/specification.md")).unwrap();
    let headings: BTreeSet<&str> = specification
        .lines()
        .filter(|line| line.starts_with('#'))
        .filter_map(|line| line.trim_start_matches('#').split_whitespace().next())
        .map(|number| number.trim_end_matches('.'))
        .collect();
    let quirks: BTreeSet<String> = specification
        .lines()
        .filter_map(|line| line.strip_prefix("| Q"))
        .filter_map(|line| line.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    let mut files = Vec::new();
    for folder in ["crates", "benches", "xtask", "docs"] {
        sources(&root.join(folder), &mut files);
    }
    let (mut sections, mut of_quirks) = (0, 0);
    for file in files.iter().filter(|file| {
        !file.ends_with("xtask/tests/citations.rs") && !file.ends_with("docs/specification.md")
    }) {
        let text = prose(&std::fs::read_to_string(file).unwrap());
        let in_brackets =
            text.replace("](../../docs/specification.md)", "").replace("](specification.md)", "");
        let text = in_brackets.replace('[', "");
        for number in numbers_behind(&text, "pecification, section ") {
            assert!(
                headings.contains(number.as_str()),
                "{}: docs/specification.md has no section {number}",
                file.display()
            );
            sections += 1;
        }
        for number in numbers_behind(&text, "quirk Q") {
            assert!(
                quirks.contains(&number),
                "{}: docs/specification.md has no quirk Q{number}",
                file.display()
            );
            of_quirks += 1;
        }
        let others = text.matches("of the specification").count();
        assert_eq!(others, 0, "{}: cite it as `specification, section N`", file.display());
    }
    assert!(sections >= 15 && of_quirks >= 3, "{sections} sections and {of_quirks} quirks are cited");
}
