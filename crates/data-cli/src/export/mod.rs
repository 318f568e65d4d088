//! `data export`: writes a data set in another layout: own data (`refs.jsonl`) or REFER (`refs(unc).p` with `instances.json`).

mod own;
mod refer;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use cli_kit::outln;
use command_kit::{Progress, open};
use refcoco::{Annotation, Dataset, Mask};
use serde_json::{Value, json};

use crate::staging::NewDataset;

/// Layouts that can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Layout {
    /// One `refs.jsonl` beside its pictures
    Own,
    /// `refs(unc).p` and `instances.json`; `grefs(unc).json` if a ref has no target or several
    Refer,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Data set, such as refcoco
    #[arg(long)]
    dataset: String,
    /// Folder of the data sets
    #[arg(long, default_value = command_kit::DEFAULT_DATA_ROOT)]
    data_root: PathBuf,
    /// Folder to write, DATA_ROOT/NAME; the data set is then called NAME
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Layout to write
    #[arg(long, value_enum, default_value = "own")]
    format: Layout,
    /// Only these splits, separated by commas
    #[arg(long, value_delimiter = ',')]
    split: Vec<String>,
}

const PICTURES: &str = "images";

pub(crate) fn export(args: &ExportArgs) -> Result<()> {
    let dataset = open(&args.dataset, &args.data_root)?;
    for split in &args.split {
        dataset.split(split)?;
    }
    let new = NewDataset::create(&args.to)?;
    let (name, data_root) = (new.name, new.data_root.clone());
    let chosen = Chosen::new(&dataset, &args.split);
    copy_pictures(&chosen, new.path())?;
    // A descriptor keeps the names of the splits, and wins where NAME is that of a built-in set.
    let path = data_root.join(format!("{name}.toml"));
    ensure!(!path.exists(), "{}: it exists already", path.display());
    let descriptor = match args.format {
        Layout::Own => {
            own::write(&chosen, new.path())?;
            descriptor(&chosen, name, "own", "refs.jsonl")?
        }
        Layout::Refer => refer::write(&chosen, new.path(), name)?,
    };
    whole_file::write(&path, descriptor.as_bytes())?;
    new.finish()?;
    outln!(
        "{}: {} refs in {} images; use it with --dataset {name} --data-root {}",
        args.to.display(),
        chosen.refs.len(),
        chosen.images.len(),
        data_root.display()
    );
    Ok(())
}

/// The part of a data set that is written: refs, their images, and all objects of these images.
struct Chosen<'a> {
    dataset: &'a Dataset,
    /// Indices in [`Dataset::refs`].
    refs: Vec<usize>,
    images: BTreeSet<i64>,
    /// Whether all names begin with the folder that the copies are put into, so that it is not put in front again.
    has_folder: bool,
}

impl<'a> Chosen<'a> {
    fn new(dataset: &'a Dataset, splits: &[String]) -> Self {
        let is_chosen = |index: &usize| splits.is_empty() || splits.contains(&dataset.refs[*index].split);
        let refs: Vec<usize> = (0..dataset.refs.len()).filter(is_chosen).collect();
        let images: BTreeSet<i64> = refs.iter().map(|&index| dataset.refs[index].image_id).collect();
        let in_folder = |id: &i64| {
            let record = dataset.instances.images.get(id);
            record.is_some_and(|record| plain_name(&record.file_name).starts_with(&format!("{PICTURES}/")))
        };
        let has_folder = images.iter().all(in_folder);
        Self { dataset, refs, images, has_folder }
    }

    fn annotations(&self) -> impl Iterator<Item = &'a Annotation> {
        let ids = self.images.iter().flat_map(|&id| self.dataset.annotations_in_image(id));
        ids.filter_map(|id| self.dataset.instances.annotations.get(id))
    }

    /// A category's name; `None` for the negative ids of objects without a category.
    fn category(&self, id: i64) -> Option<&'a str> {
        self.dataset.instances.categories.get(&id).map(String::as_str).filter(|_| id >= 0)
    }

    /// Name of an image's copy below the folder of the pictures.
    fn file_name(&self, image_id: i64) -> Result<String> {
        let name = plain_name(&self.dataset.image_record(image_id)?.file_name);
        let inside = name.split_once('/').filter(|_| self.has_folder).map(|(_, inside)| inside.to_owned());
        Ok(inside.unwrap_or(name))
    }

    /// Name of an image's copy below the written folder.
    fn picture(&self, image_id: i64) -> Result<String> {
        Ok(format!("{PICTURES}/{}", self.file_name(image_id)?))
    }
}

/// A file name with `/` alone, and without `./`.
fn plain_name(name: &str) -> String {
    let name = name.replace('\\', "/");
    name.split('/').filter(|part| !part.is_empty() && *part != ".").collect::<Vec<_>>().join("/")
}

fn copy_pictures(chosen: &Chosen<'_>, folder: &Path) -> Result<()> {
    let mut progress = Progress::new("export images", chosen.images.len() as u64, 0);
    for &id in &chosen.images {
        let path = folder.join(chosen.picture(id)?);
        let parent = path.parent().context("an image lies in a folder")?;
        std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
        std::fs::write(&path, chosen.dataset.image_bytes(id)?).with_context(|| path.display().to_string())?;
        progress.advance(1, "");
    }
    Ok(())
}

/// An object's segmentation as COCO has it: as in the file, or as an RLE where the file has something else (the name of a mask
/// file, labelled polygons).
fn segmentation(dataset: &Dataset, annotation: &Annotation) -> Result<Value> {
    let value: Value = serde_json::from_str(annotation.segmentation.get())?;
    match value {
        Value::String(_) | Value::Null => Ok(rle(&dataset.mask(annotation.id)?)),
        Value::Object(ref fields) if fields.contains_key("shapes") => Ok(rle(&dataset.mask(annotation.id)?)),
        other => Ok(other),
    }
}

fn rle(mask: &Mask) -> Value {
    json!({"size": [mask.height, mask.width], "counts": mask.to_rle_string()})
}

/// `NAME.toml` of the new data set.
fn descriptor(chosen: &Chosen<'_>, name: &str, format: &str, file: &str) -> Result<String> {
    let of = &chosen.dataset.descriptor;
    let text = |value: &str| serde_json::to_string(value);
    let list = |values: &[String]| values.iter().map(|value| text(value)).collect::<Result<Vec<_>, _>>();
    Ok(format!(
        "name = {}\nabout = {}\nformat = \"{}\"\nfolder = {}\nrefs = {}\nimages = [{}]\nsplits_share_images = {}\nword_len = {}\n\
         val = {}\ntest = [{}]\n",
        text(name)?,
        text(&format!("exported from {}", of.name))?,
        format,
        text(name)?,
        text(file)?,
        text(&format!("{name}/{PICTURES}"))?,
        of.splits_share_images,
        of.word_len,
        text(&of.val)?,
        list(&of.test)?.join(", "),
    ))
}
