//! Opens what the command line names.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tokio::sync::Semaphore;

use crate::args::StudioArgs;
use crate::catalog::Catalog;
use crate::engine::Engine;
use crate::sources::Source;
use crate::state::{MAX_DECODERS, MAX_UPLOADS, Run, Studio};

/// The data set that is shown if nothing else is named.
const DEFAULT_DATASET: &str = "refshapes";

pub(crate) fn load(args: &StudioArgs, engine: Option<Engine>) -> Result<Studio> {
    for (option, paths) in [("--run", &args.runs), ("--predictions", &args.predictions)] {
        let twice = paths.iter().enumerate().find(|(place, path)| paths[..*place].contains(path));
        if let Some((_, path)) = twice {
            bail!("{option}: {} is named twice", path.display());
        }
    }
    let names = unique_names(&args.runs);
    let mut runs = Vec::new();
    let mut datasets = args.dataset.clone();
    for (folder, name) in args.runs.iter().zip(names) {
        ensure!(folder.is_dir(), "--run {}: there is no such folder", folder.display());
        if args.dataset.is_empty() {
            datasets.extend(dataset_of(folder)?);
        }
        runs.push(Run { name, folder: folder.clone() });
    }
    ensure!(
        args.predictions.is_empty() || !datasets.is_empty(),
        "--predictions: name their data set with --dataset"
    );
    if datasets.is_empty() && engine.is_none() {
        datasets.push(DEFAULT_DATASET.to_owned());
    }
    let mut catalogs: Vec<Catalog> = Vec::new();
    for name in &datasets {
        if !catalogs.iter().any(|catalog| catalog.name() == name) {
            catalogs.push(Catalog::new(command_kit::open(name, &args.data_root)?));
        }
    }
    let sources = sources(args, &runs, &catalogs)?;
    let [uploads, decoders] = [MAX_UPLOADS, MAX_DECODERS].map(|n| Arc::new(Semaphore::new(n)));
    let (history, thumbnails) = Default::default();
    Ok(Studio { catalogs, sources, runs, engine, history, thumbnails, uploads, decoders })
}

/// Predictions of the finished runs and of the files, which must be about one of the data sets.
fn sources(args: &StudioArgs, runs: &[Run], catalogs: &[Catalog]) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for Run { name, folder } in runs {
        if !folder.join("expressions.jsonl").is_file() {
            continue;
        }
        let own = dataset_of(folder)?;
        let index = catalogs.iter().position(|catalog| own.iter().any(|name| name == catalog.name()));
        if let Some(index) = index {
            sources.push(Source::run(name.clone(), index, &catalogs[index], folder));
        }
    }
    for (path, name) in args.predictions.iter().zip(unique_names(&args.predictions)) {
        let name = match runs.iter().any(|run| run.name == name) {
            true => path.display().to_string(),
            false => name,
        };
        let tried = catalogs.iter().enumerate();
        let (mut found, mut failed) = (Vec::new(), None);
        for tried in tried.map(|(index, catalog)| Source::file(name.clone(), index, catalog, path)) {
            match tried {
                Ok(source) => found.push(source),
                Err(error) => failed = Some(error),
            }
        }
        let [first, others @ ..] = &found[..] else {
            return Err(failed
                .unwrap_or_else(|| anyhow!("{}: no data set is open", path.display()))
                .context("--predictions"));
        };
        if let [second, ..] = others {
            let [one, other] = [first, second].map(|source| catalogs[source.catalog].name());
            bail!(
                "--predictions {}: its ids are those of {one} and of {other}; name one data set, or write `\"dataset\": \"{one}\"` into its \
                 lines",
                path.display()
            );
        }
        sources.extend(found);
    }
    Ok(sources)
}

/// The data sets that a run was trained on, from its config.
fn dataset_of(run: &Path) -> Result<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Config {
        data: Data,
    }
    #[derive(serde::Deserialize)]
    struct Data {
        datasets: Vec<String>,
    }
    let path = run.join("config.toml");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("--run {}: it has no config.toml; is it a run's folder?", run.display()))?;
    let config: Config = toml::from_str(&text)
        .map_err(|error| anyhow::anyhow!("{}: {}", path.display(), error.message().replace('\n', " ")))?;
    Ok(config.data.datasets)
}

/// The shortest ends of paths that tell them apart; whole paths where none does.
pub fn unique_names(paths: &[PathBuf]) -> Vec<String> {
    let tail = |path: &Path, n: usize| {
        let parts: Vec<_> = path.components().collect();
        let tail: PathBuf = parts[parts.len().saturating_sub(n)..].iter().collect();
        tail.display().to_string()
    };
    paths
        .iter()
        .map(|path| {
            let is_unique = |n: &usize| {
                let name = tail(path, *n);
                paths.iter().filter(|other| tail(other, *n) == name).count() == 1
            };
            let n = (1..=path.components().count()).find(is_unique);
            n.map_or_else(|| path.display().to_string(), |n| tail(path, n))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_paths_apart() {
        let names = |paths: &[&str]| unique_names(&paths.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(names(&["runs/a", "runs/b"]), ["a", "b"]);
        assert_eq!(names(&["a/seed-0", "b/seed-0", "c"]), ["a/seed-0", "b/seed-0", "c"]);
    }
}
