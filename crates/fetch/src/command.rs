//! The command `fetch`.

use std::path::PathBuf;

use clap::Args;
use cli_kit::{errln, outln};
use command_kit::DEFAULT_DATA_ROOT;

use crate::download::Patience;
use crate::error::{Error, Result, megabytes};
use crate::list::list;
use crate::needs::Wanted;
use crate::place::{Fetcher, State};
use crate::table::{Item, Needs, Places, Source, Table};

/// Variable with the token of a Hugging Face account.
const TOKEN: &str = "HF_TOKEN";

/// Arguments of `fetch`.
#[derive(Debug, Args)]
pub struct FetchArgs {
    /// What to fetch, see `fetch list`; or `list`
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Fetch all that a config reads: a shipped one, such as refcoco/base, or a TOML file
    #[arg(long = "for", value_name = "CONFIG")]
    config: Option<String>,
    /// Folder of the data sets
    #[arg(long, default_value = DEFAULT_DATA_ROOT)]
    data_root: PathBuf,
    /// Folder of the pretrained encoders; configs look for `weights` in the working folder
    #[arg(long, default_value = "weights")]
    weights: PathBuf,
    /// Print addresses, licences and places, and download nothing
    #[arg(long)]
    dry_run: bool,
    /// Take files from this folder, under the names that they would be downloaded under, and download nothing
    #[arg(long, value_name = "FOLDER")]
    from: Option<PathBuf>,
    /// Another table of sources, in the form of the shipped `sources.toml`, such as one with your lab's mirrors
    #[arg(long, value_name = "FILE")]
    sources: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// When an argument names nothing that there is, or a file could not be brought to its place. Files before it are in theirs.
pub fn fetch(args: &FetchArgs) -> Result<()> {
    let table = args.sources.as_deref().map_or_else(Table::shipped, Table::read)?;
    let places = Places { data_root: args.data_root.clone(), weights: args.weights.clone() };
    let token = std::env::var(TOKEN).ok().map(|token| token.trim().to_owned());
    let token = token.filter(|token| !token.is_empty());
    let mut fetcher = Fetcher::new(places.clone(), Patience::default(), token)?;
    if args.names.iter().any(|name| name == "list") || args.names.is_empty() && args.config.is_none() {
        list(&table, &fetcher);
        return Ok(());
    }
    let wanted = wanted(args, &table)?;
    let mut told: Option<&str> = None;
    let mut not_found = Vec::new();
    for (item, source) in wanted {
        if told != Some(item.name.as_str()) {
            told = Some(&item.name);
            outln!("{}: {}. Licence: {} ({})", item.name, item.about, item.licence, item.licence_url);
            if let Some(page) = &item.gated {
                outln!("{}: the licence must be accepted at {page}; HF_TOKEN is your token", item.name);
            }
        }
        if args.dry_run {
            dry_run(source, &places);
            continue;
        }
        if !bring(&mut fetcher, args, item, source, &places)? {
            not_found.push(source.file_name().to_owned());
        }
    }
    match (&args.from, not_found.is_empty()) {
        (Some(folder), false) => {
            let what = format!("lacks {}", not_found.join(", "));
            Err(Error::NotThisFile { path: folder.clone(), what })
        }
        _ => Ok(()),
    }
}

/// The files that are asked for, each once.
fn wanted<'a>(args: &FetchArgs, table: &'a Table) -> Result<Vec<Wanted<'a>>> {
    let mut wanted: Vec<Wanted<'a>> = Vec::new();
    for name in &args.names {
        let item = table.item(name)?;
        wanted.extend(item.files.iter().map(|file| (item, file)));
    }
    if let Some(config) = &args.config {
        let (files, unknown) = Needs::of(config, table)?.files(table);
        for what in unknown {
            errln!(
                "{config} reads {what}, which is not in the table; datasets/README.md says where data come from"
            );
        }
        wanted.extend(files);
    }
    let mut seen: Vec<&Source> = Vec::new();
    wanted.retain(|(_, file)| {
        let is_new = !seen.contains(file);
        seen.push(file);
        is_new
    });
    Ok(wanted)
}

/// Brings a file to its place, unless it is there. `false` if the folder of `--from` lacks it.
fn bring(
    fetcher: &mut Fetcher,
    args: &FetchArgs,
    item: &Item,
    source: &Source,
    places: &Places,
) -> Result<bool> {
    if !matches!(fetcher.state(source), State::Missing | State::Part(_)) {
        fetcher.verify(source)?;
        tell(fetcher, source, places, "is there already");
        return Ok(true);
    }
    match &args.from {
        Some(folder) => {
            if !fetcher.take(source, folder)? {
                return Ok(false);
            }
        }
        None => fetcher.fetch(item, source)?,
    }
    tell(fetcher, source, places, "is there");
    Ok(true)
}

fn tell(fetcher: &Fetcher, source: &Source, places: &Places, what: &str) {
    let known = match fetcher.state(source) {
        State::Published => "verified: the checksum is the published one".to_owned(),
        State::Recorded => format!(
            "unverified: the source publishes no checksum; it is recorded in {} and required from now on",
            fetcher.lock_file().display()
        ),
        _ => "unverified: no checksum is known".to_owned(),
    };
    for path in places.results(source) {
        outln!("{} {what}; {known}", path.display());
    }
}

fn dry_run(source: &Source, places: &Places) {
    let size = match source.size {
        Some(size) => format!("{size} bytes"),
        None => format!("up to {}", megabytes(source.cap())),
    };
    let sha256 = source.sha256.as_ref().map_or_else(String::new, |hash| format!(", SHA-256 {hash}"));
    let results: Vec<_> = places.results(source).iter().map(|path| path.display().to_string()).collect();
    outln!("  {} ({size}{sha256}) becomes {}", source.file_name(), results.join(", "));
    for url in &source.urls {
        outln!("    {url}");
    }
}
