//! `data import`: converts Hugging Face Parquet files, and what annotation tools write, into a data set folder with
//! `refs.jsonl`.

mod coco;
mod coco_categories;
mod expressions;
mod labelled;
mod labelme;
mod mask_folders;
mod rows;
mod yolo;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::{Args, ValueEnum};
use cli_kit::{errln, outln};
use parquet::file::reader::{FileReader, SerializedFileReader};
use refcoco::{Dataset, open_regular};
use serde_json::json;

use crate::import::expressions::Expressions;
use crate::import::labelled::Found;
use crate::import::rows::{Mask, Object, Picture, Table};
use crate::staging::NewDataset;
use command_kit::Progress;

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// Parquet files or folders of them (columns of lmms-lab/RefCOCO, moondream/refcoco-m or jxu124/refcoco), a folder of labelme's
    /// JSON files, COCO's instances JSON, a folder with images and YOLO's labels, or a folder with images and masks
    #[arg(long, value_name = "PATH", num_args = 1.., required = true)]
    from: Vec<PathBuf>,
    /// Folder to write, DATA_ROOT/NAME; the data set is then called NAME
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Folder of the pictures, for files that only name them; it is symlinked, not copied
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Split of all rows [default: the rows' split column, or the name of their file or folder]
    #[arg(long)]
    split: Option<String>,
    /// What --from is [default: found out]
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// CSV file with expressions for objects of annotation tools: columns ann_id, or image and category, and expression [default: the
    /// names of the categories]
    #[arg(long, value_name = "FILE")]
    expressions: Option<PathBuf>,
}

/// What can be imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Hugging Face Parquet files
    Parquet,
    /// A folder of labelme's JSON files
    Labelme,
    /// COCO's instances JSON
    Coco,
    /// A folder with `images` and YOLO's segmentation `labels`
    Yolo,
    /// A folder with `images` and `masks`
    Masks,
}

impl Kind {
    /// Finds out what a path is.
    fn of(path: &Path) -> Result<Self> {
        let ends = |path: &Path, extension: &str| path.extension().is_some_and(|end| end == extension);
        if !path.is_dir() {
            let is_labelme = || refcoco::read_json(path).is_ok_and(|document| document["shapes"].is_array());
            return Ok(match ends(path, "json") {
                true if is_labelme() => Self::Labelme,
                true => Self::Coco,
                false => Self::Parquet,
            });
        }
        let has = |name: &str| path.join(name).is_dir();
        let files = labelled::files_below(path)?;
        let any = |extension: &str| files.iter().any(|file| ends(file, extension));
        match () {
            () if any("parquet") => Ok(Self::Parquet),
            () if has("images") && has("masks") => Ok(Self::Masks),
            () if !yolo::yolo_parts(path)?.is_empty() => Ok(Self::Yolo),
            () if files.iter().any(|file| coco::is_coco(file)) => Ok(Self::Coco),
            () if any("json") => Ok(Self::Labelme),
            () if any("arrow") => bail!(
                "{}: it holds .arrow files, as `save_to_disk` writes them; write Parquet instead, with `dataset.to_parquet(FILE)`",
                path.display()
            ),
            () => bail!(
                "{}: it holds no .parquet file, no .json file, and no folders images with labels or masks",
                path.display()
            ),
        }
    }
}

pub(crate) fn import(args: &ImportArgs) -> Result<()> {
    let first = args.from.first().context("--from is missing")?;
    let kind = match args.kind {
        Some(kind) => kind,
        None => Kind::of(first)?,
    };
    let new = NewDataset::create(&args.to)?;
    match kind {
        Kind::Parquet => {
            let files = parquet_files(&args.from)?;
            let mut writer = Writer::new(new.path(), args)?;
            for file in &files {
                writer.add_file(file).with_context(|| file.display().to_string())?;
            }
            writer.finish()?;
        }
        _ => import_labelled(kind, args, new.path())?,
    }
    // Check that the result can be opened.
    let file = new.path().join("refs.jsonl");
    let opened = Dataset::open(&file.to_string_lossy(), Path::new(""));
    // The folder to come, in place of the one that is gone by the time that somebody reads this.
    let dataset = opened.map_err(|error| {
        let (written, final_place) = (new.path().display().to_string(), args.to.display().to_string());
        anyhow!("what was read cannot be used: {}", error.to_string().replace(&written, &final_place))
    })?;
    let (n_refs, n_images) = (dataset.refs.len(), dataset.instances.images.len());
    let n_expressions: usize = dataset.refs.iter().map(|reference| reference.expressions.len()).sum();
    let (name, data_root) = (new.name, new.data_root.clone());
    new.finish()?;
    outln!(
        "{}: {n_refs} refs with {n_expressions} expressions in {n_images} images; use it with --dataset {name} \
         --data-root {}",
        args.to.display(),
        data_root.display()
    );
    Ok(())
}

/// Imports what an annotation tool wrote.
fn import_labelled(kind: Kind, args: &ImportArgs, folder: &Path) -> Result<()> {
    let table = args.expressions.as_deref().map(Expressions::read).transpose()?;
    let mut found = Found::default();
    for from in &args.from {
        found.extend(match kind {
            Kind::Labelme => labelme::labelme(from, args.images.as_ref())?,
            Kind::Coco => coco::coco(from, args.images.as_ref())?,
            Kind::Yolo => yolo::yolo(from)?,
            Kind::Masks | Kind::Parquet => mask_folders::masks(from, table.is_some())?,
        });
    }
    if let Some(split) = &args.split {
        found.objects.iter_mut().for_each(|object| object.split.clone_from(split));
    }
    let path = folder.join("refs.jsonl");
    let mut lines = BufWriter::new(File::create(&path).with_context(|| path.display().to_string())?);
    labelled::write(found, table.as_ref(), folder, &mut lines).with_context(|| {
        args.from.iter().map(|from| from.display().to_string()).collect::<Vec<_>>().join(", ")
    })?;
    lines.into_inner().map_err(|error| error.into_error())?.sync_all()?;
    Ok(())
}

/// The given Parquet files, and those in the given folders, in the order of their names.
fn parquet_files(places: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let is_parquet = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "parquet");
    let mut files = Vec::new();
    for place in places {
        if !place.is_dir() {
            files.push(place.clone());
            continue;
        }
        let mut found = labelled::files_below(place)?;
        found.retain(is_parquet);
        ensure!(!found.is_empty(), "{}: there is no .parquet file in it", place.display());
        files.extend(found);
    }
    Ok(files)
}

/// Writes `refs.jsonl` and the pictures.
struct Writer<'a> {
    folder: &'a Path,
    args: &'a ImportArgs,
    lines: BufWriter<File>,
    /// Pictures written, with the hash of their bytes.
    pictures: BTreeMap<String, u64>,
    ref_ids: BTreeSet<i64>,
    n_without_mask: usize,
    n_masks: usize,
    n_objects: usize,
}

impl<'a> Writer<'a> {
    fn new(folder: &'a Path, args: &'a ImportArgs) -> Result<Self> {
        if let Some(images) = &args.images {
            let target = images.canonicalize().with_context(|| images.display().to_string())?;
            std::os::unix::fs::symlink(&target, folder.join(LINKED)).context("linking the pictures")?;
        }
        let path = folder.join("refs.jsonl");
        let lines = BufWriter::new(File::create(&path).with_context(|| path.display().to_string())?);
        let (pictures, ref_ids) = (BTreeMap::new(), BTreeSet::new());
        Ok(Self { folder, args, lines, pictures, ref_ids, n_without_mask: 0, n_masks: 0, n_objects: 0 })
    }

    fn add_file(&mut self, path: &Path) -> Result<()> {
        let reader =
            SerializedFileReader::new(open_regular(path)?).map_err(
                |error| match file_kind::mistaken_file(path) {
                    Some(what) => anyhow!("{what}"),
                    None => anyhow!("not a readable parquet file, or only half of one: {error}"),
                },
            )?;
        let table = Table::recognise(&reader)?;
        let n_rows = reader.metadata().file_metadata().num_rows().max(0) as u64;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let mut progress = Progress::new(&format!("import {stem}"), n_rows, 0);
        let rows = reader.get_row_iter(None).context("not a readable parquet file")?;
        for (number, row) in rows.enumerate() {
            let at = || format!("row {number}");
            for object in table.objects(&row.with_context(at)?).with_context(at)? {
                self.add(object, &stem).with_context(at)?;
            }
            progress.advance(1, "");
        }
        Ok(())
    }

    fn add(&mut self, object: Object, stem: &str) -> Result<()> {
        let mask = match object.mask {
            Mask::None => {
                self.n_without_mask += 1;
                return Ok(());
            }
            Mask::Coco(mask) => mask,
            Mask::Picture(bytes) => {
                let mask = refcoco::decode_mask(&bytes).map_err(|what| anyhow!("mask: {what}"))?;
                if mask.area() == 0 {
                    self.n_without_mask += 1;
                    return Ok(());
                }
                let size = picture_size(&object.picture);
                if let Some((width, height)) = size.filter(|size| *size != (mask.width, mask.height)) {
                    bail!("the mask is {}x{}, but its picture is {width}x{height}", mask.width, mask.height);
                }
                json!(self.write_mask(&bytes)?)
            }
        };
        if let Some(ref_id) = object.ref_id {
            ensure!(self.ref_ids.insert(ref_id), "ref_id {ref_id} occurs twice");
        }
        let split = self.args.split.clone().or(object.split).unwrap_or_else(|| split_of(stem));
        let image = self.place_picture(object.picture)?;
        if mask.is_array() || mask.is_object() {
            let (width, height) = refcoco::image_size(&self.folder.join(&image))?;
            if refcoco::Mask::from_segmentation(width, height, &mask)?.area() == 0 {
                self.n_without_mask += 1;
                return Ok(());
            }
        }
        self.n_objects += 1;
        let mut line = json!({
            "image": image, "mask": mask, "expressions": object.expressions, "split": split,
        });
        let optional = [
            ("category", object.category.map(|category| json!(category))),
            ("ref_id", object.ref_id.map(|ref_id| json!(ref_id))),
            ("sent_ids", object.sent_ids.map(|sent_ids| json!(sent_ids))),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                line[key] = value;
            }
        }
        Ok(writeln!(self.lines, "{line}")?)
    }

    /// Writes a mask picture; returns its path below the folder.
    fn write_mask(&mut self, bytes: &[u8]) -> Result<String> {
        let folder = self.folder.join(MASKS);
        std::fs::create_dir_all(&folder)?;
        let name = format!("{:06}.png", self.n_masks);
        self.n_masks += 1;
        std::fs::write(folder.join(&name), bytes)?;
        Ok(format!("{MASKS}/{name}"))
    }

    /// Writes or finds a picture; returns its path below the folder.
    fn place_picture(&mut self, picture: Picture) -> Result<String> {
        let Some(bytes) = picture.bytes else {
            let images = self
                .args
                .images
                .as_ref()
                .context("the file only names its pictures; say where they are with --images DIR")?;
            // The path in the row, or the path without some of its leading folders.
            let parts: Vec<&str> = picture.name.split('/').filter(|part| !part.is_empty()).collect();
            let found =
                (0..parts.len()).map(|skip| parts[skip..].join("/")).find(|name| images.join(name).is_file());
            let name =
                found.with_context(|| format!("{}: there is no `{}`", images.display(), picture.name))?;
            return Ok(format!("{LINKED}/{name}"));
        };
        let hash = hash_of(&bytes);
        let extension = extension_of(&bytes);
        let stem = |name: &str| name.rsplit_once('.').map_or(name.to_owned(), |(stem, _)| stem.to_owned());
        // Rows with the same picture share one file. Other pictures of the same name are called by their content, too.
        let base =
            picture.name.rsplit(['/', '\\']).next().unwrap_or_default().trim_start_matches('.').to_owned();
        let candidates = match base.is_empty() {
            true => vec![format!("{hash:016x}.{extension}")],
            false => {
                vec![shared_name(&base), base.clone(), format!("{}-{hash:016x}.{extension}", stem(&base))]
            }
        };
        for name in candidates {
            match self.pictures.get(&name) {
                Some(&written) if written == hash => return Ok(format!("{WRITTEN}/{name}")),
                Some(_) => {}
                None => {
                    let folder = self.folder.join(WRITTEN);
                    std::fs::create_dir_all(&folder)?;
                    std::fs::write(folder.join(&name), &bytes)?;
                    self.pictures.insert(name.clone(), hash);
                    return Ok(format!("{WRITTEN}/{name}"));
                }
            }
        }
        bail!("picture `{}` cannot be told from another one", picture.name)
    }

    fn finish(self) -> Result<()> {
        ensure!(
            self.n_objects > 0,
            "there is no object with a mask in it: {} rows have none",
            self.n_without_mask
        );
        let file = self.lines.into_inner().map_err(|error| error.into_error())?;
        file.sync_all()?;
        if self.n_without_mask > 0 {
            errln!("{} rows without a mask are left out", self.n_without_mask);
        }
        Ok(())
    }
}

const LINKED: &str = "images";
const WRITTEN: &str = "pictures";
const MASKS: &str = "masks";

/// Size of a picture inside the file.
fn picture_size(picture: &Picture) -> Option<(usize, usize)> {
    let image = refcoco::decode_image(picture.bytes.as_deref()?).ok()?;
    Some((image.width, image.height))
}

/// Extension of a picture's format, by its first bytes.
fn extension_of(bytes: &[u8]) -> &'static str {
    match bytes {
        [0xff, 0xd8, ..] => "jpg",
        [b'R', b'I', b'F', b'F', ..] => "webp",
        [b'I', b'I', ..] | [b'M', b'M', ..] => "tif",
        _ => "png",
    }
}

fn hash_of(bytes: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher};
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    hasher.finish()
}

/// The name of the picture itself. REFER names an object's picture `COCO_train2014_000000581857_16.jpg`; the picture's name
/// lacks the last number.
fn shared_name(name: &str) -> String {
    let digits =
        |text: &str, least: usize| text.len() >= least && text.bytes().all(|byte| byte.is_ascii_digit());
    let shared = name.rsplit_once('.').and_then(|(stem, extension)| {
        let (picture, object) = stem.rsplit_once('_')?;
        let (_, number) = picture.rsplit_once('_')?;
        (digits(object, 1) && digits(number, 12)).then(|| format!("{picture}.{extension}"))
    });
    shared.unwrap_or_else(|| name.to_owned())
}

/// The split that a file such as `testA-00000-of-00002.parquet` holds.
fn split_of(stem: &str) -> String {
    match stem.split('-').next().unwrap_or_default() {
        "validation" => "val".to_owned(),
        split => split.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_pictures_and_splits() {
        assert_eq!(shared_name("COCO_train2014_000000581857_16.jpg"), "COCO_train2014_000000581857.jpg");
        assert_eq!(shared_name("COCO_train2014_000000581857.jpg"), "COCO_train2014_000000581857.jpg");
        assert_eq!(shared_name("holiday_3.png"), "holiday_3.png");
        assert_eq!(split_of("testA-00000-of-00002"), "testA");
        assert_eq!(split_of("validation-00000-of-00001"), "val");
    }
}
