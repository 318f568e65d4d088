//! Other spellings of a file name from an annotation file.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use unicode_normalization::UnicodeNormalization;

/// Whether a path from an annotation file stays below the folder it is looked for in. `./` is allowed, and so are absolute paths:
/// they are looked for below the folder like any others ([`spellings`]).
pub(crate) fn stays_inside(name: &str) -> bool {
    let inside =
        |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir | Component::RootDir);
    let path = Path::new(name);
    path.file_name().is_some() && path.components().all(inside)
}

/// Whether a path is absolute, on Linux or on Windows (`C:\\data\\a.jpg`, `\\\\host\\data\\a.jpg`).
pub(crate) fn is_absolute(name: &str) -> bool {
    name.starts_with(['/', '\\'])
        || matches!(name.as_bytes(), [drive, b':', b'/' | b'\\', ..] if drive.is_ascii_alphabetic())
}

/// Longest path that Linux takes, in bytes.
pub(crate) const MAX_PATH: usize = 4096;

/// Characters of a name that a message shows.
pub(crate) const SHOWN: usize = 200;

/// A text as it stands in a message: its first `most` characters.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Whether a name is the address of a file on the web.
pub(crate) fn is_web_address(name: &str) -> bool {
    ["http://", "https://", "s3://", "gs://"].iter().any(|scheme| name.starts_with(scheme))
}

/// What a text is that stands in the place of a mask file's name, as the end of a sentence; `None` for what can be a name.
pub(crate) fn no_mask_file(text: &str) -> Option<&'static str> {
    let is_runs = text.contains(' ') && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b' ');
    match text.trim() {
        "" => Some("empty text; write null for expressions without a target"),
        text if text.starts_with(['[', '{']) => Some("text that begins like JSON and is none"),
        text if text.starts_with("data:") => Some("a data URL; save the mask as a PNG, and name that"),
        text if is_web_address(text) => Some("a web address; fetch the mask, and name the file"),
        text if text.starts_with("POLYGON") || text.starts_with("MULTIPOLYGON") => Some("a polygon in WKT"),
        _ if is_runs => {
            Some("text with run lengths, as Kaggle has them; COCO's RLE is an object with size and counts")
        }
        text if text.len() > MAX_PATH => Some("text too long for a file's name"),
        _ => None,
    }
}

/// The spellings under which a file may lie, most likely first:
///
/// - as written, without `./`
/// - with `/` in place of `\`, as Windows programs write paths
///
/// None is absolute: what stands for the root is left out.
pub(crate) fn spellings(name: &str) -> Vec<String> {
    let plain = |name: &str| {
        let parts = Path::new(name).components();
        let parts = parts.filter(|part| !matches!(part, Component::CurDir | Component::RootDir));
        parts.map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
    };
    let mut found = vec![plain(name)];
    if name.contains('\\') {
        found.push(plain(&name.replace('\\', "/")));
    }
    let mut seen = BTreeSet::new();
    found.retain(|name| seen.insert(name.clone()) && (name.contains('\\') || stays_inside(name)));
    found
}

/// The file of this name below a folder, if it exists. Each part of the name may be in Unicode's composed or decomposed form:
/// macOS stores names decomposed.
pub fn file_below(folder: &Path, name: &str) -> Option<PathBuf> {
    let whole = folder.join(name);
    if whole.exists() {
        return Some(whole);
    }
    if name.is_ascii() {
        return None;
    }
    let mut path = folder.to_path_buf();
    for part in name.split('/') {
        let forms = [part.to_owned(), part.nfc().collect(), part.nfd().collect()];
        path = forms.iter().map(|form| path.join(form)).find(|path| path.exists())?;
    }
    Some(path)
}

/// A file in the place of a missing one whose name differs from it in case or extension alone.
pub fn similar_file(folder: &Path, name: &str) -> Option<String> {
    let path = folder.join(name);
    let key = |name: &OsString| Path::new(name).file_stem().map(|stem| stem.to_string_lossy().to_lowercase());
    let wanted = key(&path.file_name()?.to_owned());
    let names = std::fs::read_dir(path.parent()?).ok()?.filter_map(|entry| Some(entry.ok()?.file_name()));
    let mut found: Vec<OsString> = names.filter(|found| key(found) == wanted).collect();
    found.sort();
    Some(found.first()?.to_string_lossy().into_owned())
}

/// The name without its first folder, without its first two, and so on.
pub(crate) fn without_folders(name: &str) -> impl Iterator<Item = &str> {
    name.match_indices('/').map(|(at, _)| &name[at + 1..])
}

/// [`spellings`] of a photo, and then COCO's names of the same photo: 2017 has `000000000009.jpg`, 2014 has
/// `COCO_train2014_000000000009.jpg`. The number is the photo's own, so that these are also tried without folders in front.
pub(crate) fn photo_spellings(name: &str) -> Vec<String> {
    let mut found = spellings(name);
    for name in found.clone() {
        let (folders, base) =
            name.rsplit_once('/').map_or(("", name.as_str()), |(front, base)| (front, base));
        let in_folder = |base: String| if folders.is_empty() { base } else { format!("{folders}/{base}") };
        match coco_number(base) {
            Some(number) if number == base => {
                found.extend(["train2014", "val2014"].map(|year| in_folder(format!("COCO_{year}_{base}"))));
                found.push(base.to_owned());
            }
            Some(number) => found.extend([in_folder(number.to_owned()), base.to_owned(), number.to_owned()]),
            None => {}
        }
    }
    let mut seen = BTreeSet::new();
    found.retain(|name| seen.insert(name.clone()));
    found
}

/// `000000000009.jpg`, the name of 2017, from a COCO photo's name of 2014 or 2017; `None` for other names.
pub(crate) fn coco_number(base: &str) -> Option<&str> {
    let number = base.strip_prefix("COCO_").map_or(Some(base), |rest| Some(rest.split_once('_')?.1))?;
    let (digits, extension) = number.split_once('.')?;
    let is_photo =
        digits.len() == 12 && digits.bytes().all(|byte| byte.is_ascii_digit()) && extension.len() == 3;
    is_photo.then_some(number)
}

/// A name without leading folders that are the place's own last ones: `train2014/a.jpg` in `images/train2014`.
///
/// - place: a folder, or an archive without its extension
pub(crate) fn without_place<'a>(name: &'a str, place: &Path) -> Option<&'a str> {
    let place: Vec<_> = place.components().map(|part| part.as_os_str()).collect();
    let ends: Vec<usize> = name.match_indices('/').map(|(at, _)| at).collect();
    let is_own = |end: &&usize| {
        let front: Vec<_> = Path::new(&name[..**end]).components().map(|part| part.as_os_str()).collect();
        place.ends_with(&front)
    };
    ends.iter().rev().find(is_own).map(|&end| &name[end + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_the_folder() {
        assert!(stays_inside("a.png") && stays_inside("./a/b.png") && stays_inside("a\\b.png"));
        for name in ["", ".", "./", "..", "../a", "a/../b", "/", "/a/../b", "/..", "./../a"] {
            assert!(!stays_inside(name), "{name}");
        }
        assert_eq!(spellings("/etc/passwd"), ["etc/passwd"]);
        assert!(
            is_absolute("/a")
                && is_absolute("C:\\a.png")
                && is_absolute("d:/a.png")
                && is_absolute("\\\\host\\a")
        );
        assert!(!is_absolute("a/b.png") && !is_absolute("a:b.png") && !is_absolute("./a.png"));
        assert_eq!(spellings("..\\..\\a.png"), ["..\\..\\a.png"]);
    }

    #[test]
    fn spellings_of_windows_and_macos() {
        assert_eq!(spellings("./a.png"), ["a.png"]);
        assert_eq!(spellings("pics\\a.png"), ["pics\\a.png", "pics/a.png"]);
    }

    #[test]
    fn each_part_of_a_path_may_be_composed_or_decomposed() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("e\u{301}te\u{301}/caf\u{e9}.png");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "").unwrap();
        for name in ["\u{e9}t\u{e9}/caf\u{e9}.png", "e\u{301}t\u{e9}/cafe\u{301}.png"] {
            // A part in mixed form is not on the disk in that form.
            assert_eq!(file_below(root.path(), name), Some(path.clone()), "{name}");
        }
        assert_eq!(file_below(root.path(), "\u{e9}t\u{e9}/b.png"), None);
    }

    #[test]
    fn names_that_differ_in_case_or_extension_are_found_for_messages() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("IMG_1.JPEG"), "").unwrap();
        assert_eq!(similar_file(root.path(), "img_1.jpg").as_deref(), Some("IMG_1.JPEG"));
        assert_eq!(similar_file(root.path(), "img_2.jpg"), None);
    }

    #[test]
    fn photos_of_both_years() {
        let found = photo_spellings("train2014/COCO_train2014_000000000009.jpg");
        assert!(found.contains(&"000000000009.jpg".to_owned()), "{found:?}");
        let found = photo_spellings("000000000009.jpg");
        assert_eq!(found[1..], ["COCO_train2014_000000000009.jpg", "COCO_val2014_000000000009.jpg"]);
        assert_eq!(photo_spellings("01/a.jpg"), ["01/a.jpg"]);
    }

    #[test]
    fn only_folders_of_the_place_itself_are_left_out() {
        let place = Path::new("root/images/train2014");
        assert_eq!(without_place("train2014/a.jpg", place), Some("a.jpg"));
        assert_eq!(without_place("images/train2014/01/a.jpg", place), Some("01/a.jpg"));
        assert_eq!(without_place("01/a.jpg", place), None);
        assert_eq!(without_place("a.jpg", place), None);
    }
}
