//! Objects of annotation tools: each in a picture file, with a category, and expressions if there are any.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use cli_kit::errln;
use rayon::prelude::*;
use refcoco::{Mask, decode_mask, whole_number};
use serde_json::{Value, json};
use unicode_normalization::UnicodeNormalization;

use super::expressions::Expressions;
use super::{MASKS, WRITTEN};

/// An object as an annotation tool has it.
#[derive(Debug)]
pub(super) struct Labelled {
    /// The picture file.
    pub(super) picture: PathBuf,
    /// Its name below the written folder, with `/`.
    pub(super) name: String,
    pub(super) mask: LabelledMask,
    pub(super) category: Option<String>,
    /// Expressions for this object alone.
    pub(super) expressions: Vec<String>,
    /// Width and height of the picture as the source records them.
    pub(super) recorded: Option<(usize, usize)>,
    /// The tool's number of the object, for a table of expressions.
    pub(super) number: Option<i64>,
    pub(super) split: String,
    pub(super) crowd: bool,
}

#[derive(Debug)]
pub(super) enum LabelledMask {
    /// A COCO segmentation.
    Coco(Value),
    /// A mask file.
    File(PathBuf),
}

/// What a source holds: its objects, and how many things in it cannot be read as objects, by what they are.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) objects: Vec<Labelled>,
    pub(super) left_out: BTreeMap<&'static str, usize>,
    /// What else to say, and of how many things.
    notes: BTreeMap<&'static str, usize>,
}

impl Found {
    pub(super) fn leave_out(&mut self, what: &'static str) {
        *self.left_out.entry(what).or_default() += 1;
    }

    /// Counts something that is odd and not left out.
    ///
    /// - what: follows a number, as in `annotations have no category`
    pub(super) fn note(&mut self, what: &'static str) {
        *self.notes.entry(what).or_default() += 1;
    }

    /// What is left out, as text.
    fn left_out(&self) -> impl Iterator<Item = String> {
        self.left_out.iter().map(|(what, n)| format!("{n} {what} are left out"))
    }

    /// Adds what another source holds.
    pub(super) fn extend(&mut self, other: Self) {
        self.objects.extend(other.objects);
        for (counts, more) in [(&mut self.left_out, other.left_out), (&mut self.notes, other.notes)] {
            for (what, n) in more {
                *counts.entry(what).or_default() += n;
            }
        }
    }
}

/// Leaves out objects whose mask has no pixel.
///
/// # Errors
/// Names the picture whose object has a mask that cannot be read, or of another size.
fn without_empty(found: &mut Found) -> Result<()> {
    let objects = std::mem::take(&mut found.objects);
    let checked: Vec<Result<bool>> = objects.par_iter().map(Labelled::has_pixels).collect();
    for (object, has_pixels) in objects.into_iter().zip(checked) {
        match has_pixels? {
            true => found.objects.push(object),
            false => found.leave_out("objects whose mask is empty"),
        }
    }
    Ok(())
}

impl Labelled {
    fn has_pixels(&self) -> Result<bool> {
        let (width, height) = refcoco::image_size(&self.picture)?;
        if let Some((w, h)) = self.recorded.filter(|recorded| *recorded != (width, height)) {
            let turned = (w, h) == (height, width) && refcoco::is_turned_by_exif(&self.picture);
            let why = match turned {
                true => {
                    "it was made on the picture as it lies in the file, which its EXIF orientation turns; take the orientation out \
                     (`exiftool -Orientation= FILE`), or annotate the turned picture"
                }
                false => "it is of another picture, or of another scale",
            };
            bail!(
                "{}: the picture is {width}x{height}, but its annotation says {w}x{h}: {why}",
                self.picture.display()
            );
        }
        match &self.mask {
            LabelledMask::Coco(value) => {
                let number =
                    self.number.map_or_else(String::new, |number| format!("annotation {number} in "));
                let mask = Mask::from_segmentation(width, height, value);
                mask.map(|mask| mask.area() > 0)
                    .with_context(|| format!("{number}{}", self.picture.display()))
            }
            LabelledMask::File(path) => {
                let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
                let mask = decode_mask(&bytes).map_err(|what| anyhow!("{}: {what}", path.display()))?;
                ensure!(
                    (mask.width, mask.height) == (width, height),
                    "{}: the mask is {}x{}, but its picture {} is {width}x{height}",
                    path.display(),
                    mask.width,
                    mask.height,
                    self.picture.display()
                );
                Ok(mask.area() > 0)
            }
        }
    }
}

/// Writes the pictures, and a line for each object. Expressions of the table come first; objects without any are asked for by the
/// name of their category, all of a category in one picture together.
pub(super) fn write(
    found: Found,
    table: Option<&Expressions>,
    folder: &Path,
    lines: &mut impl Write,
) -> Result<()> {
    let mut found = found;
    without_empty(&mut found)?;
    if found.objects.is_empty() {
        let left_out: Vec<String> = found.left_out().collect();
        let left_out =
            if left_out.is_empty() { String::new() } else { format!(" ({})", left_out.join("; ")) };
        bail!("there is no object with a mask in it{left_out}");
    }
    found.left_out().for_each(|line| errln!("{line}"));
    for (what, n) in &found.notes {
        errln!("{n} {what}");
    }
    let mut objects = found.objects;
    let mut together: Vec<(Vec<usize>, String)> = match table {
        Some(table) => table.assign(&mut objects)?,
        None => Vec::new(),
    };
    if table.is_none() {
        let mut groups: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
        for (index, object) in objects.iter().enumerate() {
            if let (true, Some(category)) = (object.expressions.is_empty() && !object.crowd, &object.category)
            {
                groups.entry((&object.name, category)).or_default().push(index);
            }
        }
        together
            .extend(groups.into_iter().map(|((_, category), indices)| (indices, category.replace('_', " "))));
    }
    for (indices, expression) in std::mem::take(&mut together) {
        match indices[..] {
            [index] => objects[index].expressions.push(expression),
            _ => together.push((indices, expression)),
        }
    }
    ensure!(
        !together.is_empty() || objects.iter().any(|object| !object.expressions.is_empty()),
        "no object has an expression or a category; give expressions with --expressions FILE.csv"
    );
    let mut written = BTreeSet::new();
    for (index, object) in objects.iter().enumerate() {
        ensure!(stays_inside(&object.name), "picture name `{}`", object.name);
        if written.insert(object.name.clone()) {
            copy(&object.picture, &folder.join(WRITTEN).join(&object.name))?;
        }
        let mask = match &object.mask {
            LabelledMask::Coco(mask) => mask.clone(),
            LabelledMask::File(file) => {
                let extension = file.extension().unwrap_or_default().to_string_lossy();
                let name = format!("{MASKS}/{index:06}.{extension}");
                copy(file, &folder.join(&name))?;
                json!(name)
            }
        };
        let mut line = json!({
            "image": format!("{WRITTEN}/{}", object.name),
            "mask": mask,
            "ann_id": index + 1,
            "expressions": object.expressions,
            "split": object.split,
        });
        if let Some(category) = &object.category {
            line["category"] = json!(category);
        }
        if object.crowd {
            line["crowd"] = json!(true);
        }
        writeln!(lines, "{line}")?;
    }
    for (indices, expression) in together {
        let first = &objects[indices[0]];
        let ann_ids: Vec<usize> = indices.iter().map(|index| index + 1).collect();
        let image = format!("{WRITTEN}/{}", first.name);
        let line =
            json!({"image": image, "ann_ids": ann_ids, "expressions": [expression], "split": first.split});
        writeln!(lines, "{line}")?;
    }
    Ok(())
}

fn stays_inside(name: &str) -> bool {
    !name.is_empty() && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().context("a file lies in a folder")?;
    std::fs::create_dir_all(parent).with_context(|| parent.display().to_string())?;
    std::fs::copy(from, to).with_context(|| from.display().to_string())?;
    Ok(())
}

/// All files below a folder, sorted. Symlinks to folders are not followed: they may form a cycle. Hidden files and folders are left
/// out: macOS writes `._NAME` beside each file on other file systems, notebooks keep copies in `.ipynb_checkpoints`.
pub(super) fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut folders, mut files) = (vec![folder.to_path_buf()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry.with_context(|| folder.display().to_string())?;
            let name = entry.file_name();
            if name.as_encoded_bytes().starts_with(b".") || name == "__MACOSX" {
                continue;
            }
            let is_folder = entry.file_type().with_context(|| entry.path().display().to_string())?.is_dir();
            if is_folder { folders.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    files.sort();
    Ok(files)
}

/// The picture that a source names, and its name below the folder where it was found: the name itself, or without some of its
/// leading folders, drive or address. Accents may be composed or decomposed, and `%20` may stand for a blank.
pub(super) fn find_picture(folders: &[PathBuf], named: &str) -> Option<(PathBuf, String)> {
    let named = named.replace('\\', "/");
    let decoded = percent_encoding::percent_decode_str(&named).decode_utf8_lossy().into_owned();
    let of_name = |named: &str| {
        let parts: Vec<&str> = named.split('/').filter(|part| !["", ".", ".."].contains(part)).collect();
        let names = (0..parts.len()).map(|skip| parts[skip..].join("/"));
        names.into_iter().find_map(|name| {
            let found = folders.iter().filter_map(|folder| refcoco::file_below(folder, &name));
            found.into_iter().find(|path| path.is_file()).map(|path| (path, name.clone()))
        })
    };
    of_name(&named).or_else(|| of_name(&decoded).filter(|_| decoded != named))
}

/// Says which file in these folders has nearly this name: another case or extension. Empty if none has.
pub(super) fn similar_picture(folders: &[PathBuf], named: &str) -> String {
    let named = named.replace('\\', "/");
    let base = named.rsplit('/').next().unwrap_or_default();
    let similar = folders.iter().find_map(|folder| refcoco::similar_file(folder, base));
    similar.map_or_else(String::new, |found| format!("; there is `{found}`"))
}

/// Width and height as a source records them; none if it does not.
pub(super) fn recorded_size(width: &Value, height: &Value) -> Option<(usize, usize)> {
    let side = |value| usize::try_from(whole_number(value)?).ok().filter(|side| *side > 0);
    Some((side(width)?, side(height)?))
}

/// Path below a folder, with `/`; the file's name alone if it lies elsewhere.
pub(super) fn name_below(path: &Path, folder: &Path) -> String {
    let below = path.strip_prefix(folder).ok();
    let name = below.or_else(|| path.file_name().map(Path::new)).unwrap_or(path);
    name.to_string_lossy().replace('\\', "/")
}

/// The name without extension of a file below a folder, with composed accents: by it pictures are matched with labels and masks.
pub(super) fn stem_below(path: &Path, folder: &Path) -> String {
    name_below(&path.with_extension(""), folder).nfc().collect()
}

/// The split that a path's folders or file name say: `train`, `val` or `test`; `train` by default.
pub(super) fn split_of_path(name: &str) -> String {
    let lower = name.to_lowercase();
    let words: Vec<&str> = lower.split(|letter: char| !letter.is_ascii_alphabetic()).collect();
    let known =
        [("val", "val"), ("valid", "val"), ("validation", "val"), ("test", "test"), ("train", "train")];
    let split = known.iter().find(|(word, _)| words.contains(word));
    split.map_or("train", |(_, split)| split).to_owned()
}

/// Whether a file is a picture by its name. Some of these formats are not read: then the file is named with what it is, rather than
/// passed over.
pub(super) fn is_picture(path: &Path) -> bool {
    const EXTENSIONS: [&str; 14] = [
        "jpg", "jpeg", "jpe", "jfif", "png", "tif", "tiff", "webp", "bmp", "gif", "jp2", "heic", "heif",
        "avif",
    ];
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    EXTENSIONS.contains(&extension.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_in_paths() {
        for (name, split) in [
            ("images/val/a.jpg", "val"),
            ("instances_val2017.json", "val"),
            ("valley/a.jpg", "train"),
            ("labels/test/b.txt", "test"),
            ("a.json", "train"),
        ] {
            assert_eq!(split_of_path(name), split, "{name}");
        }
    }
}
