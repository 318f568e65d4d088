//! YOLO's segmentation labels, as Ultralytics and Roboflow lay them out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use cli_kit::errln;
use serde_json::json;
use yaml_rust2::{Yaml, YamlLoader};

use super::labelled::{
    Found, Labelled, LabelledMask, files_below, is_picture, name_below, split_of_path, stem_below,
};

/// Folders that have `images` and `labels` side by side: the folder itself (Ultralytics), or each split's (Roboflow).
pub(super) fn yolo_parts(folder: &Path) -> Result<Vec<PathBuf>> {
    let is_part = |path: &PathBuf| path.join("images").is_dir() && path.join("labels").is_dir();
    let whole = folder.to_path_buf();
    if is_part(&whole) {
        return Ok(vec![whole]);
    }
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut parts: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_part).collect();
    parts.sort();
    Ok(parts)
}

/// Reads YOLO's segmentation labels: `labels/[SPLIT/]NAME.txt` with `CLASS x y x y ...` in shares of the picture's size, beside
/// `images/[SPLIT/]NAME.jpg`; or `SPLIT/labels/NAME.txt` beside `SPLIT/images/NAME.jpg`.
pub(super) fn yolo(folder: &Path) -> Result<Found> {
    let classes = yolo_classes(folder)?;
    let parts = yolo_parts(folder)?;
    ensure!(!parts.is_empty(), "{}: there are no folders images and labels side by side", folder.display());
    let (mut found, mut nameless) = (Found::default(), BTreeSet::new());
    for part in parts {
        read_part(&part, folder, &classes, (&mut found, &mut nameless))?;
    }
    if let Some(first) = nameless.first() {
        errln!(
            "{}: {} classes have no name in data.yaml or classes.txt; the first is called `class {first}`, also in its expression",
            folder.display(),
            nameless.len()
        );
    }
    Ok(found)
}

/// Reads one pair of `images` and `labels`.
fn read_part(
    part: &Path,
    folder: &Path,
    classes: &BTreeMap<usize, String>,
    (found, nameless): (&mut Found, &mut BTreeSet<usize>),
) -> Result<()> {
    let (labels, images) = (part.join("labels"), part.join("images"));
    // Names below the whole folder, without `images` where that is all there is.
    let base = if part == folder { images.clone() } else { folder.to_path_buf() };
    let mut pictures: BTreeMap<String, PathBuf> = BTreeMap::new();
    for path in files_below(&images)?.into_iter().filter(|path| is_picture(path)) {
        let stem = stem_below(&path, &images);
        if let Some(other) = pictures.insert(stem, path.clone()) {
            bail!(
                "{}: {} has the same name, so that its labels may be of either",
                path.display(),
                other.display()
            );
        }
    }
    for path in files_below(&labels)?.iter().filter(|path| path.extension().is_some_and(|end| end == "txt")) {
        let stem = stem_below(path, &labels);
        let picture = pictures.get(&stem);
        if picture.is_none() && is_no_label(&stem) {
            continue;
        }
        let text = read_text(path)?;
        let picture =
            picture.with_context(|| format!("{}: there is no picture images/{stem}.*", path.display()))?;
        let (width, height) = refcoco::image_size(picture)?;
        let name = name_below(picture, &base);
        for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let at = || format!("{}: line {}", path.display(), index + 1);
            let Some((class, corners)) = label(line, width, height).with_context(at)? else {
                found.leave_out("boxes, which are no masks");
                continue;
            };
            found.objects.push(Labelled {
                split: split_of_path(&name),
                name: name.clone(),
                picture: picture.clone(),
                mask: LabelledMask::Coco(json!([corners])),
                category: Some(classes.get(&class).cloned().unwrap_or_else(|| {
                    nameless.insert(class);
                    format!("class {class}")
                })),
                expressions: Vec::new(),
                recorded: None,
                number: None,
                crowd: false,
            });
        }
    }
    Ok(())
}

/// Whether a text file among the labels is about all of them, as tools write there.
fn is_no_label(stem: &str) -> bool {
    let base = stem.rsplit('/').next().unwrap_or_default().to_lowercase();
    ["classes", "predefined_classes", "readme", "notes", "license"].contains(&base.as_str())
        || base.starts_with("readme.")
}

/// The class and the corners in pixels that a line says; `None` for a box.
fn label(line: &str, width: usize, height: usize) -> Result<Option<(usize, Vec<f64>)>> {
    let numbers =
        line.split_whitespace().map(|word| word.parse::<f64>().map_err(|_| anyhow!("`{word}` is no number")));
    let numbers: Vec<f64> = numbers.collect::<Result<_>>()?;
    let (Some(&class), true) = (numbers.first(), numbers.len() % 2 == 1) else {
        bail!("expected a class and pairs of x and y");
    };
    if numbers.len() < 7 {
        return Ok(None);
    }
    ensure!(
        numbers[1..].iter().all(|number| (-0.01..=1.01).contains(number)),
        "coordinates must be shares of the picture's size, 0 to 1"
    );
    ensure!(class >= 0.0 && class.fract() == 0.0, "the class must be a whole number from 0 on");
    let scaled = numbers[1..].as_chunks::<2>().0.iter();
    let corners = scaled.flat_map(|[x, y]| [x * width as f64, y * height as f64]).collect();
    Ok(Some((class as usize, corners)))
}

/// A text file without a byte order mark.
fn read_text(path: &Path) -> Result<String> {
    let shown = || path.display().to_string();
    let bytes = std::fs::read(path).with_context(shown)?;
    if let Some(what) = file_kind::mistaken(&bytes).filter(|_| !bytes.is_empty()) {
        bail!("{}: {what}", path.display());
    }
    match String::from_utf8(file_kind::without_mark(&bytes).to_vec()) {
        Ok(text) => Ok(text),
        Err(_) => bail!("{}: it is not UTF-8: save the file as UTF-8", path.display()),
    }
}

/// Names of classes by number: `names` of a YAML file (a list or a mapping), or a line each of `classes.txt`.
fn yolo_classes(folder: &Path) -> Result<BTreeMap<usize, String>> {
    let clean = |name: &str| name.trim().trim_matches(['"', '\'']).to_owned();
    for name in ["classes.txt", "obj.names", "labels/classes.txt"] {
        if folder.join(name).is_file() {
            return Ok(read_text(&folder.join(name))?.lines().map(clean).enumerate().collect());
        }
    }
    let is_yaml = |path: &PathBuf| path.extension().is_some_and(|end| end == "yaml" || end == "yml");
    let Some(path) = files_below(folder)?.into_iter().find(is_yaml) else { return Ok(BTreeMap::new()) };
    let text = read_text(&path)?;
    let documents = YamlLoader::load_from_str(&text).with_context(|| path.display().to_string())?;
    let names = documents.first().map(|document| &document["names"]);
    Ok(match names {
        Some(Yaml::Array(names)) => {
            names.iter().enumerate().filter_map(|(at, name)| Some((at, scalar(name)?))).collect()
        }
        Some(Yaml::Hash(names)) => {
            let entry = |(key, name): (&Yaml, &Yaml)| Some((scalar(key)?.parse().ok()?, scalar(name)?));
            names.iter().filter_map(entry).collect()
        }
        _ => BTreeMap::new(),
    })
}

/// A text or a number as it is written.
fn scalar(value: &Yaml) -> Option<String> {
    match value {
        Yaml::String(text) | Yaml::Real(text) => Some(text.clone()),
        Yaml::Integer(number) => Some(number.to_string()),
        Yaml::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    }
}
