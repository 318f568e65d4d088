//! Folders `images` and `masks`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use super::labelled::{
    Found, Labelled, LabelledMask, files_below, is_picture, name_below, split_of_path, stem_below,
};

/// Whether the end of a mask file's name says nothing of the object: it only has words such as `mask`, and numbers.
fn says_nothing(words: &str) -> bool {
    const MASK_WORDS: [&str; 13] = [
        "mask",
        "masks",
        "seg",
        "segmentation",
        "label",
        "annotation",
        "gt",
        "binary",
        "segm",
        "instance",
        "object",
        "obj",
        "id",
    ];
    let lower = words.to_lowercase();
    let mut parts =
        lower.split([' ', '-']).map(|part| part.trim_matches(|letter: char| letter.is_ascii_digit()));
    parts.all(|part| part.is_empty() || MASK_WORDS.contains(&part))
}

/// Reads folders `images` and `masks`. A mask is `masks/NAME.png`, `masks/NAME_WORDS.png` or `masks/NAME/WORDS.png`; the words are its
/// expression.
pub(super) fn masks(folder: &Path, has_table: bool) -> Result<Found> {
    let (images, masks) = (folder.join("images"), folder.join("masks"));
    let pictures: Vec<(String, PathBuf)> = files_below(&images)?
        .into_iter()
        .filter(|path| is_picture(path))
        .map(|path| (stem_below(&path, &images), path))
        .collect();
    let (mut found, mut written) = (Found::default(), BTreeMap::new());
    for path in files_below(&masks)? {
        if !is_picture(&path) {
            found.leave_out("files in masks that are no pictures by their names");
            continue;
        }
        ensure!(path.to_str().is_some(), "{}: its name is not UTF-8; rename it", path.display());
        let name = stem_below(&path, &masks);
        // The longest picture name that the mask's name begins with.
        let fits = |stem: &str| {
            name.strip_prefix(stem).is_some_and(|rest| rest.is_empty() || rest.starts_with(['_', '/']))
        };
        let fitting = pictures.iter().filter(|(stem, _)| fits(stem)).max_by_key(|(stem, _)| stem.len());
        let (stem, picture) =
            fitting.with_context(|| format!("{}: no picture in images has its name", path.display()))?;
        if let Some((_, other)) = pictures.iter().find(|(same, path)| same == stem && path != picture) {
            bail!(
                "{}: it may be the mask of {} or of {}",
                path.display(),
                other.display(),
                picture.display()
            );
        }
        let words = name[stem.len()..].trim_start_matches(['_', '/']).replace(['_', '/'], " ");
        let words = if says_nothing(&words) { String::new() } else { words };
        if let Some(other) = written.insert(name.clone(), path.clone()) {
            bail!("{}: {} has the same name", path.display(), other.display());
        }
        ensure!(
            has_table || !words.is_empty(),
            "{}: its name has no expression; name it {stem}_EXPRESSION.png, or give --expressions FILE.csv with the columns mask \
             and expression",
            path.display()
        );
        let picture_name = name_below(picture, &images);
        found.objects.push(Labelled {
            split: split_of_path(&picture_name),
            name: picture_name,
            picture: picture.clone(),
            mask: LabelledMask::File(path),
            category: None,
            expressions: if has_table { Vec::new() } else { vec![words] },
            recorded: None,
            number: None,
            crowd: false,
        });
    }
    Ok(found)
}
