//! The command `fetch`.

use std::path::PathBuf;

use clap::Args;
use cli_kit::{errln, outln};
use command_kit::DEFAULT_DATA_ROOT;

use crate::disk::free_space;
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
    /// What to fetch; `list` says what there is, and what of it is there
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Fetch all that a config reads: a shipped one, such as refcoco/base, a preset, or a TOML file
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
/// When an argument names nothing that there is, or a file could not be brought to its place. The other files are in theirs.
pub fn fetch(args: &FetchArgs) -> Result<()> {
    let table = args.sources.as_deref().map_or_else(Table::shipped, Table::read)?;
    let places = Places { data_root: args.data_root.clone(), weights: args.weights.clone() };
    let token = std::env::var(TOKEN).ok().map(|token| token.trim().to_owned());
    let token = token.filter(|token| !token.is_empty());
    if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
        return Err(Error::Variable {
            name: TOKEN.into(),
            what: "holds characters that no token has".into(),
        });
    }
    if let Some(folder) = args.from.as_ref().filter(|folder| !folder.is_dir()) {
        return Err(Error::NotThisFile { path: folder.clone(), what: "--from: this is no folder".into() });
    }
    let mut fetcher = Fetcher::new(places.clone(), Patience::default(), token.clone())?;
    let is_list = args.names.iter().any(|name| name == "list");
    if is_list || args.names.is_empty() && args.config.is_none() && !args.dry_run {
        let names: Vec<&str> = args.names.iter().map(String::as_str).filter(|name| *name != "list").collect();
        names.iter().try_for_each(|name| table.item(name).map(|_| ()))?;
        list(&table, &names, &fetcher);
        return Ok(());
    }
    if args.names.is_empty() && args.config.is_none() {
        return Err(Error::Nothing);
    }
    let wanted = wanted(args, &table)?;
    announce(&wanted, &fetcher, &places);
    if args.dry_run {
        wanted.iter().for_each(|(_, source)| dry_run(source, &fetcher, &places));
        return Ok(());
    }
    if args.from.is_none() && token.is_none() {
        refuse_gated(&wanted, &fetcher)?;
    }
    let work = Work { args, table: &table, places };
    let mut failed = Vec::new();
    for (item, source) in &wanted {
        if let Err(error) = work.bring(&mut fetcher, item, source) {
            if wanted.len() == 1 {
                return Err(error);
            }
            errln!("error: {error}");
            failed.push(source.to.clone());
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(Error::Several { names: failed, wanted: wanted.len() }) }
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
        if files.is_empty() {
            outln!("{config} reads nothing that there is to fetch");
        }
        for what in unknown {
            match what.starts_with("refshapes") {
                true => outln!("{config} reads {what}, which is drawn on first use"),
                false => errln!(
                    "{config} reads {what}, which is not in the table of sources; datasets/README.md says where data come from"
                ),
            }
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

/// Says what is fetched, under which licences, and how much it is.
fn announce(wanted: &[Wanted<'_>], fetcher: &Fetcher, places: &Places) {
    let mut told: Vec<&str> = Vec::new();
    for (item, _) in wanted {
        if !told.contains(&item.name.as_str()) {
            told.push(&item.name);
            outln!("{}: {}. Licence: {} ({})", item.name, item.about, item.licence, item.licence_url);
            if let Some(page) = &item.gated {
                outln!(
                    "{}: a download needs the licence accepted at {page}, and your token in {TOKEN}",
                    item.name
                );
            }
        }
    }
    let missing: Vec<_> = wanted.iter().filter(|(_, file)| fetcher.state(file).is_missing()).collect();
    let size: u64 = missing.iter().map(|(_, file)| file.cap()).sum();
    let free = free_space(&places.data_root)
        .map_or_else(String::new, |free| format!("; {} are free", megabytes(free)));
    if !wanted.is_empty() {
        let n = wanted.len() - missing.len();
        outln!(
            "{} files: {n} are there, {} are not, at most {}{free}",
            wanted.len(),
            missing.len(),
            megabytes(size)
        );
    }
}

/// Refuses a gated item before anything else is downloaded.
fn refuse_gated(wanted: &[Wanted<'_>], fetcher: &Fetcher) -> Result<()> {
    let gated = wanted.iter().find(|(item, file)| {
        let asks_there = |url: &String| url::Url::parse(url).is_ok_and(|url| item.is_gated_at(&url));
        file.urls.iter().any(asks_there) && fetcher.state(file).is_missing()
    });
    match gated {
        Some((item, _)) => Err(Error::Gated {
            item: item.name.clone(),
            what: format!("{TOKEN} is not set, and nothing was downloaded"),
            page: item.gated.clone().unwrap_or_default(),
        }),
        None => Ok(()),
    }
}

/// Where files come from and go to.
struct Work<'a> {
    args: &'a FetchArgs,
    table: &'a Table,
    places: Places,
}

impl Work<'_> {
    /// Brings a file to its place, unless it is there.
    fn bring(&self, fetcher: &mut Fetcher, item: &Item, source: &Source) -> Result<()> {
        if !fetcher.state(source).is_missing() {
            fetcher.verify(source)?;
            self.tell(fetcher, source, "is there already");
            return Ok(());
        }
        match &self.args.from {
            Some(folder) => {
                let all = self.table.items.iter().flat_map(|item| &item.files);
                let has_own_name = all.filter(|other| other.file_name() == source.file_name()).count() == 1;
                if !fetcher.take(source, folder, has_own_name)? {
                    let place = if has_own_name { source.file_name() } else { source.below_root() };
                    return Err(Error::NotThisFile { path: folder.clone(), what: format!("lacks {place}") });
                }
            }
            None => fetcher.fetch(item, source)?,
        }
        self.tell(fetcher, source, "is there");
        Ok(())
    }

    fn tell(&self, fetcher: &Fetcher, source: &Source, what: &str) {
        let known = match fetcher.state(source) {
            State::Published => "verified: the checksum is the published one".to_owned(),
            State::Recorded => format!(
                "unverified: no checksum is published; it is recorded in {} and required from now on",
                fetcher.lock_file().display()
            ),
            State::Elsewhere => {
                outln!("{}: {what}, at another place where it is looked for", source.to);
                return;
            }
            _ => "unverified: no checksum is known".to_owned(),
        };
        for path in self.places.results(source) {
            outln!("{} {what}; {known}", path.display());
        }
    }
}

fn dry_run(source: &Source, fetcher: &Fetcher, places: &Places) {
    let size = match source.size {
        Some(size) => format!("{}, {size} bytes", megabytes(size)),
        None => format!("at most {}", megabytes(source.cap())),
    };
    let sha256 = source.sha256.as_ref().map_or_else(String::new, |hash| format!(", SHA-256 {hash}"));
    let results: Vec<_> = places.results(source).iter().map(|path| path.display().to_string()).collect();
    let is_there = if fetcher.state(source).is_missing() { "" } else { "; is there already" };
    outln!("  {} ({size}{sha256}) becomes {}{is_there}", source.file_name(), results.join(", "));
    for url in &source.urls {
        outln!("    {url}");
    }
}
