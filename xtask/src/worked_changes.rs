//! Applies the changes of `docs/extending.md` to a copy of the workspace and compiles it.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use cli_kit::outln;

use crate::project::{cargo, output_of, root, run_aside, target};
use crate::setup::setup;

/// A change to the workspace.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    /// A new file: path and content.
    NewFile(String, String),
    /// A unified diff.
    Patch(String),
}

/// Parses the changes of a Markdown document: every `diff` block, and every other block that follows a line "`PATH`, new:".
fn changes(document: &str) -> Vec<Change> {
    let mut found = Vec::new();
    let mut named: Option<String> = None;
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        if let Some(kind) = line.strip_prefix("```") {
            let block: String =
                lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
            match (kind, named.take()) {
                ("diff", _) => found.push(Change::Patch(block)),
                (_, Some(name)) => found.push(Change::NewFile(name, block)),
                _ => {}
            }
        } else if !line.is_empty() {
            named = line.strip_prefix('`').and_then(|rest| rest.strip_suffix("`, new:")).map(str::to_owned);
        }
    }
    found
}

/// Applies all changes together and runs clippy on the workspace, with warnings denied.
pub(crate) fn try_out() -> Result<()> {
    let libtorch = setup()?;
    let document = root().join("docs/extending.md");
    let document = std::fs::read_to_string(&document).with_context(|| document.display().to_string())?;
    let changes = changes(&document);
    ensure!(changes.len() >= 6, "docs/extending.md holds only {} changes", changes.len());
    let folder = std::env::temp_dir().join(format!("talent-changed-{}", std::process::id()));
    let checked = copy_workspace(&folder).and_then(|()| {
        changes.iter().try_for_each(|change| make(change, &folder))?;
        let mut command = cargo();
        command.current_dir(&folder).args(["clippy", "--release", "--offline", "--quiet", "--locked"]);
        // The target folder and the selection of `ci`'s clippy, so that dependencies are checked already.
        command.args(["--workspace", "--all-targets", "--", "-D", "warnings"]);
        run_aside(command.env("LIBTORCH", &libtorch.path).env("CARGO_TARGET_DIR", target()))
    });
    let _ = std::fs::remove_dir_all(&folder);
    checked?;
    outln!("docs/extending.md: {} changes compile", changes.len());
    Ok(())
}

/// Copies all tracked and untracked files that git does not ignore.
fn copy_workspace(folder: &Path) -> Result<()> {
    let root = root();
    let git = ["-C", &root.to_string_lossy(), "ls-files", "--cached", "--others", "--exclude-standard"];
    let files = output_of(Path::new("git"), &git).context("`git ls-files` failed")?;
    for name in files.lines() {
        let (from, to) = (root.join(name), folder.join(name));
        if from.is_file() {
            std::fs::create_dir_all(to.parent().context("a file lies in a folder")?)?;
            std::fs::copy(&from, &to).with_context(|| from.display().to_string())?;
        }
    }
    Ok(())
}

fn make(change: &Change, folder: &Path) -> Result<()> {
    match change {
        Change::NewFile(name, text) => {
            let path = folder.join(name);
            ensure!(!path.exists(), "docs/extending.md: {name} is no new file");
            std::fs::write(&path, text).with_context(|| path.display().to_string())
        }
        Change::Patch(patch) => {
            let mut git = Command::new("git");
            git.current_dir(folder).args(["apply", "-"]).stdin(Stdio::piped());
            let mut git = git.spawn().context("`git apply`")?;
            let mut input = git.stdin.take().context("`git apply` takes no input")?;
            std::io::Write::write_all(&mut input, patch.as_bytes())?;
            drop(input);
            let first = patch.lines().next().unwrap_or_default();
            ensure!(git.wait()?.success(), "docs/extending.md: the change of {first} no longer applies");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_changes() {
        let text = "# A\n\n`a/b.rs`, new:\n\n```rust\nfn b() {}\n```\n\nProse.\n\n```toml\nx = 1\n```\n\n```diff\n--- a\n```\n";
        let expected =
            [Change::NewFile("a/b.rs".into(), "fn b() {}\n".into()), Change::Patch("--- a\n".into())];
        assert_eq!(changes(text), expected);
    }
}
