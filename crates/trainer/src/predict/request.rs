//! What `predict` is asked for: images and the expressions about each.

use std::collections::{HashMap, HashSet};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use cli_kit::errln;
use run_files::{PictureQuery, read_queries};

use super::PredictArgs;
use crate::checkpoint::is_same;

/// What to predict.
#[derive(Debug)]
pub(super) enum Request {
    /// One expression in one image, named on the command line.
    One { image: PathBuf, text: String },
    /// Anything else: images, each with its expressions.
    Many(Vec<Picture>),
}

/// An image and the expressions about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Picture {
    /// Its name in predictions.
    pub(super) name: String,
    /// The file, or why the name cannot be one.
    pub(super) file: Result<PathBuf, String>,
    pub(super) expressions: Vec<Expression>,
}

/// An expression, and its place in the list of all queries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expression {
    pub(super) place: usize,
    pub(super) text: String,
    pub(super) ids: (Option<i64>, Option<i64>),
}

/// Largest batch that is taken for a wish and not for a slip.
const MAX_BATCH: usize = 4096;

/// File names that are images, for folders.
const EXTENSIONS: [&str; 7] = ["jpg", "jpeg", "jfif", "png", "tif", "tiff", "webp"];

pub(super) fn request(args: &PredictArgs) -> Result<Request> {
    let allowed = 1..=MAX_BATCH;
    ensure!(args.batch_size.is_none_or(|n| allowed.contains(&n)), "--batch-size must be 1 to {MAX_BATCH}");
    if let Some(list) = &args.queries {
        let queries = read_queries(list)?;
        tell_what_scoring_refuses(&queries);
        return Ok(Request::Many(of_queries(&args.image, &args.out, queries)?));
    }
    ensure!(args.text.iter().all(|text| !text.trim().is_empty()), "--text: the expression is empty");
    if let ([text], false) = (&args.text[..], args.image.is_dir())
        && !is_pattern(&args.image)
    {
        return Ok(Request::One { image: args.image.clone(), text: text.clone() });
    }
    let mut place = 0..;
    let pictures = images(&args.image, &args.out)?.into_iter().map(|(name, path)| {
        let expression = |text: &String| Expression {
            place: place.next().unwrap_or_default(),
            text: text.clone(),
            ids: (None, None),
        };
        Picture { name, file: Ok(path), expressions: args.text.iter().map(expression).collect() }
    });
    Ok(Request::Many(pictures.collect()))
}

/// Notes ids that `eval --predictions` will refuse.
fn tell_what_scoring_refuses(queries: &[PictureQuery]) {
    let mut seen = HashSet::new();
    let keys = queries.iter().filter_map(PictureQuery::key);
    let n_twice = keys.filter(|key| !seen.insert(*key)).count();
    let n_half = queries.iter().filter(|query| query.ids.0.is_some() != query.ids.1.is_some()).count();
    if n_twice > 0 {
        errln!(
            "note: queries that repeat a ref_id and sent_id: {n_twice}; `eval --predictions` refuses such a file"
        );
    }
    if n_half > 0 {
        errln!("note: queries with one of ref_id and sent_id: {n_half}; `eval --predictions` needs both");
    }
}

/// Whether a path is meant as a pattern: it names no file and holds `*`, `?` or `[`.
fn is_pattern(path: &Path) -> bool {
    !path.exists() && path.to_string_lossy().contains(['*', '?', '['])
}

/// The images that `--image` names, with their names in predictions, sorted. A pattern does not find masks and overlays of an earlier
/// call in the output folder.
fn images(given: &Path, out: &Path) -> Result<Vec<(String, PathBuf)>> {
    let shown = given.display();
    let mut found: Vec<(String, PathBuf)> = if given.is_dir() {
        let entries = std::fs::read_dir(given).with_context(|| shown.to_string())?;
        let files = entries.map(|entry| Ok(entry.with_context(|| shown.to_string())?.path()));
        let files = files.collect::<Result<Vec<PathBuf>>>()?;
        // What is no regular file is named when it is read.
        let (images, others): (Vec<PathBuf>, Vec<PathBuf>) =
            files.into_iter().filter(|file| !file.is_dir()).partition(|file| is_image_name(file));
        tell_other_pictures(&others);
        images
            .into_iter()
            .map(|file| (file.file_name().unwrap_or_default().to_string_lossy().into_owned(), file))
            .collect()
    } else if is_pattern(given) {
        let pattern = given.to_str().with_context(|| format!("--image {shown}: the pattern is not UTF-8"))?;
        // As for folders: extensions in any case, and no hidden files.
        let options = glob::MatchOptions {
            case_sensitive: false,
            require_literal_separator: true,
            require_literal_leading_dot: true,
        };
        let paths = glob::glob_with(pattern, options).with_context(|| format!("--image {pattern}"))?;
        let paths =
            paths.collect::<Result<Vec<PathBuf>, _>>().with_context(|| format!("--image {pattern}"))?;
        let written = ["masks", "overlays"].map(|folder| out.join(folder));
        let is_written = |path: &Path| {
            path.parent().is_some_and(|parent| written.iter().any(|folder| is_same(parent, folder)))
        };
        let files = paths.into_iter().filter(|path| path.is_file() && !is_written(path));
        files.map(|file| (file.to_string_lossy().into_owned(), file)).collect()
    } else {
        ensure!(given.is_file(), "--image {shown}: there is no such file or folder");
        vec![(given.to_string_lossy().into_owned(), given.to_path_buf())]
    };
    found.sort();
    ensure!(
        !found.is_empty(),
        "--image {shown}: no image there ({}); a pattern such as 'DIR/**/*.jpg' also finds those in subfolders",
        EXTENSIONS.join(", ")
    );
    Ok(found)
}

/// Notes pictures of formats that are not read.
fn tell_other_pictures(files: &[PathBuf]) {
    let is_picture = |file: &&PathBuf| {
        let extension = file.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        ["bmp", "gif", "heic", "avif", "jp2", "tga", "ppm"].contains(&extension.as_str())
    };
    let found: Vec<&PathBuf> = files.iter().filter(is_picture).collect();
    if let Some(first) = found.first() {
        errln!(
            "warning: {} files are pictures of formats that are not read ({} are), such as {}; left out",
            found.len(),
            EXTENSIONS.join(", "),
            first.display()
        );
    }
}

fn is_image_name(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    !name.starts_with('.') && EXTENSIONS.contains(&extension.as_str())
}

/// The images of a list of queries, in the order of their first query.
fn of_queries(given: &Path, out: &Path, queries: Vec<PictureQuery>) -> Result<Vec<Picture>> {
    if !given.is_dir() && !given.is_file() && !is_pattern(given) {
        bail!("--image {}: there is no such file or folder", given.display());
    }
    let known = match given.is_dir() {
        true => None,
        false => Some(by_tail(images(given, out)?)),
    };
    let file = |name: &str| match &known {
        None => below(given, name),
        Some(known) => match known.get(name).map(Vec::as_slice) {
            Some([path]) => Ok(path.clone()),
            Some([one, other, ..]) => {
                Err(format!("it may be {} or {}; name its folder, too", one.display(), other.display()))
            }
            _ => Err(format!("--image {} does not name it", given.display())),
        },
    };
    let mut pictures: Vec<Picture> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (place, PictureQuery { image, expression, ids }) in queries.into_iter().enumerate() {
        let index = *places.entry(image.clone()).or_insert_with(|| {
            pictures.push(Picture { file: file(&image), name: image, expressions: Vec::new() });
            pictures.len() - 1
        });
        pictures[index].expressions.push(Expression { place, text: expression, ids });
    }
    Ok(pictures)
}

/// Images by every tail of their paths: file name, folder and file name, and so on.
fn by_tail(images: Vec<(String, PathBuf)>) -> HashMap<String, Vec<PathBuf>> {
    let mut found: HashMap<String, Vec<PathBuf>> = HashMap::new();
    for (_, path) in images {
        let parts: Vec<Component<'_>> = path.components().collect();
        for start in 0..parts.len() {
            let tail: PathBuf = parts[start..].iter().collect();
            found.entry(tail.to_string_lossy().into_owned()).or_default().push(path.clone());
        }
    }
    found
}

/// A file below a folder. Names that lead out of it are refused: lists may come from elsewhere.
fn below(folder: &Path, name: &str) -> Result<PathBuf, String> {
    let within = |name: &str| {
        // A list may have been written with absolute paths into this very folder.
        let below = Path::new(name).strip_prefix(folder).unwrap_or(Path::new(name)).to_path_buf();
        let is_inside = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
        below.components().all(is_inside).then_some(below)
    };
    let Some(below) = within(name) else {
        return Err(match Path::new(name).is_absolute() {
            true => format!("the path is absolute, and not below {}", folder.display()),
            false => format!("the name leads out of {}", folder.display()),
        });
    };
    // As Windows writes paths.
    let others = [name.to_owned(), name.replace('\\', "/")];
    let found = others.iter().filter_map(|name| refcoco::file_below(folder, within(name)?.to_str()?)).next();
    Ok(found.unwrap_or_else(|| folder.join(below)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(image: &str, expression: &str) -> PictureQuery {
        PictureQuery { image: image.into(), expression: expression.into(), ids: (None, None) }
    }

    #[test]
    fn queries_are_grouped_by_image_and_keep_their_places() {
        let folder = tempfile::tempdir().unwrap();
        let queries =
            vec![query("b.jpg", "x"), query("../a.jpg", "y"), query("b.jpg", "z"), query("/etc/a", "w")];
        let pictures = of_queries(folder.path(), &folder.path().join("out"), queries).unwrap();
        let places = |picture: &Picture| picture.expressions.iter().map(|one| one.place).collect::<Vec<_>>();
        assert_eq!(pictures.iter().map(places).collect::<Vec<_>>(), [vec![0, 2], vec![1], vec![3]]);
        assert_eq!(pictures[0].file, Ok(folder.path().join("b.jpg")));
        assert!(pictures[1].file.is_err() && pictures[2].file.is_err());
        // Spellings of the same file.
        let file = folder.path().join("s/cafe\u{301}.png");
        std::fs::create_dir(folder.path().join("s")).unwrap();
        std::fs::write(&file, "").unwrap();
        for name in ["s/caf\u{e9}.png", "s\\cafe\u{301}.png", file.to_str().unwrap()] {
            assert_eq!(below(folder.path(), name), Ok(file.clone()), "{name}");
        }
        assert!(of_queries(&folder.path().join("absent"), folder.path(), vec![query("a", "b")]).is_err());
    }

    #[test]
    fn images_of_a_pattern_are_found_by_the_ends_of_their_paths() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a/x.jpg", "b/x.jpg", "b/y.jpg", "out/masks/y.jpg"] {
            std::fs::create_dir_all(folder.path().join(name).parent().unwrap()).unwrap();
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let queries = ["x.jpg", "a/x.jpg", "y.jpg", "z.jpg"].map(|name| query(name, "red")).to_vec();
        let pictures =
            of_queries(&folder.path().join("**/*.jpg"), &folder.path().join("out"), queries).unwrap();
        let files: Vec<_> = pictures.into_iter().map(|picture| picture.file).collect();
        assert!(files[0].as_ref().is_err_and(|what| what.contains("it may be")), "{files:?}");
        assert_eq!(files[1], Ok(folder.path().join("a/x.jpg")));
        assert_eq!(files[2], Ok(folder.path().join("b/y.jpg")));
        assert!(files[3].is_err());
    }

    #[test]
    fn folders_and_patterns_give_sorted_images() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.PNG", "a.jpg", ".hidden.jpg", "notes.txt", "[odd].jpg"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let names = |given: &Path| -> Vec<String> {
            images(given, &folder.path().join("out")).unwrap().into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names(folder.path()), ["[odd].jpg", "a.jpg", "b.PNG"]);
        let pattern = folder.path().join("?.*");
        assert!(is_pattern(&pattern) && !is_pattern(&folder.path().join("[odd].jpg")));
        assert_eq!(names(&pattern).len(), 2);
        assert!(
            images(&folder.path().join("*.bmp"), folder.path()).unwrap_err().to_string().contains("no image")
        );
    }
}
