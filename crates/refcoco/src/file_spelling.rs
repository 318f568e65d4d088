//! Other spellings of a file name from an annotation file.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use unicode_normalization::UnicodeNormalization;

/// Whether a relative path from an annotation file stays below the folder it is joined to. `./` is allowed.
pub(crate) fn stays_inside(name: &str) -> bool {
    let inside = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    let path = Path::new(name);
    path.file_name().is_some() && path.components().all(inside)
}

/// The spellings under which a file may lie, most likely first:
///
/// - as written, without `./`
/// - with `/` in place of `\`, as Windows programs write paths
/// - each of these in Unicode's composed and decomposed form: macOS stores names decomposed
pub(crate) fn spellings(name: &str) -> Vec<String> {
    let plain = |name: &str| {
        let parts = Path::new(name).components().filter(|part| *part != Component::CurDir);
        parts.map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
    };
    let mut found = vec![plain(name)];
    if name.contains('\\') {
        found.push(plain(&name.replace('\\', "/")));
    }
    if !name.is_ascii() {
        let both = |name: &String| [name.nfc().collect::<String>(), name.nfd().collect()];
        let forms: Vec<String> = found.iter().flat_map(both).collect();
        found.extend(forms);
    }
    let mut seen = BTreeSet::new();
    found.retain(|name| seen.insert(name.clone()) && (name.contains('\\') || stays_inside(name)));
    found
}

/// [`spellings`] of a photo, and then COCO's names of the same photo: 2017 has `000000000009.jpg`, 2014 has
/// `COCO_train2014_000000000009.jpg`. The number is the photo's own, so that these are also tried without folders in front.
pub(crate) fn photo_spellings(name: &str) -> Vec<String> {
    let mut found = spellings(name);
    for name in found.clone() {
        let (folders, base) =
            name.rsplit_once('/').map_or(("", name.as_str()), |(front, base)| (front, base));
        let in_folder = |base: String| if folders.is_empty() { base } else { format!("{folders}/{base}") };
        let is_number = |text: &str| text.len() == 16 && text[..12].bytes().all(|byte| byte.is_ascii_digit());
        let coco = base.strip_prefix("COCO_").and_then(|rest| rest.split_once('_')).map(|(_, number)| number);
        match coco {
            Some(number) if is_number(number) => {
                found.extend([in_folder(number.to_owned()), base.to_owned(), number.to_owned()]);
            }
            None if is_number(base) => {
                found.extend(["train2014", "val2014"].map(|year| in_folder(format!("COCO_{year}_{base}"))));
                found.push(base.to_owned());
            }
            _ => {}
        }
    }
    let mut seen = BTreeSet::new();
    found.retain(|name| seen.insert(name.clone()));
    found
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
        for name in ["", ".", "./", "..", "../a", "a/../b", "/a", "./../a"] {
            assert!(!stays_inside(name), "{name}");
        }
        assert_eq!(spellings("..\\..\\a.png"), ["..\\..\\a.png"]);
    }

    #[test]
    fn spellings_of_windows_and_macos() {
        assert_eq!(spellings("./a.png"), ["a.png"]);
        assert_eq!(spellings("pics\\a.png"), ["pics\\a.png", "pics/a.png"]);
        assert_eq!(spellings("caf\u{e9}.png"), ["caf\u{e9}.png", "cafe\u{301}.png"]);
        assert_eq!(spellings("cafe\u{301}.png"), ["cafe\u{301}.png", "caf\u{e9}.png"]);
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
